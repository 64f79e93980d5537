"""The images that a reviewer has excluded: `excluded_images.csv`, with the columns image and reason.

An image is named by the end of its path in the index, `90004/90004d13.jpg`, and by more of the path only if two images
share that end. So a list holds wherever the images lie.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dcal_core.data.locate import folders_below
from dcal_core.data.twins import DataError, TwinIndex, name_some, path_parts
from dcal_core.missing import because, is_writable_text
from dcal_core.storage import write_text

FILE = "excluded_images.csv"
HEADER = ["image", "reason"]


def read_rows(file: Path, header: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """The rows of a CSV file below its header, each with where it stands; DataError for what is no such file."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{file}: {error.strerror}{because(file)}: correct the path, or write the list with prepare."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8: save the list as CSV in UTF-8.") from None
    if "\0" in text:
        raise DataError(f"{file}: holds a NUL byte, so it is not text: save the list as CSV in UTF-8.")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = ",".join(header)
    try:
        if (first := next(rows, [])) != list(header):
            raise DataError(f"{file}: its first line is {','.join(first)!r:.60}: let it be '{columns}'.")
        for row in rows:
            if row:  # not a blank line
                yield row, f"{file}, line {rows.line_num}"
    except csv.Error as error:
        raise DataError(f"{file}, line {rows.line_num}: not CSV, {error}: write {columns}.") from None


def read_exclusions(file: Path) -> dict[str, str]:
    """Read a list: image name -> reason. DataError for anything that is not such a list."""
    excluded: dict[str, str] = {}
    for row, where in read_rows(file, HEADER):
        _add(excluded, row, where)
    return excluded


def write_exclusions(file: Path, excluded: dict[str, str]) -> None:
    """Write a list, sorted by name, whole or not at all; DataError for an entry that `read_exclusions` would refuse."""
    checked: dict[str, str] = {}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for image, reason in sorted(excluded.items()):
        _add(checked, [image, reason], str(file))
        writer.writerow([image, reason])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, out.getvalue())


def find_lists(roots: Sequence[Path]) -> list[Path]:
    """All exclusion lists below some folders."""
    return sorted({folder / FILE for folder, files in folders_below(roots) if FILE in files})


def image_names(paths: Sequence[str | Path]) -> list[str]:
    """The shortest unique name of each image: person folder and file, or more of the path."""
    parts = [path_parts(path) for path in paths]
    length = 2
    names = [path[-length:] for path in parts]
    while shared := {name for name, count in Counter(names).items() if count > 1}:
        length += 1
        longer = [path[-length:] if name in shared else name for path, name in zip(parts, names, strict=True)]
        if longer == names:
            break  # the same path in two splits
        names = longer
    return ["/".join(name) for name in names]


def match_exclusions(excluded: Sequence[str], paths: Sequence[str | Path], file: Path) -> tuple[dict[str, int], list]:
    """For each entry of a list the number of the path that it names, and the entries that name no path; DataError for
    an entry that fits several paths."""
    parts = [path_parts(path) for path in paths]
    names = {entry: path_parts(entry) for entry in excluded}
    ends: dict[tuple[str, ...], list[int]] = {}
    for length in set(map(len, names.values())):
        for number, path in enumerate(parts):
            ends.setdefault(path[-length:], []).append(number)
    matched = {}
    for entry, name in names.items():
        fits = ends.get(name, [])
        fits = [number for number in fits if parts[number] == name] or fits
        if len({parts[number] for number in fits}) > 1:
            a, b = (str(paths[number]) for number in fits[:2])
            raise DataError(f"{file}: image {entry!r} fits {a!r} and {b!r}: write more of the path.")
        if fits:
            matched[entry] = fits[0]
    return matched, [entry for entry in names if entry not in matched]


def refuse_unknown(unknown: Sequence[str], file: Path) -> None:
    """DataError if a list names images that the data does not have."""
    if unknown:
        raise DataError(
            f"{file} leaves out {name_some(unknown, 'image', 'images')} that the index lacks: delete these rows, write "
            "a new list with prepare, or give this data's own list as exclusions."
        )


def leave_out(indexes: Sequence[TwinIndex], given: str, folders: Sequence[Path]) -> list[TwinIndex]:
    """The indexes without the images of the list `given` or, if that is empty, of the list found below the folders.

    DataError if the list names an image that no index has, if it leaves a person without images, or if several lists
    differ. A list that is found and shares no image with the data belongs to other data: it is named and ignored.
    """
    paths = [path for index in indexes for path in index.paths]
    lists: dict[Path, dict[str, int]] = {}
    for file in [Path(given)] if given else find_lists(folders):
        excluded = read_exclusions(file)
        matched, unknown = match_exclusions(list(excluded), paths, file)
        if unknown and not matched and not given:
            print(f"{file} is ignored: none of the {len(unknown):,} images it names is in this data.")
            continue
        refuse_unknown(unknown, file)
        if set(matched.values()) not in [set(other.values()) for other in lists.values()]:
            lists[file] = matched
    if len(lists) > 1:
        files = name_some([str(file) for file in lists], "list", "lists")
        raise DataError(f"{files} leave out different images: give the one to use as exclusions.")
    for file, matched in lists.items():
        print(f"Left out: {len(matched):,} of {len(paths):,} images, by {file}")
        try:
            return _without(indexes, set(matched.values()))
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
    return list(indexes)


def _without(indexes: Sequence[TwinIndex], left_out: set[int]) -> list[TwinIndex]:
    kept = []
    first = 0  # the number of an index's first image among the images of all indexes
    for index in indexes:
        kept.append(index.take([image for image in range(len(index.paths)) if first + image not in left_out]))
        first += len(index.paths)
    return kept


def _add(excluded: dict[str, str], row: Sequence[str], where: str) -> None:
    if len(row) != len(HEADER):
        raise DataError(f"{where}: {len(row)} columns, not 2: write image,reason, a reason with commas in quotes.")
    image, reason = row
    fault = ""
    if not image.strip():
        fault = "names no image: name one or delete the row"
    elif "\\" in image or re.match(r"[A-Za-z]:", image) or image.startswith("/"):
        fault = "is no name below the data: write person/file, with /"
    elif any(part in ("", ".", "..") for part in image.split("/")) or "/" not in image:
        fault = "is not person/file: write the end of the image's path in the index"
    elif image in excluded:
        fault = "is listed twice: keep one row"
    elif not is_writable_text(image + reason):
        fault = "cannot be written as text: rename the image"
    if fault:
        raise DataError(f"{where}: image {image!r:.200} {fault}.")
    excluded[image] = reason
