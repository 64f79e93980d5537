"""A run's folder: what an interruption leaves, which run is gone on with, and that reading one runs no code."""

import dataclasses
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn

from dcal_core import distributed
from dcal_core.config import Config, ConfigError
from dcal_core.training import checkpoints
from dcal_core.training.checkpoints import Progress, Run, find_trained, open_run, read_progress, replaced_folder

CONFIG = Config(seed=3)
ARCHITECTURE = {"backbone": "a linear layer"}
DATA = "the people and images"


class Parts:
    """A model, an objective and an optimiser that has taken steps, as small as they can be."""

    def __init__(self, seed: int, steps: int = 2):
        torch.manual_seed(seed)
        self.model, self.objective = nn.Linear(3, 2), nn.Linear(2, 1)
        self.model.architecture = ARCHITECTURE
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.1 * (seed + 1))
        for _ in range(steps):
            self.objective(self.model(torch.randn(4, 3))).sum().backward()
            self.optimizer.step()

    def save(self, run: Run, average=None, **progress) -> None:
        run.save_last(self.model, self.objective, self.optimizer, None, Progress(**progress), average)

    def restore(self, run: Run, average=None) -> Progress:
        return run.restore(self.model, self.objective, self.optimizer, None, average)


def new_run(folder: Path, config: Config = CONFIG, seed: int = 0, **progress) -> Run:
    """A run in a folder; with any progress given, its last checkpoint too."""
    run = Run(folder, config, DATA)
    run.create()
    if progress:
        run.log(batch=progress["batch"], loss=1.0)
        Parts(seed).save(run, **progress)
    return run


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- writing


def test_a_new_run_writes_its_parameters(tmp_path):
    run = new_run(tmp_path / "run")
    assert json.loads((run.folder / "config.json").read_text()) == {
        "fingerprint": CONFIG.fingerprint(),
        **CONFIG.as_dict(),
    }
    assert run.checkpoints.is_dir() and run.history() == []


def test_a_kept_model_has_weights_architecture_and_facts(tmp_path):
    run = new_run(tmp_path / "run")
    run.save_model("best", Parts(0).model, epoch=2, eer=0.25)
    best = run.checkpoints / "best"
    assert sorted(file.name for file in best.iterdir()) == ["facts.json", "model.json", "model.safetensors"]
    assert json.loads((best / "facts.json").read_text()) == {"epoch": 2, "eer": 0.25}
    assert json.loads((best / "model.json").read_text()) == ARCHITECTURE


def test_what_was_saved_is_restored(tmp_path):
    run = new_run(tmp_path / "run")
    saved, other = Parts(0), Parts(1)
    run.log(batch=7, loss=1.0)
    progress = Progress(batch=7, best_eer=0.2, stale=3, parts=4, seconds=3.5, tracker_run="abc", finished=True)
    saved.save(run, **dataclasses.asdict(progress))
    assert other.restore(run) == run.progress() == progress
    assert same(saved.model.state_dict(), other.model.state_dict())
    assert same(saved.objective.state_dict(), other.objective.state_dict())
    before, after = saved.optimizer.state_dict(), other.optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert all(same(before["state"][key], after["state"][key]) for key in before["state"] | after["state"])


def test_a_new_run_restores_nothing_and_starts_at_0(tmp_path):
    parts, untouched = Parts(0), Parts(0)
    assert parts.restore(new_run(tmp_path / "run")) == Progress(batch=0, best_eer=float("inf"), finished=False)
    assert same(parts.model.state_dict(), untouched.model.state_dict())


def test_the_state_of_a_gradient_scaler_is_kept(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (128.0, 2.0))
    scaler.scale(torch.ones(1))  # it starts with its first use
    run.log(batch=1)
    run.save_last(parts.model, parts.objective, parts.optimizer, scaler, Progress(batch=1), None)
    run.restore(parts.model, parts.objective, parts.optimizer, other, None)
    assert other.get_scale() == 128.0


