"""Finding a data set's files: its index files below the inputs, and each image below the data root."""

import difflib
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dcal_core.data.twins import LISTED, DataError, TwinIndex, name_some, path_parts, written_parts
from dcal_core.missing import because, cause, difference, names_in, plain, same_looking

PARTS = ("dataset_infor", "twin_pairs")
INDEX_FILES = tuple(f"{split}_{part}.json" for split in ("train", "test") for part in PARTS)
ALIKE = 0.85  # of two names, from 0 to 1; Hugging Face's dataset_info.json reaches 0.8


def folders_below(roots: Sequence[Path], closed: list[OSError] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below the roots with the names of its files; `closed` takes the error of each that cannot be listed.

    Links are followed, also out of the roots, but not to folders above them. A folder comes once under each of its
    names, so that links in a circle end.
    """
    closed = [] if closed is None else closed
    seen: set[tuple[str, str]] = set()
    for root in dict.fromkeys(map(os.path.abspath, roots)):
        if not _is_new(root, "", seen):
            continue
        for folder, folders, files in os.walk(root, onerror=closed.append, followlinks=True):
            folders[:] = [name for name in sorted(folders) if _is_new(os.path.join(folder, name), root, seen)]
            yield Path(folder), files


def _is_new(folder: str, root: str, seen: set[tuple[str, str]]) -> bool:
    """Whether a folder has not been seen under its name, and is no link to the root or above it; notes it as seen."""
    real = os.path.realpath(folder)
    name = real, os.path.basename(folder)
    if name in seen or (root and os.path.islink(folder) and Path(os.path.realpath(root)).is_relative_to(real)):
        return False
    seen.add(name)
    return True


def find_indexes(roots: Sequence[Path]) -> Path | None:
    """The folder below `roots` that holds the four index files, or None where there is nothing of the kind.

    DataError if several folders hold them, or if there is what may be a data set and cannot be used: some of the files,
    or files of nearly these names; a link that leads nowhere; a folder that cannot be listed; an archive of them.
    """
    if root := search_indexes(roots):
        return root
    refuse_what_hides_data(roots)
    return None


def search_indexes(roots: Sequence[Path]) -> Path | None:
    """`find_indexes` among what can be opened."""
    found = {}  # real folder -> its path and the index files that it lacks
    for folder, files in folders_below(roots):
        if any(map(is_like_an_index, files)):
            lacking = [name for name in INDEX_FILES if name not in files]
            found.setdefault(os.path.realpath(folder), (folder, lacking))
    complete = sorted(str(folder) for folder, lacking in found.values() if not lacking)
    if len(complete) > 1:
        complete = name_some(complete, "folder", "folders")
        raise DataError(f"The index files are in {complete}: give the one to use as the data root.")
    if complete:
        return Path(complete[0])
    if found:
        folder, lacking = min(found.values(), key=lambda one: len(one[1]))
        raise DataError(
            f"{folder} lacks {name_some(lacking, 'file', 'files')}{_other_names(folder, lacking)}: put the four index "
            "files under these names in one folder."
        )
    return None


def _other_names(folder: Path, lacking: Sequence[str]) -> str:
    """What the files that a folder lacks may be called there, with a semicolon."""
    if looking_alike := [name for name in lacking if same_looking(folder / name)]:
        return because(folder / looking_alike[0])
    near = [name for name in names_in(folder) if is_like_an_index(name) and name not in INDEX_FILES]
    return f"; it holds {', '.join(map(repr, near[:LISTED]))}" if near else ""


def is_like_an_index(name: str) -> bool:
    """Whether a file's name is that of an index file, or nearly."""
    if name.isascii() and ".json" not in name.lower():
        return False  # a quick answer for millions of images
    stem, ending = os.path.splitext(plain(name))
    stems = [os.path.splitext(file)[0] for file in INDEX_FILES]
    likely = ending == ".json" and ("twin" in stem or "dataset" in stem)  # a glance, since difflib is slow
    return likely and bool(difflib.get_close_matches(stem, stems, n=1, cutoff=ALIKE))


def refuse_what_hides_data(roots: Sequence[Path]) -> None:
    """DataError where a data set may be behind something below the roots that cannot be opened."""
    cure = "mend it, remove it, or give another folder as data_root"
    closed: list[OSError] = []
    for root in roots:
        if os.path.islink(root) and not os.path.exists(root):
            raise DataError(f"{cause(root)}: {cure}.")
    for folder, files in folders_below([root for root in roots if os.path.isdir(root)], closed):
        for place in (folder / file for file in files):
            if place.is_symlink() and not place.exists():
                raise DataError(f"{cause(place)}, and it may be the data: {cure}.")
            if place.suffix.lower() == ".zip" and is_archive_of_indexes(place):
                raise DataError(f"{place} is an archive with index files in it: unpack it.")
    if closed:
        raise DataError(f"{closed[0].filename} cannot be searched for data ({closed[0].strerror}): {cure}.")


def is_archive_of_indexes(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(is_like_an_index(path_parts(name)[-1]) for name in archive.namelist() if path_parts(name))
    except (OSError, zipfile.BadZipFile):
        return False


def find_images(index: TwinIndex, root: Path) -> list[list[str]]:
    """For each image the files below `root` that share the most path parts with the end of its entry, person folder
    and file name at least; DataError if `root` is not a folder.

    A file whose name differs as same-looking names do (see `missing`) is found where no other one fits, and a line says
    how many there are. An index whose images are in place is not searched for.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise DataError(
            f"{index.name}: {root} is not a folder{because(root)}: give the one with the images as data_root."
        )
    if index.in_place:
        return [[str(path)] for path in index.paths]
    entries = [path_parts(path) for path in index.paths]
    alike = _places(root, entries)
    exact = []
    for entry in entries:
        exact.append([place for place in alike.get(_key(entry), []) if path_parts(place)[-2:] == entry[-2:]])
    taken = {place for places in exact for place in places}
    found = []
    for entry, places in zip(entries, exact, strict=True):
        candidates = places or [place for place in alike.get(_key(entry), []) if place not in taken]
        found.append(_of_longest_tail(candidates, entry))
    _say_what_differs(index, found)
    return found


def resolve_paths(index: TwinIndex, root: Path, max_lost_share: float) -> TwinIndex:
    """The index with the file of each image, found below `root` by `find_images`; missing images are listed and left
    out. DataError if two files match equally well, if two entries lead to one file, or if more than `max_lost_share`
    (0 to 1) of the images are missing. Images that are in place are there."""
    root = Path(os.path.abspath(root))
    total = len(index.paths)
    if index.in_place:
        print(f"{index.name}: {total:,} images in {root}")
        return index
    candidates = find_images(index, root)
    for path, files in zip(index.paths, candidates, strict=True):
        if len(files) > 1:
            raise DataError(
                f"{index.name}: image {str(path)!r} matches {files[0]!r} and "
                f"{files[1]!r} equally well: remove one, or give the folder above one as the data root."
            )
    found = [image for image in range(total) if candidates[image]]
    files = [candidates[image][0] for image in found]
    if shared := [file for file, count in Counter(files).items() if count > 1]:
        shared = name_some(shared, "file", "files")
        raise DataError(f"{index.name}: several entries of the index lead to {shared}: keep one entry for each.")

    missing = [str(index.paths[image]) for image in range(total) if not candidates[image]]
    print(f"{index.name}: {len(found):,} of {total:,} images found under {root}")
    if missing:
        print(f"{index.name}: left out, not found: {name_some(missing, 'image', 'images')}")
    if len(missing) > max_lost_share * total:
        raise DataError(
            f"{index.name}: {len(missing):,} of {total:,} images not under {root}, more than "
            f"max_lost_share={max_lost_share:g}, first {missing[0]!r:.200}{_why_missing(missing[0], root)}: attach "
            "them, give the folder above, or raise it."
        )
    return replace(index.take(found), paths=tuple(map(Path, files)))


def _places(root: Path, entries: Sequence[tuple[str, ...]]) -> dict[tuple[str, str], list[str]]:
    """The files below `root` by `_key`, where an entry has that key."""
    wanted = {_key(entry) for entry in entries}
    folders = {folder for folder, _ in wanted}
    closed: list[OSError] = []
    places = defaultdict(list)
    for folder, files in folders_below([root], closed):
        is_wanted = plain(folder.name) in folders
        for file in files:
            # An archive from Windows, unpacked elsewhere, leaves files named folder\file.
            if is_wanted or "\\" in file:
                place = os.path.join(folder, file)
                if (key := _key(path_parts(place))) in wanted:
                    places[key].append(place)
    if closed:
        print(f"not searched: {name_some([str(error.filename) for error in closed], 'folder', 'folders')}")
    return {key: sorted(found) for key, found in places.items()}


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Folder and file name as the eye takes them."""
    return tuple(map(plain, parts[-2:]))


def _of_longest_tail(places: Sequence[str], entry: tuple[str, ...]) -> list[str]:
    """The places that share the most parts with the end of an entry, a file once."""
    tails = [(_shared_end(path_parts(place), entry), _shared_end(path_parts(place), entry, plain)) for place in places]
    longest = {}  # real file -> the first place that leads to it
    for place, tail in zip(places, tails, strict=True):
        if tail == max(tails):
            longest.setdefault(os.path.realpath(place), place)
    return list(longest.values())


def _shared_end(a: Sequence[str], b: Sequence[str], form: Callable[[str], str] = str) -> int:
    return len(os.path.commonprefix([[form(part) for part in reversed(parts)] for parts in (a, b)]))


def _say_what_differs(index: TwinIndex, found: Sequence[Sequence[str]]) -> None:
    """Print how many images have been found under other names than the index has, if any."""
    others = []  # the name in the index, the file, in what they differ
    for path, files in zip(index.paths, found, strict=True):
        if files:
            given, name = ("/".join(written_parts(one)[-2:]) for one in (path, files[0]))
            if given != name:
                others.append((given, files[0], difference(given, name)))
    if others:
        given, file, _ = others[0]
        kinds = dict.fromkeys(kind for _, _, kind in others)
        many = f"{len(others):,} {'image' if len(others) == 1 else 'images'}"
        print(
            f"{index.name}: {many} found under names that differ from the index in {' or '.join(kinds)}, first "
            f"{file!r:.200} for {given!r:.200}"
        )


def _why_missing(path: str, root: Path) -> str:
    """Why an image is not below the root, with a semicolon."""
    *_, person, file = path_parts(path)
    folders = [folder for folder, _ in folders_below([root]) if plain(folder.name) == plain(person)]
    return because(folders[0] / file) if folders else f"; no folder there is named {person!r:.80}"
