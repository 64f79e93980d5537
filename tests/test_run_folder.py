"""A run's folder: every path in it, and a run that an earlier version of the code has left."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from dcal_core.commands import evaluate, explain, train
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.parameters import parameter
from dcal_core.config.recipes import CLASSES, load
from dcal_core.errors import ConfigError
from dcal_core.locks import is_held
from dcal_core.runs import DECISION_FILE, RunFolder, move_aside, refuse_other_parameters

OLD_RUN = Path(__file__).parent / "fixtures" / "run_of_version_0.1.tar.xz"  # after 2 of 6 batches; weights rounded
PARAMS = Path(__file__).parents[1] / "params"
GIVEN = {
    "image_size": 32,
    "synthetic_families": 12,
    "synthetic_images": 3,
    "synthetic_test_families": 4,
    "validation_share": 0.5,
    "steps_per_epoch": 2,
    "epochs": 3,
    "families_per_batch": 2,
    "images_per_person": 2,
}


def arguments(values: dict) -> list[str]:
    """Parameters as they are given to a command."""
    return [word for name, value in values.items() for word in ("-p", name, str(value))]


ARGUMENTS = arguments(GIVEN)


class LaterConfig(DCALConfig):
    """The parameters of a later version, which has one more that decides the weights."""

    occlusion_weight: float = parameter(0.3, "weight of a loss that did not exist", ge=0, le=1)


def unpack(folder: Path) -> RunFolder:
    """The old run, in a folder."""
    with tarfile.open(OLD_RUN) as archive:
        archive.extractall(folder, filter="data")
    return RunFolder(folder / "demo")


def test_every_path_lies_in_the_run(tmp_path):
    run = RunFolder(tmp_path / "run")
    for name, path in vars(run).items():
        assert path.is_relative_to(run.path), name
    assert RunFolder.around(run.best).path == RunFolder.around(run.epoch(5)).path == run.path
    assert RunFolder.around(run.checkpoint(300)).path == run.path
    assert run.checkpoint(300).name == "00000300" and str(run) == str(tmp_path / "run")


def test_checkpoints_and_epochs_are_found_in_their_order(tmp_path):
    run = RunFolder(tmp_path)
    for path in (run.checkpoint(9), run.checkpoint(10), run.last / "00000011.damaged", run.epoch(10), run.epoch(9)):
        path.mkdir(parents=True)
    assert run.saved == [run.checkpoint(10), run.checkpoint(9)]
    assert run.kept_epochs == [run.epoch(9), run.epoch(10)]


def test_a_run_that_has_not_begun_is_not_moved(tmp_path):
    (tmp_path / "run").mkdir()
    assert move_aside(RunFolder(tmp_path / "run")).path == tmp_path / "run"


# ---- a run of version 0.1


@pytest.mark.parametrize("later", [False, True], ids=["this version", "a version with one more parameter"])
def test_an_old_run_resumes(elsewhere, tmp_path, capsys, monkeypatch, later):
    run = unpack(tmp_path)
    if later:
        monkeypatch.setitem(CLASSES, "dcal", f"{__name__}:LaterConfig")
    assert train.main(["--preset", "demo", *ARGUMENTS, "-p", "run_dir", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"Going on from {run}, 2 batches done." in out and "6 batches" in out
    assert run.saved[0] == run.checkpoint(6)
    assert ("occlusion_weight" in json.loads(run.config.read_text())) == later


def test_an_old_run_that_is_attached_resumes(elsewhere, tmp_path, capsys):
    attached = unpack(tmp_path / "input" / "notebooks" / "someone" / "train")
    before = {path: path.read_bytes() for path in attached.path.rglob("*") if path.is_file()}
    assert train.main(["--preset", "demo", *ARGUMENTS, "-p", "run_dir", str(tmp_path / "run")]) == 0
    assert f"Going on from the attached run {attached}, 2 batches done." in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").saved[0].name == "00000006"
    assert {path: path.read_bytes() for path in attached.path.rglob("*") if path.is_file()} == before


def test_an_old_run_of_other_parameters_is_refused_with_their_names(elsewhere, tmp_path, refused):
    run = unpack(tmp_path)
    config = load("demo", PARAMS, GIVEN | {"lr": 0.5})
    with refused(ConfigError, str(run), "lr: 0.002 then, 0.5 now"):
        refuse_other_parameters(run, config)


def test_an_old_run_is_evaluated_and_explained(elsewhere, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explain, "SHOWN", 1)  # pairs drawn
    run = unpack(tmp_path)
    assert evaluate.main(["-p", "run_dir", str(run), "-p", "bootstrap_draws", "100"]) == 0
    assert "EER" in capsys.readouterr().out and run.report.is_file() and run.report_page.is_file()
    assert explain.main(["-p", "run_dir", str(run)]) == 0
    assert json.loads((run.explained / "faithfulness.json").read_text())["maps"]


def test_the_copy_of_a_model_that_an_evaluation_has_left_is_moved_aside_by_a_new_training(elsewhere, tmp_path, capsys):
    run = unpack(tmp_path)
    shutil.rmtree(run.last)
    (run.best / DECISION_FILE).write_text("{}")
    shorter = arguments(GIVEN | {"epochs": 1})
    assert train.main(["--preset", "demo", *shorter, "-p", "run_dir", str(run)]) == 0
    assert f"is now in {run}.old1" in capsys.readouterr().out
    assert (RunFolder(tmp_path / "demo.old1").best / DECISION_FILE).is_file()
    assert not (run.best / DECISION_FILE).exists() and run.saved[0] == run.checkpoint(2)


def test_a_run_that_is_moved_aside_leaves_the_lock_to_the_new_one(tmp_path):
    run = unpack(tmp_path)
    run.lock()
    aside = move_aside(run)
    assert is_held(run.lock_file) and is_held(aside.lock_file)
    aside.unlock()
    assert is_held(run.lock_file)
