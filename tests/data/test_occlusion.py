"""Occluders: where they lie on a face, what they leave visible, and that they are the same each time."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from tiny import twins

from dcal_core.config.shared import OCCLUDERS
from dcal_core.data.landmarks import ARCFACE, DRAWN, face_frame
from dcal_core.data.occlusion import KINDS, OccludedImages, occlude, occlude_some

SIZE = 64
TEMPLATES = pytest.mark.parametrize("landmarks", [ARCFACE, DRAWN], ids=["arcface", "drawn"])
FACE = np.full((3, SIZE, SIZE), 120, dtype=np.uint8)
EYES, MOUTH, CHEEKS = [(-0.5, 0), (0.5, 0)], [(-0.3, 1), (0, 1), (0.3, 1)], [(-0.6, 0.85), (0.6, 0.85)]
BROW, BELOW = [(-0.2, -0.4), (0.2, -0.4)], [(-0.3, 1.3), (0.3, 1.3)]


def drawn(kind, count=40, landmarks=ARCFACE, size=SIZE):
    """Which pixels of one face stay visible behind occluders of a kind, [count, S, S]."""
    face = np.full((3, size, size), 120, dtype=np.uint8)
    return np.stack([occlude(face, kind, np.random.default_rng(seed), landmarks)[1] for seed in range(count)])


def visible_at(points, visible, landmarks):
    """The share of faces [N, S, S] that show the places (x, y) in the frame of the face, by place."""
    origin, axes = face_frame(landmarks)
    columns, rows = (visible.shape[-1] * (origin + np.array(points) @ axes.T)).astype(int).T
    return visible[:, rows, columns].mean(0)


@TEMPLATES
@pytest.mark.parametrize(
    ("kind", "hidden", "shown"),
    [("mask", MOUTH + BELOW, EYES + BROW), ("glasses", EYES, MOUTH + CHEEKS), ("scarf", MOUTH + BELOW, EYES + BROW)],
)
def test_what_people_wear_lies_where_they_wear_it(kind, hidden, shown, landmarks):
    visible = drawn(kind, landmarks=landmarks)
    assert (visible_at(hidden, visible, landmarks) < 0.15).all() and (
        visible_at(shown, visible, landmarks) > 0.95
    ).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_hides_a_part_of_the_face_and_never_twice_the_same(kind):
    hidden = 1 - drawn(kind).mean((1, 2))
    least, most = {"glasses": (0.05, 0.3), "scarf": (0.1, 0.85)}.get(kind, (0.02, 0.6))
    assert least < hidden.min() and hidden.max() < most and len(np.unique(hidden)) > 25


@pytest.mark.parametrize("kind", KINDS)
def test_visible_pixels_are_those_of_the_face_and_hidden_ones_are_not(kind):
    face = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    before = face.copy()
    image, visible = occlude(face, kind, np.random.default_rng(5))
    changed = (image != face).any(0)
    assert np.array_equal(face, before) and image.dtype == np.uint8
    assert not changed[binary_erosion(visible, np.ones((3, 3)), border_value=1)].any()  # the edge between is blended
    assert changed[~visible].mean() > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_an_occluder_is_the_same_each_time_and_at_any_size(kind):
    once, again = (occlude(FACE, kind, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    small, large = (drawn(kind, 8, DRAWN, size) for size in (SIZE, 2 * SIZE))
    assert (small == large[:, ::2, ::2]).mean() > 0.97


def test_a_share_is_occluded_and_the_rest_is_left_alone():
    seen = [occlude_some(FACE, 0.3, ("glasses", "mask"), (7, step)) for step in range(300)]
    occluded = np.array([not visible.all() for _, visible in seen])
    assert 0.2 < occluded.mean() < 0.4
    assert all(np.array_equal(image, FACE) != hidden for (image, _), hidden in zip(seen, occluded, strict=True))
    assert not occlude_some(FACE, 0.0, KINDS, (0,))[1].sum() < SIZE * SIZE


def test_occluded_images_are_a_store_whose_images_never_change():
    store = twins(40, size=32).images
    images = OccludedImages(store, 0.5, ("mask", "block"), DRAWN, seed=1)
    assert (images.size, len(images.images)) == (32, 240)
    assert set(images.kind_of) == {"", "mask", "block"} and 0.4 < (images.kind_of != "").mean() < 0.6
    some = [200, 3, 3, 117]
    assert torch.equal(images.batch(some), torch.cat([images.batch(np.array([one])) for one in some]))
    every = torch.arange(240)
    clear = torch.from_numpy(images.kind_of == "")
    assert torch.equal(clear, images.visible(every).all((1, 2)).bool())
    assert torch.equal(images.batch(every)[clear], store.batch(every)[clear])
    assert not (images.kind_of == OccludedImages(store, 0.5, ("mask", "block"), DRAWN, seed=2).kind_of).all()


def test_the_parameters_know_every_kind():
    assert KINDS == OCCLUDERS
