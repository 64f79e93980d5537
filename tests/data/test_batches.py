from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from numbered import SIZE, NumberedStore, assert_equal, make_index, numbers
from numpy.lib.format import open_memmap

from dcal_core.data.batches import Batches, FamilyBatches, draw_blend, draw_partners
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError

POLICIES = ["random", "twin", "mix"]


def make_batches(families=(2, 2, 2, 2), images_each=6, store=None, **options):
    options = {
        "families_per_batch": 2,
        "images_per_person": 3,
        "steps_per_epoch": 0,
        "seed": 0,
        "pwca_prob": 1.0,
        "pwca_partner": "random",
    } | options
    return FamilyBatches(make_index(families, images_each), store or NumberedStore(), **options)


def whole(batches, step):
    """The batch of a step that is not cut."""
    (part,) = batches[step]
    return part


# What is in a batch


@pytest.mark.parametrize("families_per_batch, images", [(1, 2), (2, 3), (4, 4)])
def test_a_batch_is_families_of_two_siblings_of_so_many_images(families_per_batch, images):
    index = make_index([2, 3, 1, 2, 2], 6)
    batches = make_batches(
        [2, 3, 1, 2, 2], families_per_batch=families_per_batch, images_per_person=images, pwca_partner="mix"
    )
    for step in range(20):
        batch = whole(batches, step)
        assert batch.keys() == {"images", "person", "family", "partner"}
        count = families_per_batch * 2 * images
        assert batch["images"].shape == (count, 3, SIZE, SIZE)
        assert batch["person"].shape == batch["family"].shape == batch["partner"].shape == (count,)
        assert batch["person"].dtype == batch["family"].dtype == batch["partner"].dtype == torch.int64
        assert count == batches.batch_size
        person = batch["person"].numpy()
        assert np.array_equal(index.person_of[numbers(batch)], person)  # each image carries its own person's label
        assert np.array_equal(index.family_of[person], batch["family"])
        assert len(set(numbers(batch))) == count  # enough images: none twice
        people = person.reshape(families_per_batch, 2, images)
        assert (people == people[:, :, :1]).all()
        assert (people[:, 0, 0] != people[:, 1, 0]).all()
        family = index.family_of[people[:, :, 0]]
        assert (family[:, 0] == family[:, 1]).all() and len(set(family[:, 0])) == families_per_batch


def test_too_few_images_are_drawn_with_replacement():
    batches = make_batches([2, 2], [1, 2, 5, 3], images_per_person=3)
    own = {0: {0}, 1: {1, 2}, 2: {3, 4, 5, 6, 7}, 3: {8, 9, 10}}
    seen = {person: set() for person in own}
    for step in range(30):
        batch = whole(batches, step)
        for person in own:
            drawn = np.array(numbers(batch))[batch["person"] == person].tolist()
            assert len(drawn) == 3 and set(drawn) <= own[person]
            assert len(set(drawn)) == 3 or len(own[person]) < 3
            seen[person] |= set(drawn)
    assert seen == own


def test_families_of_three_give_two_siblings_and_families_of_one_none():
    batches = make_batches([1, 3, 2, 1], families_per_batch=2)
    people = [set(whole(batches, step)["person"].tolist()) for step in range(300)]
    drawn = Counter(tuple(sorted(some & {1, 2, 3})) for some in people)
    assert set(drawn) == set(combinations([1, 2, 3], 2))
    assert min(drawn.values()) > 60  # a hundred each, give or take
    assert all({4, 5} <= some and not {0, 6} & some for some in people)


@pytest.mark.parametrize("images_each", [6, [4, 40, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]])
def test_every_family_is_drawn_once_a_round(images_each):
    batches = make_batches([2] * 6, images_each, families_per_batch=2)
    orders = []
    for turn in range(5):
        drawn = [f for step in range(3 * turn, 3 * turn + 3) for f in whole(batches, step)["family"][::6].tolist()]
        assert sorted(drawn) == list(range(6))
        orders.append(tuple(drawn))
    assert len(set(orders)) > 1


