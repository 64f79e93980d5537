"""The training loop on a tiny model: what a step does, what is left on disk, and that interruptions leave no trace."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dcal_core.config import Config, ConfigError
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.images import Augmentation, ImageStore
from dcal_core.data.twins import TwinIndex
from dcal_core.environment import TimeBudget
from dcal_core.models.build import load_model, new_model
from dcal_core.training import loop
from dcal_core.training.checkpoints import open_run
from dcal_core.training.loop import LOG_EVERY, Task, lr_at, parameter_groups, train
from dcal_core.training.objectives import DCALObjective

FAMILIES, IMAGES, SIZE = 6, 3, 32
CONFIG = Config(
    backbone="hybrid_tiny",
    allow_random_init=True,
    image_size=SIZE,
    families_per_batch=2,
    images_per_person=2,
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
    precision="fp32",
    loader_workers=0,
    checkpoint_every=1,
)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(loop, "gpu_verdict", lambda: (False, "no GPU"))


def changed(**values) -> Config:
    return dataclasses.replace(CONFIG, **values)


def batches_of(config: Config) -> FamilyBatches:
    """Batches of random images of twins without names."""
    people = tuple(f"{number:02d}" for number in range(2 * FAMILIES))
    index = TwinIndex(
        name="train",
        people=people,
        families=tuple(zip(people[::2], people[1::2], strict=True)),
        paths=tuple(f"{person}/{n}.png" for person in people for n in range(IMAGES)),
        person_of=np.repeat(np.arange(len(people)), IMAGES),
        family_of=np.repeat(np.arange(FAMILIES), 2),
    )
    shape = (len(index.paths), 3, SIZE, SIZE)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return FamilyBatches(
        index,
        ImageStore(images, np.arange(len(images)), []),
        families_per_batch=config.families_per_batch,
        images_per_person=config.images_per_person,
        steps_per_epoch=config.steps_per_epoch,
        seed=config.seed,
        pwca_prob=config.pwca_prob,
    )


def parts_of(config: Config) -> tuple[nn.Module, nn.Module]:
    """A new model and its objective, the same ones for the same seed."""
    torch.manual_seed(config.seed)
    model = new_model(config, [])
    objective = DCALObjective(
        widths=model.widths,
        people=2 * FAMILIES,
        margin_softmax="cosface",
        softmax_margin=0.2,
        softmax_scale=16.0,
        softmax_weight=0.5,
        label_smoothing=0.0,
        twin_loss="softmax",
        twin_margin=0.5,
        twin_temperature=0.1,
        twin_weight=1.0,
        loss_weighting="uncertainty",
    )
    return model, objective


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


def run_training(folder, config=CONFIG, budget=None, validate=None, wrap=lambda objective: objective):
    """Train in a folder and return its run and the progress."""
    model, objective = parts_of(config)
    run = open_run(folder, config, "the people and images", [])
    validate, budget = validate or Validator(), budget or TimeBudget(1000.0)
    return run, train(config, model, wrap(objective), batches_of(config), validate, run, budget)


def weights(run, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / name / "model.safetensors")


def state(run) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint as one flat dictionary."""
    last = run.checkpoints / "last"
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["optimizer"]["state"]
    moments = {f"optimizer.{i}.{key}": value for i, held in optimizer.items() for key, value in held.items()}
    return weights(run) | load_file(last / "objective.safetensors") | moments


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def validations(run) -> list[dict]:
    return [line for line in run.history() if "validation/eer" in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run from the first batch to the last, and its progress."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "gpu_verdict", lambda: (False, "no GPU"))
        return run_training(tmp_path_factory.mktemp("runs") / "whole")


# ---- learning rate


def test_the_learning_rate_warms_up_peaks_and_falls_to_its_end():
    config = changed(lr=1e-3, min_lr=1e-5, warmup_share=0.1)
    rates = [lr_at(step, 1000, config) for step in range(1000)]
    assert 0 < rates[0] < 2e-5
    assert np.allclose(np.diff(rates[:100]), rates[0])  # a straight line
    assert rates[100] == max(rates) == 1e-3
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))
    assert rates[550] == pytest.approx((1e-3 + 1e-5) / 2)  # half way down the cosine
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2) and lr_at(1000, 1000, config) == pytest.approx(1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_the_learning_rate_of_the_shortest_runs_is_in_its_range(steps, share):
    rates = [lr_at(step, steps, changed(warmup_share=share)) for step in range(steps)]
    assert all(0 < rate <= CONFIG.lr for rate in rates)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert lr_at(0, 10, changed(warmup_share=0.0)) == CONFIG.lr


# ---- parameter groups


def test_every_trainable_parameter_is_in_one_group():
    model, objective = parts_of(CONFIG)
    model.vit.norm.weight.requires_grad_(False)
    task = Task(model, objective)
    grouped = [id(p) for group in parameter_groups(task, model.vit, CONFIG) for p in group["params"]]
    trainable = [id(p) for p in task.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trainable)
    assert len(trainable) < len(list(task.parameters()))


def test_what_decays_and_what_learns_faster():
    model, objective = parts_of(changed(weight_decay=0.25))
    task = Task(model, objective)
    names = {id(p): name for name, p in task.named_parameters()}
    groups = parameter_groups(task, model.vit, changed(weight_decay=0.25))
    assert len(groups) == 4 and {(g["factor"], g["weight_decay"]) for g in groups} == {
        (factor, decay) for factor in (1.0, 3.0) for decay in (0.0, 0.25)
    }
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            assert group["factor"] == (1.0 if name.startswith("model.vit.") else 3.0), name
            plain = p.ndim < 2 or any(part in name for part in ("pos_embed", "cls_token", "centres"))
            assert group["weight_decay"] == (0.0 if plain else 0.25), name
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert {"model.vit.blocks.0.attn.qkv.weight", "model.glca.0.mlp.fc1.weight"} <= decayed
    whole = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {"model.vit.pos_embed", "model.vit.cls_token", "objective.weighting.w.sa"} <= whole
    assert {"objective.identity.sa.centres", "model.vit.blocks.0.norm1.weight", "model.necks.sa.weight"} <= whole


# ---- a run from end to end


def test_a_run_finishes_with_all_checkpoints(uninterrupted):
    run, progress = uninterrupted
    assert progress.finished and progress.batch == 6 and progress.seconds > 0
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best", "epoch_1", "epoch_2", "last"]
    assert_same(weights(run, "last"), weights(run, "epoch_2"))
    saved = json.loads((run.checkpoints / "last" / "progress.json").read_text())
    assert saved["batch"] == 6 and saved["finished"] and saved["fingerprint"] == CONFIG.fingerprint()


def test_training_moves_every_weight(uninterrupted):
    model, objective = parts_of(CONFIG)
    trained = state(uninterrupted[0])
    start = dict(model.named_parameters()) | dict(objective.named_parameters())
    still = {name for name, p in start.items() if p.requires_grad and torch.equal(p, trained[name])}
    assert still == set()


def test_the_best_model_can_be_loaded_and_encodes(uninterrupted):
    model = load_model(uninterrupted[0].checkpoints / "best")
    features = model.encode(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8))
    assert model.compare(features, features).shape == (2, 2)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(uninterrupted, tmp_path):
    assert_same(state(uninterrupted[0]), state(run_training(tmp_path / "again")[0]))
    other = run_training(tmp_path / "other", changed(seed=1))[0]
    assert not torch.equal(weights(other)["vit.cls_token"], weights(uninterrupted[0])["vit.cls_token"])


