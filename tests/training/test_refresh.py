"""Batches that depend on the model: decided before each epoch, saved, and the same after an interruption."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_loop import FAMILIES, Budget, Recording, Short, assert_same, changed, run_training, state
from tiny import parts_of, twins

from dcal_core.data.batches import FamilyBatches
from dcal_core.models.files import load_model
from dcal_core.recipes.dcal import DCALRecipe
from dcal_core.training import task

CONFIG = changed(epochs=3, steps_per_epoch=3)


class RankedBatches(FamilyBatches):
    """Family batches of an epoch in the order of the families' ranks, which the recipe decides."""

    ranks: torch.Tensor | None = None

    def state_dict(self):
        return {} if self.ranks is None else {"ranks": self.ranks}

    def load_state_dict(self, state):
        self.ranks = state["ranks"]

    def drawn_families(self, step):
        order = self.ranks.argsort().roll(-step % self.steps_per_epoch * self.groups_per_batch)
        return [self.families[family] for family in order[: self.groups_per_batch]]


class RankingRecipe(DCALRecipe):
    """Ranks the families by the model's weights as they are then, and by the ranks before."""

    def __init__(self, config):
        super().__init__(config)
        self.refreshed = []

    def batches(self, split):
        batches = super().batches(split)
        batches.__class__ = RankedBatches
        return batches

    def refresh(self, model, batches, epoch):
        self.refreshed.append(epoch)
        seed = int(np.frombuffer(weights_of(model).sum().numpy().tobytes(), np.uint64)[0] % 2**32)
        before = torch.zeros(FAMILIES) if batches.ranks is None else batches.ranks
        batches.ranks = before / 2 + torch.from_numpy(np.random.default_rng(seed).random(FAMILIES)).float()
        return True


def weights_of(model) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


@pytest.fixture
def train(tmp_path):
    """Trains in a folder of that name; returns its run, the progress, the recipe and the people of each batch."""

    def run(name, config=CONFIG, budget=None, wrap=lambda objective: objective):
        recipes = []
        seen = []

        def recorded(objective):
            seen.append(Recording(objective))
            return wrap(seen[0])

        def recipe(config):
            recipes.append(RankingRecipe(config))
            return recipes[0]

        trained, progress = run_training(tmp_path / name, config, budget, wrap=recorded, recipe=recipe)
        people = [part["person"].unique().tolist() for part in seen[0].seen]
        return trained, progress, recipes[0], people

    return run


def ranks(run) -> torch.Tensor:
    return load_file(run.folder.saved[0] / "sampling.safetensors")["ranks"]


def tensors(run) -> dict[str, bytes]:
    """The files of tensors in the newest checkpoint, as they are on the disk."""
    return {file.name: file.read_bytes() for file in run.folder.saved[0].glob("*.safetensors")}


def test_the_recipe_looks_at_the_model_before_each_epoch_and_the_batches_follow_it(train):
    run, progress, recipe, people = train("whole")
    assert progress.finished and recipe.refreshed == [0, 1, 2]
    epochs = [people[start : start + 3] for start in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(person for batch in epoch for person in batch) == list(range(2 * FAMILIES))  # each family once
    assert epochs[0] != epochs[1] != epochs[2]
    last = ranks(run).argsort().tolist()
    assert epochs[2] == [sorted(2 * f + sibling for f in last[n : n + 2] for sibling in (0, 1)) for n in (0, 2, 4)]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 8])  # 3 and 6: at an epoch's end
def test_an_interrupted_run_ends_as_the_undisturbed_one_to_the_byte(train, stop):
    whole, _, _, undisturbed = train("whole")
    first, progress, _, before = train("run", budget=Budget(stop))
    assert progress.batch == stop and ranks(first).shape == (FAMILIES,)
    run, progress, recipe, after = train("run")
    assert progress.finished and recipe.refreshed == list(range(-(-stop // 3), 3))  # no second time within an epoch
    assert before + after == undisturbed
    assert tensors(run) == tensors(whole) and "sampling.safetensors" in tensors(run)
    assert run.folder.metrics.read_bytes() == whole.folder.metrics.read_bytes()


def test_what_was_decided_within_an_epoch_is_taken_from_the_checkpoint(train):
    """Else the comparison would say nothing: in the middle of an epoch the model would decide otherwise."""
    run, _, recipe, _ = train("run", budget=Budget(2))
    at_the_start, _ = parts_of(CONFIG, people=2 * FAMILIES)
    decided = []
    for model in (at_the_start, load_model(run.folder.saved[0])):
        batches = recipe.batches(twins(FAMILIES))
        recipe.refresh(model, batches, 0)
        decided.append(batches.ranks)
    assert torch.equal(decided[0], ranks(run)) and not torch.equal(decided[1], ranks(run))


def test_batches_made_ahead_by_another_process_follow_too(train):
    alone, _, _, _ = train("alone")
    run, progress, _, _ = train("ahead", CONFIG.replace(loader_workers=1))
    assert progress.finished
    assert_same(state(alone), state(run))


@pytest.mark.parametrize("call", [1, 4], ids=["the first batch of all", "the first batch of an epoch"])
def test_where_memory_runs_out_an_epoch_is_not_decided_again(train, call):
    run, progress, recipe, _ = train("run", wrap=lambda objective: Short(objective, calls=(call,)))
    assert progress.finished and progress.parts == 2 and recipe.refreshed == [0, 1, 2]


def test_a_recipe_that_decides_nothing_leaves_no_file(tmp_path):
    run, _ = run_training(tmp_path / "run", budget=Budget(1))
    assert not (run.folder.saved[0] / "sampling.safetensors").exists()
