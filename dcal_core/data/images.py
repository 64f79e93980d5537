"""Face images, decoded once into a memory map on disk, from which batches are taken."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy

from dcal_core.data.decoding import Packed, Unreadable, decode, read_file
from dcal_core.data.records import in_records
from dcal_core.data.twins import LISTED, DataError
from dcal_core.progress import progress_line
from dcal_core.storage import check_room, disk_errors, whole_file

CACHE_VERSION = 2  # raise it when decoding changes, so that older caches are not used
CHUNK = 256  # images in flight; bounds the memory if the disk is slow
MOST_DECODED = 20_000_000_000  # bytes of maps in a cache
LARGEST_MAP = 20_000_000_000  # bytes, beyond which images are decoded when they are asked for


@dataclass(frozen=True, eq=False)
class ImageStore:
    """The decoded images of one index as a memory map, RGB."""

    images: np.memmap  # [N, 3, size, size] uint8
    kept: np.ndarray  # [N], indices into the given paths
    rejected: list[tuple[Path, str]]  # path and reason of each image that is left out

    @property
    def size(self) -> int:
        """The side of an image, px."""
        return self.images.shape[-1]

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images [B, 3, size, size] uint8 as a contiguous copy; `indices` count the kept images only."""
        return torch.from_numpy(np.asarray(self.images[np.asarray(indices, dtype=np.int64)]))

    def __reduce__(self):
        # A worker process that is not forked maps the file instead of receiving all the pixels.
        return _reopen, (self.images.filename, self.kept, self.rejected)


def _reopen(file: Path, kept: np.ndarray, rejected: list[tuple[Path, str]]) -> ImageStore:
    return ImageStore(np.load(file, mmap_mode="r", allow_pickle=False), kept, rejected)


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images that are decoded whenever they are asked for, as an `ImageStore` otherwise: sets in records may have
    millions. DataError where one of them cannot be decoded."""

    paths: tuple[str | Path, ...]
    size: int
    fit: str = "stretch"
    rejected = ()

    @property
    def images(self) -> tuple[str | Path, ...]:
        """The paths, which stand for the images where these are counted."""
        return self.paths

    @property
    def kept(self) -> np.ndarray:
        return np.arange(len(self.paths))

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images [B, 3, size, size] uint8."""
        batch = torch.empty((len(indices), 3, self.size, self.size), dtype=torch.uint8)
        for row, image in zip(batch.numpy(), np.asarray(indices), strict=True):
            try:
                row[:] = decode(read_file(self.paths[image]), self.size, self.fit)
            except Unreadable as reason:
                raise DataError(f"{self.paths[image]}: {reason}: name it in the list of exclusions.") from None
        return batch


def open_images(
    paths: Sequence[str | Path | Packed],
    size: int,
    cache: Path,
    max_lost_share: float,
    workers: int | None = None,
    fit: str = "stretch",
) -> ImageStore | LazyImages:
    """Decode images to `size` x `size` RGB into a memory map below `cache`, or map those decoded before; images in
    records, and those that would make the LARGEST_MAP, are decoded when they are asked for.

    The map is keyed by the content of the files: changed files are decoded again, moved ones are not. fit: what becomes
    of images that are not square, as in `decode`. Images that cannot be decoded are printed, left out and listed in
    `rejected`; DataError if they are more than `max_lost_share` (0 to 1) of all.
    """
    if paths and (in_records(paths[0]) or 3 * size * size * len(paths) > LARGEST_MAP):
        return LazyImages(tuple(paths), size, fit)
    paths = [Path(path) if isinstance(path, str) else path for path in paths]
    cache = Path(cache)
    if not paths:
        raise DataError("There are no images to open: give an index with at least one.")
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:  # reading, hashing and decoding release the interpreter lock
        digests = list(_in_order(pool, _digest, paths, "reading images"))
        file = cache / f"{hashlib.sha256(repr((CACHE_VERSION, size, fit, digests)).encode()).hexdigest()}.npy"
        stored = _load(file, len(paths), size)
        if stored is None:
            needed = len(paths) * 3 * size * size
            _drop_oldest(cache, needed)
            check_room(cache, needed, f"{len(paths):,} images decoded to {size} px take", "lower image_size")
            sources = list(zip(paths, digests, strict=True))
            decoded = _in_order(pool, lambda source: _decode_file(*source, size, fit), sources, "decoding images")
            _store(file, decoded, len(paths), size)
            stored = _load(file, len(paths), size)
    images, reasons = stored
    rejected = [(paths[number], reason) for number, reason in reasons.items()]
    _check_rejected(rejected, len(paths), max_lost_share)
    kept = np.array([number for number in range(len(paths)) if number not in reasons])
    return ImageStore(images, kept, rejected)


