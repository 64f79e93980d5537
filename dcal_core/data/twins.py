"""The index of a twin data set: people, their images, and the families that join co-twins.

`<split>_dataset_infor.json` maps person ids to image paths, `<split>_twin_pairs.json` lists pairs of ids. A family is a
connected component of the pairs, so triplets, which are listed as three pairs, are one family.
"""

import codecs
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dcal_core.data.groups import join_pairs, members
from dcal_core.errors import UserError, quoted
from dcal_core.missing import because, difference, is_writable_text, plain

SYNTHETIC = "SYNTHETIC"  # the label of drawn twins
LISTED = 5  # entries that a message names; the others are counted


class DataError(UserError):
    """Input data that cannot be used; the message names the file, the entry and the cure."""


@dataclass(frozen=True, eq=False)
class TwinIndex:
    """The people of one split, their images and their families.

    co_twins: whether co-twins are known. Where they are not, everybody is a family of one, and impostors are unrelated
    people. in_place: whether the paths are the images themselves, which are otherwise found below the data root.
    """

    name: str  # "train", "validation" or "test", for messages
    people: tuple[str, ...]  # sorted person ids
    families: tuple[tuple[str, ...], ...]  # each sorted; a person in no pair is a family of one
    paths: tuple[str | Path, ...]  # one per image, grouped by person in the order of `people`
    person_of: np.ndarray  # [images], indices into people
    family_of: np.ndarray  # [people], indices into families
    co_twins: bool = True
    in_place: bool = False

    def fingerprint(self) -> str:
        """A hash of the people and their images' file names; it does not depend on the folders."""
        names = [f"{self.people[p]}/{path_parts(path)[-1]}" for p, path in zip(self.person_of, self.paths, strict=True)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]

    def counted(self) -> str:
        """How many families, people and images there are, in words."""
        images = f"{len(self.paths):,} images"
        if not self.co_twins:
            return f"{self.name}: {len(self.people):,} people, no co-twins known, {images}"
        return f"{self.name}: {len(self.families)} families, {len(self.people)} people, {images}"

    def images_of(self, person: int) -> np.ndarray:
        """Indices of one person's images, [n]."""
        first, last = np.searchsorted(self.person_of, [person, person + 1])
        return np.arange(first, last)

    def take(self, images: Sequence[int] | np.ndarray) -> "TwinIndex":
        """The same people with these images only, in index order; DataError if a person has none left."""
        images = np.unique(np.asarray(images, dtype=np.int64))
        person_of = self.person_of[images]
        counts = np.bincount(person_of, minlength=len(self.people))
        if not counts.all():
            emptied = name_some([self.people[person] for person in np.flatnonzero(counts == 0)], "person", "people")
            raise DataError(f"{self.name}: no image is left of {emptied}: restore one or unlist the person.")
        return replace(self, paths=tuple(self.paths[image] for image in images), person_of=person_of)

    def select_families(self, families: Sequence[int] | np.ndarray) -> "TwinIndex":
        """The index of these families only, with people, families and images renumbered."""
        chosen = np.unique(np.asarray(families, dtype=np.int64))
        people = np.flatnonzero(np.isin(self.family_of, chosen))
        images = np.flatnonzero(np.isin(self.person_of, people))
        return replace(
            self,
            people=tuple(self.people[person] for person in people),
            families=tuple(self.families[family] for family in chosen),
            paths=tuple(self.paths[image] for image in images),
            person_of=np.searchsorted(people, self.person_of[images]),
            family_of=np.searchsorted(chosen, self.family_of[people]),
        )


def read_index(images_json: Path, pairs_json: Path, name: str) -> TwinIndex:
    """Read one split from its two index files, a map of person ids to image paths and a list of pairs of these ids;
    image paths stay as they are written there, ids get Unicode's form NFC. DataError for other contents."""
    images = _read_json(images_json)
    pairs = _read_json(pairs_json)
    _check_images(images, images_json)
    return make_index(name, *_checked_pairs(pairs, pairs_json, images, images_json))


def read_twin_pairs(pairs_json: Path, images: dict[str, list], source: Path) -> list[list[str]]:
    """The pairs of co-twins in a file, ids in Unicode's form NFC; DataError for other contents, and for ids that are
    not among those of the images, which come from `source`."""
    return _checked_pairs(_read_json(pairs_json), pairs_json, images, source)[1]


def _checked_pairs(pairs: object, pairs_json: Path, images: dict, source: Path) -> tuple[dict, list]:
    """Images and pairs with ids in Unicode's form NFC; DataError where the pairs are none, or of other people."""
    _check_pairs(pairs, pairs_json)
    images, pairs = _in_one_form(images, source, pairs, pairs_json)
    _check_people(pairs, pairs_json, images, source)
    return images, pairs


def make_index(
    name: str, images: dict[str, Sequence[str | Path]], pairs: Sequence[Sequence[str]], **known
) -> TwinIndex:
    """The index of people with their images and of pairs of co-twins among them. known: `co_twins` and `in_place`."""
    people = tuple(sorted(images))
    number = {person: place for place, person in enumerate(people)}
    family_of = join_pairs([(number[a], number[b]) for a, b in pairs], len(people))
    return TwinIndex(
        name=name,
        people=people,
        families=tuple(tuple(people[person] for person in family) for family in members(family_of)),
        paths=tuple(path for person in people for path in images[person]),
        person_of=np.repeat(np.arange(len(people)), [len(images[person]) for person in people]),
        family_of=family_of,
        **known,
    )


