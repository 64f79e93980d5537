"""Facts about the files behind an index, image by image; missing and damaged ones have an entry too."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.audit.duplicates import thumbnail
from dcal_core.audit.gate import blank, decode_bare
from dcal_core.data.decoding import FORMATS, Unreadable, read_file
from dcal_core.data.exclusions import image_names
from dcal_core.data.locate import find_images
from dcal_core.data.twins import TwinIndex
from dcal_core.progress import progress_line


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts about the file of one image."""

    shorter_side: int  # px
    elongation: float  # the longer side over the shorter
    blank: str  # why it shows nothing, "" where it shows something
    grey: bool  # three equal channels
    file_digest: str  # SHA-256 of the bytes
    pixel_digest: str  # SHA-256 of the decoded pixels
    thumbnail: np.ndarray  # [32, 32] uint8, grey


@dataclass(frozen=True, eq=False)
class Entry:
    """One image of an index: its person, its file, and its facts or the reason why there are none."""

    name: str  # as an exclusion list names it
    path: str | Path  # as the index has it
    split: str
    person: str
    family: tuple[str, ...]
    places: tuple[str, ...]  # files that fit it; normally one
    facts: Facts | None = None
    fault: str = ""


def read_facts(file: Path, image_size: int, fit: str) -> Facts:
    """The facts of one image, decoded as training decodes it but for grey bars; raises Unreadable."""
    data = read_file(file)
    pixels = decode_bare(data, image_size, fit)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        shorter_side, longer_side = sorted(image.size)
    return Facts(
        shorter_side=shorter_side,
        elongation=longer_side / shorter_side,
        blank=blank(pixels),
        grey=bool((pixels == pixels[:1]).all()),
        file_digest=hashlib.sha256(data).hexdigest(),
        pixel_digest=hashlib.sha256(pixels).hexdigest(),
        thumbnail=thumbnail(pixels),
    )


def list_entries(indexes: Sequence[TwinIndex], root: Path) -> list[Entry]:
    """All images of the indexes in order, found below `root` and not yet read; DataError if `root` is not a folder."""
    names = iter(image_names([path for index in indexes for path in index.paths]))
    entries = []
    for index in indexes:
        for path, person, files in zip(index.paths, index.person_of, find_images(index, root), strict=True):
            family = index.families[index.family_of[person]]
            entries.append(Entry(next(names), path, index.name, index.people[person], family, tuple(files)))
    return entries


def read_entries(indexes: Sequence[TwinIndex], root: Path, image_size: int, fit: str) -> list[Entry]:
    """The entries of the indexes with their facts. image_size: px, the side of the model's inputs; fit: how images
    become square, as in `decode`."""
    entries = list_entries(indexes, root)

    def read(entry: Entry) -> Entry:
        if len(entry.places) != 1:
            return entry
        try:
            return replace(entry, facts=read_facts(Path(entry.places[0]), image_size, fit))
        except Unreadable as reason:
            return replace(entry, fault=str(reason))

    with ThreadPoolExecutor() as pool:  # reading, hashing and decoding release the interpreter lock
        return list(progress_line(pool.map(read, entries), total=len(entries), desc="looking at images", unit="image"))
