"""Images in MXNet RecordIO as InsightFace packs them, `train.rec` with `train.idx`, read without MXNet.

A record is a part, or several that the magic number joins. A part is the magic number, 3 bits that say which part it is
and 29 bits of length, its content, and zeros up to a multiple of 4 bytes. A record begins with a flag, a label and two
ids; if the flag is not 0, it says how many labels follow, which then count. The rest is an image file. Record 0 holds
none: its first label is the number of the record after the last image. The index has lines of number and byte.
"""

import functools
import mmap
import struct
from pathlib import Path

import numpy as np

from dcal_core.data.twins import DataError
from dcal_core.missing import because

ENDING = ".rec"
MAGIC = 0xCED7230A
ONLY, FIRST, LAST = 0, 1, 3  # which part it is
LENGTH = (1 << 29) - 1
HEADER = struct.Struct("<IfQQ")  # flag, label, two ids
BEGINNING = np.dtype(
    [("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("first", "<f4")]
)
CURE = "copy the .rec and its .idx again from where they come"


class Records:
    """The records of a file as a memory map; `labels` has the label of each image, [N], that of record 1 first.

    Opening looks at every record and decodes none. DataError for files that do not belong together or are cut short,
    and for labels that are no whole numbers below the number of classes, which a file `property` beside them gives.
    """

    def __init__(self, file: Path):
        self.file = Path(file)
        try:
            numbers, places = (
                np.array(self.file.with_suffix(".idx").read_bytes().split()).astype(np.int64).reshape(-1, 2).T
            )
            with self.file.open("rb") as content:
                self.map = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}{because(Path(error.filename))}: {CURE}.") from None
        except (ValueError, OverflowError) as error:  # mmap's for an empty file too
            raise DataError(f"{self.file} or its .idx holds nothing to read ({error}): {CURE}.") from None
        self.places = np.append(places[numbers == 0], -1)[:1]
        header = self._beginnings()[0]
        end = header["first"] if header["flag"] else np.nan
        if not 1 < end <= len(numbers):
            raise DataError(
                f"{self.file}: record 0 is no header with the number of images, of the {len(numbers):,} records that "
                f"the index has: {CURE}."
            )
        self.places = np.full(int(end), -1)
        inside = (numbers >= 0) & (numbers < end)
        self.places[numbers[inside]] = places[inside]
        found = self._beginnings()
        self.labels = self._labels(found)
        self.starts = self.places + 8 + HEADER.size + 4 * found["flag"].astype(np.int64)
        self.ends = np.where(found["length"] >> 29 == ONLY, self.places + 8 + (found["length"] & LENGTH), 0)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self):
        return Records, (self.file,)  # a worker maps the file itself

    def image(self, number: int) -> bytes:
        """The image file in a record, numbered from 1."""
        if end := self.ends[number]:
            return self.map[self.starts[number] : end]
        content = self._content(number)
        return content[HEADER.size + 4 * HEADER.unpack_from(content)[0] :]

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            raise DataError(f"{self.file}: record {np.argmax(wrong)} {what}: {CURE}.")

    def _beginnings(self) -> np.ndarray:
        """The beginning of each record, as BEGINNING."""
        end = len(self.map)
        self._refuse(self.places < 0, "is not in the index")
        self._refuse(
            self.places > end - BEGINNING.itemsize, f"begins after the end of the file, which has {end:,} bytes"
        )
        content = np.frombuffer(self.map, np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(content, BEGINNING.itemsize)
        found = windows[self.places].view(BEGINNING)[:, 0]
        wrong = (found["magic"] != MAGIC) | (found["length"] >> 29 > FIRST)
        self._refuse(wrong, "does not begin at the byte that the index gives, where the magic number is missing")
        self._refuse(self.places + 8 + (found["length"] & LENGTH) > end, f"is cut short at the file's {end:,} bytes")
        return found

    def _content(self, number: int) -> bytes:
        """A record with its parts joined."""
        place = int(self.places[number])
        parts = []
        while True:
            magic, word = struct.unpack("<II", self.map[place : place + 8].ljust(8, b"\0"))
            parts.append(self.map[place + 8 : place + 8 + (word & LENGTH)])
            if magic != MAGIC or len(parts[-1]) < word & LENGTH:
                raise DataError(f"{self.file}: record {number} lacks a part: {CURE}.")
            if word >> 29 in (ONLY, LAST):
                return struct.pack("<I", MAGIC).join(parts)
            place += 8 + len(parts[-1])  # a multiple of 4

    def _labels(self, beginnings: np.ndarray) -> np.ndarray:
        labels = np.where(beginnings["flag"] > 0, beginnings["first"], beginnings["label"]).astype(np.float64)
        for number in np.flatnonzero(beginnings["length"] >> 29):  # the magic number may stand before the label
            content = self._content(number)
            flag, label, *_ = HEADER.unpack_from(content)
            labels[number] = struct.unpack_from("<f", content, HEADER.size)[0] if flag else label
        labels[0] = 0
        most = self._classes()
        wrong = ~((labels >= 0) & (labels < most) & (labels == np.floor(labels)))
        self._refuse(wrong, f"has the label {labels[np.argmax(wrong)]:g}, no whole number from 0 to {most - 1:,}")
        return labels[1:].astype(np.int64)

    def _classes(self) -> int:
        file = self.file.with_name("property")  # classes, height, width
        if not file.is_file():
            return 2**24  # float32 has no odd numbers above it
        classes = file.read_bytes().split(b",")[0].strip()
        if not classes.isdigit():
            raise DataError(f"{file}: does not begin with a number of classes: correct it, or remove it.")
        return int(classes)


def people_in_records(records: Records) -> dict[str, list[str]]:
    """The images of each person, named after the label, as an index names them: `<file>.rec/<label>/<number>`."""
    order = np.argsort(records.labels, kind="stable")
    labels, first = np.unique(records.labels[order], return_index=True)
    numbers = np.split(order + 1, first[1:])
    return {
        str(label): [f"{records.file}/{label}/{number}" for number in some.tolist()]
        for label, some in zip(labels.tolist(), numbers, strict=True)
    }


@functools.lru_cache(maxsize=8)
def open_records(file: str) -> Records | None:
    """A `.rec` file, opened once in a process; None where there is no such file."""
    return Records(Path(file)) if Path(file).is_file() else None


def in_records(path: str | Path) -> Records | None:
    """The records that hold an image, which an index names `<file>.rec/<label>/<number>`; None for any other path."""
    file, found, _ = str(path).partition(f"{ENDING}/")
    return open_records(file + ENDING) if found else None


def image_in_record(path: str | Path) -> bytes | None:
    """The image file in the record that a path names; None if it names none."""
    records = in_records(path)
    number = str(path).rpartition("/")[2]
    return records.image(int(number)) if records and number.isdecimal() and 0 < int(number) <= len(records) else None
