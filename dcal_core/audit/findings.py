"""What is wrong, or just worth knowing, in a twin data set: every image is read once and every finding is reported.

An audit never fails because of the data: what training refuses (lost images, people in both splits) is a finding here.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from dcal_core.audit.duplicates import ALIKE, RADIUS, same_shots
from dcal_core.audit.facts import Entry, read_entries
from dcal_core.audit.gate import LEAST_SIDE, SQUARE, least_side
from dcal_core.audit.kinds import KINDS, Finding
from dcal_core.audit.refusals import Limits, refusals
from dcal_core.data.groups import join_pairs
from dcal_core.data.twins import DataError, TwinIndex, name_some, path_parts

CONVENTION = 0.9  # share of the files that must be named after their person before another name counts as a finding


@dataclass(frozen=True, eq=False)
class Audit:
    """The entries of a data set, the counts of each split, and the findings, the most serious first."""

    data: str
    root: Path
    image_size: int
    fit: str
    entries: tuple[Entry, ...]
    splits: dict[str, dict]
    findings: tuple[Finding, ...]

    def of_kind(self, kind: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]

    def with_findings(self, findings: Iterable[Finding]) -> "Audit":
        """The same audit with these findings, the most serious kind first."""
        return replace(self, findings=tuple(sorted(findings, key=lambda finding: list(KINDS).index(finding.kind))))

    def suggested(self) -> dict[str, str]:
        """The images that the findings suggest to exclude: image name -> reason."""
        reasons = {}
        for finding in self.findings:
            for image in finding.drop:
                reasons.setdefault(image, f"{finding.name}: {finding.reason}")
        return reasons

    def emptied(self, excluded: Iterable[str]) -> list[str]:
        """The people who have no image left under an exclusion list."""
        excluded = set(excluded)
        left = {entry.person for entry in self.entries if entry.name not in excluded}
        return sorted({entry.person for entry in self.entries} - left)

    def as_dict(self) -> dict:
        """The audit without its entries, as plain JSON values."""
        thresholds = {"tiny_px": least_side(self.image_size), "hash_bits": RADIUS, "correlation": ALIKE}
        counts = {kind: len(self.of_kind(kind)) for kind in KINDS}
        return {
            "data": self.data,
            "root": str(self.root),
            "image_size": self.image_size,
            "fit": self.fit,
            "thresholds": thresholds,
            "splits": self.splits,
            "counts": counts,
            "findings": [asdict(finding) for finding in self.findings],
        }


def audit_images(
    indexes: Sequence[TwinIndex],
    root: Path,
    image_size: int,
    data: str,
    fit: str = "stretch",
    limits: Limits | None = None,
    excluded: Callable[[Sequence[TwinIndex]], Sequence[TwinIndex]] = list,
) -> Audit:
    """Read every image of the indexes below `root` and collect the findings.

    image_size: px, the side of the model's inputs. data: the name of the data. fit: how images become square, as in
    `decode`. limits: what a training asks of the data. excluded: the indexes without the images that are left out, or a
    DataError. DataError if `root` is not a folder.
    """
    entries = read_entries(indexes, root, image_size, fit)
    splits = {index.name: _count(index, [entry for entry in entries if entry.split == index.name]) for index in indexes}
    findings = [
        *_about_refusals(indexes, entries, limits, excluded),
        *_about_people(indexes, splits),
        *_about_files(entries),
        *_about_names(entries),
        *_about_pixels(entries, least_side(image_size)),
        *_about_likeness(entries),
    ]
    return Audit(data, root, image_size, fit, tuple(entries), splits, ()).with_findings(findings)


def _count(index: TwinIndex, entries: Sequence[Entry]) -> dict:
    readable = [entry for entry in entries if entry.facts]
    counts = Counter(entry.person for entry in readable)
    images_of = {person: counts[person] for person in index.people}
    return {
        "people": len(index.people),
        "families": len(index.families),
        "images": len(entries),
        "images_found": sum(bool(entry.places) for entry in entries),
        "images_readable": len(readable),
        "images_per_person": _range(images_of.values()),
        "shorter_side_px": _range(entry.facts.shorter_side for entry in readable),
        "images_of": images_of,
    }


def _range(values: Iterable[int]) -> dict[str, float | None]:
    values = list(values)
    if not values:
        return {"min": None, "median": None, "max": None}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _about_refusals(
    indexes: Sequence[TwinIndex], entries: Sequence[Entry], limits: Limits | None, excluded: Callable
) -> Iterator[Finding]:
    try:
        indexes = excluded(indexes)
    except DataError as error:
        yield Finding("list", str(error), ())
    yield from refusals(indexes, entries, limits)


def _about_people(indexes: Sequence[TwinIndex], splits: dict[str, dict]) -> Iterator[Finding]:
    listed = Counter(person for index in indexes for person in index.people)
    if shared := tuple(sorted(person for person, count in listed.items() if count > 1)):
        yield Finding("across_splits", f"in {' and in '.join(index.name for index in indexes)}", shared)
    paths = Counter(path for index in indexes for path in {path_parts(one) for one in index.paths})
    both = ["/".join(path) for path, count in paths.items() if count > 1]
    if both and not shared:
        yield Finding("across_splits", f"{name_some(both, 'image', 'images')}, listed in both", ())
    for index in indexes:
        if few := tuple(person for person, count in splits[index.name]["images_of"].items() if count < 2):
            yield Finding("few_images", f"fewer than two readable images in {index.name}", few)
        if index.co_twins and (alone := tuple(family[0] for family in index.families if len(family) == 1)):
            yield Finding("no_co_twin", f"without a co-twin in {index.name}", alone)
        for family in index.families:
            if len(family) > 2:
                yield Finding("large_family", f"a family of {len(family)} in {index.name}", family)


def _about_files(entries: Sequence[Entry]) -> Iterator[Finding]:
    for entry in entries:
        if entry.fault:
            yield Finding("unreadable", entry.fault, (entry.person,), (entry.name,), (entry.name,))
        elif len(entry.places) > 1:
            places = " and ".join(entry.places[:2])
            reason = f"{places} fit equally well: remove one, or give the folder above one as data_root"
            yield Finding("ambiguous", reason, (entry.person,), (entry.name,))
    shared = Counter((entry.split, entry.places[0]) for entry in entries if len(entry.places) == 1)
    for entry in entries:
        if len(entry.places) == 1 and shared[entry.split, entry.places[0]] > 1:
            reason = f"several entries of the {entry.split} index lead to {entry.places[0]}: keep one of them"
            yield Finding("ambiguous", reason, (entry.person,), (entry.name,))
    lost = "are not found: attach them, or take them out of the index"
    yield from _by_person("missing", lost, entries, lambda e: not e.places)


def _about_names(entries: Sequence[Entry]) -> Iterator[Finding]:
    people = {entry.person for entry in entries}
    lengths = sorted({len(person) for person in people}, reverse=True)
    for what, part in (("folder", -2), ("file", -1)):
        names = [path_parts(entry.name)[part] for entry in entries]
        own = [name.startswith(entry.person) for name, entry in zip(names, entries, strict=True)]
        if sum(own) < CONVENTION * len(own):
            continue  # such files may be numbered, and a number may be a person's id
        for entry, name, is_own in zip(entries, names, own, strict=True):
            others = [name[:length] for length in lengths if name[:length] in people]
            if others and not is_own:
                kin = "the co-twin" if others[0] in entry.family else "someone else"
                reason = f"listed under {entry.person}, but the {what} is named after {others[0]}, {kin}"
                yield Finding("misnamed", reason, (entry.person, others[0]), (entry.name,), (entry.name,))


def _about_pixels(entries: Sequence[Entry], tiny: int) -> Iterator[Finding]:
    readable = [entry for entry in entries if entry.facts]
    below = f"are below {LEAST_SIDE} px, too small to tell twins apart"
    yield from _by_person("tiny", below, readable, lambda e: e.facts.shorter_side < LEAST_SIDE, drop=True)
    small = f"have a shorter side of {LEAST_SIDE} to {tiny - 1} px: a smaller image_size would lose nothing"
    yield from _by_person("tiny", small, readable, lambda e: LEAST_SIDE <= e.facts.shorter_side < tiny)
    blank = "are of one colour or have almost no contrast: they show no face"
    yield from _by_person("blank", blank, readable, lambda e: bool(e.facts.blank), drop=True)
    elongation = {entry.name: entry.facts.elongation for entry in readable}
    for one in _by_person("not_square", "", readable, lambda e: e.facts.elongation > SQUARE):
        most = max(elongation[name] for name in one.images)
        yield replace(one, reason=f"{one.reason}are not square, up to {most:.2f} : 1 (see fit)")
    yield from _by_person("greyscale", "are grey, which is not a fault", readable, lambda e: e.facts.grey)


def _by_person(
    kind: str, what: str, entries: Sequence[Entry], is_so: Callable, drop: bool = False
) -> Iterator[Finding]:
    """One finding for each person with such images, because whole sessions tend to share a fault."""
    images_of = defaultdict(list)
    for entry in entries:
        images_of[entry.split, entry.person].append(entry)
    for (_, person), images in images_of.items():
        if found := tuple(entry.name for entry in images if is_so(entry)):
            reason = f"{len(found)} of {len(images)} images of {person} {what}"
            yield Finding(kind, reason, (person,), found, found if drop else ())


def _about_likeness(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Groups of images that show the same shot, by the relation of their people."""
    readable = [entry for entry in entries if entry.facts]
    links = defaultdict(list)  # kind of finding -> pairs of entry numbers with their correlation
    for a, b, alike in [*_same_pixels(readable), *_same_shots(readable)]:
        links[_relation(readable[a], readable[b], exact=alike is None)].append((a, b, alike))
    for kind, pairs in links.items():
        for group in _groups(pairs, len(readable)):
            numbers = sorted({number for a, b, _ in group for number in (a, b)})
            yield _one_shot(kind, [readable[number] for number in numbers], [alike for _, _, alike in group])


