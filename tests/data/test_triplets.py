import math
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import SIZE, NumberedStore, assert_equal, make_index, numbers
from numpy.lib.format import open_memmap

from dcal_core.data.images import ImageStore
from dcal_core.data.triplets import OTHERS, TripletBatches, permuted, possible_triplets, sibling_pairs, splitmix
from dcal_core.data.twins import DataError, read_index

REAL = Path(__file__).parents[2].parent / "shared" / "nd_twin"
FAMILIES, IMAGES = [2, 3, 1, 2, 2, 2], [4, 3, 2, 1, 3, 6, 1, 1, 1, 5, 3, 3]  # one alone, one of single images
POSSIBLE = [4 * 3 * 3 + 3 * 2 * 4, 2 * 1 * 4 + 3 * 2 * 3, 0, 0, 5 * 4 * 1, 2 * 3 * 2 * 3]


def make_batches(families=FAMILIES, images_each=IMAGES, store=None, **options):
    options = {"triplets_per_batch": 4, "train_percentage": 100.0, "steps_per_epoch": 0, "seed": 0} | options
    return TripletBatches(make_index(families, images_each), store or NumberedStore(), **options)


def naive_triplets(index):
    """All possible triplets of each family."""
    images = [np.flatnonzero(index.person_of == person).tolist() for person in range(len(index.people))]
    found = [set() for _ in index.families]
    for a, b in permutations(range(len(index.people)), 2):
        if index.family_of[a] == index.family_of[b]:
            found[index.family_of[a]] |= {(*pair, other) for pair in permutations(images[a], 2) for other in images[b]}
    return found


def drawn(batches, first, last):
    """The triplets of the steps first to last - 1."""
    rows = np.concatenate([numbers(part) for step in range(first, last) for part in batches[step]])
    return [tuple(row) for row in rows.reshape(-1, 3).tolist()]  # [triplets, 3]


def one_order(batches, turn=0):
    """All chosen triplets, in the order of their turn."""
    first = turn * batches.total
    return [tuple(row) for row in batches.triplets(np.arange(first, first + batches.total)).tolist()]


# Where no co-twins are known


