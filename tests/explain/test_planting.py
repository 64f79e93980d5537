import numpy as np
import pytest

from dcal_core.data.landmarks import ARCFACE
from dcal_core.explain.planting import EDGE, cover, eye_distance, places, planted, skin
from dcal_core.explain.regions import face_regions

SIZE = 64
SKIN = np.array([200, 150, 120], dtype=np.uint8)


def face(hair_above=0):
    """A face of one colour, with hair in its first rows."""
    image = np.tile(SKIN[:, None, None], (1, SIZE, SIZE))
    image[:, :hair_above] = 30
    return image


@pytest.mark.parametrize("diameter", [0.7, 3.0, 11.0])
def test_a_mark_covers_the_area_of_its_disc(diameter):
    (mark,) = cover(np.array([30.5, 21.5]), [diameter], SIZE)
    radius = diameter / 2
    faded = radius**2 + (EDGE * diameter) ** 2 / 12  # a disc whose edge falls in a line, integrated
    assert mark.sum() == pytest.approx(np.pi * faded, rel=0.03)
    rows, columns = np.indices(mark.shape) + 0.5
    assert (mark * columns).sum() / mark.sum() == pytest.approx(30.5, abs=0.1)
    assert (mark * rows).sum() / mark.sum() == pytest.approx(21.5, abs=0.1)


def test_a_mark_has_half_of_its_contrast_at_its_diameter():
    (mark,) = cover(np.array([32.0, 32.0]), [20.0], SIZE)
    assert mark[32, 41] > 0.5 > mark[32, 42]  # the edge is at x = 42, between these pixels
    assert mark[32, 32] == 1 and mark[32, 46] == 0


def test_the_contrast_is_that_of_the_middle_against_the_skin():
    covers = cover(np.array([32.5, 32.5]), [8.0, 0.0001], SIZE)
    marked = planted(face(), covers, [-0.6, 0.15, 1.0])
    assert marked.shape == (3, 2, 3, SIZE, SIZE) and marked.dtype == np.uint8
    assert np.array_equal(marked[0, 0, :, 32, 32], [80, 60, 48])
    assert np.allclose(marked[1, 0, :, 32, 32], 1.15 * SKIN, atol=0.5)
    assert marked[2, 0, 0, 32, 32] == 255  # no lighter than white
    assert np.array_equal(marked[0, 0, :, 0, 0], SKIN)  # far from the mark
    assert np.array_equal(marked[0, 1], face())  # too small to be seen at all


def test_marks_hair_and_lips_are_no_skin():
    image = face(hair_above=10)
    image[:, 40:44, 20:24] = SKIN[:, None, None] * 2 // 5
    image[:, 10:, 50:] = SKIN[:, None, None] // 5 * 4  # shade is
    bare = skin(image, ARCFACE)
    assert not bare[:10].any() and not bare[40:44, 20:24].any()
    assert bare[10:40].all()


def test_every_place_is_on_the_skin_of_its_part():
    image = face()
    image[:, 40:46, 12:20] = 30  # a mark on the left cheek, for one who looks at the picture
    regions = face_regions(ARCFACE, SIZE)
    found = [places(image, ARCFACE, np.random.default_rng(seed)) for seed in range(20)]
    for at in found:
        assert at.keys() == regions.keys() - {"elsewhere"}
        for part, (x, y) in at.items():
            assert regions[part][int(y), int(x)]
            assert not (40 <= y < 46 and 12 <= x < 20)
    assert len({tuple(at["jaw"]) for at in found}) > 10


def test_a_part_under_hair_has_no_place():
    at = places(face(hair_above=26), ARCFACE, np.random.default_rng(0))
    assert at["forehead"] is None and at["brows"] is None and at["jaw"] is not None


def test_lengths_grow_with_the_image():
    assert eye_distance(ARCFACE, 112) == pytest.approx(73.5318 - 38.2946, abs=0.01)
    assert eye_distance(ARCFACE, 224) == 2 * eye_distance(ARCFACE, 112)
