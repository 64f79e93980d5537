"""Lists of image pairs, as text: one pair a line."""

import re
from pathlib import Path

import numpy as np

from dcal_core.data.groups import join_pairs
from dcal_core.data.twins import DataError


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """The pairs of a list: on each line two image files, separated by a comma, a tab or, where no name holds one, a
    blank; relative ones count from the list's folder. Raises DataError with the line that is none."""
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
    """The family of each pair, [n]: people, whom the folders of their images name, are of one family where any pair
    joins them, directly or through others."""
    _, person = np.unique([str(path.parent) for pair in pairs for path in pair], return_inverse=True)
    people = person.reshape(-1, 2)  # [pairs, 2]
    return join_pairs(people, person.max() + 1)[people[:, 0]]
