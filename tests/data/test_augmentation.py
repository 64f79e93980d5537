import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from dcal_core.data.augmentation import Augmentation, blend_people, coarsen

OFF = dict(rotation_deg=0, shift=0, scale=0, brightness=0, contrast=0, flip_prob=0, erase_prob=0)
STRONG = dict(rotation_deg=30, shift=0.1, scale=0.2, brightness=0.4, contrast=0.4, flip_prob=0.5, erase_prob=0.5)
ADAFACES = dict(crop_prob=0.7, low_resolution_prob=0.7, photometric_prob=0.7)
SIZE = 24


@pytest.fixture
def batch():
    """Twelve smooth random images."""
    coarse = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")


def by_torchvision(image, angle, right, down, zoom, side, brightness, contrast):
    """One image changed by the drawn figures, one step of torchvision after the other."""
    moved = [right.item() * SIZE / 2, down.item() * SIZE / 2]
    degrees = math.degrees(angle.item())
    image = v2.affine(image, degrees, moved, zoom.item(), [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
    image = v2.horizontal_flip(image) if side < 0 else image
    return v2.adjust_contrast(v2.adjust_brightness(image, brightness.item()), contrast.item())


@pytest.mark.parametrize(
    "options",
    [
        {"rotation_deg": 180},
        {"shift": 0.3},
        {"scale": 0.5},
        {"brightness": 1},
        {"contrast": 1},
        {"flip_prob": 0.5, "shift": 0.1},
        STRONG | {"erase_prob": 0},
    ],
    ids=lambda options: "+".join(options),
)
def test_each_image_is_changed_as_torchvision_does(batch, options):
    augment = Augmentation(**OFF | options)
    drawn = augment.draw(len(batch), seed=5)[:7].T
    expected = [by_torchvision(image, *figures) for image, figures in zip(batch, drawn, strict=True)]
    torch.testing.assert_close(augment(batch, seed=5), torch.stack(expected), atol=1e-4, rtol=0)


def test_draws_stay_within_their_limits_and_reach_them():
    angle, right, down, zoom, side, brightness, contrast = Augmentation(**STRONG).draw(20_000, seed=0)[:7]
    for drawn, middle, largest in [
        (angle, 0, math.radians(30)),
        (right, 0, 0.2),  # of half sides
        (down, 0, 0.2),
        (zoom, 1, 0.2),
        (brightness, 1, 0.4),
        (contrast, 1, 0.4),
    ]:
        assert drawn.min() == pytest.approx(middle - largest, abs=1e-3)
        assert drawn.max() == pytest.approx(middle + largest, abs=1e-3)
        assert drawn.mean() == pytest.approx(middle, abs=0.01)
    assert set(side.tolist()) == {-1, 1} and abs(side.mean()) < 0.03
    together = torch.corrcoef(torch.stack([angle, right, down, zoom, side, brightness, contrast]))
    assert (together - torch.eye(7)).abs().max() < 0.05


def test_augmentation_is_a_pure_function_of_images_and_seed(batch):
    augment, before = Augmentation(**STRONG, **ADAFACES), batch.clone()
    torch.manual_seed(1)
    first = augment(batch, seed=7)
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(augment(batch, seed=7), first)
    assert not torch.equal(augment(batch, seed=8), first)
    assert torch.equal(batch, before)
    assert first.shape == batch.shape and first.dtype == batch.dtype
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("name, value", [*STRONG.items(), *ADAFACES.items()])
def test_the_given_images_stay_as_they_were(batch, name, value):
    before = batch.clone()
    Augmentation(**OFF | {name: value})(batch, seed=3)
    assert torch.equal(batch, before)


def test_augmentation_leaves_the_global_generators_alone(batch):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    Augmentation(**STRONG, **ADAFACES)(batch, seed=7)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_all_zero_is_the_identity(batch):
    assert torch.equal(Augmentation(**OFF)(batch, seed=0), batch)


def test_flips_alone_are_exact_and_follow_their_probability(batch):
    mirrored = batch.flip(-1)
    assert torch.equal(Augmentation(**OFF | {"flip_prob": 1})(batch, seed=0), mirrored)
    sometimes = Augmentation(**OFF | {"flip_prob": 0.5})
    flipped = 0
    for seed in range(20):
        for image, original, mirror in zip(sometimes(batch, seed), batch, mirrored, strict=True):
            assert torch.equal(image, original) or torch.equal(image, mirror)
            flipped += torch.equal(image, mirror)
    assert 0.3 < flipped / (20 * len(batch)) < 0.7


def test_one_rectangle_is_erased():
    white, shares = torch.ones(200, 3, 64, 64), []
    for image in Augmentation(**OFF | {"erase_prob": 0.5})(white, seed=0):
        erased = image[0] == 0
        assert torch.equal(image, (~erased).float().expand(3, -1, -1))
        rows, columns = erased.any(1), erased.any(0)
        assert torch.equal(erased, rows[:, None] & columns)
        assert all(len(torch.unique_consecutive(line)) <= 3 for line in (rows, columns))  # in one piece
        shares.append(erased.float().mean().item())
        if shares[-1]:
            assert 0.015 < shares[-1] < 0.35 and 0.2 < rows.sum() / columns.sum() < 5
    erased = np.array([share for share in shares if share])
    assert 0.4 < len(erased) / len(shares) < 0.6 and erased.mean() == pytest.approx(0.175, abs=0.03)


GEOMETRY = {"rotation_deg": 30, "shift": 0.1, "scale": 0.2, "flip_prob": 0.5}
ALONE = [*({name: value} for name, value in GEOMETRY.items()), GEOMETRY]


@pytest.mark.parametrize("options", ALONE, ids="+".join)
def test_a_mask_moves_like_an_image_of_the_same_content(batch, options):
    masks = (batch[:, :1] > 0.5).float()  # [12, 1, S, S]
    augment = Augmentation(**OFF | options)
    images = augment(masks.expand(-1, 3, -1, -1), seed=5)
    moved = augment.masks(masks, seed=5)
    assert torch.equal(moved, images[:, :1]) and not torch.equal(moved, masks)
    assert torch.equal(augment.masks(masks[:, 0], seed=5), moved[:, 0])


@pytest.mark.parametrize("options", ALONE, ids="+".join)
def test_the_mask_of_a_marked_pixel_follows_it(options):
    images = torch.full((40, 3, 33, 33), 0.2)
    rows = torch.randint(8, 25, (40, 2), generator=torch.Generator().manual_seed(1))
    for image, (y, x) in zip(images, rows, strict=True):
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    augment = Augmentation(**OFF | options | {"brightness": 0.3, "contrast": 0.3})
    moved = augment.masks((images[:, 0] == 1).float(), seed=2)
    brightest = augment(images, seed=2).mean(1).flatten(1).argmax(1)
    assert (moved.flatten(1).gather(1, brightest[:, None]) > 0.5).all()
    assert (moved > 0.5).flatten(1).sum(1).max() < 30  # no more than the mark


def test_masks_are_not_recoloured(batch):
    masks = batch[:, :1]
    augment = Augmentation(**OFF | {"brightness": 0.9, "contrast": 0.9})
    assert torch.equal(augment.masks(masks, seed=1), masks)


def test_what_comes_in_from_outside_is_the_fill():
    augment = Augmentation(**OFF | {"shift": 0.3})
    seen = augment.masks(torch.ones(20, 16, 16), seed=4)  # 1 where a pixel comes from inside the image
    assert (seen == 0).any()
    half = torch.full((20, 16, 16), 0.5)
    torch.testing.assert_close(augment.masks(half, seed=4, fill=1.0), 1 - seen / 2)
    torch.testing.assert_close(augment.masks(half, seed=4, fill=0.25), 0.25 + seen / 4)


@pytest.mark.parametrize("options", [{}, GEOMETRY], ids=["erased", "moved and erased"])
def test_what_is_erased_is_hidden(options):
    augment = Augmentation(**OFF | options | {"erase_prob": 0.5})
    images = augment(torch.ones(50, 3, 32, 32), seed=0)
    visible = augment.masks(torch.ones(50, 1, 32, 32), seed=0)
    assert torch.equal(visible, images[:, :1]) and 0.02 < (visible == 0).float().mean() < 0.5
    filled = augment.masks(torch.ones(50, 1, 32, 32), seed=0, fill=1.0)
    erased = Augmentation(**OFF | {"erase_prob": 0.5}).masks(torch.ones(50, 1, 32, 32), seed=0)
    torch.testing.assert_close(filled, erased)  # boxes lie in the moved image


@pytest.mark.parametrize("fill", [0.0, 0.3, 1.0])
def test_with_nothing_on_masks_stay_as_they_are(batch, fill):
    masks = batch[:, 0]
    before = masks.clone()
    moved = Augmentation(**OFF).masks(masks, seed=0, fill=fill)
    assert torch.equal(moved, masks) and moved is not masks
    Augmentation(**STRONG).masks(masks, seed=0, fill=fill)
    assert torch.equal(masks, before)


@pytest.mark.parametrize("name, value", [*STRONG.items(), *ADAFACES.items()])
def test_each_parameter_has_an_effect(batch, name, value):
    assert not torch.allclose(Augmentation(**OFF | {name: value})(batch, seed=3), batch, atol=1e-3)


@pytest.mark.parametrize("name", ["rotation_deg", "shift", "scale", "brightness", "contrast"])
def test_no_two_images_share_a_draw(batch, name):
    # a draw common to the images of one person would give that person away
    same = batch[:1].expand(16, -1, -1, -1)
    augmented = Augmentation(**OFF | {name: STRONG[name]})(same, seed=0)
    distance = torch.cdist(augmented.flatten(1), augmented.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance + torch.eye(16) > 1e-4).all()


def test_a_crop_keeps_one_rectangle_where_it_is_and_hides_the_rest():
    images, shares = torch.rand(300, 3, 32, 32) + 0.1, []
    augment = Augmentation(**OFF, crop_prob=0.5)
    masks = augment.masks(torch.ones(300, 1, 32, 32), seed=0)
    for image, cropped, mask in zip(images, augment(images, seed=0), masks[:, 0] == 1, strict=True):
        assert torch.equal(cropped, image * mask)
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        shares.append(mask.float().mean().item())
    kept = [share for share in shares if share < 1]
    assert 0.4 < len(kept) / 300 < 0.6 and 0.15 < min(kept) < 0.25 and max(kept) > 0.9
    assert sum(kept) / len(kept) == pytest.approx(0.6, abs=0.05)  # areas of 0.2 to 1


@pytest.mark.parametrize("side", [6, 8, 12, 24])
def test_a_low_resolution_is_that_of_torch_where_pixels_divide_evenly(batch, side):
    small = torch.nn.functional.avg_pool2d(batch, SIZE // side)
    large = torch.nn.functional.interpolate(small, SIZE, mode="bilinear")
    torch.testing.assert_close(coarsen(batch, torch.full((12,), side / SIZE)), large, atol=1e-5, rtol=0)


def test_low_resolutions_are_of_each_image_its_own(batch):
    shares = Augmentation(**OFF, low_resolution_prob=0.5).draw(20_000, seed=0)[15]
    assert (shares == 1).float().mean().item() == pytest.approx(0.5, abs=0.02) and shares.min().item() == pytest.approx(
        0.2, abs=1e-3
    )
    one_by_one = [coarsen(image[None], share[None])[0] for image, share in zip(batch, shares, strict=False)]
    torch.testing.assert_close(coarsen(batch, shares[:12]), torch.stack(one_by_one))
    kept = shares[:12] == 1
    assert torch.equal(coarsen(batch, shares[:12])[kept], batch[kept]) and kept.any() and not kept.all()
    even = torch.full((1, 3, SIZE, SIZE), 0.3)
    torch.testing.assert_close(coarsen(even, torch.tensor([0.37])), even)


def test_strong_colours_are_torchvisions_for_the_images_that_are_drawn(batch):
    augment = Augmentation(**OFF, photometric_prob=0.5)
    drawn = augment.draw(12, seed=2)[16:].T
    for image, changed, (brightness, contrast, saturation) in zip(batch, augment(batch, seed=2), drawn, strict=True):
        expected = v2.adjust_saturation(image, saturation.item())
        expected = v2.adjust_contrast(v2.adjust_brightness(expected, brightness.item()), contrast.item())
        torch.testing.assert_close(changed, expected, atol=1e-4, rtol=0)
    many = augment.draw(20_000, seed=0)[16:]
    assert (many == 1).all(0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert many.amin(1).tolist() == pytest.approx(3 * [0.5], abs=1e-3) and many.max().item() == pytest.approx(
        1.5, abs=1e-3
    )


def test_adafaces_changes_leave_the_other_draws_as_they_are():
    plain = Augmentation(**STRONG).draw(9, seed=4)
    assert torch.equal(Augmentation(**STRONG, **ADAFACES).draw(9, seed=4)[:11], plain[:11])
    first = torch.rand(12, 9, generator=torch.Generator().manual_seed(4))[0]
    assert torch.equal(plain[0], (2 * first - 1) * math.radians(30))


def test_people_are_blended_by_weight(batch):
    donor = torch.tensor([3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8])
    torch.testing.assert_close(
        blend_people(batch, donor, torch.full((1, 1, SIZE, SIZE), 0.25)), 0.75 * batch + 0.25 * batch[donor]
    )
    weight = torch.zeros(1, 1, SIZE, SIZE)
    weight[..., 2:9, 5:20] = 1
    pasted = batch.clone()
    pasted[..., 2:9, 5:20] = batch[donor][..., 2:9, 5:20]
    assert torch.equal(blend_people(batch, donor, weight), pasted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_and_is_not_waited_for(batch):
    augment, donor, weight = (
        Augmentation(**STRONG, **ADAFACES),
        torch.arange(12).roll(1),
        torch.full((1, 1, SIZE, SIZE), 0.25),
    )
    on_gpu = [tensor.cuda() for tensor in (batch, donor, weight)]
    mask = batch[:, 0]
    mask_on_gpu = mask.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmented = augment(on_gpu[0], seed=7)
        moved = augment.masks(mask_on_gpu, seed=7, fill=1.0)
        blended = blend_people(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # an erased box's edge that rounds to the other side of a pixel's centre would change that pixel alone
    assert torch.isclose(augmented.cpu(), augment(batch, seed=7), atol=1e-4).float().mean() > 0.99
    assert torch.isclose(moved.cpu(), augment.masks(mask, seed=7, fill=1.0), atol=1e-4).float().mean() > 0.99
    torch.testing.assert_close(blended.cpu(), blend_people(batch, donor, weight))
