"""The training loop on a tiny model: what a step does, what is left on disk, and that interruptions leave no trace."""

import json
import math
import os
import re
import signal
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_objectives import Waits
from tiny import SIZE, dcal_config, parts_of, twins
from torch import nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.data.augmentation import Augmentation
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.twins import DataError
from dcal_core.environment import TimeBudget, on_end_request
from dcal_core.errors import ConfigError
from dcal_core.models.files import load_model
from dcal_core.recipes.adamw_cosine import parameter_groups
from dcal_core.recipes.dcal import DCALRecipe
from dcal_core.runs import RunFolder
from dcal_core.training import loop, task
from dcal_core.training.checkpoints import Run
from dcal_core.training.loop import LOG_EVERY, Diverged, MemoryShort, Trainer
from dcal_core.training.resume import open_run
from dcal_core.training.task import Task, start_accelerator
from dcal_core.training.transfer import shapes_of

FAMILIES = 6
CONFIG = dcal_config(
    steps_per_epoch=3,
    epochs=2,
    lr=1e-3,
    head_lr_factor=3.0,
    min_lr=1e-5,
    warmup_share=0.2,
    dropout=0.1,
    drop_path=0.1,
    pwca_prob=0.5,
    erase_prob=0.5,
    softmax_margin=0.2,
    softmax_scale=16.0,
    softmax_weight=0.5,
    label_smoothing=0.0,
    twin_loss="supcon",
    checkpoint_every=1,
)
# timm's own for tests: 6 blocks of width 64 on 4 patches, and no batch norm where DCAL's necks have none.
PLAIN = {"backbone": "test_vit", "neck": "none", "dropout": 0.0, "drop_path": 0.0}
STILL = dict.fromkeys(("rotation_deg", "shift", "scale", "brightness", "contrast", "flip_prob", "erase_prob"), 0.0)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


def changed(**values) -> DCALConfig:
    return CONFIG.replace(**values)


def batches_of(config: DCALConfig) -> FamilyBatches:
    return DCALRecipe(config).batches(twins(FAMILIES))


def task_of(config: DCALConfig) -> Task:
    """A new model and its objective as they are trained, the same ones for the same seed."""
    return Task(*parts_of(config, people=2 * FAMILIES))


def augmentation_of(config: DCALConfig) -> Augmentation:
    return Augmentation(**{name: getattr(config, name) for name in STILL})


def seed_of(config: DCALConfig, batch: int, number: int, rank: int = 0) -> int:
    """The seed of all that is random with a part of a batch."""
    return int(np.random.SeedSequence((config.seed, batch, number, rank)).generate_state(1)[0])


class Validator:
    """Figures that follow from the weights alone; EERs may be set beforehand, one for each validation."""

    def __init__(self, *errors: float):
        self.errors, self.calls = list(errors), 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.calls += 1
        total = sum(p.detach().double().abs().sum() for p in model.parameters()).item()
        return {"eer": self.errors[self.calls - 1] if self.errors else total % 1 / 2, "auc": total}


class Budget(TimeBudget):
    """A time budget that is used up after some batches."""

    def __init__(self, batches: int):
        super().__init__(1000.0)
        self.left = batches

    def used_up(self) -> bool:
        self.left -= 1
        return self.left <= 0


class Recording(nn.Module):
    """An objective that keeps the batches it is called with, and the seed of torch's generator."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.seen, self.seeds = inner, [], []

    def forward(self, model, batch):
        self.seen.append(batch)
        self.seeds.append(torch.initial_seed())
        return self.inner(model, batch)


def run_training(
    folder, config=CONFIG, budget=None, validate=None, wrap=lambda objective: objective, recipe=DCALRecipe
):
    """Train in a folder and return its run and the progress."""
    recipe = recipe(config)
    model, objective = parts_of(config, people=2 * FAMILIES)
    run = open_run(RunFolder(folder), config, "the people and images", [], shapes_of(model))
    validate, budget = validate or Validator(), budget or TimeBudget(1000.0)
    batches = recipe.batches(twins(FAMILIES))
    accelerator = start_accelerator(recipe)
    return run, Trainer(recipe, accelerator, model, wrap(objective), batches, validate, run, budget).train()


def weights(run, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file((run.folder.saved[0] if name == "last" else run.folder.checkpoints / name) / "model.safetensors")


def state(run) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint as one flat dictionary."""
    last = run.folder.saved[0]
    moments = {f"optimizer.{name}": value for name, value in load_file(last / "optimizer.safetensors").items()}
    averages = {f"average.{name}": value for name, value in average(run).items()}
    objective = {n.replace("inner.", ""): value for n, value in load_file(last / "objective.safetensors").items()}
    return weights(run) | objective | moments | averages


def average(run) -> dict[str, torch.Tensor]:
    file = run.folder.saved[0] / "average.safetensors"
    return load_file(file) if file.is_file() else {}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.allclose(a[name], b[name], **tolerance)] == []


def steps_in(run) -> int:
    """Steps that the optimiser has taken."""
    return max(int(value) for name, value in state(run).items() if name.endswith(".step"))