def test_the_moving_average_is_kept_beside_the_model(tmp_path):
    run, saved, other = new_run(tmp_path / "run"), Parts(0), Parts(1)
    averages = [ModelEmaV3(parts.model) for parts in (saved, other)]
    averages[0].module.weight.data.fill_(0.5)
    saved.save(run, averages[0], batch=1)
    other.restore(run, averages[1])
    assert same(averages[0].module.state_dict(), averages[1].module.state_dict())
    assert same(saved.model.state_dict(), other.model.state_dict())
    assert (averages[1].module.weight == 0.5).all() and (other.model.weight != 0.5).any()
    saved.save(run, batch=2)
    assert not (run.checkpoints / "last" / "average.safetensors").exists()


def test_tensors_of_any_layout_in_memory_are_kept(tmp_path):
    run, model = new_run(tmp_path / "run"), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.architecture = ARCHITECTURE
    assert not model.weight.is_contiguous()
    parts = Parts(0)
    run.save_last(model, model, parts.optimizer, None, Progress(batch=1), ModelEmaV3(model))
    for name in ("model", "objective", "average"):
        assert same(load_file(run.checkpoints / "last" / f"{name}.safetensors"), dict(model.state_dict()))


def test_figures_logged_after_the_checkpoint_are_dropped(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    for batch in (10, 20, 30):
        run.log(batch=batch, loss=1.0 / batch)
    parts.save(run, batch=20)
    parts.restore(run)
    assert run.history() == [{"batch": 10, "loss": 0.1}, {"batch": 20, "loss": 0.05}]


def test_a_checkpoint_before_the_first_figure_is_restored(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    parts.save(run, batch=1)
    assert not run.metrics.exists()
    assert parts.restore(run).batch == 1


def test_a_line_of_figures_cut_short_by_a_kill_is_dropped(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    run.log(batch=10, loss=1.0)
    parts.save(run, batch=10)
    with run.metrics.open("a") as file:
        file.write('{"batch": 20, "lo')
    parts.restore(run)
    assert run.history() == [{"batch": 10, "loss": 1.0}]


# ---- several processes


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    attached = new_run(tmp_path / "input" / "a", batch=9)
    run = new_run(tmp_path / "run", batch=7)
    run.log(batch=8, loss=1.0)
    before = files(tmp_path)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    other = Parts(1)
    assert other.restore(run).batch == 7 and same(other.model.state_dict(), Parts(0).model.state_dict())
    run.log(batch=9, loss=1.0)
    other.save(run, batch=9)
    run.save_model("best", other.model)
    run.remember("people", ["1"])
    open_run(run.folder, CONFIG, DATA, [attached.folder])
    open_run(run.folder, Config(seed=4, resume=False), DATA, [])
    Run(tmp_path / "new", CONFIG, DATA).create()
    assert files(tmp_path) == before and not (tmp_path / "new").exists()
    monkeypatch.undo()
    other.save(run, batch=9)
    assert files(tmp_path) != before


# ---- interruptions


def content(folder: Path) -> str:
    return (folder / "file").read_text()


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "last"
    with replaced_folder(folder) as new:
        (new / "file").write_text("old")
    return folder


def test_a_folder_is_replaced_whole(old):
    with replaced_folder(old) as new:
        (new / "file").write_text("new")
        assert content(old) == "old"
    assert content(old) == "new" and [path.name for path in old.parent.iterdir()] == ["last"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt(), SystemExit()])
def test_a_failure_while_writing_leaves_the_old_folder(old, failure):
    with pytest.raises(type(failure)), replaced_folder(old) as new:
        (new / "file").write_text("half")
        raise failure
    assert content(old) == "old"
    with replaced_folder(old) as new:
        assert list(new.iterdir()) == []  # nothing of the failed attempt comes along
        (new / "file").write_text("new")
    assert content(old) == "new"


def crash_at(monkeypatch, number: int) -> None:
    """Let the renames of a replacement die like a killed process, at one of them."""
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", replace)


@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_at_a_rename_leaves_the_old_checkpoint_to_go_on_from(tmp_path, monkeypatch, number):
    run = new_run(tmp_path / "run", batch=7)
    with monkeypatch.context() as patched:
        crash_at(patched, number)
        with pytest.raises(KeyboardInterrupt):
            Parts(1).save(run, batch=8)
    assert read_progress(run.folder)["batch"] == 7
    parts = Parts(2)
    assert parts.restore(open_run(run.folder, CONFIG, DATA, [])).batch == 7
    assert same(parts.model.state_dict(), Parts(0).model.state_dict())
    parts.save(run, batch=9)
    assert read_progress(run.folder)["batch"] == 9
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last"]


def test_a_crash_before_the_old_checkpoint_is_removed_leaves_the_new_one(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", batch=7)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)
        Parts(1).save(run, batch=8)
    assert (run.checkpoints / "last.old").is_dir()
    assert read_progress(run.folder)["batch"] == 8


def test_the_best_model_survives_a_crash_at_its_rename(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", batch=7)
    run.save_model("best", Parts(0).model, epoch=1)
    with monkeypatch.context() as patched:
        crash_at(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            run.save_model("best", Parts(1).model, epoch=2)
    best = find_trained(run.folder, [])
    assert best.name == "best" and json.loads((best / "facts.json").read_text()) == {"epoch": 1}


# ---- which run is gone on with


def test_nothing_there_starts_fresh(tmp_path, capsys):
    run = open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])
    assert run.folder == tmp_path / "run" and read_progress(run.folder) is None
    assert "starting fresh" in capsys.readouterr().out


def test_the_own_run_is_gone_on_with(tmp_path, capsys):
    new_run(tmp_path / "run", batch=7)
    assert Parts(1).restore(open_run(tmp_path / "run", CONFIG, DATA, [])).batch == 7
    assert "7 batches" in capsys.readouterr().out


def test_parameters_that_cannot_change_the_weights_may_differ(tmp_path):
    new_run(tmp_path / "run", batch=7)
    run = open_run(tmp_path / "run", Config(seed=3, tracker="wandb", encode_batch=1), DATA, [])
    assert Parts(1).restore(run).batch == 7
    assert json.loads((run.folder / "config.json").read_text())["encode_batch"] == 1


def test_another_fingerprint_is_refused_with_each_field_and_both_values(tmp_path):
    new_run(tmp_path / "run", batch=7)
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ConfigError) as refusal:
        open_run(tmp_path / "run", Config(seed=4, lr=0.5, encode_batch=1), DATA, [])
    sentence = str(refusal.value)
    assert "seed: 3 then, 4 now" in sentence and "lr: 5e-05 then, 0.5 now" in sentence
    assert "encode_batch" not in sentence and "epochs" not in sentence
    assert str(tmp_path / "run") in sentence and "resume=false" in sentence and "run_dir" in sentence
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_resume_false_moves_the_old_run_aside(tmp_path, capsys):
    for batch in (7, 8):
        new_run(tmp_path / "run", batch=batch)
        run = open_run(tmp_path / "run", Config(seed=4, resume=False), DATA, [])
        assert Parts(1).restore(run).batch == 0
    assert [read_progress(tmp_path / f"run.old{n}")["batch"] for n in (1, 2)] == [7, 8]
    assert "run.old2" in capsys.readouterr().out


def test_resume_false_goes_on_with_no_attached_run_either(tmp_path):
    new_run(tmp_path / "input" / "a", batch=9)
    run = open_run(tmp_path / "run", Config(seed=3, resume=False), DATA, [tmp_path / "input"])
    assert Parts(1).restore(run).batch == 0
    assert not (tmp_path / "run.old1").exists()


def test_an_attached_run_that_is_further_is_copied_and_left_as_it_was(tmp_path, capsys):
    new_run(tmp_path / "run", batch=7, seed=0)
    source = new_run(tmp_path / "input" / "notebooks" / "owner" / "train" / "runs" / "demo", batch=9, seed=5)
    source.save_model("best", Parts(5).model, epoch=3)
    new_run(tmp_path / "input" / "b", batch=8, seed=6)
    before = {file: file.read_bytes() for file in source.folder.rglob("*") if file.is_file()}
    run = open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])
    parts = Parts(1)
    assert run.folder == tmp_path / "run" and parts.restore(run).batch == 9
    assert same(parts.model.state_dict(), Parts(5).model.state_dict())
    assert run.history() == [{"batch": 9, "loss": 1.0}]
    assert find_trained(run.folder, []) == run.checkpoints / "best"
    assert str(source.folder) in capsys.readouterr().out
    parts.save(run, batch=10)
    assert before == {file: file.read_bytes() for file in source.folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("attached", [6, 7])
def test_an_attached_run_that_is_no_further_is_left(tmp_path, attached):
    new_run(tmp_path / "run", batch=7, seed=0)
    new_run(tmp_path / "input" / "a", batch=attached, seed=5)
    parts = Parts(1)
    assert parts.restore(open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])).batch == 7
    assert same(parts.model.state_dict(), Parts(0).model.state_dict())


