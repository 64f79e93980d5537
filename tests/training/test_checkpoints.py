"""A run's folder: what is written into it, and that training is put back to where it stood."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn

from dcal_core import distributed
from dcal_core.config.dcal import DCALConfig
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError, check_seal
from dcal_core.training.checkpoints import Progress, Run, load_optimizer

CONFIG = DCALConfig(seed=3)
DATA = "the people and images"
ARCHITECTURE = {"backbone": "two linear layers"}
WHOLE = Progress(
    batch=7,
    best_eer=0.2,
    stale=3,
    parts=4,
    seconds=3.5,
    tracker_run="abc",
    finished=True,
    skipped=2,
    skipped_in_row=1,
    recent=[{"loss": 1.5, "skipped": 0.0}, {"loss": 2.0}],
)


def model_of(head: int = 2, **more: nn.Module) -> nn.Module:
    """A trunk of 72 weights, a head, and what else is wanted."""
    model = nn.ModuleDict({"trunk": nn.Linear(8, 8), "head": nn.Linear(8, head)} | more)
    model.architecture = ARCHITECTURE
    return model


class Parts:
    """A model, an objective and an optimiser that has taken steps, as small as they can be; the objective's last
    parameter has never had a gradient."""

    def __init__(self, seed: int, steps: int = 2, head: int = 2):
        torch.manual_seed(seed)
        self.model = model_of(head)
        self.objective = nn.ModuleDict({"weight": nn.Linear(head, 1), "idle": nn.Linear(1, 1, bias=False)})
        groups = [{"params": list(module.parameters())} for module in (self.model, self.objective)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        output = self.model["head"](self.model["trunk"](torch.randn(4, 8)))
        self.objective["weight"](output).square().sum().backward()
        self.optimizer.step()

    def save(self, run: Run, average=None, scaler=None, **progress) -> None:
        run.save_last(self.model, self.objective, self.optimizer, scaler, Progress(**progress), average)

    def restore(self, run: Run, average=None, scaler=None) -> Progress:
        return run.restore(self.model, self.objective, self.optimizer, scaler, average)

    def state(self) -> dict[str, torch.Tensor]:
        """All tensors, of the optimiser too."""
        state = self.optimizer.state_dict()["state"]
        moments = {f"{number}.{name}": value for number, kept in state.items() for name, value in kept.items()}
        return {**self.model.state_dict(), **self.objective.state_dict(prefix="objective."), **moments}


def new_run(folder: Path, config: DCALConfig = CONFIG, seed: int = 0, data: str = DATA, **progress) -> Run:
    """A run in a folder; with any progress given, a checkpoint too."""
    run = Run(RunFolder(folder), config, data)
    run.remember("faces", ["1", "2"])
    if progress:
        run.log(batch=progress["batch"], loss=1.0)
        Parts(seed).save(run, **progress)
    return run


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(checkpoint: Path) -> None:
    os.truncate(checkpoint / "optimizer.safetensors", 100)


# ---- writing


def test_a_new_run_writes_its_parameters_and_people(tmp_path):
    run = new_run(tmp_path / "run")
    config = json.loads((run.folder.path / "config.json").read_text())
    assert config == {"fingerprint": CONFIG.fingerprint(), **CONFIG.as_dict()}
    assert json.loads((run.folder.path / "trained_on.json").read_text()) == {"data": "faces", "people": ["1", "2"]}
    assert names(run.folder.path) == ["checkpoints", "config.json", "trained_on.json"] and run.history() == []


def test_a_kept_model_is_sealed_with_weights_architecture_and_facts(tmp_path):
    run = new_run(tmp_path / "run")
    run.save_model("best", Parts(0).model, epoch=2, eer=0.25)
    best = run.folder.checkpoints / "best"
    check_seal(best)
    assert names(best) == ["SHA256SUMS", "facts.json", "model.json", "model.safetensors"]
    assert json.loads((best / "facts.json").read_text()) == {"epoch": 2, "eer": 0.25}
    assert json.loads((best / "model.json").read_text()) == ARCHITECTURE


def test_the_newest_two_checkpoints_are_kept_sealed(tmp_path):
    run = new_run(tmp_path / "run")
    for batch in (9, 10, 99, 100):
        Parts(batch).save(run, batch=batch)
    assert names(run.folder.checkpoints / "last") == ["00000099", "00000100"]
    assert [path.name for path in run.folder.saved] == ["00000100", "00000099"] and run.progress().batch == 100
    for checkpoint in run.folder.saved:
        check_seal(checkpoint)
        endings = {file.suffix for file in checkpoint.iterdir()}
        assert endings == {"", ".json", ".safetensors"}  # nothing that executes when it is read


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", batch=7)
    run.log(batch=8, loss=1.0)
    before = files(tmp_path)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    other = Parts(1)
    assert other.restore(run).batch == 7 and same(other.state(), Parts(0).state())
    run.log(batch=9, loss=1.0)
    other.save(run, batch=9)
    run.save_model("best", other.model)
    run.remember("people", ["1"])
    Run(RunFolder(tmp_path / "new"), CONFIG, DATA).create()
    assert files(tmp_path) == before and not (tmp_path / "new").exists()
    monkeypatch.undo()
    other.save(run, batch=9)
    assert files(tmp_path) != before


# ---- restoring


def test_who_may_read_one_file_of_a_kept_model_may_read_all(tmp_path):
    run = new_run(tmp_path / "run")
    run.save_model("best", Parts(0).model)
    assert len({file.stat().st_mode for file in (run.folder.checkpoints / "best").iterdir()}) == 1


def test_what_was_saved_is_restored(tmp_path):
    run, saved, other = new_run(tmp_path / "run"), Parts(0), Parts(1, steps=1)
    run.log(batch=7, loss=1.0)
    saved.save(run, **dataclasses.asdict(WHOLE))
    other.objective["idle"].weight.data.fill_(9)
    assert not same(saved.state(), other.state())
    assert other.restore(run) == run.progress() == WHOLE
    assert same(saved.state(), other.state())
    for parts in (saved, other):  # so it goes on as if nothing had happened
        torch.manual_seed(5)
        parts.step()
    assert same(saved.state(), other.state())


def test_a_parameter_that_had_no_state_has_none_afterwards(tmp_path):
    run, saved = new_run(tmp_path / "run"), Parts(0)
    saved.save(run, batch=1)
    kept = load_file(run.folder.saved[0] / "optimizer.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"0", "1", "2", "3", "4", "5"}  # and not 6, the idle one
    assert {name.partition(".")[2] for name in kept} == {"step", "exp_avg", "exp_avg_sq"}
    other = Parts(1, steps=0)
    other.restore(run)
    assert set(other.optimizer.state_dict()["state"]) == set(range(6))


def test_the_groups_of_the_optimiser_follow_from_the_parameters_and_not_from_the_checkpoint(tmp_path):
    run, other = new_run(tmp_path / "run", batch=7), Parts(1)
    for group in other.optimizer.param_groups:
        group |= {"weight_decay": 0.5, "factor": 3.0}
    other.restore(run)
    assert [(g["weight_decay"], g["factor"]) for g in other.optimizer.param_groups] == [(0.5, 3.0)] * 2


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_moments_come_back_in_the_layout_of_their_weights(tmp_path, format):
    def make():
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=format)
        model.architecture = ARCHITECTURE
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    run, (model, optimizer), (other, resumed) = new_run(tmp_path / "run"), make(), make()
    step(model, optimizer)
    run.save_last(model, model, optimizer, None, Progress(batch=1), ModelEmaV3(model))
    for name in ("model", "objective", "average"):
        assert same(load_file(run.folder.saved[0] / f"{name}.safetensors"), dict(model.state_dict()))
    run.restore(other, other, resumed, None, None)
    moment = resumed.state_dict()["state"][0]["exp_avg"]
    assert moment.is_contiguous(memory_format=format) and moment.stride() == other.weight.stride()
    step(model, optimizer)
    step(other, resumed)
    assert torch.equal(model.weight, other.weight)


def test_a_new_run_restores_nothing_and_starts_at_0(tmp_path):
    parts = Parts(0)
    assert parts.restore(new_run(tmp_path / "run")) == Progress(batch=0, best_eer=float("inf"), finished=False)
    assert same(parts.state(), Parts(0).state())


def test_the_state_of_a_gradient_scaler_is_kept(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (128.0, 2.0))
    scaler.scale(torch.ones(1))  # it starts with its first use
    parts.save(run, scaler=scaler, batch=1)
    parts.restore(run, scaler=other)
    assert other.state_dict() == scaler.state_dict() and other.get_scale() == 128.0
    parts.restore(run)  # where there is none any more
    parts.save(run, batch=2)
    parts.restore(run, scaler=other)  # where there was none
    assert other.get_scale() == 128.0


def test_the_moving_average_is_kept_beside_the_model(tmp_path):
    run, saved, other = new_run(tmp_path / "run"), Parts(0), Parts(1)
    averages = [ModelEmaV3(parts.model) for parts in (saved, other)]
    averages[0].module["head"].weight.data.fill_(0.5)
    saved.save(run, averages[0], batch=1)
    other.restore(run, averages[1])
    assert same(averages[0].module.state_dict(), averages[1].module.state_dict())
    assert same(saved.state(), other.state()) and (other.model["head"].weight != 0.5).any()
    saved.save(run, batch=2)
    assert not (run.folder.saved[0] / "average.safetensors").exists()


def other_losses(parts: Parts) -> None:
    parts.objective["weight"] = nn.Linear(2, 5)


def other_order(parts: Parts) -> None:
    parts.optimizer = torch.optim.AdamW(reversed(list(parts.model.parameters())), fused=True)


def fewer_parameters(parts: Parts) -> None:
    parts.optimizer = torch.optim.AdamW([parts.model["trunk"].weight], fused=True)


@pytest.mark.parametrize("change", [other_losses, other_order, fewer_parameters])
def test_a_checkpoint_of_other_losses_is_refused_with_a_cure(tmp_path, refused, change):
    run, parts = new_run(tmp_path / "run", batch=7), Parts(1)
    run.save_model("best", parts.model)
    change(parts)
    before = files(tmp_path)
    with refused(
        ConfigError, run.folder.saved[0], "does not fit", "resume=false", "run_dir", run.folder.checkpoints / "best"
    ):
        parts.restore(run)
    assert files(tmp_path) == before


def test_an_optimisers_state_of_another_shape_is_refused_by_name():
    parts = Parts(0)
    with pytest.raises(ValueError, match=r"0\.exp_avg has the shape \[8, 9\], not \[8, 8\]"):
        load_optimizer(parts.optimizer, {"0.exp_avg": torch.zeros(8, 9), "0.step": torch.ones(())})


# ---- figures


def test_figures_logged_after_the_checkpoint_are_dropped(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    for batch in (10, 20, 30):
        run.log(batch=batch, loss=1.0 / batch)
    parts.save(run, batch=20)
    parts.restore(run)
    assert run.history() == [{"batch": 10, "loss": 0.1}, {"batch": 20, "loss": 0.05}]
    assert run.folder.metrics.read_text() == '{"batch": 10, "loss": 0.1}\n{"batch": 20, "loss": 0.05}\n'


@pytest.mark.parametrize("cut", ['{"batch": 20, "lo', "{", "\x00\x00\x00"])
def test_a_line_of_figures_cut_short_by_a_kill_is_dropped(tmp_path, cut):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    run.log(batch=10, loss=float("nan"))
    parts.save(run, batch=20)
    with run.folder.metrics.open("a") as file:
        file.write(cut)
    parts.restore(run)
    run.log(batch=30, loss=2.0)
    assert [line["batch"] for line in run.history()] == [10, 30]


def test_a_checkpoint_before_the_first_figure_is_restored(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    parts.save(run, batch=1)
    assert not run.folder.metrics.exists()
    assert parts.restore(run).batch == 1 and run.history() == []


@pytest.mark.parametrize("line", [b'{"batch": 20, "lo', b"null", b"[1]", b'{"loss": 1}', b'{"batch": "1"}', b"\xff"])
def test_a_damaged_line_of_figures_amid_others_is_named_and_nothing_dropped(tmp_path, refused, line):
    run = new_run(tmp_path / "run", batch=10)
    with run.folder.metrics.open("ab") as file:
        file.write(line + b'\n{"batch": 9}\n')
    before = files(tmp_path)
    with refused(DamagedError, run.folder.metrics, "line 2", "remove"):
        Parts(0).restore(run)
    assert files(tmp_path) == before
