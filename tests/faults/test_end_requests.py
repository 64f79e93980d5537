"""SIGTERM: the run saves, says so and ends well, and no process is left behind."""

import random
import time

import psutil
import pytest
from disturbed import STEPS, assert_identical, wait_for

LONG = pytest.mark.faults
TERMINATED = -15
SAYS = "The system has asked this process to end: saved after"


def test_a_run_that_is_asked_to_end_saves_first_and_does_no_step_twice(bench):
    run = bench.new_run()
    with run.watched() as process:
        assert wait_for(lambda: run.reached(1), process.is_alive)
        process.terminate()
    assert run.sessions[-1].status == 0 and f"{SAYS} {run.saved_batch()} batches" in run.sessions[-1].said
    run.finish()
    assert run.redone == 0
    assert_identical(run, bench.undisturbed)


@LONG
def test_a_run_that_is_asked_to_end_at_random_moments_does_no_step_twice(bench, tally):
    draw, kind = random.Random(3), "SIGTERM at a random moment"
    asked = saved = 0
    while saved < 12:
        run = bench.new_run()
        while not run.finished:
            with run.watched() as process:
                process.join(draw.uniform(0.2, 0.8) * bench.span_s)
                asked += process.is_alive()
                process.terminate()
            session = run.sessions[-1]
            assert "Traceback" not in session.complained
            if session.status == TERMINATED:  # before the first step, or behind the last
                assert not session.batches or run.finished
            elif not run.finished:
                assert session.status == 0 and f"{SAYS} {run.saved_batch()} batches" in session.said
                saved += 1
        run.finish()
        assert run.redone == 0
        assert_identical(run, bench.undisturbed)
        tally(kind, redone=run.redone, runs=1, identical=1)
        run.drop()
    tally(kind, SIGTERMs=asked)


def family_of(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@LONG
def test_several_processes_that_are_asked_to_end_save_and_leave_none_behind(bench, command, tally):
    run = bench.new_run()
    arguments = ("-p", "nproc", "2", "-p", "epochs", "100")
    process = command(run, *arguments)
    wait_for(lambda: run.reached(1), lambda: process.poll() is None)
    time.sleep(1)
    family = family_of(process.pid)
    process.terminate()
    said, complained = process.communicate(timeout=60)
    assert wait_for(lambda: not [one for one in family if one.is_running()])
    assert len(family) >= 4 and run.saved_batch() >= 10, said + complained  # the command, torchrun and two more
    assert process.returncode == 0 and f"{SAYS} {run.saved_batch()} batches" in said, said + complained
    tally("SIGTERM of two processes", SIGTERMs=1)


@LONG
def test_several_processes_whose_first_is_killed_leave_none_behind(bench, command, tally):
    run = bench.new_run()
    process = command(run, "-p", "nproc", "2", "-p", "epochs", "100")
    wait_for(lambda: run.reached(1), lambda: process.poll() is None)
    family = family_of(process.pid)
    process.kill()
    process.communicate()
    assert wait_for(lambda: not [one for one in family if one.is_running()])
    assert run.saved_batch() < 100 * STEPS
    tally("SIGKILL of the first of two processes", kills=1)
