"""Which images are compared, and how: every same-person pair and every co-twin pair of an index.

Unrelated people are never pooled with co-twins: every system separates them well, which shows nothing about twins.
They are scored apart, for the threshold that face recognition would use; where no co-twins are known, they are the
impostors. Letters: N images, P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dcal_core.data.groups import join_pairs, members
from dcal_core.data.twins import TwinIndex
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification.comparisons import clusters_of, family_weights, rounded
from dcal_core.verification.encoding import evaluating

EACH = 10  # images of a person that are compared with those of unrelated people, at most
PARTNERS = 20  # unrelated people that each one is compared with, at least
SMALL = 16  # comparisons of two people, below which they are not worth a square of their own
COUPLES = 60  # of unrelated people who are looked at as co-twins are
ENOUGH = 500_000  # comparisons of unrelated people, for which it is more of them


@dataclass(frozen=True, eq=False)
class Pairs:
    """Image indices a < b and whether they show one person, each [P]; the index of their family, [P], or of the family
    of each, [P, 2], where impostors are unrelated people."""

    a: np.ndarray
    b: np.ndarray
    genuine: np.ndarray
    family: np.ndarray

    def __len__(self) -> int:
        return len(self.a)

    def take(self, places: np.ndarray) -> "Pairs":
        """Some of the comparisons, in the order of their places."""
        return Pairs(self.a[places], self.b[places], self.genuine[places], self.family[places])

    def even_weights(self) -> np.ndarray:
        """`family_weights`, [P]."""
        return family_weights(self.family, self.genuine)


@dataclass(frozen=True, eq=False)
class Scored:
    """The comparisons of one split of an index, with one system's scores, [P] in the order of the pairs."""

    index: TwinIndex
    pairs: Pairs
    scores: np.ndarray

    @property
    def labelled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, genuine and family, each [P]."""
        return self.scores, self.pairs.genuine, self.pairs.family


@dataclass(frozen=True, eq=False)
class Unrelated:
    """Comparisons of different families: scores and the index of either family, each [P]."""

    scores: np.ndarray
    family_a: np.ndarray
    family_b: np.ndarray


def image_names(index: TwinIndex, root: Path) -> list[str]:
    """The images' paths below the data's folder; one that lies elsewhere keeps its own."""
    paths = map(Path, index.paths)
    return [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]


def twin_pairs(index: TwinIndex) -> Pairs:
    """Return all genuine and all co-twin pairs, each once: every pair of images within a family."""
    family_of_image = index.family_of[index.person_of]  # [N]
    found = [np.empty((2, 0), dtype=np.int64)]
    for images in _groups(family_of_image):
        found.append(images[np.stack(np.triu_indices(len(images), k=1))])
    a, b = np.concatenate(found, axis=1)
    return Pairs(a, b, index.person_of[a] == index.person_of[b], family_of_image[a])


def pairs_of(index: TwinIndex) -> Pairs:
    """The pairs by which an index is verified: of co-twins, or of unrelated people where no co-twins are known."""
    return twin_pairs(index) if index.co_twins else people_pairs(index)


def people_pairs(index: TwinIndex, seed=0) -> Pairs:
    """Return the pairs of at most EACH images of each person, drawn: all genuine ones, and all of each person with as
    many others, who are the nearest ones in a circle of all people, drawn too."""
    random = np.random.default_rng(seed)
    images = random.permutation(len(index.person_of))
    images = np.sort(images[_turns(index.person_of[images]) < EACH])
    count = np.bincount(index.person_of[images])  # of each person
    first = np.cumsum(count) - count
    circle = random.permutation(len(index.people))
    wanted = ENOUGH * len(circle) // len(images) ** 2  # by which there are so many
    reach = min(max(PARTNERS // 2, wanted), len(circle) // 2)
    beside = np.stack([np.roll(circle, -step) for step in range(1, reach + 1)])
    two = np.stack([np.broadcast_to(circle, beside.shape), beside], axis=-1).reshape(-1, 2)
    everybody = np.repeat(np.arange(len(circle))[:, None], 2, axis=1)
    two = np.concatenate([everybody, np.unique(np.sort(two), axis=0)])
    compared = count[two].prod(1)
    pair = np.repeat(np.arange(len(two)), compared)
    turn = np.arange(len(pair)) - np.repeat(np.cumsum(compared) - compared, compared)  # within a pair of people
    person = two[pair]  # [P, 2]
    a, b = images[first[person.T] + np.stack(np.divmod(turn, count[person[:, 1]]))]
    kept = a < b  # of one person: each two images once, and none with itself
    person = person[kept]
    return Pairs(a[kept], b[kept], person[:, 0] == person[:, 1], index.family_of[person])


def pairs_to_look_at(index: TwinIndex, seed=0) -> tuple[TwinIndex, Pairs]:
    """The index and its `twin_pairs`; where no co-twins are known, the index in which two people, drawn, stand in for a
    family, COUPLES at most, and the pairs within these."""
    if index.co_twins:
        return index, twin_pairs(index)
    drawn = np.random.default_rng(seed).permutation(len(index.people))
    couples = drawn[: 2 * min(COUPLES, len(drawn) // 2)].reshape(-1, 2)
    family_of = join_pairs(couples, len(index.people))
    families = tuple(tuple(index.people[person] for person in family) for family in members(family_of))
    index = replace(index, families=families, family_of=family_of)
    pairs = twin_pairs(index)
    return index, pairs.take(np.flatnonzero(np.bincount(family_of)[pairs.family] > 1))


def some_of_each_family(pairs: Pairs, genuine: bool, most: int, seed: int) -> np.ndarray:
    """Return the positions of at most `most` pairs of one kind from each family, drawn without replacement."""
    random = np.random.default_rng(seed)
    kind = np.flatnonzero(pairs.genuine == genuine)
    order = random.permutation(kind)
    order = order[np.argsort(pairs.family[order], kind="stable")]
    return order[_turns(pairs.family[order]) < most]


def score_pairs(
    model: Verifier, features: Features, pairs: Pairs, block=64, device="cpu", reading: str | None = None
) -> np.ndarray:
    """Return the score of each pair, [P] float64, rounded, higher = more alike.

    Families are compared one at a time, in squares of at most `block` x `block` images to bound the memory of models
    that compare feature maps. Pairs that fill less than half of a square are compared one by one instead. model: on
    `device` already; reading: one of the model's, None for its own answer.
    """
    if len(pairs) and (last := max(pairs.a.max(), pairs.b.max())) >= len(features):
        raise ValueError(f"the pairs name image {last}, but only {len(features)} images were encoded")

    def of(images: np.ndarray) -> Features:
        return features[torch.from_numpy(images)].to(device)

    scores = np.empty(len(pairs))
    with evaluating(model):
        for wanted in _squares(pairs, block):
            rows, row = np.unique(pairs.a[wanted], return_inverse=True)
            columns, column = np.unique(pairs.b[wanted], return_inverse=True)
            if 2 * len(wanted) < len(rows) * len(columns):
                for some in np.split(wanted, range(block, len(wanted), block)):
                    found = model.compare_pairs(of(pairs.a[some]), of(pairs.b[some]), reading)
                    scores[some] = found.float().cpu().numpy()
            else:
                square = model.compare(of(rows), of(columns), reading).float().cpu().numpy()  # [rows, columns]
                scores[wanted] = square[row, column]
    return rounded(scores)


def _squares(pairs: Pairs, block: int) -> Iterator[np.ndarray]:
    """Yield positions of pairs that one comparison of at most `block` x `block` images answers."""
    if block < 1:
        raise ValueError(f"block must be at least 1 image, got {block}")
    _, cluster, size = np.unique(clusters_of(pairs.family), return_inverse=True, return_counts=True)
    alone = size[cluster] >= (SMALL if pairs.family.ndim == 2 else 0)
    small, large = np.flatnonzero(~alone), np.flatnonzero(alone)
    yield from np.split(small, range(block, len(small), block)) if len(small) else ()
    for inside in _groups(cluster[large]):
        inside = large[inside]
        tiles = [np.unique(side[inside], return_inverse=True)[1] // block for side in (pairs.a, pairs.b)]
        for tile in _groups(tiles[0] * (tiles[1].max() + 1) + tiles[1]):
            yield inside[tile]


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each distinct label."""
    _, sizes = np.unique(labels, return_counts=True)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1]) if len(labels) else []


