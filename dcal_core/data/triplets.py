"""Which triplets make a batch: two images of a person and one of a sibling, as a pure function of (seed, step).
Where no co-twins are known, some other people, drawn once, stand for the siblings.

A data set has millions of triplets, so they are numbered and never listed. A keyed permutation, evaluated only where it
is needed, chooses and orders them, and index arithmetic turns a number into images.
"""

from itertools import permutations

import numpy as np
import torch

from dcal_core.data.batches import TRIPLETS, Batches, Part
from dcal_core.data.groups import members
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError, TwinIndex

IN_TRIPLET = 3  # anchor, positive, negative
OTHERS = 20  # other people who stand for the siblings of each, where no co-twins are known
ROUNDS = 6  # of the Feistel network; after four, the order still shows in ranges as small as a family's


class TripletBatches(Batches):
    """Batches of triplets (image of A, another image of A, image of a sibling of A), for losses on given triplets.

    All ordered pairs of siblings give triplets; a person with a single image can only be the negative. Both orders of
    anchor and positive count, because only the anchor is compared with the negative.

    train_percentage: the share of each family's possible triplets that is used, rounded up. It stands for less data:
    the choice depends on the seed alone, is the same in every epoch, and a larger share contains a smaller one.
    All chosen triplets come once in a shuffled order, then again in another; the batch at the end of one order is
    filled from the start of the next. steps_per_epoch 0: as many as one order takes, rounded up; where no co-twins are
    known, as many triplets as there are images.

    A part has W = world x b images; b = 3 x triplets_per_batch / (parts x world) are this rank's, triplet by triplet:
    rows 3i, 3i + 1 and 3i + 2 are anchor, positive and negative, here and among the images of all ranks.

    images: uint8 [b, 3, S, S], this rank's. person, family: [W], indices into the index, of all ranks in their order.
    """

    one_group = "triplet"
    groups = "triplets"
    images_at_once = f"{IN_TRIPLET}"
    save_memory = "lower image_size, or take a smaller backbone"

    def __init__(
        self,
        index: TwinIndex,
        store: ImageStore,
        *,
        triplets_per_batch: int,
        train_percentage: float,
        steps_per_epoch: int,
        **shared: int,  # seed, parts, rank and world
    ):
        if not 0 < train_percentage <= 100:
            raise ValueError(f"train_percentage is {train_percentage}: it takes more than 0 and at most 100.")
        self.pairs = sibling_pairs(index)
        self.pair_ends = triplets_of_pairs(index, self.pairs).cumsum()
        self.possible = possible_triplets(index)
        refuse_no_triplets(index)
        if not self.possible.all():
            print(f"{_without_triplets(self.possible, index)}, so they give no triplets and are left out.")
        self.chosen = np.ceil(self.possible * train_percentage / 100).astype(np.int64)  # [families]
        self.total = int(self.chosen.sum())
        in_epoch = self.total if index.co_twins else min(self.total, len(index.paths))
        super().__init__(
            store,
            groups_per_batch=triplets_per_batch,
            images_per_group=IN_TRIPLET,
            steps_per_epoch=steps_per_epoch or -(-in_epoch // triplets_per_batch),
            **shared,
        )
        self.person_of = index.person_of
        self.family_of = index.family_of
        self.counts = np.bincount(index.person_of)  # [people], images of each
        self.first_of = self.counts.cumsum() - self.counts  # [people]
        self.choice_key, self.order_key = self.random(TRIPLETS).integers(2**64, size=2, dtype=np.uint64)

    def __getitem__(self, step: int) -> list[Part]:
        first = step * self.groups_per_batch
        images = self.triplets(np.arange(first, first + self.groups_per_batch))  # [triplets, 3]
        person = self.person_of[images].reshape(self.parts, -1)  # [parts, W]
        return [
            {
                "images": self.store.batch(own),
                "person": torch.as_tensor(people),
                "family": torch.as_tensor(self.family_of[people]),
            }
            for own, people in zip(self.own(images), person, strict=True)
        ]

    def triplets(self, places: np.ndarray) -> np.ndarray:
        """Anchor, positive and negative image, [n, 3], of the triplets at places [n] counted from the first batch."""
        turn, place = np.divmod(places, self.total)
        number = permuted(place, np.full_like(place, self.total), splitmix(turn, self.order_key))
        ends = self.chosen.cumsum()
        family = np.searchsorted(ends, number, side="right")
        number = number - (ends - self.chosen)[family]
        number = permuted(number, self.possible[family], splitmix(family, self.choice_key))
        return self.numbered(number + (self.possible.cumsum() - self.possible)[family])

    def numbered(self, number: np.ndarray) -> np.ndarray:
        """The images [n, 3] of triplets by their number [n] among all possible ones, ordered by pair of siblings."""
        pair = np.searchsorted(self.pair_ends, number, side="right")
        person, sibling = self.pairs[pair].T
        own = self.counts[person]
        others = self.counts[sibling]
        number = number - self.pair_ends[pair] + own * (own - 1) * others  # within its pair
        number, negative = np.divmod(number, others)
        anchor, positive = np.divmod(number, own - 1)
        positive += positive >= anchor  # among the other images
        first = self.first_of[person]
        return np.stack([first + anchor, first + positive, self.first_of[sibling] + negative], axis=1)


def possible_triplets(index: TwinIndex) -> np.ndarray:
    """The number of triplets of each family, [families]: the sum of n_A (n_A - 1) n_B over its ordered pairs of
    siblings A and B with n_A and n_B images; 0 for a family of one, and if everyone has one image."""
    pairs = sibling_pairs(index)
    family = index.family_of[pairs[:, 0]]
    return np.bincount(family, triplets_of_pairs(index, pairs), len(index.families)).astype(np.int64)


def sibling_pairs(index: TwinIndex) -> np.ndarray:
    """All ordered pairs of siblings, family by family, [pairs, 2]; where no co-twins are known, of each person and the
    next OTHERS in a circle of all, drawn once for all seeds."""
    if not index.co_twins:
        circle = np.random.default_rng(0).permutation(len(index.people))
        others = [np.roll(circle, -step)[circle.argsort()] for step in range(1, min(OTHERS, len(circle) - 1) + 1)]
        return np.stack([np.repeat(np.arange(len(circle)), len(others)), np.stack(others, axis=1).ravel()], axis=1)
    pairs = [pair for people in members(index.family_of) for pair in permutations(people, 2)]
    return np.array(pairs, np.int64).reshape(-1, 2)  # [pairs, 2]


def triplets_of_pairs(index: TwinIndex, pairs: np.ndarray) -> np.ndarray:
    """The number of triplets of each ordered pair of siblings, with the first as the anchor's person, [pairs]."""
    own, others = np.bincount(index.person_of)[pairs.T]
    return own * (own - 1) * others


def refuse_no_triplets(index: TwinIndex) -> None:
    """DataError if no family has a person with two images and a co-twin, or, if none are known, another person."""
    possible = possible_triplets(index)
    if not possible.any():
        why = _without_triplets(possible, index)
        raise DataError(f"{why}, so there are no triplets: add images or pairs to the index.")


def _without_triplets(possible: np.ndarray, index: TwinIndex) -> str:
    without = int((possible == 0).sum())
    return f"{without} of {len(possible)} {index.name} families have no person with two images and a co-twin"


def permuted(place: np.ndarray, count: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The image of each place under a pseudo-random permutation of range(count) that belongs to its key; all [n].

    A Feistel network on the two digits of a place in base ⌈√count⌉, repeated while the result is out of range (cycle
    walking, Black and Rogaway, CT-RSA 2002, method 2).
    """
    side = np.ceil(np.sqrt(count)).astype(np.uint64)
    left, right = np.divmod(place.astype(np.uint64), side)
    for number in range(ROUNDS):
        # Without its top bit the sum cannot overflow; an overflow could map two places to one.
        mixed = (left + (splitmix(ROUNDS * right + number, key) >> 1)) % side
        left = right
        right = mixed
    place = (left * side + right).astype(np.int64)
    outside = place >= count
    if outside.any():
        place[outside] = permuted(place[outside], count[outside], key[outside])
    return place


def splitmix(number: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The number-th output, from 0, of the generator SplitMix64 seeded by key (Steele et al., OOPSLA 2014), uint64."""
    bits = (number.astype(np.uint64) + 1) * 0x9E3779B97F4A7C15 + key
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    return bits ^ (bits >> 31)
