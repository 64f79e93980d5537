"""Files and folders that a kill, a full disk or a damaged byte cannot spoil unnoticed.

What is written appears under its name whole or not at all: it is filled under another name, flushed to the disk and
renamed. A folder carries SHA256SUMS, which `sha256sum -c` reads too.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dcal_core.errors import UserError

SUMS = "SHA256SUMS"
UNFINISHED = ".new"  # what is being written
REPLACED = ".old"  # what is being replaced by it
CURE = "restore it or leave it out"  # advice for a damaged file
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(UserError):
    """Something cannot be written: the disk is full, or the budget for it is used up."""


class DamagedError(UserError):
    """Something was read that is not what was written."""


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Re-raise disk errors inside the block as StorageError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        named = re.findall(r"(?:os error|Errno) (\d+)", str(error))  # safetensors and shutil tell it by words only
        if getattr(error, "errno", None) in FULL or set(map(int, named)) & set(FULL):
            raise StorageError(
                f"no room on the disk to write {place}: what was saved before is whole; free some space, or give "
                "another run_dir, and run again to go on."
            ) from None
        if named:
            raise StorageError(
                f"{place} cannot be written ({error}): correct that, or give another run_dir, and run again to go on."
            ) from None
        raise


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def check_room(folder: Path, needed: float, what: str, cure: str) -> None:
    """Raise StorageError where the disk of a folder, which need not be there yet, has no room for so many bytes."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise StorageError(
            f"{folder} is on a disk with {free / 1e9:.2f} GB free, and {what} {needed / 1e9:.2f} GB: free some, or "
            f"{cure}, and run again to go on."
        )


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk before anything that comes after."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(file: Path, unfinished: str = UNFINISHED) -> Iterator[Path]:
    """A path to write to; where nothing fails, what was written takes the place of `file`; raises StorageError.

    unfinished: ends the path's name; one of its own is needed where several processes may write the same file.
    """
    new = file.with_name(file.name + unfinished)
    try:
        with disk_errors(file):
            yield new
            flush(new)
            os.replace(new, file)
            flush(file.parent)
    except BaseException:
        new.unlink(missing_ok=True)  # else a full disk would stay full
        raise


def write_text(file: Path, text: str) -> None:
    """Put a text into a file's place, whole or not at all; raises StorageError."""
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, content: bytes | memoryview) -> None:
    """Put bytes into a file's place, whole or not at all; raises StorageError."""
    with whole_file(file) as new:
        new.write_bytes(content)


def read_json(file: Path, kind: type = dict):
    """What a JSON file holds, of the kind expected; raises DamagedError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise DamagedError(f"{file} cannot be read ({error.strerror}); {CURE}.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{file} is damaged: not JSON ({str(error)[:80]}); {CURE}.") from None
    if not isinstance(found, kind):
        wrong = f"a {type(found).__name__} where a {kind.__name__} belongs"
        raise DamagedError(f"{file} is damaged: {wrong}; {CURE}.")
    return found


def _unique(items: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(items)) < len(items):
        raise ValueError("a key stands twice")
    return dict(items)


@contextmanager
def sealed_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; where nothing fails, it gets its checksums and takes the place of `folder`; raises
    StorageError."""
    new, old = (folder.with_name(folder.name + end) for end in (UNFINISHED, REPLACED))
    shutil.rmtree(new, ignore_errors=True)
    try:
        with disk_errors(folder):
            new.mkdir(parents=True)
            yield new
            if not (new / SUMS).exists():  # a copy brings its own
                seal(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # else a full disk would stay full
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def seal(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.name != SUMS)
    for file in files:
        flush(file)
    write_text(folder / SUMS, "".join(f"{digest(file)}  {file.name}\n" for file in files))
    for file in files:  # safetensors lets nobody else read its files
        file.chmod((folder / SUMS).stat().st_mode)


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a sealed folder, as it was sealed; raises DamagedError."""
    try:
        lines = (Path(folder) / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise DamagedError(f"{folder} is damaged: its {SUMS} is missing or cannot be read; {CURE}.") from None
    return {name: wanted for wanted, _, name in (line.partition("  ") for line in lines)}


def check_seal(folder: Path) -> None:
    """Raise DamagedError, which names the file, where a folder is not as it was sealed."""
    sums = read_sums(folder)
    there = {file.name for file in folder.iterdir()} - {SUMS}
    if not sums or there != set(sums):
        odd = [name if name.isprintable() else repr(name) for name in sorted(there ^ set(sums))]
        odd = ", ".join(odd)[:200] or "no file"
        raise DamagedError(f"{folder} is damaged: its {SUMS} and its files disagree on {odd}; {CURE}.")
    for name, wanted in sums.items():
        if not (folder / name).is_file():  # a pipe would be waited for
            raise DamagedError(f"{folder / name} is damaged: it is no file; {CURE}.")
        try:
            found = digest(folder / name)
        except OSError as error:  # a bad sector
            raise DamagedError(f"{folder / name} is damaged: {error.strerror}; {CURE}.") from None
        if found != wanted:
            raise DamagedError(f"{folder / name} is damaged: its SHA-256 is not the one in {SUMS}; {CURE}.")


def recover(folder: Path) -> None:
    """Finish what a kill has left half done below a folder: a replacement between its two renames is undone, and what
    was not yet whole is removed and named."""
    for old in sorted(folder.glob(f"**/*{REPLACED}")):
        whole = old.with_name(old.name.removesuffix(REPLACED))
        if whole.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, whole)
    for new in sorted(folder.glob(f"**/*{UNFINISHED}")):
        if not new.exists():  # it lay in one just removed
            continue
        print(f"Removed {new}, which an interruption had left half written.")
        shutil.rmtree(new) if new.is_dir() else new.unlink()


def free_name(path: Path) -> Path:
    """The path with the first number behind it that nothing is called by yet."""
    return next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}{n}")).exists())


def size_of(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process has deleted it by now
                size += os.stat(os.path.join(place, name)).st_size
    return size