def _same_pixels(entries: Sequence[Entry]) -> Iterator[tuple[int, int, None]]:
    """Pairs that join all copies of a person's image to the first one, and the first ones of all people."""
    copies = defaultdict(lambda: defaultdict(list))
    for number, entry in enumerate(entries):
        copies[entry.facts.pixel_digest][entry.split, entry.person].append(number)
    for whose in copies.values():
        yield from ((first, copy, None) for first, *more in whose.values() for copy in more)
        yield from ((a, b, None) for a, b in combinations((first for first, *_ in whose.values()), 2))


def _same_shots(entries: Sequence[Entry]) -> Iterator[tuple[int, int, float]]:
    """Pairs of images with different pixels that show the same shot, with their correlation."""
    firsts = {}
    for number, entry in enumerate(entries):
        firsts.setdefault(entry.facts.pixel_digest, number)
    if numbers := list(firsts.values()):
        pairs = same_shots(np.stack([entries[number].facts.thumbnail for number in numbers]))
        yield from ((numbers[a], numbers[b], float(alike)) for a, b, alike in zip(*pairs, strict=True))


def _relation(a: Entry, b: Entry, exact: bool) -> str:
    if a.split != b.split:
        return "leak"
    if a.person == b.person:
        return "duplicate" if exact else "near_duplicate"
    return "like_co_twin" if b.person in a.family else "like_unrelated"


