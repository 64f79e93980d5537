"""Lists of image pairs: a text file with one pair per line."""

import csv
from pathlib import Path

import numpy as np

from dcal_core.data.groups import join_pairs
from dcal_core.data.twins import DataError
from dcal_core.missing import because


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Read a list: two image files per line, separated by a tab, a comma or, if no name contains one, blanks.

    Names may stand in quotation marks, as CSV has them, and hold \\ for /, as Windows has it. Relative paths start at
    the list's folder. A first line without file names is taken for headings, which a line says. DataError with the
    first line that is malformed or names no file.
    """
    pairs = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        parts = split_line(line.strip())
        if len(parts) != 2 or not all(parts):
            raise DataError(f"{where}: {line.strip()[:80]!r}: give two image files, separated by a comma or a tab.")
        found = [Path(file).parent / part for part in parts]
        found = [path if path.exists() else Path(str(path).replace("\\", "/")) for path in found]
        absent = [path for path in found if not path.is_file()]
        if len(absent) == 2 and not pairs and not any(path.suffix for path in absent):
            print(f"{where}: {line.strip()[:80]!r} is taken for headings.")
            continue
        if absent:
            raise DataError(f"{where}: there is no file {absent[0]}{because(absent[0])}: correct the path.")
        pairs.append(tuple(found))
    if not pairs:
        raise DataError(f"{file} holds no pair: write two image files on each line, separated by a comma.")
    return pairs


def read_lines(file: Path) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark; raises DataError."""
    try:
        return read_bytes(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise unreadable(file, "not UTF-8: save it as UTF-8") from None


def read_bytes(file: Path) -> bytes:
    """What a list holds; raises DataError."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise unreadable(file, f"{error.strerror}{because(file)}") from None


def unreadable(file: Path, reason: str) -> DataError:
    """The refusal of a list that cannot be read."""
    return DataError(f"{file} cannot be read ({reason}): give a text file with two images on each line.")


def split_line(line: str) -> list[str]:
    """The fields of a line; one with an open quotation mark is one field."""
    separator = next((mark for mark in "\t," if mark in line), " ")
    try:
        (fields,) = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
    except csv.Error:
        return [line]
    return [field.strip() for field in fields]


def families_of_pairs(pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """The family of each pair, [n]; an image's folder is its person, and pairs join people into families."""
    _, person = np.unique([str(path.parent) for pair in pairs for path in pair], return_inverse=True)
    people = person.reshape(-1, 2)  # [pairs, 2]
    return join_pairs(people, person.max() + 1)[people[:, 0]]