def test_checkpoints_are_kept_every_few_epochs_and_validation_runs_every_few_and_at_the_end(tmp_path):
    validate = Validator()
    config = changed(epochs=5, steps_per_epoch=1, checkpoint_every=2, validate_every=3)
    run, progress = run_training(tmp_path / "run", config, validate=validate)
    assert progress.finished and validate.calls == 2
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best", "epoch_2", "epoch_4", "last"]
    assert [line["epoch"] for line in validations(run)] == [3, 5]


def test_the_best_checkpoint_has_the_lowest_eer_and_the_first_of_equals(tmp_path):
    config = changed(epochs=4, steps_per_epoch=1)
    run, progress = run_training(tmp_path / "run", config, validate=Validator(0.4, 0.2, 0.3, 0.2))
    assert progress.best_eer == 0.2
    assert_same(weights(run, "best"), weights(run, "epoch_2"))
    facts = json.loads((run.checkpoints / "best" / "facts.json").read_text())
    assert facts["epoch"] == 2 and facts["eer"] == 0.2


def test_figures_are_logged_with_batch_epoch_and_learning_rate(tmp_path):
    config = changed(epochs=2, steps_per_epoch=LOG_EVERY, pwca_prob=1.0)
    run, _ = run_training(tmp_path / "run", config)
    steps = [line for line in run.history() if "loss" in line]
    assert [line["batch"] for line in steps] == [LOG_EVERY, 2 * LOG_EVERY]
    assert [line["epoch"] for line in steps] == [1.0, 2.0]
    assert [line["lr"] for line in steps] == [lr_at(n * LOG_EVERY - 1, 2 * LOG_EVERY, config) for n in (1, 2)]
    for branch in ("sa", "glca", "pwca"):
        assert all(math.isfinite(line[f"{branch}/{kind}"]) for line in steps for kind in ("identity", "twin"))
    assert [(line["batch"], line["epoch"]) for line in validations(run)] == [(LOG_EVERY, 1), (2 * LOG_EVERY, 2)]


