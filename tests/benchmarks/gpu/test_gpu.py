"""What is measured on a GPU: every part runs, and none harms another."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import process
from benchmarks.gpu.job import Stopped, full_job, small_job
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.process import Machine, measure
from benchmarks.speed.timing import Row, Spread

ROOT = Path(__file__).resolve().parents[3]
MOST_SECONDS = 8 * 60
NOTHING = Machine(False, "no GPU", "a processor", "fp32")
ROW = Row("a row", Spread.of(1.0))


def test_every_part_runs_in_the_small_form(tmp_path):
    given = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    asked = [sys.executable, "-m", "benchmarks.gpu", "--small"]
    done = subprocess.run(asked, cwd=tmp_path, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / command.SMALL_OUTPUT).read_text())
    assert report["small"] and report["device"] and report["torch"]
    assert list(report["parts"]) == list(PARTS)
    for name, part in report["parts"].items():
        assert part["ended"] == "done" and part["rows"], (name, part["why"])
        for row in part["rows"]:
            assert math.isfinite(row["figure"]["median"]), row["name"]
            assert row["name"] in done.stdout
    assert not (tmp_path / command.FULL_OUTPUT).exists()


def test_all_parts_together_take_at_most_eight_minutes():
    assert sum(part.seconds for part in PARTS.values()) <= MOST_SECONDS


def test_the_sizes_of_a_gpu(tmp_path):
    job = full_job("bf16", None, tmp_path)
    long, short = (job.config("kaggle_t4x2", steps) for steps in (job.steps, job.few))
    assert (long.epochs * long.steps_per_epoch, short.epochs * short.steps_per_epoch) == (300, 30)
    assert long.image_size == 224 and not long.weights and long.tracker == "none" and long.precision == "auto"
    assert job.config("adaface_full", job.few, channels_last=True).channels_last
    assert job.setting.device == "cuda" and job.setting.absolute and job.setting.memory == ((224, 12), (448, 12))


def test_without_a_gpu_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "look", lambda: ("fork", NOTHING))
    assert command.main([]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no GPU" in said.err and "--small" in said.err
    assert not list(tmp_path.iterdir())


def test_where_a_forked_process_cannot_use_the_gpu_new_ones_are_started(monkeypatch):
    def refuse():  # in a forked process; one that is started anew has the real function
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(process, "gpu_verdict", refuse)
    method, machine = process.look()
    assert method == "spawn" and machine.device


def parts_of(monkeypatch, **rows) -> None:
    """Let these be the parts, each with a second."""
    monkeypatch.setattr(process, "PARTS", {name: Part(given, 1) for name, given in rows.items()})
    monkeypatch.setattr(command, "PARTS", process.PARTS)


def run_parts(tmp_path) -> dict:
    """Measure the parts, and what the file then holds of them."""
    output = tmp_path / "gpu.json"
    command.measure_all([*command.PARTS], small_job(None, tmp_path), "fork", {"device": "a"}, output)
    return json.loads(output.read_text())["parts"]


def good(job):
    """One row."""
    yield ROW


def broken(job):
    """One row, then an error."""
    yield ROW
    raise ValueError("a typing\nerror")


def dying(job):
    """The end of the process."""
    yield ROW
    os._exit(3)


def left_out(job):
    """Nothing."""
    raise Stopped("left out", "it lacks a file.")
    yield


def endless(job):
    """A process that outlives its time, and starts another."""
    child = subprocess.Popen(["sleep", "60"])
    (job.folder / "child").write_text(str(child.pid))
    yield ROW
    time.sleep(60)


def test_a_part_that_fails_dies_or_has_no_end_leaves_the_others_alone(monkeypatch, tmp_path, capfd):
    parts_of(monkeypatch, broken=broken, dying=dying, left_out=left_out, endless=endless, good=good)
    began = time.monotonic()
    found = run_parts(tmp_path)
    assert time.monotonic() - began < 30
    assert {name: (part["ended"], len(part["rows"])) for name, part in found.items()} == {
        "broken": ("failed", 1),
        "dying": ("failed", 1),
        "left_out": ("left out", 0),
        "endless": ("cut short", 1),
        "good": ("done", 1),
    }
    assert found["broken"]["why"] == "ValueError: a typing error"
    assert "exit status 3" in found["dying"]["why"]
    assert found["left_out"]["why"] == "it lacks a file."
    assert "time was over" in found["endless"]["why"]
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert "Traceback" in capfd.readouterr().err


def test_what_is_measured_again_leaves_the_other_parts_of_the_file(monkeypatch, tmp_path):
    parts_of(monkeypatch, first=good)
    run_parts(tmp_path)
    parts_of(monkeypatch, second=good)
    assert set(run_parts(tmp_path)) == {"first", "second"}
    output = tmp_path / "gpu.json"
    output.write_text(output.read_text().replace('"a"', '"another device"'))
    assert set(run_parts(tmp_path)) == {"second"}


def test_a_failure_is_the_exit_status(monkeypatch, tmp_path, capfd):
    parts_of(monkeypatch, good=good, broken=broken)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(command, "look", lambda: ("fork", NOTHING))
    assert command.main(["--small", "--parts", "good"]) == 0
    assert command.main(["--small", "--parts", "good", "broken"]) == 1
    assert "--parts broken tries again" in capfd.readouterr().err


@pytest.mark.parametrize(
    "given, said", [(["--parts", "speeed"], "kaggle_t4x2"), (["--weights", "no_such"], "no_such: no such file")]
)
def test_what_cannot_be_measured_is_refused(given, said, capsys):
    with pytest.raises(SystemExit):
        command.main(given)
    assert said in capsys.readouterr().err


def test_the_page_says_whether_a_gpu_has_been_there():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    measured = (ROOT / command.FULL_OUTPUT).exists()
    assert ("has not been run on a GPU yet" in page) is not measured


def test_one_part_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = small_job(None, tmp_path)
    found = measure("rehearsal", command.replace(job, end=time.monotonic() + 60), "fork")
    assert found["ended"] == "left out" and "--weights" in found["why"] and found["rows"] == []