def _turns(labels: np.ndarray) -> np.ndarray:
    """How often each label has come before."""
    turn = np.empty(len(labels), dtype=np.int64)
    for positions in _groups(labels):
        turn[positions] = np.arange(len(positions))
    return turn


def unrelated_scores(
    model: Verifier,
    features: Features,
    index: TwinIndex,
    most_images=2000,
    seed=0,
    block=256,
    device="cpu",
    reading: str | None = None,
) -> Unrelated:
    """Return the comparisons of people of different families, each two images once, scored as by `score_pairs`.

    features: [N], of all images of the index. If there are more than `most_images`, so many are drawn, evenly over
    people.
    ValueError if the features are not those of the index, or all of one family.
    """
    if len(features) != len(index.person_of):
        raise ValueError(f"the index has {len(index.person_of)} images, but {len(features)} were encoded")
    if block < 1 or most_images < 2:
        raise ValueError(f"takes block of at least 1 image and most_images of 2, got {block} and {most_images}")
    images = _even_draw(index.person_of, most_images, seed)
    family = index.family_of[index.person_of[images]]
    if len(np.unique(family)) < 2:
        raise ValueError("unrelated comparisons need drawn images of at least 2 families: add one or raise most_images")
    blocks = np.split(np.arange(len(images)), range(block, len(images), block))  # positions among the images drawn
    found = []
    with evaluating(model):
        for number, rows in enumerate(blocks):
            left = features[torch.from_numpy(images[rows])].to(device)
            for columns in blocks[number:]:
                wanted = (family[rows, None] != family[columns]) & (rows[:, None] < columns)
                if not wanted.any():
                    continue
                right = features[torch.from_numpy(images[columns])].to(device)
                square = model.compare(left, right, reading).float().cpu().numpy()  # [rows, columns]
                row, column = np.nonzero(wanted)
                found.append((rounded(square[wanted]), family[rows[row]], family[columns[column]]))
    return Unrelated(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _even_draw(person_of: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many images, in rising order: everyone's first in a random order, then everyone's second, and on."""
    shuffled = np.random.default_rng(seed).permutation(len(person_of))
    return np.sort(shuffled[np.argsort(_turns(person_of[shuffled]), kind="stable")][:most])
