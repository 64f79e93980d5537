"""The training loop on triplets: interruptions and smaller parts leave no trace, as with families."""

import pytest
import torch
from test_loop import FAMILIES, PLAIN, Budget, Short, Validator, assert_same, changed, state
from tiny import model_of, twins
from torch import nn

from dcal_core.data.triplets import TripletBatches
from dcal_core.data.twins import DataError
from dcal_core.environment import TimeBudget
from dcal_core.recipes.dcal import DCALRecipe
from dcal_core.runs import RunFolder
from dcal_core.training import task
from dcal_core.training.loop import Trainer
from dcal_core.training.resume import open_run
from dcal_core.training.task import start_accelerator
from dcal_core.training.transfer import shapes_of
from dcal_core.training.triplet_objective import TripletObjective

CONFIG = changed(**PLAIN, pwca_first=0, epochs=2, steps_per_epoch=3)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


class OneBranch(nn.Module):
    """Trains one branch of a model by an objective that knows of one embedding only."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, model, batch):
        return self.inner(lambda images: {"embedding": model(images)["sa"]}, batch)


def run_triplets(folder, softmax_weight, budget=None, parts=1, wrap=lambda objective: objective):
    """Train on triplets in a folder and return its run, the progress and the objective."""
    model = model_of(CONFIG)
    objective = TripletObjective(
        width=model.widths["sa"],
        people=2 * FAMILIES,
        twin_margin=0.5,
        triplet_distance="cosine",
        margin_softmax={"kind": "adaface", "margin": 0.4, "scale": 16.0, "label_smoothing": 0.0},
        softmax_weight=softmax_weight,
    )
    objective = wrap(OneBranch(objective))
    split = twins(FAMILIES)
    options = {"triplets_per_batch": 4, "train_percentage": 50.0, "steps_per_epoch": 3, "seed": 0}
    batches = TripletBatches(split.index, split.images, parts=parts, **options)
    run = open_run(RunFolder(folder), CONFIG, "the people and images", [], shapes_of(model))
    budget = budget or TimeBudget(1000.0)
    recipe = DCALRecipe(CONFIG)
    trainer = Trainer(recipe, start_accelerator(recipe), model, objective, batches, Validator(), run, budget)
    return run, trainer.train(), objective


@pytest.mark.parametrize("softmax_weight", [0.0, 0.5])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, softmax_weight):
    whole, progress, _ = run_triplets(tmp_path / "whole", softmax_weight)
    assert progress.finished and progress.batch == 6
    _, progress, _ = run_triplets(tmp_path / "run", softmax_weight, Budget(2))
    assert progress.batch == 2
    run, progress, objective = run_triplets(tmp_path / "run", softmax_weight)
    assert progress.finished
    assert_same(state(whole), state(run))
    assert whole.history() == run.history()
    if softmax_weight:  # AdaFace's statistics are kept too
        statistics = objective.inner.identity.add_margin
        assert statistics.mean.item() != 20 and statistics.std.item() != 100
        assert torch.equal(state(run)["identity.add_margin.mean"], statistics.mean)


def test_where_memory_runs_out_training_goes_on_in_smaller_parts(tmp_path, capsys):
    run, progress, objective = run_triplets(tmp_path / "run", 0.5, wrap=lambda inner: Short(inner, most=6))
    said = capsys.readouterr().out
    assert said.count("Out of memory") == 1 and "worked through in 2 parts of 2 triplets (accumulation)" in said
    assert progress.finished and progress.parts == 2
    assert [len(part["images"]) for part in objective.seen] == [12] + [6] * 12
    expected, _, _ = run_triplets(tmp_path / "expected", 0.5, parts=2)
    assert_same(state(expected), state(run))


def test_memory_that_does_not_hold_one_triplet_ends_the_run_with_the_cures(tmp_path):
    with pytest.raises(DataError, match=r"^one triplet per process .*\(3 images at once\): lower image_size, or take"):
        run_triplets(tmp_path / "run", 0.0, wrap=lambda inner: Short(inner, most=2))
