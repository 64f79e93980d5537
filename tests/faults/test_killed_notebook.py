"""train.ipynb, executed by papermill, killed twice with its kernel and resumed, beside an undisturbed one."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from disturbed import ROOT, STEPS, VALUES, SmallRun, assert_identical, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def execute(bench):
    """Starts papermill on train.ipynb in a run's place."""

    def start(run: SmallRun) -> subprocess.Popen:
        values = VALUES | {"preset": "demo", "data_root": str(bench.folder / "twins"), "run_dir": "runs/small"}
        command = [sys.executable, "-m", "papermill", ROOT / "notebooks" / "train.ipynb", "train.ipynb"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/not_installed")}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        resume = ["-p", "resume", "true"] if run.folder.exists else []  # refused where there is no run yet
        command = [*command, "-y", yaml.safe_dump(values), *resume]
        return subprocess.Popen(command, cwd=run.place, env=environment, **pipes)

    return start


def kill_all(process: subprocess.Popen) -> None:
    """Kill papermill and its kernel, which is in a group of its own."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(family) >= 2 and wait_for(lambda: not any(one.is_running() for one in family))


def shown(run: SmallRun) -> list[str]:
    """What each cell shows, but for the one that trains, which says where it went on, for whether the run is new, and
    for folders and minutes."""
    code = r"\S*dcal_core_\w+"  # where the embedded code is unpacked
    odd = rf"\nA new run in \S+|{run.place}|[\d.]+ min of training|{code}"
    cells, found = json.loads((run.place / "train.ipynb").read_text())["cells"], []
    for cell in cells:
        if cell["cell_type"] == "code" and "train_run(" not in "".join(cell["source"]):
            text = "".join("".join(output.get("text", "")) for output in cell["outputs"])
            pictures = [output["data"] for output in cell["outputs"] if "data" in output]
            found.append(re.sub(odd, "", text + json.dumps(pictures)))
    return found


def test_a_notebook_killed_twice_and_resumed_shows_what_an_undisturbed_one_shows(bench, execute, tally):
    undisturbed, run, draw = bench.new_run(), bench.new_run(), random.Random(5)
    process = execute(undisturbed)
    assert process.communicate()[1] is not None and process.returncode == 0 and undisturbed.finished
    reached = 0
    for batch in (draw.randrange(1, 4), draw.randrange(5, STEPS - 2)):
        process = execute(run)
        assert wait_for(lambda batch=batch: run.reached(batch), lambda process=process: process.poll() is None)
        kill_all(process)
        assert reached < run.saved_batch() < STEPS
        reached = run.saved_batch()
    process = execute(run)
    complained = process.communicate()[1]
    assert process.returncode == 0 and run.finished, complained
    said = (run.place / "train.ipynb").read_text()
    assert f"Going on from {run.folder.path}, {reached} batch" in said
    assert_identical(run, undisturbed)  # checkpoints, best model, figures.png and metrics.jsonl, bit for bit
    assert len(shown(run)) > 5 and shown(run) == shown(undisturbed)
    assert any("Best validation EER" in text for text in shown(run)) and any("image/png" in text for text in shown(run))
    tally("SIGKILL of a notebook with its kernel", kills=2, runs=1, identical=1)