def validations(run) -> list[dict]:
    return [line for line in run.history() if "validation/eer" in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run from the first batch to the last, and its progress."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
        return run_training(tmp_path_factory.mktemp("runs") / "whole")


# ---- learning rate


def test_the_learning_rate_warms_up_peaks_and_falls_to_its_end():
    config = changed(lr=1e-3, min_lr=1e-5, warmup_share=0.1)
    lr_at = DCALRecipe(config).lr_at
    rates = [lr_at(step, 1000) for step in range(1000)]
    assert 0 < rates[0] < 2e-5
    assert np.allclose(np.diff(rates[:100]), rates[0])  # a straight line
    assert rates[100] == max(rates) == 1e-3
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))
    assert rates[550] == pytest.approx((1e-3 + 1e-5) / 2)  # half way down the cosine
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2) and lr_at(1000, 1000) == pytest.approx(1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_the_learning_rate_of_the_shortest_runs_is_in_its_range(steps, share):
    recipe = DCALRecipe(changed(warmup_share=share))
    rates = [recipe.lr_at(step, steps) for step in range(steps)]
    assert all(0 < rate <= CONFIG.lr for rate in rates)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert DCALRecipe(changed(warmup_share=0.0)).lr_at(0, 10) == CONFIG.lr


# ---- parameter groups


def groups_of(task: Task, config: DCALConfig) -> list[dict]:
    names = ("layer_decay", "head_lr_factor", "weight_decay")
    return parameter_groups(task, **{name: getattr(config, name) for name in names})


def test_every_trainable_parameter_is_in_one_group():
    task = task_of(CONFIG)
    task.model.vit.norm.weight.requires_grad_(False)
    grouped = [id(p) for group in groups_of(task, CONFIG) for p in group["params"]]
    trainable = [id(p) for p in task.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trainable)
    assert len(trainable) < len(list(task.parameters()))


def described_groups(config: DCALConfig) -> dict[str, tuple[float, float]]:
    """Each parameter's name with the factor of its learning rate and its weight decay."""
    task = task_of(config)
    names = {id(p): name for name, p in task.named_parameters()}
    groups = groups_of(task, config)
    assert all(group["lr"] == 0.0 for group in groups)
    assert len({(group["factor"], group["weight_decay"]) for group in groups}) == len(groups)
    return {names[id(p)]: (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_what_decays_and_what_learns_faster():
    described = described_groups(changed(weight_decay=0.25))
    shapes = {name: p.ndim for name, p in task_of(CONFIG).named_parameters()}
    for name, (factor, decay) in described.items():
        assert factor == (1.0 if name.startswith(("model.vit.", "model.glca")) else 3.0), name
        plain = shapes[name] < 2 or any(part in name for part in ("pos_embed", "cls_token", "centres"))
        assert decay == (0.0 if plain else 0.25), name
    decayed = {name for name, (_, decay) in described.items() if decay}
    assert {"model.vit.blocks.0.attn.qkv.weight", "model.glca.0.mlp.fc1.weight"} <= decayed
    whole = described.keys() - decayed
    assert {"model.vit.pos_embed", "model.vit.cls_token", "objective.weighting.w.sa"} <= whole
    assert {"objective.identity.sa.centres", "model.vit.blocks.0.norm1.weight", "model.necks.sa.weight"} <= whole


def test_a_block_learns_slower_than_the_block_above_it():
    described, plain = described_groups(changed(layer_decay=0.5)), described_groups(CONFIG)
    assert all(decay == plain[name][1] for name, (_, decay) in described.items()) and described.keys() == plain.keys()
    above = {"blocks.0.": 2, "blocks.1.": 1, "blocks.2.": 0, "norm.": 0, "patch_embed.": 3, "pos_": 3, "cls_": 3}
    for name, (factor, _) in described.items():
        depths = [depth for start, depth in above.items() if name.startswith(f"model.vit.{start}")]
        expected = 0.5 ** depths[0] if depths else 1.0 if name.startswith("model.glca") else 3.0
        assert factor == expected, name
    assert {factor for factor, _ in described.values()} == {0.125, 0.25, 0.5, 1.0, 3.0}


# ---- a run from end to end


def test_a_run_finishes_with_all_checkpoints(uninterrupted):
    run, progress = uninterrupted
    assert progress.finished and progress.batch == 6 and progress.seconds > 0
    assert sorted(path.name for path in run.folder.checkpoints.iterdir()) == ["best", "epoch_1", "epoch_2", "last"]
    assert_same(weights(run, "last"), weights(run, "epoch_2"))
    saved = json.loads((run.folder.saved[0] / "progress.json").read_text())
    assert saved["batch"] == 6 and saved["finished"] and saved["fingerprint"] == CONFIG.fingerprint()


def test_training_moves_every_weight(uninterrupted):
    task = task_of(CONFIG)
    trained = state(uninterrupted[0])
    start = dict(task.model.named_parameters()) | dict(task.objective.named_parameters())
    still = {name for name, p in start.items() if p.requires_grad and torch.equal(p, trained[name])}
    assert still == set()


def test_the_best_model_can_be_loaded_and_encodes(uninterrupted):
    model = load_model(uninterrupted[0].folder.checkpoints / "best")
    features = model.encode(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8))
    assert model.compare(features, features).shape == (2, 2)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(uninterrupted, tmp_path):
    assert_same(state(uninterrupted[0]), state(run_training(tmp_path / "again")[0]))
    other = run_training(tmp_path / "other", changed(seed=1))[0]
    assert not torch.equal(weights(other)["vit.cls_token"], weights(uninterrupted[0])["vit.cls_token"])


def test_checkpoints_and_validations_come_every_few_epochs_and_at_the_end(tmp_path):
    validate = Validator()
    config = changed(epochs=5, steps_per_epoch=1, checkpoint_every=2, validate_every=3)
    run, progress = run_training(tmp_path / "run", config, validate=validate)
    assert progress.finished and validate.calls == 2
    assert sorted(path.name for path in run.folder.checkpoints.iterdir()) == ["best", "epoch_2", "epoch_4", "last"]
    assert [line["epoch"] for line in validations(run)] == [3, 5]


def test_the_best_checkpoint_has_the_lowest_eer_and_the_first_of_equals(tmp_path):
    config = changed(epochs=4, steps_per_epoch=1)
    run, progress = run_training(tmp_path / "run", config, validate=Validator(0.4, 0.2, 0.3, 0.2))
    assert progress.best_eer == 0.2
    assert_same(weights(run, "best"), weights(run, "epoch_2"))
    facts = json.loads((run.folder.checkpoints / "best" / "facts.json").read_text())
    assert facts["epoch"] == 2 and facts["eer"] == 0.2


def test_figures_are_logged_with_batch_epoch_and_learning_rate(tmp_path):
    config = changed(epochs=2, steps_per_epoch=LOG_EVERY, pwca_prob=1.0)
    run, _ = run_training(tmp_path / "run", config)
    steps = [line for line in run.history() if "loss" in line]
    assert [line["batch"] for line in steps] == [LOG_EVERY, 2 * LOG_EVERY]
    assert [line["epoch"] for line in steps] == [1.0, 2.0]
    assert [line["lr"] for line in steps] == [
        DCALRecipe(config).lr_at(n * LOG_EVERY - 1, 2 * LOG_EVERY) for n in (1, 2)
    ]
    for branch in ("sa", "glca", "pwca"):
        assert all(math.isfinite(line[f"{branch}/{kind}"]) for line in steps for kind in ("identity", "twin"))
    assert [(line["batch"], line["epoch"]) for line in validations(run)] == [(LOG_EVERY, 1), (2 * LOG_EVERY, 2)]


def test_a_logged_loss_is_the_mean_since_the_last_one(tmp_path):
    run, _ = run_training(tmp_path / "run", changed(epochs=1, steps_per_epoch=2 * LOG_EVERY), wrap=Counting)
    first, second = (np.arange(1, LOG_EVERY + 1).mean() + n * LOG_EVERY for n in (0, 1))
    assert [line["loss"] for line in run.history() if "loss" in line] == [first, second]


def test_the_tracker_gets_what_is_logged_and_is_closed(tmp_path, monkeypatch):
    logged, finished = [], []
    stub = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: finished.append(1))
    stub.run_id = "wandb:abc"
    monkeypatch.setattr(loop, "open_tracker", lambda *_: stub)
    run, progress = run_training(tmp_path / "run", changed(epochs=1, steps_per_epoch=LOG_EVERY))
    assert [step for step, _ in logged] == [LOG_EVERY, LOG_EVERY] and finished == [1]
    assert "loss" in logged[0][1] and logged[1][1].keys() == {"validation/eer", "validation/auc"}
    assert run.progress().tracker_run == progress.tracker_run == "wandb:abc"


# ---- one step, and the parts of a batch


def by_hand(config: DCALConfig) -> dict[str, torch.Tensor]:
    """The weights after one step of the optimiser on the mean gradient of a batch's parts, in plain PyTorch."""
    task = task_of(config)
    task.model.train()
    parts = batches_of(config)[0]
    for number, part in enumerate(parts):
        torch.manual_seed(seed := seed_of(config, 0, number))
        part["images"] = augmentation_of(config)(part["images"].float() / 255, seed=seed)
        (task(part)[0] / len(parts)).backward()
    norm = nn.utils.clip_grad_norm_(task.parameters(), config.grad_clip)
    assert norm > config.grad_clip  # else the clipping is not tried
    groups = groups_of(task, config)
    for group in groups:
        group["lr"] = group["factor"] * DCALRecipe(config).lr_at(0, config.epochs * config.steps_per_epoch)
    torch.optim.AdamW(groups).step()
    return task.model.state_dict()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_step_is_made_on_the_mean_gradient_of_the_parts(tmp_path, accumulation):
    steps = {"epochs": 1, "steps_per_epoch": 1, "grad_clip": 0.01, "pwca_prob": 1.0, "layer_decay": 0.7}
    config = changed(families_per_batch=6, accumulation=accumulation, **steps)
    trained = weights(run_training(tmp_path / "run", config)[0])
    assert_close(trained, by_hand(config), rtol=1e-4, atol=1e-6)


def test_parts_step_as_the_whole_batch_where_nothing_looks_across_families(tmp_path):
    options = PLAIN | STILL | {"families_per_batch": 4, "pwca_first": 0, "grad_clip": 1e6}
    runs = [run_training(tmp_path / str(n), changed(accumulation=n, **options))[0] for n in (1, 2, 4)]
    whole = state(runs[0])
    # The softmax takes out a shift of the keys: its gradient is rounding alone, which Adam makes as large as any other.
    compared = [{n: w for n, w in weights(run).items() if not n.endswith("qkv.bias")} for run in runs]
    for run, trained in zip(runs[1:], compared[1:], strict=True):
        assert_close(compared[0], trained, rtol=0.0, atol=1e-5)
        # Nor do the moments differ, which unlike Adam's steps show a gradient of the wrong size.
        apart = {name: (whole[name] - value).norm() for name, value in state(run).items() if "exp_avg" in name}
        assert [name for name, distance in apart.items() if distance > 1e-3 * whole[name].norm() + 1e-7] == []
        for a, b in zip(runs[0].history(), run.history(), strict=True):
            assert a == pytest.approx(b, abs=1e-3, rel=1e-6)
    start = task_of(changed(**options)).model.state_dict()
    assert (whole["vit.cls_token"] - start["vit.cls_token"]).abs().max() > 1e-3  # a hundred times as much


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_optimiser_steps_once_per_batch(tmp_path, accumulation):
    recorded = []
    config = changed(accumulation=accumulation, families_per_batch=4, epochs=1)
    run, progress = run_training(tmp_path / "run", config, wrap=lambda o: recorded.append(Recording(o)) or recorded[0])
    assert steps_in(run) == progress.batch == 3
    assert [len(part["images"]) for part in recorded[0].seen] == [16 // accumulation] * 3 * accumulation


# ---- memory


class Short(Recording):
    """An objective for whose parts the memory does not suffice: of more than `most` images, or in certain calls."""

    def __init__(self, inner: nn.Module, most: int = 1000, calls: tuple[int, ...] = (), backward: bool = False):
        super().__init__(inner)
        self.most, self.calls, self.backward = most, calls, backward

    def run_out(self, *_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, model, batch):
        short = len(batch["images"]) > self.most or len(self.seen) + 1 in self.calls
        if short and not self.backward:
            self.seen.append(batch)
            self.run_out()
        loss, logs = super().forward(model, batch)
        if short:
            loss.register_hook(self.run_out)
        return loss, logs


def train_short(folder, config, budget=None, **short):
    """Train with memory that runs out; also returns the objective, with the parts that it has seen."""
    kept = []
    run, progress = run_training(folder, config, budget, wrap=lambda o: kept.append(Short(o, **short)) or kept[0])
    return run, progress, kept[0]


def assert_whole_families(part: dict[str, torch.Tensor]) -> None:
    """Each family of a part is there with two people and two images of each."""
    assert len(part["images"]) == len(part["person"]) == len(part["family"])
    for family in part["family"].unique():
        people, counts = part["person"][part["family"] == family].unique(return_counts=True)
        assert len(people) == 2 and counts.tolist() == [2, 2]
    assert (part["person"] // 2 == part["family"]).all()


def test_where_memory_runs_out_training_goes_on_in_smaller_parts(tmp_path, capsys):
    config = changed(families_per_batch=4, pwca_prob=1.0)
    run, progress, objective = train_short(tmp_path / "run", config, most=8)
    said = capsys.readouterr().out
    assert said.count("Out of memory") == 1 and "at batch 0" in said and "2 parts of 2 families" in said
    assert progress.finished and progress.batch == steps_in(run) == 6 and progress.parts == 2
    assert [len(part["images"]) for part in objective.seen] == [16] + [8] * 12
    for part in objective.seen:
        assert_whole_families(part)
    expected, _ = run_training(tmp_path / "expected", config.replace(accumulation=2))
    assert_same(state(expected), state(run))
    assert expected.history() == run.history()


def test_a_later_session_begins_with_the_smaller_parts(tmp_path, capsys):
    config = changed(families_per_batch=4)
    run, progress, _ = train_short(tmp_path / "run", config, Budget(2), most=8)
    assert progress.batch == 2
    assert json.loads((run.folder.saved[0] / "progress.json").read_text())["parts"] == 2
    capsys.readouterr()
    run, progress, objective = train_short(tmp_path / "run", config, most=8)
    assert progress.finished and {len(part["images"]) for part in objective.seen} == {8}
    assert "Out of memory" not in capsys.readouterr().out
    assert_same(state(run_training(tmp_path / "whole", config.replace(accumulation=2))[0]), state(run))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("call", [1, 2])
def test_what_was_done_of_a_batch_when_memory_ran_out_leaves_no_trace(tmp_path, call, backward):
    config = changed(**PLAIN | {"neck": "bn", "families_per_batch": 4, "accumulation": 2, "pwca_prob": 1.0})
    run, progress, objective = train_short(tmp_path / "run", config, calls=(call,), backward=backward)
    assert [len(part["images"]) for part in objective.seen] == [8] * call + [4] * 24
    assert progress.parts == 4 and steps_in(run) == 6
    expected, _ = run_training(tmp_path / "expected", config.replace(accumulation=4))
    assert_same(state(expected), state(run))
    assert expected.history() == run.history()


class Counting(nn.Module):
    """An objective whose figure counts its calls."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, model, batch):
        loss, _ = self.inner(model, batch)
        self.calls += 1
        return loss, {"loss": torch.tensor(float(self.calls))}


def test_nothing_of_a_batch_that_did_not_fit_is_logged(tmp_path):
    config = changed(families_per_batch=4, accumulation=2, epochs=1, steps_per_epoch=2)
    short = {"calls": (4,), "backward": True}  # the second part of the second batch
    run, _ = run_training(tmp_path / "run", config, wrap=lambda o: Short(Counting(o), **short))
    lines = [(line["batch"], line["loss"]) for line in run.history() if "loss" in line]
    assert lines == [(2, pytest.approx((1 + 2 + 5 + 6 + 7 + 8) / 6))]


def test_parts_are_halved_again_where_that_is_not_enough(tmp_path, capsys):
    config = changed(families_per_batch=4, epochs=1)
    _, progress, objective = train_short(tmp_path / "run", config, most=4)
    assert progress.finished and progress.parts == 4
    assert [len(part["images"]) for part in objective.seen] == [16, 8] + [4] * 12
    assert capsys.readouterr().out.count("Out of memory") == 2


def test_memory_that_does_not_hold_one_family_ends_the_run_with_the_cures(tmp_path):
    with pytest.raises(DataError, match="lower images_per_person or image_size, or set gradient_checkpointing=true"):
        train_short(tmp_path / "run", CONFIG, most=3)
    assert list((tmp_path / "run").rglob("model.safetensors")) == []


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Short, "run_out", lambda *_: (_ for _ in ()).throw(RuntimeError("a kernel failed")))
    with pytest.raises(RuntimeError, match="a kernel failed"):
        train_short(tmp_path / "run", CONFIG, calls=(1,))


def test_one_process_of_several_tells_what_all_must_begin_again_with(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "world_size", lambda: 2)
    with pytest.raises(MemoryShort, match=r"give accumulation=2$"):
        train_short(tmp_path / "run", CONFIG, most=7)


# ---- the moving average


def test_the_average_follows_timms_formula_and_is_what_is_validated_and_kept(tmp_path):
    config = changed(ema_decay=0.5, epochs=3, steps_per_epoch=1)
    after = []
    for _ in range(3):  # of each batch, in a session of its own
        run, _ = run_training(tmp_path / "run", config, Budget(1))
        after.append((weights(run), average(run)))
    expected = after[0][0]
    for (trained, averaged), decay in zip(after, (0.0, 1 - 2 ** (-2 / 3), 0.5), strict=True):  # 1 - 3 ^ (-2/3) > 0.5
        for name, value in trained.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
        assert_close(averaged, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(trained["vit.cls_token"], averaged["vit.cls_token"])
    validate = Validator(0.4, 0.2, 0.3)
    whole, _ = run_training(tmp_path / "whole", config, validate=validate)
    assert_same(state(run), state(whole))
    assert_same(weights(whole, "best"), after[1][1])
    assert_same(weights(whole, "epoch_3"), average(whole))
    model = load_model(whole.folder.checkpoints / "epoch_3")
    assert validations(whole)[-1]["validation/auc"] == Validator()(model)["auc"]


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_an_interrupted_run_of_averaged_parts_ends_as_the_uninterrupted_one(averaged, tmp_path, stop):
    whole, config = averaged
    run, progress = run_training(tmp_path / "run", config, Budget(stop))
    assert progress.batch == stop
    run, progress = run_training(tmp_path / "run", config)
    assert progress.finished
    assert_same(state(whole), state(run))
    assert_same(weights(whole, "best"), weights(run, "best"))
    assert validations(whole) == validations(run)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """An uninterrupted run with a moving average, in parts, and with learning rates by layer."""
    config = changed(ema_decay=0.9, accumulation=2, layer_decay=0.6, channels_last=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
        return run_training(tmp_path_factory.mktemp("runs") / "averaged", config)[0], config


# ---- the end of a run that does not get better


def test_the_best_model_can_be_that_of_the_highest_accuracy_on_benchmarks(tmp_path):
    accuracies, validate = iter((0.7, 0.9, 0.9, 0.8)), Validator(0.1, 0.4, 0.2, 0.3)
    config = changed(epochs=4, steps_per_epoch=1, best_by="benchmarks", patience=2)
    judged = lambda model: validate(model) | {"benchmarks": next(accuracies)}  # noqa: E731
    run, progress = run_training(tmp_path / "run", config, validate=judged)
    assert (progress.best_eer, progress.best_error, progress.stale) == (0.4, pytest.approx(0.1), 2)
    assert_same(weights(run, "best"), weights(run, "epoch_2"))


def test_training_ends_after_so_many_validations_without_a_better_eer(tmp_path, capsys):
    config = changed(epochs=9, steps_per_epoch=1, patience=2)
    errors = (0.4, 0.5, 0.3, 0.3, 0.35, 0.1)  # an equal one is not better
    validate = Validator(*errors)
    run, progress = run_training(tmp_path / "run", config, validate=validate)
    assert progress.finished and (progress.batch, progress.best_eer, progress.stale) == (5, 0.3, 2)
    assert validate.calls == 5
    assert re.search(r"No better model in 2 validations \(patience\): .* 5\b", capsys.readouterr().out)
    assert json.loads((run.folder.checkpoints / "best" / "facts.json").read_text())["epoch"] == 3
    assert_same(weights(run, "best"), weights(run, "epoch_3"))
    before = {file: file.read_bytes() for file in run.folder.path.rglob("*") if file.is_file()}
    _, progress = run_training(tmp_path / "run", config, validate=Validator(0.0))
    assert progress.finished and progress.batch == 5
    assert "nothing is left to train" in capsys.readouterr().out
    assert before == {file: file.read_bytes() for file in run.folder.path.rglob("*") if file.is_file()}


def test_validations_without_a_better_eer_are_counted_over_sessions(tmp_path):
    config = changed(epochs=9, steps_per_epoch=1, patience=3)
    _, progress = run_training(tmp_path / "run", config, Budget(3), Validator(0.4, 0.5, 0.5))
    assert not progress.finished and progress.stale == 2
    _, progress = run_training(tmp_path / "run", config, validate=Validator(0.5, 0.1))
    assert progress.finished and progress.batch == 4


def test_only_validations_count_towards_patience(tmp_path):
    config = changed(epochs=9, steps_per_epoch=1, patience=1, validate_every=3)
    assert run_training(tmp_path / "run", config, validate=Validator(0.4, 0.5, 0.1))[1].batch == 6


# ---- speed


def test_compiling_is_of_the_whole_model_and_changes_nothing_else(uninterrupted, tmp_path, monkeypatch):
    compile, compiled = nn.Module.compile, []

    def compile_eagerly(module):
        compiled.append(module)
        compile(module, backend="eager")  # dynamo reads the code; the default backend would take minutes

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    config = changed(compile=True, epochs=1, steps_per_epoch=1, dropout=0.0, drop_path=0.0, pwca_prob=1.0)
    run, progress = run_training(tmp_path / "run", config)
    assert progress.finished and len(compiled) == 1 and set(weights(run)) == set(weights(uninterrupted[0]))
    plain, _ = run_training(tmp_path / "plain", config.replace(compile=False))
    assert len(compiled) == 1
    assert_close(weights(plain), weights(run), rtol=1e-3, atol=1e-5)


def test_channels_last_reaches_the_model_and_changes_no_result(tmp_path):
    layouts, runs = [], []

    class Looking(Recording):
        def forward(self, model, batch):
            stem = [p for p in model.vit.patch_embed.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
            layouts.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in stem) and len(stem) > 0)
            return super().forward(model, batch)

    for channels_last in (True, False):
        config = changed(channels_last=channels_last, epochs=1)
        run_training(tmp_path / str(channels_last), config, Budget(1), wrap=Looking)
        runs.append(run_training(tmp_path / str(channels_last), config, wrap=Looking)[0])
    assert layouts == [True] * 3 + [False] * 3
    losses = [[line["loss"] for line in run.history() if "loss" in line] for run in runs]
    assert len(losses[0]) == 1 and losses[0] == pytest.approx(losses[1], rel=1e-3)


class Prepared(Exception):
    """Raised where training would be distributed, with what would be."""


def test_on_several_gpus_batch_norms_of_pixels_are_synchronised(tmp_path, monkeypatch):
    def prepare(task, optimizer):
        raise Prepared(task)

    monkeypatch.setattr(loop, "world_size", lambda: 2)
    accelerator = SimpleNamespace(device=torch.device("cuda"), prepare=prepare)
    model, objective = parts_of(CONFIG, people=2 * FAMILIES)
    images, names = torch.rand(2, 3, SIZE, SIZE), list(model.state_dict())
    expected = model.eval().encode(images).parts
    run = open_run(RunFolder(tmp_path / "run"), CONFIG, "the people and images", [], {})
    with pytest.raises(Prepared) as prepared:
        Trainer(
            DCALRecipe(CONFIG),
            accelerator,
            model,
            objective,
            batches_of(CONFIG),
            Validator(),
            run,
            TimeBudget(1000.0),
        )
    model = prepared.value.args[0].model.eval()
    assert list(model.state_dict()) == names  # in this order, by which the moving average goes
    for name, part in model.encode(images).parts.items():
        torch.testing.assert_close(part, expected[name])
    synchronised = {name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    # The necks are given the rows of all processes anyway, and this kind waits for the device.
    assert synchronised and all(name.startswith("vit.patch_embed.") for name in synchronised)
    assert not [m for m in model.vit.patch_embed.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "changes",
    [
        {"twin_loss": "supcon", "ema_decay": 0.9, "accumulation": 2},
        {"twin_loss": "triplet", "soft_negative_ratio": 0.1, "hard_negative_ratio": 0.4, "similarity": "learned"},
        {"twin_weight": 0.0, "pwca_prob": 0.0, "mixup_alpha": 1.0, "cutmix_alpha": 1.0},
        {"backbone": "test_vit", "gradient_checkpointing": True, "readout": "tokens", "margin_softmax": "arcface"},
    ],
)
def test_no_step_waits_for_the_device(tmp_path, monkeypatch, changes):
    waits = Waits()

    def watched(method):
        def run(*arguments):
            with waits:
                return method(*arguments)

        return run

    for name in ("find_gradients", "step"):
        monkeypatch.setattr(loop.Trainer, name, watched(getattr(loop.Trainer, name)))
    run, _ = run_training(tmp_path / "run", changed(**{"pwca_prob": 1.0, "flip_prob": 0.5, "epochs": 1} | changes))
    assert waits.seen == [] and steps_in(run) == 3
    with waits:
        torch.ones(1).item()
    assert waits.seen == ["_local_scalar_dense"]  # so what waits is seen


# ---- what is done to the images


@pytest.mark.parametrize("mixing", ["mixup_alpha", "cutmix_alpha"])
def test_people_are_blended_after_their_images_are_augmented(tmp_path, mixing):
    config = changed(**{mixing: 1.0}, twin_weight=0.0, pwca_prob=0.0, epochs=1, families_per_batch=4, accumulation=2)
    kept = []
    run_training(tmp_path / "run", config, wrap=lambda o: kept.append(Recording(o)) or kept[0])
    given = batches_of(config)
    for (batch, number), seen in zip(product(range(3), range(2)), kept[0].seen, strict=True):
        part = given[batch][number]
        images = augmentation_of(config)(part["images"].float() / 255, seed=seed_of(config, batch, number))
        expected = (1 - part["blend"]) * images + part["blend"] * images[part["donor"]]
        torch.testing.assert_close(seen["images"], expected)
        assert not torch.allclose(seen["images"], images)
        assert torch.equal(seen["other"], part["other"]) and torch.equal(seen["share"], part["share"])


def test_what_is_random_differs_by_batch_part_and_process(tmp_path, monkeypatch):
    config, augmented, drawn = changed(families_per_batch=4, accumulation=2, epochs=1), [], []
    draw = Augmentation.draw
    monkeypatch.setattr(Augmentation, "draw", lambda self, n, seed: augmented.append(seed) or draw(self, n, seed))
    for folder, rank in (("a", 0), ("b", 1), ("c", 0)):
        monkeypatch.setattr(loop, "rank", lambda rank=rank: rank)
        kept = []
        run_training(tmp_path / folder, config, wrap=lambda o, kept=kept: kept.append(Recording(o)) or kept[0])
        drawn += kept[0].seeds
    assert augmented == drawn  # one seed for the augmentation and for dropout
    assert drawn[:6] == drawn[12:] == [seed_of(config, batch, part) for batch, part in product(range(3), range(2))]
    assert len(set(drawn)) == 12


# ---- interruptions


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_an_interrupted_run_ends_as_the_uninterrupted_one_bit_for_bit(uninterrupted, tmp_path, stop):
    whole, expected = uninterrupted
    run, progress = run_training(tmp_path / "run", budget=Budget(stop))
    assert progress.batch == stop and not progress.finished
    run, progress = run_training(tmp_path / "run")
    assert progress.batch == 6 and progress.finished and progress.best_eer == expected.best_eer
    assert_same(state(whole), state(run))
    for name in ("best", "epoch_1", "epoch_2"):
        assert_same(weights(whole, name), weights(run, name))
    assert whole.folder.metrics.read_bytes() == run.folder.metrics.read_bytes()


def test_a_run_interrupted_at_every_batch_ends_the_same(uninterrupted, tmp_path):
    for batch in range(1, 7):
        run, progress = run_training(tmp_path / "run", budget=Budget(1))
        assert progress.batch == batch and progress.finished == (batch == 6)
    assert_same(state(uninterrupted[0]), state(run))
    assert uninterrupted[0].folder.metrics.read_bytes() == run.folder.metrics.read_bytes()


def test_checkpoints_within_an_epoch_come_by_time_and_leave_no_trace(uninterrupted, tmp_path, monkeypatch):
    saved = []
    save_last = Run.save_last
    monkeypatch.setattr(Run, "save_last", lambda run, *rest: (saved.append(rest[3].batch), save_last(run, *rest)))
    run, _ = run_training(tmp_path / "run", changed(save_minutes=0.0))
    assert saved == [1, 2, 3, 4, 5, 6] and [path.name for path in run.folder.saved] == ["00000006", "00000005"]
    assert uninterrupted[0].folder.metrics.read_bytes() == run.folder.metrics.read_bytes()


@pytest.fixture
def interruptible():
    """Interrupts as in the foreground of a shell; tests that run in its background inherit that they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGTERM, "The system has asked this process to end"), (signal.SIGINT, "Interrupted")],
)
def test_a_process_that_is_asked_to_end_saves_first(uninterrupted, tmp_path, capsys, number, why):
    class Asking(Validator):
        def __call__(self, model):
            if self.calls == 0:
                os.kill(os.getpid(), number)
            return super().__call__(model)

    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    run, progress = run_training(tmp_path / "run", validate=Asking())
    assert (progress.batch, progress.finished) == (4, False)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    assert f"{why}: saved after 4 batches" in capsys.readouterr().out
    run, progress = run_training(tmp_path / "run")
    assert progress.finished and uninterrupted[0].folder.metrics.read_bytes() == run.folder.metrics.read_bytes()


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_ends_at_once_and_what_was_saved_goes_on(uninterrupted, tmp_path, capsys):
    class Impatient(Validator):
        def __call__(self, model):
            if self.calls == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(model)

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "run", validate=Impatient())
    assert "interrupt again to end at once" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run, progress = run_training(tmp_path / "run")
    assert progress.finished and uninterrupted[0].folder.metrics.read_bytes() == run.folder.metrics.read_bytes()


