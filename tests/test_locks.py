"""A lock on a file: one process at a time, whatever ends the holder."""

import errno
import os
import signal

import pytest

from dcal_core import locks
from dcal_core.locks import LockedError, lock, unlock


def test_the_second_process_is_refused_every_time_and_the_first_is_named(tmp_path, hold, refused):
    holder = hold(tmp_path / "run" / "lock")
    for _ in range(20):
        with refused(LockedError, "the run in here", f"process {holder.pid} on ", "run_dir"):
            lock(tmp_path / "run" / "lock", "the run in here")


@pytest.mark.parametrize("child", [(), ("child",)], ids=["alone", "a child outlives it"])
def test_a_killed_holder_has_no_lock(tmp_path, hold, child):
    holder = hold(tmp_path / "lock", *child)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock(tmp_path / "lock", "the run")
    assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()


def test_one_process_may_lock_again_and_still_holds_the_lock(tmp_path, killed_at):
    file = tmp_path / "lock"
    lock(file, "the run")
    lock(file, "the run")
    child = os.fork()
    if not child:  # a process of its own, which has inherited nothing
        try:
            lock(file, "the run")
        except LockedError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_an_unlocked_file_can_be_locked_by_another_process(tmp_path, hold):
    lock(tmp_path / "lock", "the run")
    unlock(tmp_path / "lock")
    hold(tmp_path / "lock")
    unlock(tmp_path / "lock")  # of another process: nothing happens
    with pytest.raises(LockedError):
        lock(tmp_path / "lock", "the run")


def test_a_lock_moves_with_its_file(tmp_path, hold):
    folder = tmp_path / "run"
    hold(folder / "lock")
    folder.rename(tmp_path / "run.old1")
    with pytest.raises(LockedError):
        lock(tmp_path / "run.old1" / "lock", "the run")
    lock(folder / "lock", "the run")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock(tmp_path / "lock", "the run in here")
    out = capsys.readouterr().out
    assert str(tmp_path / "lock") in out and "cannot be locked" in out and "the run in here" in out
    assert locks.identity_of(tmp_path / "lock") not in locks.held