def test_other_people_stand_for_siblings_where_no_co_twins_are_known():
    images = [3, 1, 2, 4, 2] * 6
    index = replace(make_index([1] * 30, images), co_twins=False)
    pairs = sibling_pairs(index)
    assert pairs[:, 0].tolist() == np.repeat(range(30), OTHERS).tolist()
    assert (pairs[:, 0] != pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    assert (np.bincount(pairs[:, 1]) == OTHERS).all()  # everybody stands for as many
    batches = TripletBatches(
        index, NumberedStore(), triplets_per_batch=4, train_percentage=100.0, steps_per_epoch=0, seed=0
    )
    assert batches.steps_per_epoch == -(-sum(images) // 4)
    own = [set(np.flatnonzero(index.person_of == person).tolist()) for person in range(30)]
    expected = {(*pair, n) for a, b in pairs for pair in permutations(own[a], 2) for n in own[b]}
    order = one_order(batches)
    assert len(order) == len(expected) and set(order) == expected


def test_two_people_are_enough_to_learn_from():
    index = replace(make_index([1, 1], [2, 1]), co_twins=False)
    assert sibling_pairs(index).tolist() == [[0, 1], [1, 0]] and possible_triplets(index).tolist() == [2, 0]


# How many there are


def test_possible_triplets_are_counted():
    index = make_index(FAMILIES, IMAGES)
    assert possible_triplets(index).tolist() == POSSIBLE == [len(found) for found in naive_triplets(index)]
    assert possible_triplets(make_index([2], [3, 2])).tolist() == [3 * 2 * 2 + 2 * 1 * 3]
    assert possible_triplets(make_index([2], [1, 5])).tolist() == [5 * 4 * 1]  # the single image is the negative
    assert possible_triplets(make_index([2, 1, 3], [1, 1, 9, 1, 1, 1])).tolist() == [0, 0, 0]
    assert possible_triplets(make_index([3], [2, 3, 4])).tolist() == [2 * 1 * 7 + 3 * 2 * 6 + 4 * 3 * 5]


def test_people_of_a_family_need_not_stand_side_by_side():
    index = replace(make_index([2, 2], [3, 2, 4, 1]), family_of=np.array([1, 0, 1, 0]))
    assert possible_triplets(index).tolist() == [2 * 1 * 1, 3 * 2 * 4 + 4 * 3 * 3]
    options = {"triplets_per_batch": 1, "train_percentage": 100.0, "steps_per_epoch": 0, "seed": 0}
    batches = TripletBatches(index, NumberedStore(), **options)
    assert sorted(one_order(batches)) == sorted(set().union(*naive_triplets(index)))


@pytest.mark.skipif(not REAL.exists(), reason=f"the ND-TWINS index files are not in {REAL}")
@pytest.mark.parametrize("split, expected", [("train", 6_523_826), ("test", 473_888)])
def test_possible_triplets_of_nd_twins(split, expected):
    index = read_index(REAL / f"{split}_dataset_infor.json", REAL / f"{split}_twin_pairs.json", split)
    images = Counter(index.people[person] for person in index.person_of)
    naive = [
        sum(images[a] * (images[a] - 1) * images[b] for a, b in permutations(family, 2)) for family in index.families
    ]
    assert possible_triplets(index).tolist() == naive and sum(naive) == expected


# What is in a batch


@pytest.mark.parametrize("triplets", [1, 4, 16, 500])
def test_a_batch_is_triplets_row_by_row(triplets):
    index = make_index(FAMILIES, IMAGES)
    batches = make_batches(triplets_per_batch=triplets)
    assert batches.batch_size == 3 * triplets
    for step in range(10):
        (part,) = batches[step]
        assert part.keys() == {"images", "person", "family"}
        assert part["images"].shape == (3 * triplets, 3, SIZE, SIZE)
        assert part["person"].dtype == part["family"].dtype == torch.int64
        images, person = np.array(numbers(part)), part["person"].numpy()
        assert np.array_equal(index.person_of[images], person)
        assert np.array_equal(index.family_of[person], part["family"])
        anchor, positive, negative = images.reshape(-1, 3).T
        own, same, other = person.reshape(-1, 3).T
        assert (own == same).all() and (anchor != positive).all()
        assert (own != other).all() and (index.family_of[own] == index.family_of[other]).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_one_order_is_every_possible_triplet_once(seed):
    possible, batches = sorted(set().union(*naive_triplets(make_index(FAMILIES, IMAGES)))), make_batches(seed=seed)
    orders = [one_order(batches, turn) for turn in range(4)]
    assert all(sorted(order) == possible for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != possible


@pytest.mark.parametrize("triplets", [1, 4, 7, 11])
def test_batches_go_through_one_order_after_the_other(triplets):
    batches = make_batches(triplets_per_batch=triplets)
    assert batches.total == sum(POSSIBLE) == 142 and batches.steps_per_epoch == math.ceil(142 / triplets)
    orders = [row for turn in range(3) for row in one_order(batches, turn)]
    assert drawn(batches, 0, 426 // triplets) == orders[: 426 // triplets * triplets]


def test_an_epoch_of_whole_batches_is_every_triplet_once():
    batches = make_batches(triplets_per_batch=2)
    epoch = batches.steps_per_epoch
    assert epoch == 71
    for turn in range(3):
        assert Counter(drawn(batches, turn * epoch, (turn + 1) * epoch)) == Counter(one_order(batches))


def test_steps_of_an_epoch_can_be_given():
    assert make_batches(steps_per_epoch=5).steps_per_epoch == 5
    assert drawn(make_batches(steps_per_epoch=5), 0, 50) == drawn(make_batches(), 0, 50)


def test_families_without_triplets_are_named_by_number(capsys):
    make_batches([2, 2], [2, 1, 3, 3])
    assert capsys.readouterr().out == ""
    make_batches()
    why = "2 of 6 train families have no person with two images and a co-twin"
    assert capsys.readouterr().out == f"{why}, so they give no triplets and are left out.\n"
    with pytest.raises(DataError, match=r"^3 of 3 train families have no person .*no triplets: add images or pairs"):
        make_batches([2, 1, 3], [1, 1, 9, 1, 1, 1])


# A share of them


@pytest.mark.parametrize("percentage", [0.01, 1, 10, 25, 33.3, 50, 75, 99, 100])
def test_the_share_is_of_each_family_rounded_up_and_the_same_in_each_order(percentage):
    batches, found = make_batches(train_percentage=percentage), naive_triplets(make_index(FAMILIES, IMAGES))
    chosen = set(one_order(batches))
    assert len(chosen) == batches.total
    expected = [math.ceil(Fraction(str(percentage)) * len(family) / 100) for family in found]
    assert [len(chosen & family) for family in found] == expected
    for turn in range(1, 4):
        order = one_order(batches, turn)
        assert len(order) == len(chosen) and set(order) == chosen


def test_whole_percentages_are_exact():
    """In floats 7 % of 100 and many others come out above the whole number, and would be rounded up to the next."""
    for images in range(2, 12):
        possible = int(possible_triplets(make_index([2], images))[0])
        for percentage in range(1, 101):
            batches = make_batches([2], images, train_percentage=float(percentage))
            assert batches.total == math.ceil(Fraction(percentage, 100) * possible)


def test_a_larger_share_contains_a_smaller_one_and_seeds_choose_differently():
    shares = [set(one_order(make_batches(train_percentage=share))) for share in (10.0, 25.0, 50.0, 75.0, 100.0)]
    assert all(small < large for small, large in pairwise(shares))
    others = [frozenset(one_order(make_batches(train_percentage=10.0, seed=seed))) for seed in range(20)]
    assert len(set(others)) == 20


def test_every_triplet_is_chosen_equally_often():
    counts = Counter()
    for seed in range(500):
        counts.update(one_order(make_batches([2], [4, 3], train_percentage=10.0, seed=seed)))
    assert len(counts) == 60 and counts.total() == 6 * 500
    assert chi_square(list(counts.values())) < 1.7  # the 99.9th percentile is 1.67


def test_families_of_one_size_do_not_choose_alike():
    batches = make_batches([2] * 20, 4, train_percentage=10.0)
    by_family = np.array(sorted(one_order(batches))).reshape(20, 10, 3) % 8  # [families, triplets, 3]
    assert len({family.tobytes() for family in by_family}) == 20


@pytest.mark.parametrize("percentage", [0.0, -1.0, 100.1, math.nan])
def test_a_share_that_is_none_is_refused(percentage):
    with pytest.raises(ValueError, match=f"^train_percentage is {percentage}: it takes more than 0 and at most 100"):
        make_batches(train_percentage=percentage)


def test_families_with_many_images_do_not_clump():
    """Every tenth of an order has its share of each family, as far as chance allows."""
    batches = make_batches([2, 2, 2], [20, 20, 8, 8, 4, 4], triplets_per_batch=1)
    family = batches.family_of[batches.person_of[batches.triplets(np.arange(batches.total))[:, 0]]]
    for tenth in np.array_split(family, 10):
        for f, possible in enumerate(batches.possible):
            share = possible / batches.total
            spread = math.sqrt(share * (1 - share) * len(tenth))
            assert abs(np.sum(tenth == f) - share * len(tenth)) < 4 * spread


# Cut into parts and shared out over ranks


@pytest.mark.parametrize("parts, world", [(1, 1), (2, 1), (6, 1), (1, 2), (1, 6), (3, 2), (2, 3)])
def test_a_cut_batch_has_the_same_triplets_in_the_same_order(parts, world):
    uncut = make_batches(triplets_per_batch=6)
    ranks = [make_batches(triplets_per_batch=6, parts=parts, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        (batch,), shares = uncut[step], [batches[step] for batches in ranks]
        images = [share[part]["images"] for part in range(parts) for share in shares]
        assert all(len(own) == 18 // (parts * world) for own in images)  # whole triplets
        assert torch.equal(torch.cat(images), batch["images"])
        for name in ("person", "family"):
            assert torch.equal(torch.cat([part[name] for part in shares[0]]), batch[name])
            assert all(torch.equal(share[j][name], shares[0][j][name]) for share in shares for j in range(parts))


def test_batches_are_halved_down_to_one_triplet():
    batches = make_batches(triplets_per_batch=12, world=2)
    for parts in (2, 6):
        batches.halve()
        assert batches.parts == len(batches[0]) == parts
    with pytest.raises(DataError, match=r"^one triplet per process .*triplets_per_batch=12 .*\(3 images at once\)"):
        batches.halve()
    batches.cut(3)
    assert batches.parts == 3


def test_a_batch_that_would_cut_a_triplet_is_refused():
    with pytest.raises(DataError, match=r"triplets_per_batch=10 .*3 parts x 2 processes .*whole triplets: .* 6,"):
        make_batches(triplets_per_batch=10, parts=3, world=2)


# A pure function of (seed, step)


def test_a_batch_depends_on_seed_and_step_alone():
    options = {"train_percentage": 50.0, "parts": 2}
    one = make_batches(**options)
    forwards = [one[step] for step in range(30)]
    np.random.seed(1)
    torch.manual_seed(1)
    for step in reversed(range(30)):
        assert_equal(make_batches(**options)[step], forwards[step])
        assert_equal(one[step], forwards[step])
    other = make_batches(seed=1, **options)
    assert not any(numbers(other[step][0]) == numbers(forwards[step][0]) for step in range(30))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_steps_asked_for(tmp_path, workers):
    pixels = open_memmap(tmp_path / "images.npy", "w+", np.uint8, (24, 3, 2, 2))
    pixels[:] = np.arange(24, dtype=np.uint8)[:, None, None, None]
    batches = make_batches([2, 2], 6, ImageStore(images=pixels, kept=np.arange(24), rejected=[]), parts=2)
    loaded = list(batches.loader(5, 9, workers=workers, pin=False))
    assert len(loaded) == 4
    for step, parts in enumerate(loaded, start=5):
        assert_equal(parts, batches[step])
        assert all(part["images"].dtype == torch.uint8 and part["images"].shape == (6, 3, 2, 2) for part in parts)


# Keyed permutations


def chi_square(counts):
    """Of equally likely outcomes, per degree of freedom: about 1."""
    expected = np.mean(counts)
    return float(((np.array(counts) - expected) ** 2 / expected).sum() / (len(counts) - 1))


def some_permutations(count, keys):
    """Permutations of range(count), one for each of so many keys, [keys, count]."""
    key = np.random.default_rng(0).integers(2**64, size=keys, dtype=np.uint64)
    place = np.tile(np.arange(count), keys)
    return permuted(place, np.full_like(place, count), np.repeat(key, count)).reshape(keys, count)  # [keys, count]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 96, 99, 100, 101, 1000])
def test_each_is_a_permutation(count):
    assert (np.sort(some_permutations(count, 20), axis=1) == np.arange(count)).all()


def test_counts_and_keys_may_differ_from_place_to_place():
    count, key = np.array([7, 3, 7, 50, 50]), np.array([1, 2, 3, 4, 2**64 - 1], np.uint64)
    place = np.array([6, 2, 6, 49, 49])
    each = [permuted(*(value[i : i + 1] for value in (place, count, key)))[0] for i in range(5)]
    assert permuted(place, count, key).tolist() == each


def test_numbers_beyond_32_bits_are_permuted():
    place = np.arange(10**10, 10**10 + 1000)
    moved = permuted(place, np.full_like(place, 2 * 10**10), np.full(1000, 5, np.uint64))
    assert len(set(moved.tolist())) == 1000 and moved.min() >= 0 and moved.max() < 2 * 10**10
    assert abs(moved.mean() / 10**10 - 1) < 0.1


@pytest.mark.parametrize("count", [6, 24, 60])
def test_permutations_look_random(count):
    tables = some_permutations(count, 2000)
    for place in range(count):  # every place goes everywhere
        assert chi_square(np.bincount(tables[:, place], minlength=count)) < 1 + 6 * math.sqrt(2 / (count - 1))
    for one, other in ((0, 1), (0, count - 1), (count // 2, count // 2 + 1)):  # and neighbours not together
        gap = np.bincount((tables[:, one] - tables[:, other]) % count, minlength=count)
        assert gap[0] == 0 and chi_square(gap[1:]) < 1 + 6 * math.sqrt(2 / (count - 2))


def test_splitmix_gives_the_published_numbers():
    outputs = splitmix(np.arange(5), np.uint64(1234567)).tolist()
    assert outputs == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    ]  # fmt: skip


# The real index


@pytest.mark.skipif(not REAL.exists(), reason=f"the ND-TWINS index files are not in {REAL}")
def test_an_epoch_of_nd_twins_is_drawn_in_no_time():
    """A tenth of the triplets takes half a second on one core; the bound leaves room for a busy machine."""
    index = read_index(REAL / "train_dataset_infor.json", REAL / "train_twin_pairs.json", "train")
    options = {"triplets_per_batch": 16, "train_percentage": 10.0, "steps_per_epoch": 0, "seed": 0}
    began = time.process_time()
    batches = TripletBatches(index, NumberedStore(), **options)
    rows = [batches.triplets(np.arange(start, start + 2**14)) for start in range(0, batches.total, 2**14)]
    assert time.process_time() - began < 3
    anchor, positive, negative = np.concatenate(rows)[: batches.total].T
    assert batches.total == 652_434 and batches.steps_per_epoch == 40_778
    assert len(np.unique(anchor * 10_000**2 + positive * 10_000 + negative)) == batches.total
    assert (batches.person_of[anchor] == batches.person_of[positive]).all()
    tracemalloc.start()
    for start in range(0, batches.total, 2**14):
        batches.triplets(np.arange(start, start + 2**14))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