def test_in_the_background_of_a_shell_an_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_end_request(lambda why: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(uninterrupted, tmp_path):
    class Killed(Validator):
        def __call__(self, model):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(model)

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "run", validate=Killed())
    run, progress = run_training(tmp_path / "run")
    assert progress.finished
    assert_same(state(uninterrupted[0]), state(run))
    assert validations(uninterrupted[0]) == validations(run)


def test_a_budget_of_nothing_still_makes_one_batch_and_saves_it(tmp_path):
    run, progress = run_training(tmp_path / "run", budget=TimeBudget(0.0))
    assert (progress.batch, progress.finished) == (1, False)
    assert json.loads((run.folder.saved[0] / "progress.json").read_text())["batch"] == 1
    _, progress = run_training(tmp_path / "run")
    assert (progress.batch, progress.finished) == (6, True)


def test_a_budget_that_ends_with_the_last_batch_ends_a_finished_run(tmp_path):
    assert run_training(tmp_path / "run", budget=Budget(6))[1].finished


def test_validating_and_saving_are_kept_in_reserve(tmp_path):
    needed = []
    budget = Budget(100)
    budget.need = needed.append
    run_training(tmp_path / "run", budget=budget)
    assert len(needed) == 2 and all(seconds > 0 for seconds in needed)


