"""Writes images as InsightFace packs them for MXNet: `train.rec`, `train.idx` and `property`."""

import struct
from collections.abc import Sequence
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


def packed(content: bytes) -> bytes:
    """A record as dmlc-core writes it: cut where the magic number stands at a multiple of 4."""
    whole = len(content) // 4 * 4
    cuts = [place for place in range(0, whole, 4) if content[place : place + 4] == MAGIC]
    starts = [0, *(cut + 4 for cut in cuts)]
    parts = [content[start:end] for start, end in zip(starts, [*cuts, len(content)], strict=True)]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    framed = [MAGIC + struct.pack("<I", kind << 29 | len(part)) + part for kind, part in zip(kinds, parts, strict=True)]
    return b"".join(framed) + bytes(-len(content) % 4)


def headed(label: float | Sequence[float], number: int, image: bytes = b"") -> bytes:
    """The content of a record: one label in the header, or several after it."""
    if isinstance(label, int | float):
        return struct.pack("<IfQQ", 0, label, number, 0) + image
    return struct.pack(f"<IfQQ{len(label)}f", len(label), 0, number, 0, *label) + image


def write_records(
    folder: Path, people: Sequence, images: Sequence[bytes], name: str = "train", classes: int = 0
) -> Path:
    """Write images under the labels of their people, sorted by person; after them a record for each person, and before
    them record 0, which says where these begin and end. Returns the `.rec`."""
    first = len(images) + 1
    ranges = {}
    for number, person in enumerate(people, 1):
        ranges.setdefault(person, []).append(number)
    contents = [headed((first, first + len(ranges)), 0)]
    contents += [
        headed(person, number, image) for number, (person, image) in enumerate(zip(people, images, strict=True), 1)
    ]
    contents += [headed((of[0], of[-1] + 1), first + n) for n, of in enumerate(ranges.values())]
    return write_contents(folder, contents, name, classes)


def write_contents(folder: Path, contents: Sequence[bytes], name: str = "train", classes: int = 0) -> Path:
    """Write records, numbered from 0, and their index; with classes also `property`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = b""
    lines = []
    for number, content in enumerate(contents):
        lines.append(f"{number}\t{len(written)}\n")
        written += packed(content)
    (folder / f"{name}.idx").write_text("".join(lines))
    file = folder / f"{name}.rec"
    file.write_bytes(written)
    if classes:
        (folder / "property").write_text(f"{classes},112,112\n")
    return file