def test_families_left_over_in_one_round_are_not_always_the_same():
    batches = make_batches([2] * 5, families_per_batch=2)
    counts = Counter()
    for turn in range(200):
        drawn = [f for step in (2 * turn, 2 * turn + 1) for f in whole(batches, step)["family"][::6].tolist()]
        assert len(set(drawn)) == 4
        counts.update(drawn)
    assert set(counts) == set(range(5)) and min(counts.values()) > 140  # 160 each, give or take


def test_too_few_families_are_refused():
    with pytest.raises(
        DataError, match="^families_per_batch=3: the train split has 2 families with co-twins: lower it"
    ):
        make_batches([2, 1, 3, 1], families_per_batch=3)
    make_batches([2, 1, 3, 1], families_per_batch=2)


def test_steps_of_an_epoch():
    assert make_batches([2] * 4, 10).steps_per_epoch == 80 // 12
    assert make_batches([2] * 2, 2).steps_per_epoch == 1
    assert make_batches([2] * 4, 10, steps_per_epoch=77).steps_per_epoch == 77
    assert make_batches([2] * 4, 10, parts=2).steps_per_epoch == 80 // 12


# Cut into parts and shared out over ranks


CUTS = [(1, 1), (2, 1), (6, 1), (1, 2), (1, 6), (3, 2), (2, 3)]  # parts, world
SIX = {"families": [2, 3, 2, 1, 2, 2, 2, 2, 3], "families_per_batch": 6, "pwca_prob": 0.5}


def all_ranks(parts, world, **options):
    return [make_batches(parts=parts, rank=rank, world=world, **options) for rank in range(world)]


@pytest.mark.parametrize("parts, world", CUTS)
def test_a_cut_batch_has_the_same_images_in_the_same_order(parts, world):
    uncut, ranks = make_batches(**SIX), all_ranks(parts, world, **SIX)
    for step in range(10):
        batch, shares = whole(uncut, step), [batches[step] for batches in ranks]
        assert [len(share) for share in shares] == [parts] * world
        size = 36 // (parts * world)
        together = {name: [] for name in ("images", "person", "family")}
        for part in range(parts):
            for share in shares:
                assert share[part]["images"].shape == (size, 3, SIZE, SIZE)
                together["images"].append(share[part]["images"])
                for name in ("person", "family"):  # of all ranks, on each of them
                    assert torch.equal(share[part][name], shares[0][part][name])
                assert share[part].keys() == batch.keys()  # one coin for PWCA
            together["person"].append(shares[0][part]["person"])
            together["family"].append(shares[0][part]["family"])
        for name, values in together.items():
            assert torch.equal(torch.cat(values), batch[name]), name


