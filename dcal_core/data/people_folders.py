"""A data set as one folder a person, with the images inside:

    root/<person>/<image>                                   or   root/train/<person>/<image>, root/test/<person>/<image>
    root/twin_pairs.json    [["<person>", "<person>"], ...]      the co-twins, if any are known

All images in a person's folder and below it are this person's; what is hidden does not count. Without folders `train`
and `test`, a fifth of the people (of the families of co-twins, if there are pairs) are for testing: those whose names
have the least SHA-256. So every run is tested on the same people, whatever its seed.
"""

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from dcal_core.data.decoding import is_image
from dcal_core.data.locate import folders_below
from dcal_core.data.twins import DataError, TwinIndex, make_index, name_number, name_some, read_twin_pairs
from dcal_core.errors import quoted
from dcal_core.missing import difference, is_writable_text, names_in, plain

PAIRS = "twin_pairs.json"
SPLITS = ("train", "test")
TEST_SHARE = 0.2
FEWEST_TO_TEST = 2
MANY = 10  # folders of images, beside one another, that look like people


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def folders_in(folder: Path) -> list[str]:
    """The folders in a folder that are not hidden."""
    return [name for name in names_in(folder) if not is_hidden(name) and os.path.isdir(folder / name)]


def visible_below(folder: Path, closed: list[OSError] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """`folders_below` a folder, without what is hidden."""
    for place, files in folders_below([folder], closed):
        if not any(map(is_hidden, place.relative_to(folder).parts)):
            yield place, sorted(name for name in files if not is_hidden(name))


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(is_image(name) for _, files in visible_below(folder) for name in files)


def folders_with_images(folder: Path) -> Iterator[str]:
    return (name for name in folders_in(folder) if has_images(folder / name))


def find_people(root: Path) -> Path | None:
    """The folder that holds people's folders, or `train` and `test`: `root`, or one below it that holds all there is;
    None where no folder has images in it."""
    root = Path(os.path.abspath(root))
    while found := list(islice(folders_with_images(root), 2)):
        inside = root / found[0]
        alone = len(found) == 1 and not (root / PAIRS).exists() and not any(map(is_image, names_in(root)))
        if not (alone and any(folders_with_images(inside))):
            return root
        root = inside
    return None


def looks_like_people(roots: Sequence[Path]) -> Path | None:
    """The folder below `roots` with the most folders of two images or more in it, MANY at least; None without one."""
    holds = Counter()
    for root in map(Path, map(os.path.abspath, roots)):
        for folder, files in visible_below(root):
            holds[folder.parent] += sum(map(is_image, files)) > 1
    found, number = max(holds.items(), key=lambda one: one[1], default=(None, 0))
    return found if number >= MANY else None


def knows_co_twins(root: Path) -> bool:
    """Whether a folder of people has a file of co-twins."""
    return (root / PAIRS).exists()


def read_people(root: Path, quiet: bool = False) -> tuple[TwinIndex, TwinIndex]:
    """The train and the test index of a folder of people; prints what is left out, unless quiet.

    Without a file of pairs everybody stands alone. People with a single image and no co-twin are left out. DataError
    where it cannot be told whose an image is, or who is a co-twin.
    """
    root = Path(os.path.abspath(root))
    left_out: dict[str, list[str]] = defaultdict(list)  # why -> what
    owners: dict[str, tuple[str, Path]] = {}
    folders = folders_of_splits(root, left_out)
    return index_people(
        root, {name: list_people(folder, owners, left_out) for name, folder in folders.items()}, left_out, quiet
    )


def index_people(
    root: Path, images: dict[str, dict[str, list]], left_out: dict[str, list[str]], quiet: bool
) -> tuple[TwinIndex, TwinIndex]:
    """The train and the test index of people's images by split, as `read_people`. left_out: why -> what, so far."""
    left_out = defaultdict(list, left_out)
    pairs = read_pairs(root, images)
    twins = {person for pair in pairs for person in pair}
    for people in images.values():
        for person in [one for one, paths in people.items() if len(paths) == 1 and one not in twins]:
            left_out["people with a single image"].append(person)
            del people[person]
    for why, what in left_out.items():
        if what and not quiet:
            print(f"{root}: left out, {why}: {name_some(what, 'entry', 'entries')}")
    indexes = []
    for name, people in images.items():
        if not people:
            raise DataError(f"{root}: nobody to {name} with has two images: add some.")
        own = [pair for pair in pairs if pair[0] in people]
        indexes.append(make_index(name, people, own, co_twins=knows_co_twins(root), in_place=True))
    return tuple(indexes) if len(indexes) == len(SPLITS) else set_apart(*indexes, root)


def folders_of_splits(root: Path, left_out: dict[str, list[str]]) -> dict[str, Path]:
    """The folders of people by split; only "train" where there are none to test on."""
    names = folders_in(root)
    found = {name.lower(): root / name for name in names if name.lower() in SPLITS}
    if len(found) == 1:
        (one,) = found
        raise DataError(
            f"{root} has a folder {one} and none named {SPLITS[one == SPLITS[0]]}: add it, or give {found[one]} as "
            "data_root: a fifth of the people are then for testing."
        )
    if found:
        left_out["beside train and test"] = [name for name in folders_with_images(root) if name.lower() not in found]
    likely = [name for name in names_in(root) if "pair" in plain(name) and name not in (PAIRS, *names)]
    if near := [name for name in likely if plain(name).endswith(".json") and not knows_co_twins(root)]:
        raise DataError(f"{root} holds {near[0]!r:.80}: if it lists co-twins, name it {PAIRS}, else move it elsewhere.")
    left_out[f"co-twins are read from {PAIRS} alone"] = likely
    return {name: found[name] for name in SPLITS} if found else {"train": root}


def list_people(
    folder: Path, owners: dict[str, tuple[str, Path]], left_out: dict[str, list[str]]
) -> dict[str, list[Path]]:
    """The images of each person, by name in Unicode's form NFC. owners: person and place of each file found so far."""
    people: dict[str, list[Path]] = {}
    written = {}  # name in NFC -> as it is on the disk
    left_out[f"images in {folder.name} itself, which are nobody's"] = [
        name for name in names_in(folder) if is_image(name) and not is_hidden(name)
    ]
    for name in folders_in(folder):
        person = unicodedata.normalize("NFC", name)
        if not is_writable_text(name):
            raise DataError(f"{folder}: the folder {quoted(name)} has a name that cannot be written: rename it.")
        if (other := written.setdefault(person, name)) != name:
            raise DataError(
                f"{folder}: the folders {ascii(other)} and {ascii(name)} differ in {difference(other, name)} alone: "
                "join their images in one, or rename one."
            )
        if found := list_images(folder / name, person, owners, left_out):
            people[person] = found
        else:
            left_out["folders without an image"].append(name)
    return people


def list_images(
    folder: Path, person: str, owners: dict[str, tuple[str, Path]], left_out: dict[str, list[str]]
) -> list[Path]:
    """The images in a person's folder and below it, each file once."""
    closed: list[OSError] = []
    found = []
    for place, files in visible_below(folder, closed):
        real = os.path.realpath(place)
        for name in files:
            path = place / name
            is_link = path.is_symlink()
            if is_link and not path.exists():
                left_out["links that lead nowhere"].append(str(path))
            elif not is_image(name):
                left_out["files that are no images by their names"].append(str(path))
            elif not is_writable_text(str(path)):
                raise DataError(f"{folder}: image {str(path)!r:.200} cannot be a file name: rename it.")
            else:
                file = os.path.realpath(path) if is_link else f"{real}{os.sep}{name}"
                owner, other = owners.setdefault(file, (person, path))
                if owner != person:
                    raise DataError(
                        f"{other} and {path} are one file, under two people: remove one of them, or join the folders."
                    )
                if other == path:
                    found.append(path)
                else:
                    left_out["files that come twice, through links"].append(str(path))
    left_out["folders that cannot be listed"] += [str(error.filename) for error in closed]
    inner = sorted({path.relative_to(folder).parts[0] for path in found})
    if len(inner) > 1 and all(len(path.relative_to(folder).parts) > 1 for path in found):
        raise DataError(
            f"{folder} holds no image itself but {name_some(inner, 'folder', 'folders')} with images, which may be one "
            "person's or several people's: put a person's images into the person's folder, or, if these are people, "
            f"give {folder} as data_root."
        )
    return found


def read_pairs(root: Path, images: dict[str, dict[str, list[Path]]]) -> list[list[str]]:
    """The pairs of co-twins, none where no file gives any; DataError for co-twins in different splits."""
    if not knows_co_twins(root):
        return []
    everybody = {person: paths for people in images.values() for person, paths in people.items()}
    pairs = read_twin_pairs(root / PAIRS, everybody, root)
    for pair in pairs:
        if not any(pair[0] in people and pair[1] in people for people in images.values()):
            raise DataError(
                f"{root / PAIRS}: of the co-twins {quoted(pair[0])} and {quoted(pair[1])} one is in train and one in "
                "test: put both into one of the two."
            )
    return pairs


def set_apart(index: TwinIndex, root: Path) -> tuple[TwinIndex, TwinIndex]:
    """Everybody as people to train on and, a fifth, to test on; families of one stay in training where co-twins are
    known. DataError where this leaves nobody to train on."""
    sizes = np.bincount(index.family_of)
    units = np.flatnonzero(sizes > 1) if index.co_twins else np.arange(len(sizes))
    count = max(round(TEST_SHARE * len(units)), FEWEST_TO_TEST)
    if count >= len(units):
        what = ("family of co-twins", "families of co-twins") if index.co_twins else ("person", "people")
        raise DataError(
            f"{root}: {name_number(len(units), *what)} with images enough, too few to train, validate and test on: add "
            "some."
        )
    order = sorted(units, key=lambda family: hashlib.sha256(index.families[family][0].encode()).digest())
    train = index.select_families(np.setdiff1d(np.arange(len(sizes)), order[:count]))
    return train, replace(index.select_families(order[:count]), name="test")
