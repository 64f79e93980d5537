"""One process at a time: a lock on a file, which the system releases however its holder ends."""

import errno
import os
import socket
import time
from pathlib import Path

from dcal_core.errors import UserError
from dcal_core.storage import disk_errors

HELD = (errno.EACCES, errno.EAGAIN)
held: dict[tuple[int, int, int], int] = {}  # process, device and inode of each locked file to its open descriptor


class LockedError(UserError):
    """Another process holds the lock."""


def lock(file: Path, what: str) -> None:
    """Lock a file until this process ends or calls `unlock`; locking it again in the same process changes nothing.

    POSIX record locks: the kernel drops them when the process dies, by SIGKILL too, child processes do not inherit
    them, and NFS and Kaggle's disks support them. Where a file system does not, one line says so. what: named in
    the refusal. Raises LockedError, StorageError.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        print(f"This system cannot lock {file}: make sure that no other process works in {what}.")
        return
    if is_held(file):  # opening it anew, and closing that, would drop the lock
        return
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno in HELD:
            raise LockedError(
                f"{what} is in use by {holder or 'another process'}: wait until it ends, stop it, or give another "
                "run_dir."
            ) from None
        print(f"{file} cannot be locked ({error.strerror}): make sure that no other process works in {what}.")
        return
    held[identity_of(file)] = descriptor
    about = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with disk_errors(file):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, about.encode(), 0)


def is_held(file: Path) -> bool:
    """Whether this process has the lock on a file."""
    return identity_of(file) in held


def unlock(file: Path) -> None:
    """Release a lock of this process, if it has one on this file."""
    if (descriptor := held.pop(identity_of(file), None)) is not None:
        os.close(descriptor)


def identity_of(file: Path) -> tuple[int, int, int] | None:
    """This process, and the device and inode of a file, which stay when it is moved; None for a missing file."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return os.getpid(), found.st_dev, found.st_ino