def _read_json(file: Path) -> object:
    def unique(items: list[tuple[str, object]]) -> dict[str, object]:
        for key, count in Counter(key for key, _ in items).items():
            if count > 1:
                raise DataError(f"{file}: key {quoted(key)} occurs {count} times: join its entries under one key.")
        return dict(items)

    try:
        if not file.is_file() and file.exists():
            fault = "no file"  # reading a pipe would block
        elif (text := file.read_bytes().decode("utf-8-sig")).strip():
            return json.loads(text, object_pairs_hook=unique)
        else:
            fault = "the file is empty"
    except DataError:
        raise
    except OSError as error:
        fault = f"{error.strerror}{because(file)}"
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} is not UTF-8"
        if file.read_bytes().startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fault = "it is UTF-16, by its byte order mark: save it as UTF-8"
    except (ValueError, RecursionError) as error:
        fault = f"not JSON, {error}"
    raise DataError(f"{file}: {fault}: download the index files again or give the folder that holds them.")


def _check_images(images: object, file: Path) -> None:
    if not isinstance(images, dict) or not images:
        raise DataError(f"{file}: not a map of person ids to lists of image paths, or empty: write one.")
    owner: dict[tuple[str, ...], str] = {}
    for person, paths in images.items():
        where = f"{file}: person {quoted(person)}"
        if not person or not is_writable_text(person):
            raise DataError(f"{where} has an id that cannot be written: choose another one in both index files.")
        if not isinstance(paths, list):
            raise DataError(f"{where} has {paths!r:.60} where a list of image paths belongs: write a list.")
        if not paths:
            raise DataError(f"{where} has no images: add some, or take the person out of both index files.")
        for path in paths:
            if not isinstance(path, str):
                raise DataError(f"{where} has {path!r:.60} among the image paths: write a string.")
            parts = path_parts(path)
            image = f"image {path!r:.200}"
            if not is_writable_text(path):
                raise DataError(f"{where}: {image} cannot be a file name: rename it.")
            if ".." in parts:
                raise DataError(f"{where}: {image} has a part '..': write the path without it.")
            if len(parts) < 2:
                raise DataError(f"{where}: {image} has no folder: write person folder/file name.")
            if parts in owner:
                also = "twice" if owner[parts] == person else f"under person {quoted(owner[parts])} too"
                raise DataError(f"{where}: {image} is listed {also}: keep it only once.")
            owner[parts] = person


def _check_pairs(pairs: object, file: Path) -> None:
    if not isinstance(pairs, list) or not pairs:
        raise DataError(f"{file}: not a list of pairs of person ids, or empty: write such a list.")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list) or [type(person) for person in pair] != [str, str]:
            raise DataError(
                f"{file}: pair {number} is {pair!r:.60}, not a list of two person ids: write them as two strings."
            )


def _in_one_form(images: dict, images_json: Path, pairs: list, pairs_json: Path) -> tuple[dict, list]:
    """Both files' contents with all ids in Unicode's form NFC; a line says how many of the pairs' ids had another form
    than the people's. DataError if two people's ids differ in form alone."""
    written = {}  # id in NFC -> as the file of people has it
    for person in images:
        if (other := written.setdefault(_nfc(person), person)) != person:
            raise DataError(
                f"{images_json}: {ascii(other)} and {ascii(person)} differ in {difference(other, person)} alone: join "
                "their images under one of them, or rename one."
            )
    ids = {person for pair in pairs for person in pair}
    if others := sorted(person for person in ids if written.get(_nfc(person), person) != person):
        print(
            f"{pairs_json}: {name_some(others, 'id', 'ids')}: these differ from {images_json.name} in "
            f"{difference(others[0], written[_nfc(others[0])])} alone and are taken for the same people."
        )
    return {person: images[one] for person, one in written.items()}, [[_nfc(a), _nfc(b)] for a, b in pairs]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _check_people(pairs: list, file: Path, people: dict, images_json: Path) -> None:
    for number, pair in enumerate(pairs):
        where = f"{file}: pair {number} is {pair!r:.60}"
        for person in pair:
            if person not in people:
                alike = [other for other in people if plain(other) == plain(person)]
                near = f"; it has {quoted(alike[0])}, which differs in {difference(person, alike[0])}" if alike else ""
                raise DataError(
                    f"{where}, but {images_json} lacks {quoted(person)}{near}: add the person or drop the pair."
                )
        if pair[0] == pair[1]:
            raise DataError(f"{where}, a person paired with themself: write the co-twin's id.")


def path_parts(path: str | Path) -> tuple[str, ...]:
    """The folders and the name of a path, separated by / or, in an index from Windows, by \\, in Unicode's form NFC."""
    return tuple(map(_nfc, written_parts(path)))


def written_parts(path: str | Path) -> tuple[str, ...]:
    """`path_parts` in the Unicode form in which they are written."""
    return tuple(part for part in str(path).replace("\\", "/").split("/") if part not in ("", "."))


def name_number(count: int, one: str, many: str) -> str:
    """'1 image' or '3 images'."""
    return f"{count:,} {one if count == 1 else many}"


def name_some(items: Sequence[str], one: str, many: str) -> str:
    """'3 images: a, b, c', or the first few and the number of the others."""
    more = f" and {len(items) - LISTED:,} more" if len(items) > LISTED else ""
    listed = ", ".join(f"{item!r:.200}" for item in items[:LISTED])
    return f"{name_number(len(items), one, many)}: {listed}{more}"


def check_disjoint(a: TwinIndex, b: TwinIndex) -> None:
    """DataError if both splits contain the same person or image path."""
    cure = "take them out of one of the two."
    if people := sorted(set(a.people) & set(b.people)):
        raise DataError(f"{a.name} and {b.name} share {name_some(people, 'person', 'people')}: {cure}")
    paths = {path_parts(path) for path in a.paths}
    if images := [str(path) for path in b.paths if path_parts(path) in paths]:
        raise DataError(f"{a.name} and {b.name} share {name_some(images, 'image', 'images')}: {cure}")