def test_seconds_of_all_sessions_add_up(tmp_path):
    _, first = run_training(tmp_path / "run", budget=Budget(3))
    _, second = run_training(tmp_path / "run")
    assert second.seconds > first.seconds > 0


def test_a_finished_run_trains_no_more(tmp_path, monkeypatch):
    run, _ = run_training(tmp_path / "run")
    before = {file: file.read_bytes() for file in run.folder.path.rglob("*") if file.is_file()}
    monkeypatch.setattr(loop.Trainer, "step", lambda *_: pytest.fail("a batch was trained"))
    validate = Validator()
    run, progress = run_training(tmp_path / "run", validate=validate)
    assert progress.finished and progress.batch == 6 and validate.calls == 0
    assert before == {file: file.read_bytes() for file in run.folder.path.rglob("*") if file.is_file()}


def test_resume_false_starts_again_from_the_first_batch(uninterrupted, tmp_path, capsys):
    run_training(tmp_path / "run", budget=Budget(2))
    run, progress = run_training(tmp_path / "run", changed(resume=False))
    assert progress.finished and [line["epoch"] for line in validations(run)] == [1, 2]
    assert_same(state(uninterrupted[0]), state(run))
    assert (tmp_path / "run.old1" / "checkpoints" / "last").is_dir()
    assert "run.old1" in capsys.readouterr().out