def test_a_logged_loss_is_the_mean_since_the_last_one(tmp_path):
    class Counting(nn.Module):
        """A loss whose figure counts the batches."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, model, batch):
            loss, _ = self.inner(model, batch)
            self.calls += 1
            return loss, {"loss": torch.tensor(float(self.calls))}

    run, _ = run_training(tmp_path / "run", changed(epochs=1, steps_per_epoch=2 * LOG_EVERY), wrap=Counting)
    first, second = (np.arange(1, LOG_EVERY + 1).mean() + n * LOG_EVERY for n in (0, 1))
    assert [line["loss"] for line in run.history() if "loss" in line] == [first, second]


def test_the_tracker_gets_what_is_logged_and_is_closed(tmp_path, monkeypatch):
    logged, finished = [], []
    stub = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: finished.append(1))
    monkeypatch.setattr(loop, "open_tracker", lambda *_: stub)
    run, _ = run_training(tmp_path / "run", changed(epochs=1, steps_per_epoch=LOG_EVERY))
    assert [step for step, _ in logged] == [LOG_EVERY, LOG_EVERY] and finished == [1]
    assert "loss" in logged[0][1] and logged[1][1].keys() == {"validation/eer", "validation/auc"}


# ---- one step, and several batches to one


def by_hand(config: Config, batches: int) -> dict[str, torch.Tensor]:
    """The weights after one optimiser step on the mean gradient of the first batches, in plain PyTorch."""
    model, objective = parts_of(config)
    model.train()
    data, everything = batches_of(config), [*model.parameters(), *objective.parameters()]
    augmentation = Augmentation(
        rotation_deg=config.rotation_deg,
        shift=config.shift,
        scale=config.scale,
        brightness=config.brightness,
        contrast=config.contrast,
        flip_prob=config.flip_prob,
        erase_prob=config.erase_prob,
    )
    for position in range(batches):
        key = config.seed * 1_000_003 + position
        torch.manual_seed(key)
        batch = data[position]
        batch["images"] = augmentation(batch["images"].float() / 255, seed=key)
        (objective(model, batch)[0] / batches).backward()
    norm = nn.utils.clip_grad_norm_(everything, config.grad_clip)
    assert norm > config.grad_clip  # else the clipping is not tried
    groups = parameter_groups(Task(model, objective), model.vit, config)
    for group in groups:
        group["lr"] = group["factor"] * lr_at(batches - 1, config.epochs * config.steps_per_epoch, config)
    torch.optim.AdamW(groups).step()
    return model.state_dict()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_accumulated_batches_make_one_step_on_their_mean_gradient(tmp_path, accumulation):
    config = changed(epochs=1, steps_per_epoch=accumulation, accumulation=accumulation, grad_clip=0.01, pwca_prob=1.0)
    trained = weights(run_training(tmp_path / "run", config)[0])
    expected = by_hand(config, accumulation)
    assert trained.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(trained[name], value, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_the_optimiser_steps_once_per_accumulation(tmp_path, accumulation, steps):
    run, _ = run_training(tmp_path / "run", changed(accumulation=accumulation, epochs=1, steps_per_epoch=6))
    counted = {value.item() for name, value in state(run).items() if name.endswith(".step")}
    assert max(counted) == steps


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
    assert validations(whole) == validations(run)


def test_a_run_interrupted_at_every_batch_ends_the_same(uninterrupted, tmp_path):
    for batch in range(1, 7):
        run, progress = run_training(tmp_path / "run", budget=Budget(1))
        assert progress.batch == batch and progress.finished == (batch == 6)
    assert_same(state(uninterrupted[0]), state(run))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interruption_between_accumulated_batches_leaves_no_trace_either(tmp_path, stop):
    config = changed(accumulation=2, steps_per_epoch=2)
    whole, _ = run_training(tmp_path / "whole", config)
    run_training(tmp_path / "run", config, budget=Budget(stop))
    run, progress = run_training(tmp_path / "run", config)
    assert progress.finished
    assert_same(state(whole), state(run))


def test_an_epoch_that_ends_between_accumulated_batches_leaves_no_trace_either(tmp_path):
    config = changed(accumulation=2, steps_per_epoch=3)
    whole, _ = run_training(tmp_path / "whole", config)
    run_training(tmp_path / "run", config, budget=Budget(3))
    run, progress = run_training(tmp_path / "run", config)
    assert progress.finished
    assert_same(state(whole), state(run))


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
    assert json.loads((run.checkpoints / "last" / "progress.json").read_text())["batch"] == 1
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
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    monkeypatch.setattr(loop.Trainer, "step", lambda *_: pytest.fail("a batch was trained"))
    validate = Validator()
    run, progress = run_training(tmp_path / "run", validate=validate)
    assert progress.finished and progress.batch == 6 and validate.calls == 0
    assert before == {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}


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
    """An objective whose loss, from one batch on, is no number."""

    def __init__(self, inner: nn.Module, first: int):
        super().__init__()
        self.inner, self.first, self.calls = inner, first, 0

    def forward(self, model, batch):
        loss, logs = self.inner(model, batch)
        self.calls += 1
        if self.calls >= self.first:
            loss = loss * math.nan
        return loss, logs | {"loss": loss.detach()}


@pytest.mark.parametrize("first", [1, 5, LOG_EVERY, LOG_EVERY + 1])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path, first):
    config = changed(epochs=4, steps_per_epoch=3)  # 12 batches, no multiple of what is logged at once
    with pytest.raises(FloatingPointError, match=r"loss is nan at batch \d+: lower lr \(now 0\.001\)"):
        run_training(tmp_path / "run", config, wrap=lambda objective: Poisoned(objective, first))
    for file in (tmp_path / "run").rglob("model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file.parent.name


def test_a_time_budget_saves_no_model_that_is_no_number(tmp_path):
    with pytest.raises(FloatingPointError):
        run_training(tmp_path / "run", budget=Budget(2), wrap=lambda objective: Poisoned(objective, 1))
    assert list((tmp_path / "run").rglob("model.safetensors")) == []
