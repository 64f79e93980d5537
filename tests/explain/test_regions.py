import numpy as np
import pytest

from dcal_core.data.drawn.genomes import EYE_V, MOUTH_V, family
from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.explain.regions import covered_share, face_regions

TEMPLATES = pytest.mark.parametrize("landmarks", [ARCFACE, DRAWN], ids=["arcface", "drawn"])
SWAPPED = {"left cheek": "right cheek", "right cheek": "left cheek"}


def region_at(regions, x, y):
    """The only region that holds the point (x, y), shares of the side."""
    size = len(regions["nose"])
    (name,) = [name for name, inside in regions.items() if inside[int(y * size), int(x * size)]]
    return name


@TEMPLATES
@pytest.mark.parametrize("size", [16, 31, 112])
def test_every_pixel_is_in_one_region_and_every_region_has_pixels(landmarks, size):
    regions = face_regions(landmarks, size)
    assert list(regions) == [
        "brows", "eyes", "nose", "mouth", "left cheek", "right cheek", "jaw", "forehead", "elsewhere",
    ]  # fmt: skip
    stack = np.stack([*regions.values()])
    assert stack.shape == (9, size, size) and stack.dtype == bool
    assert (stack.sum(0) == 1).all() and stack.any((1, 2)).all()


@TEMPLATES
def test_landmarks_lie_in_their_regions(landmarks):
    regions = face_regions(landmarks, 224)
    assert [region_at(regions, *point) for point in landmarks] == ["eyes", "eyes", "nose", "mouth", "mouth"]
    assert region_at(regions, 0.02, 0.02) == "elsewhere"


def test_drawn_features_lie_in_their_regions():
    regions = face_regions(DRAWN, 224)
    for k in range(40):
        for face in family(0, "test", k, 0.5):
            tip = EYE_V + face.nose_length
            points = {
                "brows": [(side * face.eye_spacing, EYE_V - face.brow_height) for side in (-1, 1)],
                "eyes": [(side * (face.eye_spacing + 0.6 * face.eye_size), EYE_V) for side in (-1, 1)],
                "nose": [(0, tip - 0.03), (0.48 * face.nose_width, tip + 0.02), (0, EYE_V + 0.1)],
                "mouth": [(0, MOUTH_V), (face.mouth_width, MOUTH_V), (0, MOUTH_V + face.lip_thickness)],
                "left cheek": [(-0.36, 0.22)],
                "right cheek": [(0.36, 0.22)],
                "jaw": [(0, face.chin - 0.1)],
                "elsewhere": [(face.face_width + 0.08, 0), (0, 0.97), (0, -0.9)],
            }
            for name, places in points.items():
                assert [region_at(regions, (1 + u) / 2, (1 + v) / 2) for u, v in places] == [name] * len(places)


@TEMPLATES
def test_a_mirrored_face_has_mirrored_regions(landmarks):
    mirrored = np.array([[1 - x, y] for x, y in landmarks[[1, 0, 2, 4, 3]]])
    here, there = face_regions(landmarks, 64), face_regions(mirrored, 64)
    for name, inside in here.items():
        assert (there[SWAPPED.get(name, name)][:, ::-1] != inside).mean() < 0.01  # on the middle line it is open


@TEMPLATES
def test_regions_turn_and_scale_with_the_face(landmarks):
    here = face_regions(landmarks, 64)
    turned = np.stack([landmarks[:, 1], 1 - landmarks[:, 0]], axis=1)  # a quarter to the left
    half = face_regions(landmarks / 2, 128)  # a face in the upper left quarter
    for name, inside in face_regions(turned, 64).items():
        assert np.array_equal(inside, np.rot90(here[name]))
        assert np.array_equal(half[name][:64, :64], here[name])
        assert name == "elsewhere" or half[name].sum() >= here[name].sum()


@pytest.mark.parametrize(
    "landmarks, said",
    [
        (ARCFACE[:4], "must be \\[5, 2\\]"),
        (np.full((5, 2), 0.5), "span no face"),
        (np.stack([np.linspace(0, 1, 5), np.linspace(0, 1, 5)], 1), "span no face"),
        (np.where(np.arange(5)[:, None] == 1, np.nan, ARCFACE), "span no face"),
    ],
)
def test_landmarks_of_no_face_are_refused(landmarks, said):
    with pytest.raises(ValueError, match=said):
        face_regions(landmarks, 32)


@pytest.mark.parametrize("size, grid", [(8, 4), (6, 4), (7, 3), (4, 8)])
def test_covered_share_is_the_mean_of_ever_finer_pixels(size, grid):
    region = np.random.default_rng(0).random((size, size)) < 0.4
    fine = np.kron(region, np.ones((grid, grid)))  # [size * grid, ...]: patches hold `size` of these pixels a side
    expected = fine.reshape(grid, size, grid, size).mean((1, 3))
    np.testing.assert_allclose(covered_share(region, grid), expected, atol=1e-12)
