from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.lib.format import open_memmap

from dcal_core.data.batches import FamilyBatches, draw_partners, twin_triplets
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError, TwinIndex

POLICIES = ["random", "twin", "mix"]


def make_index(families, images_each):
    """An index of families of the given sizes; `images_each`: how many images each person has, or one number."""
    people = sum(families)
    images_each = [images_each] * people if isinstance(images_each, int) else images_each
    names = iter(f"{person:03d}" for person in range(people))
    person_of = np.repeat(np.arange(people), images_each)
    return TwinIndex(
        name="train",
        people=tuple(f"{person:03d}" for person in range(people)),
        families=tuple(tuple(next(names) for _ in range(size)) for size in families),
        paths=tuple(f"{image}.png" for image in range(len(person_of))),
        person_of=person_of,
        family_of=np.repeat(np.arange(len(families)), families),
    )


class NumberedStore:
    """Images of one pixel that show their own number."""

    def batch(self, indices):
        return torch.as_tensor(np.asarray(indices))[:, None, None, None]


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


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# What is in a batch


@pytest.mark.parametrize("families_per_batch, images", [(1, 2), (2, 3), (4, 4)])
def test_a_batch_is_families_of_two_siblings_of_so_many_images(families_per_batch, images):
    index = make_index([2, 3, 1, 2, 2], 6)
    batches = make_batches(
        [2, 3, 1, 2, 2], families_per_batch=families_per_batch, images_per_person=images, pwca_partner="mix"
    )
    for step in range(20):
        batch = batches[step]
        count = families_per_batch * 2 * images
        assert batch["images"].shape == (count, 1, 1, 1) and batch["person"].shape == (count,)
        assert len(batch["partner"]) == count == batches.batch_size
        numbers, person = batch["images"].flatten().numpy(), batch["person"].numpy()
        assert np.array_equal(index.person_of[numbers], person)  # each image carries its own person's label
        assert len(set(numbers)) == count  # enough images: none twice
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
        batch = batches[step]
        for person in own:
            numbers = batch["images"].flatten()[batch["person"] == person].tolist()
            assert len(numbers) == 3 and set(numbers) <= own[person]
            assert len(set(numbers)) == 3 or len(own[person]) < 3
            seen[person] |= set(numbers)
    assert seen == own


def test_families_of_three_give_two_siblings_and_families_of_one_none():
    batches = make_batches([1, 3, 2, 1], families_per_batch=2)
    drawn = Counter(tuple(sorted(set(batches[step]["person"].tolist()) & {1, 2, 3})) for step in range(300))
    assert set(drawn) == set(combinations([1, 2, 3], 2))
    assert min(drawn.values()) > 60  # a hundred each, give or take
    assert all({4, 5} <= set(batches[step]["person"].tolist()) for step in range(20))
    assert not any({0, 6} & set(batches[step]["person"].tolist()) for step in range(100))


@pytest.mark.parametrize("images_each", [6, [4, 40, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]])
def test_every_family_is_drawn_once_a_round(images_each):
    batches = make_batches([2] * 6, images_each, families_per_batch=2)
    orders = []
    for turn in range(5):
        drawn = [
            person // 2 for step in range(3 * turn, 3 * turn + 3) for person in batches[step]["person"][::6].tolist()
        ]
        assert sorted(drawn) == list(range(6))
        orders.append(tuple(drawn))
    assert len(set(orders)) > 1


