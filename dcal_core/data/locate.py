"""Finding a data set's files: its index files below the inputs, and each image below the data root."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dcal_core.data.twins import DataError, TwinIndex, name_some, path_parts

PARTS = ("dataset_infor", "twin_pairs")
INDEX_FILES = tuple(f"{split}_{part}.json" for split in ("train", "test") for part in PARTS)
SEARCH_DEPTH = 6  # inputs are nested like datasets/<owner>/<slug>/<folder>/<folder>


def folders_below(roots: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below the roots, down to SEARCH_DEPTH, with the names of its files; links are not followed."""
    for root in {Path(os.path.realpath(root)) for root in roots}:
        for folder, folders, files in os.walk(root):
            if len(Path(folder).relative_to(root).parts) >= SEARCH_DEPTH:
                folders.clear()
            yield Path(folder), files


def find_indexes(roots: Sequence[Path]) -> Path | None:
    """The folder below `roots` that holds the four index files, or None; DataError if several folders hold them, or if
    a folder holds only some of them."""
    found = {}  # folder -> the index files that it lacks
    for folder, files in folders_below(roots):
        if not set(INDEX_FILES).isdisjoint(files):
            found[folder] = [name for name in INDEX_FILES if name not in files]
    complete = sorted(str(folder) for folder, lacking in found.items() if not lacking)
    if len(complete) > 1:
        complete = name_some(complete, "folder", "folders")
        raise DataError(f"The index files are in {complete}: give the one to use as the data root.")
    if found and not complete:
        folder, lacking = next(iter(found.items()))
        raise DataError(
            f"{folder} lacks {name_some(lacking, 'file', 'files')}: put the four index files in one folder."
        )
    return Path(complete[0]) if complete else None


def find_images(index: TwinIndex, root: Path) -> list[list[str]]:
    """For each image the files below `root` that share the most path parts with the end of its entry, person folder
    and file name at least; DataError if `root` is not a folder."""
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise DataError(f"{index.name}: {root} is not a folder: give the one with the images as the data root.")
    entries = [path_parts(path) for path in index.paths]
    places = _places(root, entries)
    found = []
    for entry in entries:
        candidates = places.get(entry[-2:], [])
        if len(candidates) > 1:
            tails = [len(os.path.commonprefix([entry[::-1], path_parts(place)[::-1]])) for place in candidates]
            candidates = [place for place, tail in zip(candidates, tails, strict=True) if tail == max(tails)]
        found.append(candidates)
    return found


def resolve_paths(index: TwinIndex, root: Path, max_lost_share: float) -> TwinIndex:
    """The index with the file of each image, found below `root` by `find_images`; missing images are listed and left
    out. DataError if two files match equally well, if two entries lead to one file, or if more than `max_lost_share`
    (0 to 1) of the images are missing."""
    root = Path(os.path.abspath(root))
    total = len(index.paths)
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
            f"max_lost_share={max_lost_share:g}, first {missing[0]!r:.200}: attach them, give the folder above, or "
            "raise it."
        )
    return replace(index.take(found), paths=tuple(map(Path, files)))


def _places(root: Path, entries: Sequence[tuple[str, ...]]) -> dict[tuple[str, str], list[str]]:
    """The files below `root` by (folder, file name) of the entries; links that lead out of it are not followed."""
    real_root = os.path.realpath(root)
    wanted = defaultdict(set)
    for *_, folder, file in entries:
        wanted[folder].add(file)
    closed: list[OSError] = []
    places = defaultdict(list)
    for folder, _, files in os.walk(root, onerror=closed.append):
        name = os.path.basename(folder)
        for file in wanted.get(name, set()).intersection(files):
            place = os.path.join(folder, file)
            if not os.path.islink(place) or Path(os.path.realpath(place)).is_relative_to(real_root):
                places[name, file].append(place)
    if closed:
        print(f"not searched: {name_some([str(error.filename) for error in closed], 'folder', 'folders')}")
    return {key: sorted(found) for key, found in places.items()}
