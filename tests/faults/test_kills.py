"""SIGKILL at random moments, while a checkpoint is being written, and before each single file operation."""

import contextlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from disturbed import STEPS, Fault, assert_identical, wait_for

LONG = pytest.mark.faults
KILLED = -9


def kill_until(bench, tally, kind, kills, end) -> None:
    """Kill run after run, each again and again until it is finished, until there were so many kills (inside the
    writing of a checkpoint, where `end` waits for that)."""
    counts = dict.fromkeys(("kills", "inside", "redone", "runs"), 0)
    while counts["inside" if end is kill_while_writing else "kills"] < kills:
        run = bench.new_run()
        while not run.finished:
            with run.watched() as process:
                end(run, process)
            if run.sessions[-1].status == KILLED:
                counts["kills"] += 1
                counts["inside"] += bool(run.half_done)
        run.finish()  # tidies up after a kill behind the last checkpoint
        assert_identical(run, bench.undisturbed)
        killed = sum(session.status == KILLED for session in run.sessions)
        assert run.redone <= killed  # since every step is saved
        counts["redone"] += run.redone
        counts["runs"] += 1
        run.drop()
    tally(kind, **counts, identical=counts["runs"])


def kill_at_random(draw, span_s):
    def end(_, process):
        process.join(draw.uniform(0, span_s))
        process.kill()

    return end


DRAW = random.Random(1)


def kill_while_writing(run, process) -> None:
    """Let up to two checkpoints be written, then wait for the next one to be begun."""
    began = time.time()
    behind = run.saved_batch() + DRAW.randrange(3)

    def writing() -> bool:
        newest = max((int(folder.name) for folder in run.folder.saved), default=0)
        with contextlib.suppress(FileNotFoundError):  # a folder is renamed or removed while we look
            new = run.folder.path.glob("checkpoints/**/*.new")
            return newest >= behind and any(path.stat().st_mtime > began for path in new)
        return False

    if wait_for(writing, process.is_alive):
        time.sleep(DRAW.uniform(0, 0.02))
    process.kill()


@LONG
def test_a_run_killed_at_random_moments_ends_as_the_undisturbed_one(bench, tally):
    end = kill_at_random(random.Random(0), bench.span_s)
    kill_until(bench, tally, "SIGKILL at a random moment", 30, end)


@LONG
def test_a_run_killed_while_it_writes_a_checkpoint_ends_as_the_undisturbed_one(bench, tally):
    kill_until(bench, tally, "SIGKILL when a checkpoint is seen being written", 15, kill_while_writing)


def kill_at_each(bench, tally, kind, start, numbers) -> None:
    """Kill a session of a copy of `start` before each of the operations with these numbers, then finish the copy."""

    def attempt(number: int) -> dict[str, int]:
        run = start.copy(bench.new_place())
        session = run.session(fault=Fault(operation=number))
        assert session.status == KILLED, f"operation {number}: {session.complained}"
        inside = bool(run.half_done)
        run.finish()
        assert_identical(run, bench.undisturbed)
        assert run.redone <= 1
        counts = {"kills": 1, "inside": inside, "redone": run.redone, "runs": 1, "identical": 1}
        run.drop()
        return counts

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inside = 0
        for counts in pool.map(attempt, numbers):
            tally(kind, **counts)
            inside += counts["inside"]
    assert inside > len(numbers) / 4


@pytest.mark.parametrize("every", [40, pytest.param(1, marks=LONG)])
def test_a_kill_before_any_file_operation_of_the_last_step_changes_nothing(bench, tally, every):
    stopped = bench.stopped_at(STEPS - 1)
    operations = stopped.copy(bench.new_place()).operations()
    assert any("best.old" in name for name in operations) and any(".new/SHA256SUMS" in name for name in operations)
    numbers = range(1, len(operations) + 1, every)
    kill_at_each(bench, tally, "SIGKILL before a file operation, last step", stopped, numbers)


@LONG
def test_a_kill_before_any_operation_up_to_the_first_checkpoint_changes_nothing(bench, tally):
    operations = bench.new_run().operations()
    first = next(number for number, name in enumerate(operations) if "last/00000002.new" in name)
    kill_at_each(bench, tally, "SIGKILL before a file operation, first step", bench.new_run(), range(1, first + 1, 4))


@LONG
def test_a_kill_while_an_attached_run_is_copied_changes_nothing(bench, tally):
    attached = bench.stopped_at(STEPS - 2)
    arguments = ["-p", "resume_from", str(attached.folder)]
    operations = bench.new_run().operations(*arguments)
    copied = next(number for number, name in enumerate(operations) if f"last/{STEPS - 1:08d}.new" in name)
    for number in range(1, copied, 5):
        run = bench.new_run()
        assert run.session(*arguments, fault=Fault(operation=number), start=0).status == KILLED
        inside = bool(run.half_done)
        session = run.session(*arguments, start=STEPS - 2)
        assert session.status == 0 and run.finished, session.complained
        assert_identical(run, bench.undisturbed, apart_from="config.json")  # which says where it was taken from
        tally("SIGKILL while an attached run is copied", kills=1, inside=inside, redone=run.redone, runs=1, identical=1)
        run.drop()


@LONG
def test_processes_started_from_a_shell_and_killed_end_as_the_others(bench, command, tally):
    run, draw, killed, kind = bench.new_run(), random.Random(2), 0, "SIGKILL of a process started from a shell"
    note = run.folder.config  # written anew as training begins
    while killed < 3:
        if note.exists():
            os.utime(note, (0, 0))
        process = command(run)
        wait_for(lambda: note.exists() and note.stat().st_mtime > 0, lambda process=process: process.poll() is None)
        time.sleep(draw.uniform(0, 0.3 * bench.span_s))
        process.kill()
        assert "Traceback" not in process.communicate()[1] and run.saved_batch() < STEPS
        killed += process.returncode == KILLED
    process = command(run)
    said, complained = process.communicate()
    assert process.returncode == 0 and run.finished and "Going on from" in said, complained
    assert_identical(run, bench.undisturbed)
    tally(kind, kills=killed, runs=1, identical=1)