@pytest.mark.parametrize("parts, world", CUTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_partners_are_among_the_own_images_of_a_part(policy, parts, world):
    options = SIX | {"pwca_prob": 1.0, "pwca_partner": policy, "images_per_person": 6}
    seen = set()
    for batches in all_ranks(parts, world, **options):
        for step in range(10):
            for part in batches[step]:
                own = part["person"].chunk(world)[batches.rank]
                assert sorted(part["partner"].tolist()) == list(range(len(own)))
                assert (own[part["partner"]] != own).all()
                seen.add(tuple(part["partner"].tolist()))
    assert len(seen) == 10 * parts * world  # neither parts nor ranks repeat one another


@pytest.mark.parametrize("families_per_batch, parts, world", [(5, 2, 1), (4, 1, 3), (4, 4, 2), (6, 2, 2)])
def test_a_batch_that_would_cut_a_family_is_refused(families_per_batch, parts, world):
    message = (
        rf"families_per_batch={families_per_batch} .*{parts} parts x {world} processes .* multiple of {parts * world}"
    )
    with pytest.raises(DataError, match=message):
        make_batches([2] * 8, families_per_batch=families_per_batch, parts=parts, world=world)


@pytest.mark.parametrize(
    "families, world, expected",
    [(8, 1, [1, 2, 4, 8]), (8, 2, [1, 2, 4]), (5, 1, [1, 5]), (6, 1, [1, 2, 6]), (9, 1, [1, 3, 9]), (15, 3, [1, 5])],
)
def test_batches_are_halved_down_to_one_family(families, world, expected):
    batches = make_batches([2] * families, families_per_batch=families, world=world)
    before = whole(batches, 3)
    for parts, more in pairwise(expected):
        assert batches.parts == parts
        batches.halve()
        assert batches.parts == more == len(batches[3])
        as_new = make_batches([2] * families, families_per_batch=families, world=world, parts=more)
        assert_equal(batches[3], as_new[3])
    if world == 1:
        assert numbers(before) == [number for part in batches[3] for number in numbers(part)]
    message = rf"one family per process .*families_per_batch={families} .*images_per_person=3 .*gradient_checkpointing"
    with pytest.raises(DataError, match=message):
        batches.halve()
    assert batches.parts == expected[-1]


@pytest.mark.parametrize("parts, expected", [(1, 1), (2, 2), (4, 6), (6, 6), (100, 6)])
def test_batches_are_cut_at_least_so_far(parts, expected):
    batches = make_batches([2] * 12, families_per_batch=12, world=2)
    batches.cut(parts)
    assert batches.parts == len(batches[0]) == expected


# A pure function of (seed, step, rank, parts, world)


@pytest.mark.parametrize("cut", [{}, {"parts": 2}, {"rank": 1, "world": 2, "mixup_alpha": 1.0, "cutmix_alpha": 1.0}])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_depends_on_seed_step_and_cut_alone(policy, cut):
    options = {"pwca_prob": 0.5, "pwca_partner": policy, "families": (2, 3, 2, 2, 1)} | cut
    one = make_batches(**options)
    forwards = [one[step] for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    for step in reversed(range(12)):
        assert_equal(make_batches(**options)[step], forwards[step])
        assert_equal(one[step], forwards[step])
    other = make_batches(seed=1, **options)
    assert not any(numbers(other[step][0]) == numbers(forwards[step][0]) for step in range(12))
    assert len({tuple(numbers(parts[0])) for parts in forwards}) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_steps_asked_for(tmp_path, workers):
    pixels = open_memmap(tmp_path / "images.npy", "w+", np.uint8, (48, 3, 2, 2))
    pixels[:] = np.arange(48, dtype=np.uint8)[:, None, None, None]
    store = ImageStore(images=pixels, kept=np.arange(48), rejected=[])
    batches = make_batches(store=store, pwca_prob=0.5, parts=2, mixup_alpha=0.5, cutmix_alpha=0.5)
    loaded = list(batches.loader(5, 9, workers=workers, pin=False))
    assert len(loaded) == 4
    for step, parts in enumerate(loaded, start=5):
        assert_equal(parts, batches[step])
        assert len(parts) == 2
        assert all(part["images"].dtype == torch.uint8 and part["images"].shape == (6, 3, 2, 2) for part in parts)


# Partners


@pytest.mark.parametrize("families, images", [(1, 2), (2, 1), (4, 3)])
@pytest.mark.parametrize("policy", POLICIES)
def test_partners_are_a_permutation_without_the_same_person(policy, families, images):
    count = families * 2 * images
    person = np.arange(count) // images
    for seed in range(200):
        partner = draw_partners(families, images, policy, np.random.default_rng(seed))
        assert sorted(partner) == list(range(count))
        assert (person[partner] != person).all()


def twin_share(policy, draws=300, families=4, images=3):
    """The share of images whose partner shows the co-twin, of each draw."""
    person = np.arange(families * 2 * images) // images
    draw = (draw_partners(families, images, policy, np.random.default_rng(seed)) for seed in range(draws))
    return np.array([np.mean(person[partner] == person ^ 1) for partner in draw])


def test_policy_decides_how_often_the_partner_is_the_co_twin():
    assert (twin_share("twin") == 1).all()
    random = twin_share("random")
    assert random.mean() == pytest.approx(1 / 7, abs=0.04)  # one of seven other people
    mix = twin_share("mix")
    assert 0.5 < mix.mean() < 0.75  # half of the families, and the co-twins that the other half meets by chance
    assert (mix < 1).any() and ((mix > 0) & (mix < 1)).any()  # both kinds, also within one batch


@pytest.mark.parametrize("policy, share", [("random", 1 / 7), ("mix", 0.5)])
def test_images_of_one_person_are_not_all_given_the_same_person(policy, share):
    donor = np.array([draw_partners(4, 3, policy, np.random.default_rng(seed)) // 3 for seed in range(300)])
    first, second, third = donor.reshape(300, 8, 3).transpose(2, 0, 1)  # [draws, people] of each image
    for one, other in ((first, second), (second, third), (first, third)):
        assert np.mean(one == other) == pytest.approx(share, abs=0.05)


def test_random_partners_are_all_other_people():
    met = {
        (i // 2, j // 2)
        for s in range(200)
        for i, j in enumerate(draw_partners(3, 2, "random", np.random.default_rng(s)))
    }
    assert met == {(a, b) for a in range(6) for b in range(6) if a != b}


def test_partners_show_any_image_of_the_other_person():
    met = {
        (i, int(j))
        for seed in range(100)
        for i, j in enumerate(draw_partners(1, 3, "twin", np.random.default_rng(seed)))
    }
    assert met == {(a, b) for a in range(6) for b in range(6) if a // 3 != b // 3}


@pytest.mark.parametrize("policy", POLICIES)
def test_partners_in_a_batch_fit_its_people(policy):
    batches = make_batches([2, 3, 2], pwca_partner=policy)
    partners = set()
    for step in range(40):
        batch = whole(batches, step)
        person, partner = batch["person"], batch["partner"]
        assert sorted(partner.tolist()) == list(range(12))
        assert (person[partner] != person).all()
        partners.add(tuple(partner.tolist()))
    assert len(partners) > 20


@pytest.mark.parametrize("prob, low, high", [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_share_of_the_steps_with_partners(prob, low, high):
    batches = make_batches(pwca_prob=prob)
    assert low <= sum("partner" in whole(batches, step) for step in range(200)) <= high


def test_partners_do_not_tell_whose_images_they_are_given_to():
    # were the partners of one person's images all of one person, PWCA could learn to recognise the partner instead
    random, families, images = np.random.default_rng(0), 8, 4
    draws = np.array([draw_partners(families, images, "random", random) for _ in range(50)]) // images
    partners = draws.reshape(-1, images)  # for each person and draw, the people that distract the images
    shared = np.mean([len(set(row)) == 1 for row in partners])
    assert shared < 0.02  # by chance 1 / 15 ** 3


# Blended people


ALPHAS = [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}]


@pytest.mark.parametrize("alphas", ALPHAS, ids=lambda alphas: "+".join(alphas))
@pytest.mark.parametrize("parts, world", CUTS)
def test_donors_are_other_people_and_known_to_all_ranks(parts, world, alphas):
    ranks, blends = all_ranks(parts, world, **SIX | alphas), set()
    for step in range(10):
        shares = [batches[step] for batches in ranks]
        for part in range(parts):
            together = [share[part] for share in shares]
            person = together[0]["person"].chunk(world)
            other = torch.cat([own[part["donor"]] for own, part in zip(person, together, strict=True)])
            assert (other != together[0]["person"]).all()
            for one in together:
                assert torch.equal(one["other"], other)
                assert sorted(one["donor"].tolist()) == list(range(36 // (parts * world)))
                assert torch.equal(one["blend"], together[0]["blend"]) and one["share"] == together[0]["share"]
                assert one["blend"].shape == (1, 1, SIZE, SIZE) and one["blend"].dtype == torch.float32
                assert one["share"].shape == () and one["share"].dtype == torch.float32
                torch.testing.assert_close(one["share"], one["blend"].mean())
            blends.add(together[0]["blend"].numpy().tobytes())
    assert len(blends) > 6 * parts  # parts do not repeat one another, save for rectangles that do by chance


def test_no_blending_leaves_nothing_in_the_batch_and_changes_no_images():
    plain, mixed = make_batches(), make_batches(mixup_alpha=1.0, cutmix_alpha=1.0)
    for step in range(10):
        assert_equal([{name: whole(mixed, step)[name] for name in whole(plain, step)}], plain[step])
        assert not whole(plain, step).keys() & {"donor", "other", "blend", "share"}


def test_donors_and_partners_are_drawn_independently():
    batches = make_batches(mixup_alpha=1.0)
    same = [(part["donor"] == part["partner"]).float().mean() for step in range(100) for part in batches[step]]
    assert np.mean(same) < 0.2  # one in nine images of other people


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_gives_all_pixels_one_weight(alpha):
    blends = [draw_blend(4, alpha, 0.0, np.random.default_rng(seed)) for seed in range(2000)]
    assert all((blend == blend[0, 0]).all() and 0 <= blend[0, 0] <= 1 for blend in blends)
    weights = np.array([blend[0, 0] for blend in blends])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)  # of Beta(alpha, alpha)


def test_cutmix_gives_a_rectangle_to_the_donor():
    shares, inside = [], []
    for seed in range(2000):
        blend = draw_blend(64, 0.0, 1.0, np.random.default_rng(seed))
        rows, columns = blend.any(1), blend.any(0)
        assert np.array_equal(blend, np.outer(rows, columns))
        assert all(np.abs(np.diff(line.astype(int))).sum() <= 2 for line in (rows, columns))  # in one piece
        shares.append(blend.mean())
        if not (blend[0].any() or blend[-1].any() or blend[:, 0].any() or blend[:, -1].any()):
            inside.append((rows.sum(), columns.sum()))
    assert all(abs(height - width) <= 1 for height, width in inside)  # a square, unless the border clips it
    # of a square of side s, s ** 2 uniform, whose centre is anywhere, s ** 2 (1 - s / 4) ** 2 lies inside on average
    assert np.mean(shares) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)
    assert min(shares) < 0.01 and max(shares) > 0.85


def test_a_fair_coin_chooses_between_mixup_and_cutmix():
    blends = [draw_blend(16, 5.0, 1.0, np.random.default_rng(seed)) for seed in range(400)]
    pasted = sum(set(np.unique(blend)) <= {0, 1} for blend in blends)
    assert 160 < pasted < 240


# Batches that look at the model


class OrderedBatches(Batches):
    """Single images in an order that somebody decides between epochs."""

    one_group, groups, images_at_once, save_memory = "image", "images", "1", "lower image_size"

    def __init__(self, images=8, **cut):
        options = {"groups_per_batch": 4, "images_per_group": 1, "steps_per_epoch": 2, "seed": 0}
        super().__init__(NumberedStore(), **options, **({"parts": 1, "rank": 0, "world": 1} | cut))
        self.order = torch.arange(images)

    def state_dict(self):
        return {"order": self.order}

    def load_state_dict(self, state):
        self.order = state["order"]

    def __getitem__(self, step):
        first = step % self.steps_per_epoch * self.groups_per_batch
        images = self.order[first : first + self.groups_per_batch].numpy()
        return [{"images": self.store.batch(own)} for own in self.own(images)]


def test_batches_that_decide_nothing_have_no_state():
    batches = make_batches()
    before = batches[3]
    assert batches.state_dict() == {}
    batches.load_state_dict({})
    assert_equal(batches[3], before)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_decided_decides_the_batches_after_resuming_too(workers):
    batches = OrderedBatches(parts=2)
    plain = batches[0]
    batches.load_state_dict({"order": torch.arange(8).flip(0)})
    resumed = OrderedBatches(parts=2)
    resumed.load_state_dict(batches.state_dict())
    loaded = list(resumed.loader(0, 2, workers, pin=False))
    assert [numbers(part) for parts in loaded for part in parts] == [[7, 6], [5, 4], [3, 2], [1, 0]]
    for step, parts in enumerate(loaded):
        assert_equal(parts, batches[step])
    assert numbers(plain[0]) == [0, 1]