def _digest(path: Path) -> str | Unreadable:
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except Unreadable as reason:
        return reason


def _decode_file(path: Path, digest: str | Unreadable, size: int, fit: str) -> np.ndarray | Unreadable:
    if isinstance(digest, Unreadable):
        return digest
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{path} changed while it was read: run again once the images are complete.")
    try:
        return decode(data, size, fit)
    except Unreadable as reason:
        return reason


def _in_order(pool: ThreadPoolExecutor, work: Callable, items: Sequence, title: str) -> Iterator:
    with progress_line(total=len(items), desc=title, unit="image") as progress:
        for start in range(0, len(items), CHUNK):
            for result in pool.map(work, items[start : start + CHUNK]):
                yield result
                progress.update()


def _drop_oldest(cache: Path, needed: int) -> None:
    """Remove the maps that were opened longest ago, so that `needed` bytes more stay within MOST_DECODED; prints it.

    A process that has one of them mapped keeps what it has mapped.
    """
    with disk_errors(cache):
        maps = []
        for file in cache.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process has just removed it
                maps.append((file.stat().st_mtime, file.stat().st_size, file))
        total = needed + sum(size for _, size, _ in maps)
        for _, size, file in sorted(maps):
            if total <= MOST_DECODED:
                return
            for part in (file, file.with_suffix(".json")):
                part.unlink(missing_ok=True)
            total -= size
            print(f"{file}: removed, so that decoded images stay within {MOST_DECODED / 1e9:,.0f} GB")


def _store(file: Path, decoded: Iterator[np.ndarray | Unreadable], total: int, size: int) -> None:
    """Write the map and, beside it, the reasons of the rejected images, each whole or not at all."""
    reasons: dict[int, str] = {}
    unfinished = f".{uuid.uuid4().hex}.tmp"  # other runs may fill the same cache
    with whole_file(file, unfinished) as new:
        # Row by row, then the header again: numpy pads it so that the number of rows can change in place.
        with new.open("wb") as out:
            _write_header(out, total, size)
            for number, result in enumerate(decoded):
                if isinstance(result, Unreadable):
                    reasons[number] = str(result)
                else:
                    out.write(result)
            out.seek(0)
            _write_header(out, total - len(reasons), size)
        with whole_file(file.with_suffix(".json"), unfinished) as listing:
            listing.write_text(json.dumps(reasons), encoding="utf-8")


def _write_header(out: BinaryIO, rows: int, size: int) -> None:
    npy.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (rows, 3, size, size)})


def _load(file: Path, total: int, size: int) -> tuple[np.memmap, dict[int, str]] | None:
    """The map, and the reasons by image number; None if they are missing or damaged."""
    if not file.exists():
        return None
    try:
        reasons = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        reasons = {int(number): str(reason) for number, reason in reasons.items()}
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        whole = file.stat().st_size == images.offset + images.nbytes
        if whole and images.dtype == np.uint8 and images.shape == (total - len(reasons), 3, size, size):
            with suppress(OSError):  # a folder that cannot be written to
                file.touch()  # opened last, so dropped last
            return images, reasons
    except (OSError, EOFError, ValueError, AttributeError) as error:
        print(f"{file}: {error}")
    print(f"{file}: the image cache is damaged and is made again")
    return None


def _check_rejected(rejected: Sequence[tuple[Path, str]], total: int, max_lost_share: float) -> None:
    if not rejected:
        return
    first = "; ".join(f"{path} ({reason})" for path, reason in rejected[:LISTED])
    count = f"{len(rejected):,} of {total:,} images cannot be decoded"
    if len(rejected) > max_lost_share * total or len(rejected) == total:
        raise DataError(
            f"{count}, more than max_lost_share={max_lost_share:g}: replace them, unlist them or "
            f"raise it; first {first}"
        )
    print(f"{count} and are left out, first {first}")