def _groups(pairs: Sequence[tuple[int, int, float | None]], entries: int) -> list[list[tuple]]:
    """The pairs in groups that are connected by shared entries."""
    group_of = join_pairs([(a, b) for a, b, _ in pairs], entries)
    joined = defaultdict(list)
    for pair in pairs:
        joined[group_of[pair[0]]].append(pair)
    return [joined[group] for group in sorted(joined)]


def _one_shot(kind: str, entries: Sequence[Entry], alike: Sequence[float | None]) -> Finding:
    """A finding of images that show the same shot. alike: the correlations of its pairs, None for the same pixels."""
    people = tuple(dict.fromkeys(entry.person for entry in entries))
    if alike := [value for value in alike if value is not None]:
        how = f"one shot (correlation {min(alike):.3f}{' or more' if len(alike) > 1 else ''})"
    else:
        how = "the same file" if len({entry.facts.file_digest for entry in entries}) == 1 else "the same pixels"
    if len(people) > 1:
        drop = entries  # the pictures do not show which of the people it is
        who = f"under {', '.join(people[:4])}{' ...' if len(people) > 4 else ''}"
    else:
        drop = {"duplicate": entries[1:], "leak": [entry for entry in entries if entry.split == "train"]}.get(kind, ())
        who = f"{len(entries)} times under {people[0]}"
    where = ", in train and in test" if kind == "leak" else ""
    images, dropped = (tuple(entry.name for entry in some) for some in (entries, drop))
    return Finding(kind, f"{how}, {who}{where}", people, images, dropped)
