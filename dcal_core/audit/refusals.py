"""What training and evaluation refuse a data set for: too few families, too many lost images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from dcal_core.audit.facts import Entry
from dcal_core.audit.kinds import Finding
from dcal_core.config.shared import Config
from dcal_core.data.enough import ANY, Needs, shared_out, too_little
from dcal_core.data.splits import split_families
from dcal_core.data.twins import DataError, TwinIndex, name_number, name_some


@dataclass(frozen=True)
class Limits:
    """What training asks of a data set. lost: the tolerated share of missing images, and of unreadable ones."""

    validation_share: float
    seed: int
    needs: Needs
    lost: float

    @classmethod
    def of(cls, config: Config) -> "Limits":
        return cls(config.validation_share, config.seed, Needs.of(config), config.max_lost_share)


def refusals(indexes: Sequence[TwinIndex], entries: Sequence[Entry], limits: Limits | None) -> Iterator[Finding]:
    """The findings for which training, or evaluation, refuses the data.

    indexes: as training takes them, without what is excluded. limits: None for what every training asks.
    """
    entry_of = {(entry.split, str(entry.path)): entry for entry in entries}
    for index in indexes:
        among = shared_out(index, readable_images(index, entries_of(index, index.name, entry_of)))
        try:
            parts = [index]
            if limits and index.name == "train":
                parts = split_families(index, limits.validation_share, limits.seed)
        except DataError as error:
            yield Finding("too_little", str(error), ())
            continue
        for part in parts:
            own = entries_of(part, index.name, entry_of)
            if reason := too_little(part, among, limits.needs if limits else ANY, readable_images(part, own)):
                yield Finding("too_little", reason, ())
            yield from lost_images(part.name, own, limits.lost if limits else 1.0)


def entries_of(index: TwinIndex, split: str, entry_of: dict[tuple[str, str], Entry]) -> list[Entry]:
    """The entries of an index's images, in its order."""
    return [entry_of[split, str(path)] for path in index.paths]


def readable_images(index: TwinIndex, entries: Sequence[Entry]) -> np.ndarray:
    """How many images of each person can be decoded."""
    readable = [bool(entry.facts) for entry in entries]
    return np.bincount(index.person_of, weights=readable, minlength=len(index.people)).astype(int)


def lost_images(name: str, entries: Sequence[Entry], tolerated: float) -> Iterator[Finding]:
    """The findings of a split that has lost more images than is tolerated, or all of a person."""
    found = [entry for entry in entries if entry.places]
    missing = [entry for entry in entries if not entry.places]
    unreadable = [entry for entry in found if entry.fault]
    for lost, all_of_them, fault, cure in (
        (missing, entries, "not found", "attach them, take them out of the index"),
        (unreadable, found, "unreadable", "replace them, leave them out by drop_suggested=true"),
    ):
        if len(lost) > tolerated * len(all_of_them):
            many = name_number(len(all_of_them), "image", "images")
            raised = ceil(100 * len(lost) / len(all_of_them)) / 100
            reason = (
                f"{name}: {len(lost):,} of {many} {'is' if len(lost) == 1 else 'are'} {fault}, more than "
                f"max_lost_share={tolerated:g} tolerates: {cure}, or give max_lost_share={raised:g}"
            )
            yield Finding("lost", reason, people_of(lost))
    left = [entry for entry in entries if entry.facts or len(entry.places) > 1]
    if emptied := sorted(set(people_of(entries)) - set(people_of(left))):
        who = name_some(emptied, "person", "people")
        yield Finding("lost", f"{name}: no image is left of {who}: restore one or unlist the person", tuple(emptied))


def people_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.person for entry in entries))
