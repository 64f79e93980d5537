"""Batches of P people x K images: who is in them, that nothing is decoded early, and that occluders go with images."""

from collections import Counter

import numpy as np
import pytest
import torch
from numbered import SIZE, NumberedStore, assert_equal, make_index, numbers

from dcal_core.data.identity_batches import IdentityBatches
from dcal_core.data.images import ImageStore
from dcal_core.data.landmarks import ARCFACE
from dcal_core.data.twins import DataError

MIXED = [2, 1, 3, 1, 2, 1, 1]  # people of each family: 3 pairs of siblings and 2 pairs of others


def make_batches(families=MIXED, images_each=4, store=None, **options):
    options = {
        "pairs_per_batch": 2,
        "images_per_person": 3,
        "steps_per_epoch": 0,
        "seed": 0,
        "occlusion_prob": 0.0,
        "kinds": ("block",),
        "landmarks": ARCFACE,
    } | options
    return IdentityBatches(make_index(families, images_each), store or NumberedStore(), **options)


def people_of(batches, step):
    """The people of a step pair by pair, from a batch that is not cut."""
    (part,) = batches[step]
    return part["person"].reshape(-1, 2, batches.images_per_person)[:, :, 0].tolist()


def test_a_batch_is_pairs_of_people_with_so_many_images_each():
    batches, index = make_batches(), make_index(MIXED, 4)
    for step in range(20):
        (part,) = batches[step]
        assert part.keys() == {"images", "visible", "person", "family"}
        assert part["images"].shape == (12, 3, SIZE, SIZE) and part["visible"].shape == (12, 1, SIZE, SIZE)
        assert part["visible"].all()
        assert index.person_of[numbers(part)].tolist() == part["person"].tolist() and len(set(numbers(part))) == 12
        assert torch.equal(part["family"], torch.as_tensor(index.family_of)[part["person"]])
        assert len(set(part["person"].tolist())) == 4
    assert batches.steps_per_epoch == 44 // 12 and make_batches(steps_per_epoch=7).steps_per_epoch == 7


def test_siblings_come_together_and_everyone_without_any_comes_in_pairs():
    batches, family = make_batches(pairs_per_batch=1), make_index(MIXED, 4).family_of
    siblings = {f for f, count in Counter(family.tolist()).items() if count > 1}
    of_three = set()
    for turn in range(30):
        pairs = [people_of(batches, 5 * turn + n)[0] for n in range(5)]
        families = [family[pair].tolist() for pair in pairs]
        assert sorted(f for f, other in families if f == other) == sorted(siblings)  # each once a round
        assert sorted(f for pair in families for f in pair if f not in siblings) == [1, 3, 5, 6]
        of_three |= {tuple(sorted(pair)) for pair in pairs if family[pair[0]] == family[pair[1]] == 2}
    assert of_three == {(3, 4), (3, 5), (4, 5)}  # of larger families any two


def test_rounds_differ_and_another_seed_too():
    batches = make_batches(pairs_per_batch=1)
    rounds = [[people_of(batches, 5 * turn + n) for n in range(5)] for turn in range(3)]
    assert rounds[0] != rounds[1] != rounds[2]
    assert rounds[0] != [people_of(make_batches(pairs_per_batch=1, seed=1), n) for n in range(5)]


# ---- neighbours


def ranked(batches):
    """Neighbours of people whom a line of likeness orders: those with the nearest numbers, siblings first."""
    family = batches.family_of
    people = np.arange(len(family))
    distance = abs(people[:, None] - people) + 100.0 * (family[:, None] != family)
    order = np.argsort(distance, axis=1, kind="stable")
    return torch.as_tensor(order[:, 1 : batches.people_per_batch]).int()  # without oneself


