"""Pickles that would run code, in place of each file of a run: refused, not run, and nothing harmed."""

import pytest
import torch
from test_resume import OTHER
from timm.utils import ModelEmaV3
from tiny import DATA, RUN_CONFIG, Parts, files, linear_model, new_run

from dcal_core.config.dcal import DCALConfig
from dcal_core.models.files import load_model
from dcal_core.runs import RunFolder, refuse_other_parameters
from dcal_core.storage import DamagedError, check_seal, seal
from dcal_core.training.checkpoints import Run
from dcal_core.training.resume import open_run, people_behind
from dcal_core.training.transfer import load_matching, shapes_of


def go_on(run: Run) -> None:
    """All that a session does with its own run before its first batch."""
    parts, scaler = Parts(1), torch.amp.GradScaler("cpu")
    opened = open_run(RunFolder(run.folder.path), RUN_CONFIG, DATA, [], shapes_of(parts.model))
    opened.remember("faces", [])
    parts.restore(opened, ModelEmaV3(parts.model), scaler)


def start_from(run: Run) -> None:
    config = DCALConfig(seed=3, lr=0.5, resume_from=str(run.folder.path))
    opened = open_run(RunFolder(run.folder.path.with_name("new")), config, DATA, [], shapes_of(linear_model()))
    load_matching(linear_model(), opened.weights_from)


def attach(run: Run) -> None:
    open_run(
        RunFolder(run.folder.path.with_name("new")), RUN_CONFIG, DATA, [run.folder.path], shapes_of(linear_model())
    )


def load(run: Run) -> None:
    load_model(run.folder.saved[0])


def compare(run: Run) -> None:
    refuse_other_parameters(run.folder, OTHER)


def ask_for_people(run: Run) -> None:
    people_behind(run.folder.saved[0])


def start_again(run: Run) -> None:
    """As after an interruption before the first checkpoint."""
    (run.folder.path / "checkpoints").rename(run.folder.path.with_name("elsewhere"))
    try:
        open_run(RunFolder(run.folder.path), RUN_CONFIG, DATA, [], shapes_of(linear_model()))
    finally:
        run.folder.path.with_name("elsewhere").rename(run.folder.path / "checkpoints")


READERS = [
    ("model.safetensors", go_on),
    ("model.safetensors", start_from),
    ("model.safetensors", attach),
    ("objective.safetensors", go_on),
    ("optimizer.safetensors", go_on),
    ("average.safetensors", go_on),
    ("scaler.json", go_on),
    ("progress.json", go_on),
    ("progress.json", start_from),
    ("model.json", load),
    ("../../../metrics.jsonl", go_on),
    ("../../../config.json", compare),
    ("../../../trained_on.json", go_on),
    ("../../../trained_on.json", ask_for_people),
    ("../../../started_from.json", start_again),
]


@pytest.mark.parametrize(("name", "read"), READERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_pickle_in_place_of_a_file_of_a_run_is_refused_by_name(tmp_path, capsys, refused, attack, name, read):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    parts.save(run, ModelEmaV3(parts.model), torch.amp.GradScaler("cpu"), batch=7)
    attacked = (run.folder.saved[0] / name).resolve()
    attack.write(attacked)
    seal(run.folder.saved[0])  # who can write the one can write the other
    check_seal(run.folder.saved[0])
    before = files(tmp_path)
    with refused(DamagedError, run.folder.path, "remove" if "metrics" in name else "restore"):
        try:
            read(run)
        except DamagedError as error:
            assert str(attacked) in capsys.readouterr().out + str(error)
            raise
    assert not attack.touched.exists() and files(tmp_path) == before


def test_a_pickle_in_an_attached_run_leaves_the_own_one_to_go_on_with(tmp_path, capsys, attack):
    new_run(tmp_path / "run", batch=7)
    attached = new_run(tmp_path / "input" / "a", batch=9)
    attack.write(attached.folder.saved[0] / "progress.json")
    seal(attached.folder.saved[0])
    run = open_run(RunFolder(tmp_path / "run"), RUN_CONFIG, DATA, [tmp_path / "input"], shapes_of(linear_model()))
    assert run.progress().batch == 7 and str(attached.folder.saved[0] / "progress.json") in capsys.readouterr().out
    assert not attack.touched.exists()
