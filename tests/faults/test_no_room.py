"""A full disk, a used-up quota and a small disk budget: one sentence, what was saved is whole, and with room again the
run ends as the undisturbed one.

The disk is a small tmpfs. Where none may be mounted, a limit of the file size (RLIMIT_FSIZE) takes its place: from some
moment on no file grows any more. The summary of the tests says which it was.
"""

import os
import re
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from disturbed import STEPS, Fault, assert_identical, fill_disk, let_no_file_grow

LONG = pytest.mark.faults
MB = 1_000_000


def mounted(place, size: int, remount: bool = False) -> bool:
    options = f"size={size}" + (",remount" if remount else "")
    if not shutil.which("mount"):
        return False
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode == 0


@contextmanager
def small_disk(bench, size: int):
    """An empty folder that is a disk of its own, of so many bytes; skips the test where that is not allowed."""
    place = bench.new_place()
    place.mkdir()
    if not mounted(place, size):
        why = "mounting a tmpfs is not allowed here (root may): only a quota (RLIMIT_FSIZE) stands for a full disk"
        warnings.warn(why, stacklevel=2)  # the summary shows it however quiet the tests are
        pytest.skip(why)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def assert_said(session, run) -> None:
    """That a full disk has ended a session: one sentence, nothing half written, what was saved whole."""
    last = session.complained.rpartition("StorageError: ")[2]
    assert session.status == 1 and "Traceback" not in session.complained, session.complained
    assert last and last.endswith("run again to go on.\n") or "to go on from" in last, session.complained
    assert last.count("\n") == 1 and run.half_done == []


def without_room(run, undisturbed, fault, make_room) -> dict[str, int]:
    """Let the room end at a file operation, make room, finish the run and compare; what there is to count."""
    session = run.session(fault=fault)
    ended_well = session.status == 0 and run.finished  # what was left to do took no room
    if not ended_well:
        assert_said(session, run)
    make_room()
    run.finish()
    assert_identical(run, undisturbed)
    assert run.redone <= 1
    return {"no room": not ended_well, "redone": run.redone, "runs": 1, "identical": 1}


def fill_up(bench, tally, every: int) -> None:
    """Let a disk fill up at each so many-th file operation of the last step."""
    stopped = bench.stopped_at(STEPS - 1)

    def attempt(number: int) -> dict[str, int]:
        with small_disk(bench, 80 * MB) as disk:
            run = stopped.copy(disk / "run")
            fault = Fault(fill_disk, operation=number)
            return without_room(run, bench.undisturbed, fault, (run.place / "filler").unlink)

    sweep(bench, tally, "a disk (tmpfs) that fills up", stopped, attempt, every)


def use_up_quota(bench, tally, every: int) -> None:
    """Let a quota end at each so many-th file operation of the last step."""
    stopped = bench.stopped_at(STEPS - 1)

    def attempt(number: int) -> dict[str, int]:
        run = stopped.copy(bench.new_place())
        counts = without_room(run, bench.undisturbed, Fault(let_no_file_grow, operation=number), lambda: None)
        run.drop()
        return counts

    sweep(bench, tally, "a quota (file size) that ends", stopped, attempt, every)


def sweep(bench, tally, kind: str, stopped, attempt, every: int) -> None:
    numbers = range(every // 2, len(stopped.copy(bench.new_place()).operations()) + 1, every)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for counts in pool.map(attempt, numbers):
            tally(kind, **counts)


def test_room_that_ends_at_a_few_moments_spoils_nothing(bench, tally):
    try:
        fill_up(bench, tally, every=30)
    except pytest.skip.Exception:  # no disk may be mounted
        use_up_quota(bench, tally, every=30)


@LONG
def test_a_disk_that_fills_up_at_any_moment_spoils_nothing(bench, tally):
    fill_up(bench, tally, every=3)


@LONG
def test_a_quota_that_ends_at_any_moment_spoils_nothing(bench, tally):
    use_up_quota(bench, tally, every=3)


@LONG
@pytest.mark.parametrize("size", [size * MB // 10 for size in (1, 15, 40, 90, 101, 130, 180, 230, 260, 320)])
def test_too_small_a_disk_ends_in_a_sentence_and_a_larger_one_finishes(bench, tally, size):
    with small_disk(bench, size) as disk:
        run = bench.new_run(disk / "run")
        assert_said(run.session(), run)
        assert_said(run.session(), run)  # and again, as long as nobody makes room
        assert mounted(disk, 80 * MB, remount=True)
        run.finish()
        assert_identical(run, bench.undisturbed)
        tally("a disk (tmpfs) too small for the run", **{"no room": 2}, redone=run.redone, runs=1, identical=1)


def test_the_disk_budget_costs_models_of_epochs_first_and_says_so(bench, tally):
    run = bench.new_run()
    session = run.session("-p", "disk_budget_gb", "0.036")
    assert session.status == 0 and run.finished
    removed = re.findall(r"Removed .*/checkpoints/(\S+), to keep within disk_budget_gb=0.036\.", session.said)
    assert removed[0] == "epoch_1" and not run.folder.epoch(1).exists()
    assert_identical(run, bench.undisturbed, apart_from=r"epoch_|config\.json")
    tally("a disk budget that costs models of epochs", runs=1, identical=1)


def test_too_small_a_disk_budget_ends_in_a_sentence_and_loses_nothing(bench, tally):
    run = bench.new_run()
    session = run.session("-p", "disk_budget_gb", "0.013")
    assert_said(session, run)
    assert "more than disk_budget_gb=0.013: raise it" in session.complained and run.saved_batch() >= 1
    run.finish()
    assert_identical(run, bench.undisturbed)
    tally("a disk budget that is too small", **{"no room": 1}, redone=run.redone, runs=1, identical=1)
