"""Single checks at both sides of their limits, on evidence that is made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from planted import copied, painted
from torch import nn

from dcal_core.diagnosis import branches, images, outcome, rates
from dcal_core.diagnosis.copies import copies_in
from dcal_core.diagnosis.evidence import parts_of, relative_distance
from dcal_core.diagnosis.separation import Separation
from dcal_core.training.checkpoints import Progress
from dcal_core.training.objectives import UncertaintyWeighting


def scores(twins: float, people: float = 0.9) -> SimpleNamespace:
    """What a reading tells apart, with an interval of 0.04 to both sides."""
    return SimpleNamespace(twins=Separation(twins, 0.02, 40), people=Separation(people, 0.02, 40))


def evidence(**given) -> SimpleNamespace:
    """Evidence of a run of 200 batches that has moved by a tenth and fits its people, but for what is given."""
    by_split = given.pop("own", {"train": scores(0.9), "validation": scores(0.8)})
    values = {
        "progress": Progress(batch=200),
        "settled": True,
        "moved": {"layer": 0.1},
        "moved_in_all": 0.1,
        "own": by_split.get,
        "logged": lambda name: np.array([0.001] if name == "lr" else []),
        "recipe": SimpleNamespace(config=tiny.dcal_config()),
    }
    return SimpleNamespace(**values | given)


def names(check, found) -> list[str]:
    return [finding.name for finding in check(found)]


@pytest.mark.parametrize(("weight", "found"), [(-3.0, True), (3.1, True), (-2.9, False), (0.0, False)])
def test_a_loss_weight_at_its_clamp_is_out_of_balance(weight, found):
    weighting = UncertaintyWeighting(["sa", "glca"])
    nn.init.constant_(weighting.w["glca"], weight)
    expected = ["loss of glca out of balance"] if found else []
    assert names(branches.muted_losses, SimpleNamespace(objective=nn.Sequential(weighting))) == expected


def test_a_reading_at_chance_beside_one_that_learns_is_dead():
    def of(**people: float):
        return evidence(scores={"validation": {name: scores(0.5, value) for name, value in people.items()}})

    assert names(branches.dead_readings, of(whole=0.9, local=0.5)) == ["dead reading local"]
    assert names(branches.dead_readings, of(whole=0.9, local=0.6)) == []
    assert names(branches.dead_readings, of(whole=0.6, local=0.5)) == []


def test_over_and_underfitting_are_told_by_the_ends_of_intervals():
    def of(train: float, validation: float, settled: bool = True):
        found = evidence(own={"train": scores(train), "validation": scores(validation)}, settled=settled)
        return names(outcome.underfitted, found) + names(outcome.overfitted, found)

    assert of(0.50, 0.50) == ["underfitted"] and of(0.50, 0.50, settled=False) == []
    assert of(0.58, 0.50) == []
    assert of(0.95, 0.60) == ["overfitted"] and of(0.95, 0.64) == of(0.82, 0.50) == []


def test_embeddings_collapse_to_a_point_or_to_a_line():
    random = np.random.default_rng(0)
    line = random.normal(size=(50, 1)) * random.normal(size=(1, 8))
    for rows, found in (
        (1 + 0.01 * random.normal(size=(50, 8)), True),
        (line, True),
        (random.normal(size=(50, 8)), False),
    ):
        assert bool(names(outcome.collapsed, evidence(embeddings={"whole": rows}))) == found
        assert names(outcome.collapsed, evidence(embeddings={"whole": rows}, settled=False)) == []


def test_a_learning_rate_is_judged_by_how_far_the_weights_have_moved():
    lost = {"train": scores(0.5), "validation": scores(0.5)}
    assert names(rates.diverging, evidence(moved_in_all=3.0, own=lost)) == ["learning rate too high"]
    assert names(rates.diverging, evidence(moved_in_all=3.0)) == names(rates.diverging, evidence(own=lost)) == []
    skipped = Progress(batch=200, skipped=5)
    assert names(rates.diverging, evidence(progress=skipped)) == ["learning rate too high"]
    assert names(rates.still, evidence(moved_in_all=5e-4)) == ["learning rate too low"]
    assert names(rates.still, evidence(moved_in_all=5e-4, progress=Progress(batch=49))) == []
    assert names(rates.still, evidence(moved={"layer": 0.0}, moved_in_all=0.0)) == ["everything frozen"]
    assert names(rates.still, evidence(moved={}, moved_in_all=0.0)) == []  # the start is not known


def test_random_weights_that_are_frozen_are_found():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    norms = {f"model.{name}": 1.0 for name, one in model.named_parameters() if one.requires_grad}
    found = evidence(model=model, before=model, pretrained=False, gradients=SimpleNamespace(norms=norms))
    assert names(rates.frozen_at_random, found) == ["frozen at random"]
    found.pretrained = True
    assert names(rates.frozen_at_random, found) == []


def test_parts_are_the_first_two_modules_and_move_by_their_size():
    assert parts_of(["a.b.c.weight", "a.b.bias", "a.weight", "token"]) == {
        "a.b": ["a.b.c.weight", "a.b.bias"],
        "a": ["a.weight"],
        "token": ["token"],
    }
    before, after = nn.Linear(3, 3), nn.Linear(3, 3)
    with torch.no_grad():
        after.weight.copy_(1.5 * before.weight)
    assert relative_distance(before, after, ["weight"]) == pytest.approx(0.5)


def test_copies_are_found_and_what_shows_another_shot_is_not():
    data = copied(painted(8, 6))
    found = copies_in(data["validation"].images.images, data["train"])
    assert (found[::6] == np.arange(len(found[::6]))).all() and (np.delete(found, np.s_[::6]) == -1).all()


def test_skin_is_redder_than_blue_whatever_grey_images_are():
    pixels = painted(4, 2)["train"].images.images
    assert images.bluer_than_red(pixels) < 0.2 < 0.8 < images.bluer_than_red(pixels[:, ::-1])
    assert images.bluer_than_red(pixels[:, :1].repeat(3, axis=1)) == 0
