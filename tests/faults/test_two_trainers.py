"""Two trainings in one folder: the second is refused every time, and starts once the first is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcal_core.runs import RunFolder

ROOT = Path(__file__).parents[2]
GIVEN = {
    "image_size": 32,
    "synthetic_families": 12,
    "synthetic_images": 3,
    "validation_share": 0.5,
    "families_per_batch": 2,
    "images_per_person": 2,
    "loader_workers": 1,
    "save_minutes": 0.0,
}


def command(run: RunFolder, **given) -> list[str]:
    """The training command of a small run."""
    words = [word for name, value in (GIVEN | given).items() for word in ("-p", name, str(value))]
    return [sys.executable, "-m", "dcal_core", "train", "--preset", "demo", "-p", "run_dir", str(run), *words]


@pytest.mark.faults
def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path):
    run = RunFolder(tmp_path / "run")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shared = {"cwd": tmp_path, "env": environment, "text": True}
    first = subprocess.Popen(command(run, epochs=100_000, steps_per_epoch=50), stdout=subprocess.DEVNULL, **shared)
    while not run.saved:
        assert first.poll() is None
        time.sleep(0.1)
    logged = run.metrics.read_text()
    for _ in range(20):
        begun = time.monotonic()
        second = subprocess.run(command(run, epochs=100_000, steps_per_epoch=50), capture_output=True, **shared)
        assert second.returncode == 1 and time.monotonic() - begun < 60
        (sentence,) = second.stderr.strip().splitlines()
        assert sentence.startswith("LockedError: ") and str(run) in sentence and f"process {first.pid} " in sentence
    assert first.poll() is None and run.metrics.read_text().startswith(logged)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third = subprocess.run(
        command(run, epochs=100_000, steps_per_epoch=50, time_budget_hours=0.0), capture_output=True, **shared
    )
    assert third.returncode == 0 and "Going on from" in third.stdout, third.stderr