def test_other_parameters_do_not_go_on(tmp_path):
    run_training(tmp_path / "run", budget=Budget(1))
    with pytest.raises(ConfigError, match=r"lr: 0\.001 then, 0\.002 now"):
        run_training(tmp_path / "run", changed(lr=2e-3))


# ---- a loss that is no number


class Poisoned(nn.Module):
    """An objective whose loss, or what its gradient is made of, is no number in some batches."""

    def __init__(self, inner: nn.Module, batches, gradient_only: bool = False):
        super().__init__()
        self.inner, self.poisoned, self.gradient_only, self.calls = inner, batches, gradient_only, 0

    def forward(self, model, batch):
        self.calls += 1
        if self.calls - 1 in self.poisoned and not self.gradient_only:
            batch = batch | {"images": batch["images"] * math.nan}  # so that the batch norms see it too
        loss, logs = self.inner(model, batch)
        if self.calls - 1 in self.poisoned and self.gradient_only:
            loss = loss + (0 * next(model.parameters()).sum()).sqrt()  # its value is 0, its gradient is not finite
        return loss, logs


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_step_without_finite_loss_or_gradient_is_skipped_counted_and_shown(tmp_path, capsys, gradient_only):
    config = changed(steps_per_epoch=12, epochs=1, ema_decay=0.5)
    skipped = {0, 1, 10}
    run, progress = run_training(tmp_path / "run", config, wrap=lambda inner: Poisoned(inner, skipped, gradient_only))
    assert progress.finished and progress.skipped == 3 and progress.skipped_in_row == 0
    first, second, *_ = run.history()
    assert (first["skipped"], second["skipped"]) == (2, 1) and all(map(math.isfinite, (first["loss"], second["loss"])))
    printed = capsys.readouterr().out
    assert "Batch 10: 2 of the last 10 steps" in printed and "Batch 12: 1 of the last 2 steps" in printed
    kept = state(run)
    assert all(tensor.isfinite().all() for tensor in kept.values())
    steps = [kept[name].item() for name in kept if name.endswith(".step")]
    assert max(steps) == 9 and min(steps) > 0  # PWCA has run in some