def test_with_neighbours_each_person_comes_once_with_those_most_alike_and_their_siblings():
    batches = make_batches()
    batches.load_state_dict({"neighbours": ranked(batches)})
    family = batches.family_of
    for turn in range(2):
        anchors = []
        for place in range(len(family)):
            people = np.array(people_of(batches, turn * len(family) + place)).ravel()
            assert len(set(people)) == 4
            anchors.append(people[0])
            siblings = np.flatnonzero(family == family[people[0]])
            assert set(siblings) <= set(people)
            others = [p for p in people if p not in siblings]
            nearest = [p for p in batches.neighbours[people[0]].tolist() if p not in siblings]
            assert others[0] == nearest[0]
            if np.count_nonzero(family == family[others[0]]) == 2 and len(others) > 1:
                assert family[others[1]] == family[others[0]]  # whose sibling comes along
        assert sorted(anchors) == list(range(len(family)))


def test_neighbours_are_the_state():
    batches = make_batches()
    assert batches.state_dict() == {}
    before = people_of(batches, 3)
    batches.load_state_dict({"neighbours": ranked(batches)})
    assert people_of(batches, 3) != before
    other = make_batches()
    other.load_state_dict(batches.state_dict())
    assert_equal(other[3], batches[3])


def test_one_image_each_shows_everyone_and_changes_with_the_epoch():
    batches, index = make_batches(), make_index(MIXED, 4)
    shown = [batches.one_image_each(epoch) for epoch in (0, 1)]
    for images in shown:
        assert index.person_of[images].tolist() == list(range(len(index.people)))
    assert not np.array_equal(*shown) and np.array_equal(shown[1], make_batches().one_image_each(1))


# ---- what is decoded, cut and refused


class Counted(NumberedStore):
    """A store that counts the images taken from it."""

    taken = 0

    def batch(self, indices):
        self.taken += len(indices)
        return super().batch(indices)


def test_nothing_is_decoded_before_a_batch_is_asked_for():
    batches = make_batches(store=(store := Counted()))
    batches.one_image_each(0)
    assert store.taken == 0
    batches[0]
    assert store.taken == 12


def faces(images):
    """Grey images in memory."""
    return ImageStore(np.full((images, 3, 32, 32), 128, np.uint8), np.arange(images), [])


@pytest.mark.parametrize("parts, world", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_cut_batch_has_the_same_images_behind_the_same_occluders(parts, world):
    options = {"store": faces(44), "pairs_per_batch": 4, "occlusion_prob": 0.5}
    (whole,) = make_batches(**options)[5]
    ranks = [make_batches(**options, parts=parts, rank=rank, world=world)[5] for rank in range(world)]
    for name in ("images", "visible"):
        shares = [share[part][name] for part in range(parts) for share in ranks]
        assert torch.equal(torch.cat(shares), whole[name]), name
    for name in ("person", "family"):
        for share in ranks:
            assert torch.equal(torch.cat([part[name] for part in share]), whole[name])


def test_occluders_hide_a_share_of_the_images_where_they_say():
    batches = make_batches(store=faces(44), pairs_per_batch=4, occlusion_prob=0.4)
    parts = [batches[step][0] for step in range(10)]
    images, visible = (torch.cat([part[name] for part in parts]) for name in ("images", "visible"))
    hidden = (visible == 0).flatten(1).any(1)
    assert hidden.float().mean().item() == pytest.approx(0.4, abs=0.1)
    changed = (images != 128).any(1, keepdim=True)
    assert not changed[~hidden].any() and changed[visible == 0].float().mean() > 0.9
    assert (visible[hidden] == 0).float().mean() > 0.05
    assert_equal(batches[3], make_batches(store=faces(44), pairs_per_batch=4, occlusion_prob=0.4)[3])


def test_too_few_people_are_refused(refused):
    with refused(DataError, "pairs_per_batch=6", "the train split has 5 pairs of people", "lower it"):
        make_batches(pairs_per_batch=6)
    with refused(DataError, "pairs_per_batch=5", "2 parts x 1 processes", "whole pairs"):
        make_batches(pairs_per_batch=5, parts=2)
    batches = make_batches()
    batches.halve()
    with refused(DataError, "one pair of people per process", "images_per_person"):
        batches.halve()
