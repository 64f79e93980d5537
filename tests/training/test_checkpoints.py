"""A run's folder: what is written into it, and that training is put back to where it stood."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from tiny import ARCHITECTURE, DATA, RUN_CONFIG, Parts, files, names, new_run, same
from torch import nn

from dcal_core import distributed
from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError, check_seal, seal
from dcal_core.training.checkpoints import Checkpoint, Progress, Run, load_optimizer
from dcal_core.training.resume import newest_whole

WHOLE = Progress(
    batch=7,
    best_eer=0.2,
    best_error=0.2,
    stale=3,
    parts=4,
    seconds=3.5,
    tracker_run="abc",
    finished=True,
    skipped=2,
    skipped_in_row=1,
    at_chance=True,
    recent=[{"loss": 1.5, "skipped": 0.0}, {"loss": 2.0}],
)


# ---- writing


def test_a_new_run_writes_its_parameters_and_people(tmp_path):
    run = new_run(tmp_path / "run")
    config = json.loads((run.folder.path / "config.json").read_text())
    assert config == {"fingerprint": RUN_CONFIG.fingerprint(), **RUN_CONFIG.as_dict()}
    assert json.loads((run.folder.path / "trained_on.json").read_text()) == {
        "data": "faces",
        "people": ["1", "2"],
        "aligned": False,
    }
    assert names(run.folder.path) == ["checkpoints", "config.json", "trained_on.json"] and run.history() == []


def test_a_kept_model_is_sealed_with_weights_architecture_and_facts(tmp_path):
    run = new_run(tmp_path / "run")
    run.save_model(run.folder.best, Parts(0).model, epoch=2, eer=0.25)
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
    run.save_model(run.folder.best, other.model)
    run.remember("people", ["1"])
    Run(RunFolder(tmp_path / "new"), RUN_CONFIG, DATA).create()
    assert files(tmp_path) == before and not (tmp_path / "new").exists()
    monkeypatch.undo()
    other.save(run, batch=9)
    assert files(tmp_path) != before


# ---- restoring


def test_who_may_read_one_file_of_a_kept_model_may_read_all(tmp_path):
    run = new_run(tmp_path / "run")
    run.save_model(run.folder.best, Parts(0).model)
    assert len({file.stat().st_mode for file in (run.folder.checkpoints / "best").iterdir()}) == 1


def test_what_was_saved_is_restored(tmp_path):
    run, saved, other = new_run(tmp_path / "run"), Parts(0), Parts(1, steps=1)
    run.log(batch=7, loss=1.0)
    saved.save(run, **WHOLE.model_dump())
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


def test_optimiser_groups_follow_the_parameters_not_the_checkpoint(tmp_path):
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
    modules = {"model": model, "objective": model, "average": ModelEmaV3(model).module}
    run.save_last(modules, optimizer, None, Progress(batch=1), {})
    for name in ("model", "objective", "average"):
        assert same(load_file(run.folder.saved[0] / f"{name}.safetensors"), dict(model.state_dict()))
    run.restore({"model": other, "objective": other}, resumed, None)
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
    run.save_model(run.folder.best, parts.model)
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


# ---- comparing


def rewrite(checkpoint: Path, **changes) -> Checkpoint:
    """Change what a checkpoint's progress.json holds, None for leaving it out, and seal it again."""
    file = checkpoint / "progress.json"
    facts = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    seal(checkpoint)
    return newest_whole(RunFolder.around(checkpoint), own=True)


def test_a_checkpoint_holds_the_parameters_that_decide_its_weights_and_no_other(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    parameters = json.loads((run.folder.saved[0] / "progress.json").read_text())["parameters"]
    assert parameters == {name: getattr(RUN_CONFIG, name) for name in RUN_CONFIG.decisive()}
    assert parameters["seed"] == 3 and "encode_batch" not in parameters and "run_dir" not in parameters


def test_checkpoints_agree_in_data_and_in_each_decisive_parameter(tmp_path):
    found = newest_whole(new_run(tmp_path / "run", batch=7).folder, own=True)
    assert found.agrees(RUN_CONFIG, DATA) and not found.agrees(RUN_CONFIG, "others")
    assert found.agrees(RUN_CONFIG.replace(encode_batch=1, tracker="wandb", accumulation=2), DATA)
    other = RUN_CONFIG.replace(lr=0.5, families_per_batch=8)
    assert not found.agrees(other, DATA)
    assert found.differences(other) == {"lr": (5e-05, 0.5), "families_per_batch": (4, 8)}
    assert found.differences(AdaFaceConfig(seed=3))["recipe"] == ("dcal", "adaface")


def test_the_label_of_the_parameters_decides_nothing(tmp_path):
    """Since it is another one as soon as the code has one parameter more."""
    run = new_run(tmp_path / "run", batch=7)
    assert rewrite(run.folder.saved[0], fingerprint="of another version").agrees(RUN_CONFIG, DATA)
    label = RUN_CONFIG.replace(lr=0.5).fingerprint()
    assert not rewrite(run.folder.saved[0], fingerprint=label).agrees(RUN_CONFIG.replace(lr=0.5), DATA)


def test_a_checkpoint_without_parameters_has_those_of_its_run(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    found = rewrite(run.folder.saved[0], parameters=None)
    assert "parameters" not in found.facts and found.agrees(RUN_CONFIG, DATA)
    assert found.differences(RUN_CONFIG.replace(lr=0.5)) == {"lr": (5e-05, 0.5)}
    run.folder.config.write_text(json.dumps(RUN_CONFIG.replace(lr=0.25).as_dict()))
    assert found.differences(RUN_CONFIG) == {"lr": (0.25, 5e-05)}


def test_a_parameter_added_since_agrees_only_at_its_default(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    saved = {name: getattr(RUN_CONFIG, name) for name in RUN_CONFIG.decisive() if name != "layer_decay"}
    found = rewrite(run.folder.saved[0], parameters=saved)
    assert found.agrees(RUN_CONFIG, DATA)
    assert found.differences(RUN_CONFIG.replace(layer_decay=0.5)) == {"layer_decay": (1.0, 0.5)}


def test_a_parameter_that_is_gone_since_decides_nothing(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    saved = {name: getattr(RUN_CONFIG, name) for name in RUN_CONFIG.decisive()}
    assert rewrite(run.folder.saved[0], parameters=saved | {"gone": 1}).agrees(RUN_CONFIG, DATA)


# ---- what the recipe has decided


def test_what_the_recipe_decided_for_the_epoch_is_kept_and_given_back(tmp_path):
    run, parts = new_run(tmp_path / "run"), Parts(0)
    decided = {"hardness": torch.rand(3, 2).T, "round": torch.tensor([2])}  # of any layout and type
    parts.save(run, sampling=decided, batch=1)
    other = Parts(1)
    assert other.restore(run).batch == 1 and same(other.sampling, decided)
    parts.save(run, batch=2)
    assert not (run.folder.saved[0] / "sampling.safetensors").exists()
    other.restore(run)
    assert other.sampling == {}
