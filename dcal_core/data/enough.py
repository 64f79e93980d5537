"""Whether a split has pairs enough to train on, to set thresholds on and to measure with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcal_core.config.recipes import without_co_twins
from dcal_core.config.shared import Config
from dcal_core.data.twins import DataError, TwinIndex, name_number

FEWEST = {  # families with pairs of one person, and with co-twins, that a split needs, and what for
    "train": (1, "in one family to learn from"),
    "validation": (3, "to set the thresholds of a verdict"),
    "test": (2, "to measure errors"),
}


class Needs(NamedTuple):
    """What a training asks of the data: families with co-twins, or people where none are known, that a batch takes, and
    whether it can do without co-twins."""

    families: int = 1
    people: int = 2
    co_twins: bool = False

    @classmethod
    def of(cls, config: Config) -> "Needs":
        return cls(config.families_in_batch, config.people_in_batch, config.needs_co_twins)


ANY = Needs()  # what any use of the data asks


def families_with_twins(index: TwinIndex, images_of: np.ndarray | None = None) -> np.ndarray:
    """The families with images of two siblings. images_of: usable images of each person, None for all."""
    images_of = np.bincount(index.person_of) if images_of is None else images_of
    families, siblings = np.unique(index.family_of[images_of >= 1], return_counts=True)
    return families[siblings >= 2]


def shared_out(index: TwinIndex, images_of: np.ndarray | None = None) -> int:
    """How many families with co-twins, or people where none are known, training and validation share."""
    return len(families_with_twins(index, images_of)) if index.co_twins else len(index.people)


def too_little(index: TwinIndex, among: int, needs: Needs = ANY, images_of: np.ndarray | None = None) -> str:
    """Why a split gives too few pairs to work with, in numbers and with the cure; "" if there are enough.

    among: as `shared_out`. images_of: usable images of each person, None for all.
    """
    images_of = np.bincount(index.person_of) if images_of is None else images_of
    if not index.co_twins:
        return too_few_people(index, among, needs, images_of)
    batch = needs.families
    genuine = np.unique(index.family_of[images_of >= 2])
    twins = families_with_twins(index, images_of)
    fewest, purpose = FEWEST[index.name]
    least = batch if index.name == "train" else fewest  # families with co-twins
    together = len(np.intersect1d(genuine, twins)) if index.name == "train" else fewest
    if len(genuine) >= fewest and len(twins) >= least and together >= fewest:
        return ""
    fill = f", and {batch} with co-twins to fill a batch (families_per_batch)" if least > fewest else ""
    cure = "" if index.name == "test" else other_shares(among, batch, enough=len(twins) >= least)
    file = "test" if index.name == "test" else "train"
    return (
        f"{index.name}: of {name_number(len(index.families), 'family', 'families')}, {len(genuine):,} with two images "
        f"of one person and {len(twins):,} with images of co-twins; it takes {fewest} of each {purpose}{fill}: "
        f"{cure}add images and pairs to the {file} index."
    )


def too_few_people(index: TwinIndex, among: int, needs: Needs, images_of: np.ndarray) -> str:
    """`too_little` where no co-twins are known."""
    if index.name == "train" and needs.co_twins:
        return f"train: {of_unknown_co_twins('this data')}"
    least = needs.people if index.name == "train" else FEWEST[index.name][0]
    purpose = "to fill a batch" if index.name == "train" else FEWEST[index.name][1]
    found = int((images_of >= 2).sum())
    if found >= least:
        return ""
    cure = "add people"
    if index.name == "validation" and among > least:
        cure = f"give validation_share={max(least / among, 0.01):.2g}, or add people"
    elif index.name == "train":
        cure = "lower validation_share or what a batch takes, or add people"
    people = name_number(found, "person", "people")
    return f"{index.name}: {people} with two images, where no co-twins are known; it takes {least} {purpose}: {cure}."


def of_unknown_co_twins(data: object) -> str:
    """Why a recipe that needs co-twins is not trained on data that names none."""
    return (
        f"this preset's recipe learns from families of co-twins, and {data} names none: list them in twin_pairs.json "
        f"beside the people's folders, or take a preset with recipe {without_co_twins()}."
    )


def other_shares(among: int, batch: int, enough: bool) -> str:
    """How families with co-twins could be shared so that both training and validation have what they take, as a clause
    that ends in "or "; "" where no other share helps. enough: whether the share is not what is wrong."""
    validation = FEWEST["validation"][0]
    if enough or among <= validation:
        return ""
    left = min(batch, among - validation)
    smaller = f"families_per_batch={left} and " if left < batch else ""
    return (
        f"give {smaller}validation_share={max(validation / among, 0.01):.2g}, which leaves {left} or more to train on "
        f"and {validation} or more to validate on, or "
    )


def refuse_too_little(indexes: Sequence[TwinIndex], among: int, needs: Needs = ANY) -> None:
    """DataError where a split gives too few pairs, by `too_little`."""
    for index in indexes:
        if reason := too_little(index, among, needs):
            raise DataError(reason)