def test_an_attached_run_with_other_parameters_is_left(tmp_path):
    new_run(tmp_path / "input" / "a", config=Config(seed=4), batch=9)
    run = open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])
    assert Parts(1).restore(run).batch == 0


def test_a_copy_of_an_attached_run_that_was_cut_short_is_no_run(tmp_path, monkeypatch):
    new_run(tmp_path / "input" / "a", batch=9)
    copy, copytree = shutil.copy2, shutil.copytree

    def killed_in_the_checkpoint(origin, target):  # of which the progress happened to come first
        if Path(origin).parent.name == "last":
            copy(Path(origin).with_name("progress.json"), Path(target).with_name("progress.json"))
            raise KeyboardInterrupt
        copy(origin, target)

    def killed_on_the_way(source, target, *recursion, **options):
        copytree(source, target, *recursion, **options | ({} if recursion else killing))

    killing = {"copy_function": killed_in_the_checkpoint}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "copytree", killed_on_the_way)
        open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])
    run = open_run(tmp_path / "run", CONFIG, DATA, [tmp_path / "input"])
    assert Parts(1).restore(run).batch == 9


# ---- trained models


def test_the_trained_model_of_the_own_run_comes_first(tmp_path):
    for folder in (tmp_path / "run", tmp_path / "input" / "a"):
        new_run(folder, batch=1).save_model("best", Parts(0).model)
    assert find_trained(tmp_path / "run", [tmp_path / "input"]) == tmp_path / "run" / "checkpoints" / "best"
    assert find_trained(tmp_path / "new", [tmp_path / "input"]) == tmp_path / "input" / "a" / "checkpoints" / "best"


def test_a_run_that_was_never_validated_is_not_trained(tmp_path):
    new_run(tmp_path / "run", batch=1)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "run"))):
        find_trained(tmp_path / "run", [tmp_path])


# ---- malice


class Malicious:
    """Its unpickling makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("format", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, format):
    run, touched = new_run(tmp_path / "run", batch=7), tmp_path / "touched"
    pickle.loads(pickle.dumps(Malicious(touched)))
    assert touched.exists()  # the attack works on a reader that trusts
    touched.unlink()
    state = {"optimizer": Malicious(touched), "scaler": None}
    if format == "torch":
        torch.save(state, run.checkpoints / "last" / "optimizer.pt")
    else:
        (run.checkpoints / "last" / "optimizer.pt").write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        Parts(1).restore(run)
    assert not touched.exists()
