"""Which pairs a job compares: those of a CSV file, all of a folder, or a folder's with a gallery's.

M distinct images; P pairs.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice, product
from pathlib import Path

from dcal_core.data.decoding import ENDINGS, is_image
from dcal_core.data.twins import DataError
from dcal_core.missing import because

HEADINGS = ({"image_a", "image_b"}, {"a", "b"}, {"img1", "img2"}, {"image1", "image2"})


@dataclass(frozen=True)
class PairSource:
    """Pairs in a fixed order.

    names: the M images as they are called in results, each once. root: the folder that relative names start at.
    count: P. identity: a hash of what the pairs are made from. content: the CSV file, b"" for the others. first: how
    many of the names are compared with all others behind them, 0 for a CSV file.
    """

    names: list[str]
    root: Path
    count: int
    identity: str
    content: bytes = b""
    first: int = 0

    def places(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """The places among `names` of both images of the pairs from `begin` to before `end`."""
        if self.content:
            number = {name: place for place, name in enumerate(self.names)}
            pairs = ((number[a], number[b]) for a, b in rows_of(self.content, "pairs"))
        elif self.first < len(self.names):
            pairs = product(range(self.first), range(self.first, len(self.names)))
        else:
            pairs = combinations(range(self.first), 2)
        return islice(pairs, begin, end)


def listed_pairs(content: bytes, where: str, root: Path) -> PairSource:
    """The pairs of a CSV file: two columns, with or without the headings image_a and image_b; DataError, which names
    the first line that is malformed."""
    names = {}
    count = 0
    for pair in rows_of(content, where):
        count += 1
        for name in pair:
            names.setdefault(name)
    if not count:
        raise DataError(f"{where} holds no pair: write two image files on each line, separated by a comma.")
    return PairSource(list(names), root, count, hashlib.sha256(content).hexdigest(), content)


def rows_of(content: bytes, where: str) -> Iterator[tuple[str, str]]:
    """The pairs of names in a CSV file, without headings and empty lines; raises DataError."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")  # decoded bit by bit
    reader = csv.reader(text, strict=True)
    first = True
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            headings = first and {cell.lower() for cell in cells} in HEADINGS
            first = False
            if headings:
                continue
            if len(cells) != 2 or not all(cells):
                raise DataError(f"{where}, line {reader.line_num}: {','.join(row)[:80]!r}: give two image files.")
            yield cells[0], cells[1]
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8: save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: not CSV ({error}): correct it.") from None


def folder_pairs(folder: Path, gallery: Path | None = None) -> PairSource:
    """All pairs of the images below a folder or, with a gallery, each of them with each of the gallery's; DataError."""
    own = images_below(folder)
    others = images_below(gallery) if gallery else []
    if gallery is None and len(own) < 2:
        raise DataError(f"{folder} holds one image: give two, or a --gallery.")
    names = own + others
    count = len(own) * len(others) if gallery else len(own) * (len(own) - 1) // 2
    identity = hashlib.sha256("\0".join([*own, "", *others]).encode(errors="surrogateescape")).hexdigest()
    return PairSource(names, Path(), count, identity, first=len(own))


def images_below(folder: Path) -> list[str]:
    """The image files below a folder, by their names' endings, in order; DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder{because(folder)}.")
    found = []
    for place, _, names in os.walk(folder):
        found += [os.path.join(place, name) for name in names if is_image(name)]
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(ENDINGS)}).")
    return sorted(found)
