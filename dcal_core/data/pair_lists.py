"""Lists of image pairs: a text file with one pair per line."""

import re
from pathlib import Path

import numpy as np

from dcal_core.data.groups import join_pairs
from dcal_core.data.twins import DataError


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Read a list: two image files per line, separated by a comma, a tab or, if no name contains one, a blank.

    Relative paths start at the list's folder. DataError with the first line that is malformed or names no file.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{file} cannot be read ({reason}): give a text file with two images on each line.") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in re.split(r"[,\t]" if re.search(r"[,\t]", line) else r"\s+", line.strip())]
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"{file}, line {number}: {line.strip()[:80]!r}: give two image files, separated by a comma."
            )
        found = [Path(file).parent / part for part in parts]
        if missing := [path for path in found if not path.is_file()]:
            raise DataError(f"{file}, line {number}: there is no file {missing[0]}: correct the path.")
        pairs.append(tuple(found))
    if not pairs:
        raise DataError(f"{file} holds no pair: write two image files on each line, separated by a comma.")
    return pairs


def families_of_pairs(pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """The family of each pair, [n]; an image's folder is its person, and pairs join people into families."""
    _, person = np.unique([str(path.parent) for pair in pairs for path in pair], return_inverse=True)
    people = person.reshape(-1, 2)  # [pairs, 2]
    return join_pairs(people, person.max() + 1)[people[:, 0]]
