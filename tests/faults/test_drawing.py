"""Ends of a run while its twins are still being drawn and decoded, by several processes."""

import json
import random
import time

import psutil
import pytest
import yaml
from disturbed import VALUES, Fault, SmallRun, assert_identical, let_no_file_grow, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def drawing(bench):
    """Makes runs that draw twins of their own; the first of them undisturbed."""
    preset = bench.folder / "drawing" / "small.yaml"
    preset.parent.mkdir()
    preset.write_text(yaml.safe_dump(VALUES | {"synthetic_families": 8, "synthetic_images": 2}))

    def new_run() -> SmallRun:
        return SmallRun(bench.new_place(), preset, None)

    new_run.undisturbed = new_run()
    new_run.undisturbed.finish()
    return new_run


def test_a_kill_while_twins_are_drawn_leaves_no_process_behind_and_changes_nothing(drawing, tally):
    draw = random.Random(4)
    for _ in range(4):
        run = drawing()
        with run.watched() as process:
            time.sleep(draw.uniform(0.5, 4))
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            assert wait_for(lambda family=family: not any(one.is_running() for one in family))
        run.finish()
        assert_identical(run, drawing.undisturbed)
        tally("SIGKILL while twins are drawn", kills=1, redone=run.redone, runs=1, identical=1)


@pytest.mark.parametrize("name", ["train_dataset_infor.json", "test_twin_pairs.json", ".npy", ".tmp"])
def test_a_quota_that_ends_while_twins_are_drawn_is_said_in_a_sentence(drawing, tally, name):
    operations = drawing().operations(below="runs/scratch")
    number = next(n for n, operation in enumerate(operations, 1) if name in operation)
    run = drawing()
    session = run.session(fault=Fault(let_no_file_grow, number, below="runs/scratch"))
    assert session.status == 1 and "Traceback" not in session.complained, session.complained
    assert session.complained.startswith("StorageError: no room on the disk to write"), session.complained
    run.finish()
    assert_identical(run, drawing.undisturbed)
    index = next(run.place.glob("runs/scratch/*/train_dataset_infor.json"))
    assert len(json.loads(index.read_text())) == 16
    tally("a quota that ends while twins are drawn", **{"no room": 1}, runs=1, identical=1)