def test_a_skipped_step_changes_neither_weights_nor_statistics_nor_moments(tmp_path):
    config = changed(steps_per_epoch=6, epochs=1)
    run, _ = run_training(tmp_path / "a", config, budget=Budget(2))
    run_training(tmp_path / "b", config, budget=Budget(2), wrap=lambda inner: Poisoned(inner, ()))
    skipping, _ = run_training(tmp_path / "b", config, budget=Budget(2), wrap=lambda inner: Poisoned(inner, range(2)))
    assert [path.name for path in skipping.folder.saved] == ["00000004", "00000002"]
    before, after = state(run), state(skipping)
    assert_same(before, {name: after[name] for name in before})
    assert all(after[name].eq(0).all() for name in after.keys() - before.keys())  # moments of PWCA, which had not run


def test_skipped_steps_are_counted_over_sessions(tmp_path):
    config = changed(steps_per_epoch=12, epochs=1, max_skipped=3)
    for batches in (2, 1):
        run, progress = run_training(
            tmp_path / "run", config, budget=Budget(batches), wrap=lambda inner: Poisoned(inner, range(9))
        )
    assert progress.skipped == 0 and [row["skipped"] for row in progress.recent] == [1.0, 1.0, 1.0]
    with pytest.raises(Diverged, match="more than max_skipped=3 steps"):
        run_training(tmp_path / "run", config, wrap=lambda inner: Poisoned(inner, range(1)))


def test_too_many_skipped_in_a_row_end_the_run_at_its_last_good_checkpoint(tmp_path):
    config = changed(steps_per_epoch=3, epochs=4, max_skipped=4)
    with pytest.raises(Diverged) as end:
        run_training(tmp_path / "run", config, wrap=lambda inner: Poisoned(inner, range(4, 99)))
    sentence = str(end.value)
    assert "max_skipped=4" in sentence and "up to batch 9" in sentence and "lr (now 0.001)" in sentence
    assert "its checkpoint of batch 6" in sentence and str(tmp_path / "run") in sentence
    for file in (tmp_path / "run").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file