def test_families_left_over_in_one_round_are_not_always_the_same():
    batches = make_batches([2] * 5, families_per_batch=2)
    counts = Counter()
    for turn in range(200):
        drawn = [person // 2 for step in (2 * turn, 2 * turn + 1) for person in batches[step]["person"][::6].tolist()]
        assert len(set(drawn)) == 4
        counts.update(drawn)
    assert set(counts) == set(range(5)) and min(counts.values()) > 140  # 160 each, give or take


def test_too_few_families_are_refused():
    with pytest.raises(DataError, match=r"^2 families with twins in the train split .*families_per_batch=3: lower it"):
        make_batches([2, 1, 3, 1], families_per_batch=3)
    make_batches([2, 1, 3, 1], families_per_batch=2)


def test_steps_of_an_epoch():
    assert make_batches([2] * 4, 10).steps_per_epoch == 80 // 12
    assert make_batches([2] * 2, 2).steps_per_epoch == 1
    assert make_batches([2] * 4, 10, steps_per_epoch=77).steps_per_epoch == 77


# A pure function of (seed, step)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_depends_on_seed_and_step_alone(policy):
    options = {"pwca_prob": 0.5, "pwca_partner": policy, "families": (2, 3, 2, 2, 1)}
    one = make_batches(**options)
    forwards = [one[step] for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    for step in reversed(range(12)):
        assert_equal(make_batches(**options)[step], forwards[step])
        assert_equal(one[step], forwards[step])
    other = make_batches(seed=1, **options)
    assert not any(torch.equal(other[step]["images"], forwards[step]["images"]) for step in range(12))
    assert len({tuple(batch["images"].flatten().tolist()) for batch in forwards}) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_gives_the_steps_asked_for(tmp_path, workers):
    pixels = open_memmap(tmp_path / "images.npy", "w+", np.uint8, (48, 3, 2, 2))
    pixels[:] = np.arange(48, dtype=np.uint8)[:, None, None, None]
    store = ImageStore(images=pixels, kept=np.arange(48), rejected=[])
    batches = make_batches(store=store, pwca_prob=0.5)
    loaded = list(batches.loader(5, 9, workers=workers, pin=False))
    assert len(loaded) == 4
    for step, batch in enumerate(loaded, start=5):
        assert_equal(batch, batches[step])
        assert batch["images"].dtype == torch.uint8 and batch["images"].shape == (12, 3, 2, 2)


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
        batch = batches[step]
        person, partner = batch["person"], batch["partner"]
        assert sorted(partner.tolist()) == list(range(12))
        assert (person[partner] != person).all()
        partners.add(tuple(partner.tolist()))
    assert len(partners) > 20


@pytest.mark.parametrize("prob, low, high", [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_share_of_the_steps_with_partners(prob, low, high):
    batches = make_batches(pwca_prob=prob)
    assert low <= sum("partner" in batches[step] for step in range(200)) <= high


# Triplets


@pytest.mark.parametrize("families, images", [(1, 2), (2, 2), (3, 4)])
def test_triplets_are_all_of_anchor_same_person_and_co_twin(families, images):
    count = families * 2 * images
    person, family = np.arange(count) // images, np.arange(count) // (2 * images)
    expected = {
        (a, p, n)
        for a in range(count)
        for p in range(count)
        for n in range(count)
        if a != p and person[a] == person[p] and person[a] != person[n] and family[a] == family[n]
    }
    triplets = twin_triplets(families, images)
    assert triplets.shape == (3, len(expected))
    assert set(map(tuple, triplets.T.tolist())) == expected


def test_triplets_in_a_batch_fit_its_people():
    index, batches = make_index([2, 3, 2], 6), make_batches([2, 3, 2])
    for step in range(10):
        batch = batches[step]
        anchor, positive, negative = batch["person"][batch["triplets"]].numpy()
        assert (anchor == positive).all() and (anchor != negative).all()
        assert (index.family_of[anchor] == index.family_of[negative]).all()
        assert (batch["triplets"][0] != batch["triplets"][1]).all()


def test_partners_do_not_tell_whose_images_they_are_given_to():
    # were the partners of one person's images all of one person, PWCA could learn to recognise the partner instead
    random, families, images = np.random.default_rng(0), 8, 4
    draws = np.array([draw_partners(families, images, "random", random) for _ in range(50)]) // images
    partners = draws.reshape(-1, images)  # for each person and draw, the people that distract the images
    shared = np.mean([len(set(row)) == 1 for row in partners])
    assert shared < 0.02  # by chance 1 / 15 ** 3
