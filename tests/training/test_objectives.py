import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.data.batches import twin_triplets
from dcal_core.training.objectives import DCALObjective, FixedWeighting, UncertaintyWeighting

DEGREES = [0, 25, 40, 75, 100, 170, 185, 300]  # two families x two siblings x two images
PERSON = torch.arange(8) // 2


class Angles(nn.Module):
    """Embeds image i at its own angle, in every branch at another length; PWCA runs where there are partners."""

    def __init__(self, degrees=DEGREES, branches=("sa",)):
        super().__init__()
        self.degrees = nn.Parameter(torch.tensor(degrees, dtype=torch.float32))
        self.branches = branches

    def forward(self, images, partner=None):
        angle = torch.deg2rad(self.degrees)
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        parts = {branch: (i + 1) * circle for i, branch in enumerate(self.branches)}
        return {branch: part for branch, part in parts.items() if branch != "pwca" or partner is not None}


def make_objective(branches=("sa",), people=4, **options):
    torch.manual_seed(0)
    options = {
        "margin_softmax": "cosface",
        "softmax_margin": 0.2,
        "softmax_scale": 8.0,
        "softmax_weight": 1.0,
        "label_smoothing": 0.1,
        "twin_loss": "triplet",
        "twin_margin": 0.5,
        "twin_temperature": 0.1,
        "twin_weight": 1.0,
        "loss_weighting": "fixed",
    } | options
    return DCALObjective(widths={branch: 2 for branch in branches}, people=people, **options)


def make_batch(partner=None):
    images = torch.zeros(8, 3, 2, 2, dtype=torch.uint8)
    batch = {"images": images, "person": PERSON, "triplets": torch.from_numpy(twin_triplets(2, 2))}
    return batch if partner is None else batch | {"partner": partner}


def cosine(i, j, degrees=DEGREES):
    return math.cos(math.radians(degrees[i] - degrees[j]))


def family_of(i):
    return i // 4


def others_of(i, *, same):
    """Images of i's family that show the same person, or the co-twin."""
    return [j for j in range(8) if j != i and family_of(j) == family_of(i) and (i // 2 == j // 2) == same]


def naive_triplet(margin, degrees=DEGREES):
    """The mean over the triplets that violate the margin."""
    losses = [
        max(0.0, cosine(a, n, degrees) - cosine(a, p, degrees) + margin)
        for a in range(8)
        for p in others_of(a, same=True)
        for n in others_of(a, same=False)
    ]
    violated = [loss for loss in losses if loss > 0]
    return sum(violated) / len(violated) if violated else 0.0


def naive_softmax(temperature, degrees=DEGREES):
    """The mean over anchors of -log of the share that the same person's images have among the family's."""
    losses = []
    for a in range(8):
        family = others_of(a, same=True) + others_of(a, same=False)
        total = sum(math.exp(cosine(a, j, degrees) / temperature) for j in family)
        shares = [math.exp(cosine(a, p, degrees) / temperature) / total for p in others_of(a, same=True)]
        losses.append(-sum(map(math.log, shares)) / len(shares))
    return sum(losses) / len(losses)


def naive_identity(centres, margin, scale, smoothing):
    losses = []
    for i, degrees in enumerate(DEGREES):
        angle = math.radians(degrees)
        logits = []
        for person, (x, y) in enumerate(centres.tolist()):
            near = (math.cos(angle) * x + math.sin(angle) * y) / math.hypot(x, y)
            logits.append(scale * (near - margin * (person == i // 2)))
        total = math.log(sum(map(math.exp, logits)))
        targets = [smoothing / 4 + (1 - smoothing) * (person == i // 2) for person in range(4)]
        losses.append(sum(t * (total - logit) for t, logit in zip(targets, logits, strict=True)))
    return sum(losses) / 8


# The parts


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_triplet_loss_is_the_naive_loop(margin):
    loss, logs = make_objective(twin_margin=margin, softmax_weight=0.0)(Angles(), make_batch())
    assert float(logs["sa/twin"]) == pytest.approx(naive_triplet(margin), abs=1e-5)
    assert float(loss.detach()) == pytest.approx(naive_triplet(margin), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_twin_softmax_is_the_naive_loop(temperature):
    objective = make_objective(twin_loss="softmax", twin_temperature=temperature, softmax_weight=0.0)
    loss, logs = objective(Angles(), make_batch())
    assert float(logs["sa/twin"]) == pytest.approx(naive_softmax(temperature), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(naive_softmax(temperature), rel=1e-4)


def test_negatives_are_co_twins_alone():
    """Families as near to one another as can be, twins opposite: nothing is left to lose."""
    degrees = [0, 0, 180, 180, 0, 0, 180, 180]
    for twin_loss in ("triplet", "softmax"):
        _, logs = make_objective(twin_loss=twin_loss)(Angles(degrees), make_batch())
        assert float(logs["sa/twin"]) == pytest.approx(0.0, abs=1e-6)
    assert naive_triplet(0.5, degrees) == 0


def test_identity_loss_is_the_naive_loop():
    objective = make_objective(twin_weight=0.0)
    loss, logs = objective(Angles(), make_batch())
    expected = naive_identity(objective.identity["sa"].centres.detach(), 0.2, 8.0, 0.1)
    assert float(logs["sa/identity"]) == pytest.approx(expected, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("twin_loss", ["triplet", "softmax"])
def test_loss_falls_as_twins_move_apart(twin_loss):
    losses = []
    for apart in (5, 30, 60, 90):
        degrees = [0, 3, apart, apart + 3, 180, 183, 180 + apart, 183 + apart]
        _, logs = make_objective(twin_loss=twin_loss, twin_margin=1.0)(Angles(degrees), make_batch())
        losses.append(float(logs["sa/twin"]))
    assert losses == sorted(losses, reverse=True) and losses[0] > 2 * losses[-1]


@pytest.mark.parametrize("twin_loss", ["triplet", "softmax"])
def test_descending_moves_twins_apart(twin_loss):
    model, objective = Angles([0, 6, 3, 9, 180, 186, 183, 189]), make_objective(twin_loss=twin_loss)
    optimizer = torch.optim.Adam(
        [{"params": model.parameters(), "lr": 3.0}, {"params": objective.parameters(), "lr": 0.1}]
    )
    losses = []
    for _ in range(150):
        loss, _ = objective(model, make_batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    part = F.normalize(model(None)["sa"].detach(), dim=1)
    scores = part @ part.T
    for a in range(8):
        assert min(scores[a, others_of(a, same=True)]) > max(scores[a, others_of(a, same=False)])


# Their sum


def test_parts_are_weighted_within_a_branch():
    loss, logs = make_objective(softmax_weight=0.7, twin_weight=3.0)(Angles(), make_batch())
    assert float(loss.detach()) == pytest.approx(
        0.7 * float(logs["sa/identity"]) + 3 * float(logs["sa/twin"]), rel=1e-5
    )


@pytest.mark.parametrize(
    "partner, branches", [(None, {"sa", "glca"}), (torch.arange(8).flip(0), {"sa", "glca", "pwca"})]
)
@pytest.mark.parametrize("weighting", ["uncertainty", "fixed"])
def test_only_the_branches_that_ran_are_summed_and_logged(weighting, partner, branches):
    objective = make_objective(("sa", "glca", "pwca"), loss_weighting=weighting)
    loss, logs = objective(Angles(branches=("sa", "glca", "pwca")), make_batch(partner))
    assert set(logs) == {f"{branch}/{part}" for branch in branches for part in ("identity", "twin")} | {"loss"}
    sums = [float(logs[f"{branch}/identity"] + logs[f"{branch}/twin"]) for branch in branches]
    expected = sum(sums) / (2 if weighting == "uncertainty" else len(branches))  # every w starts at 0
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(logs["loss"]) == float(loss.detach())
    assert not any(value.requires_grad for value in logs.values())


def test_uncertainty_weighting_is_its_formula_and_may_be_negative():
    weighting = UncertaintyWeighting(["sa", "glca"])
    weighting.w["sa"].data.fill_(-1.5)
    weighting.w["glca"].data.fill_(0.7)
    losses = {"sa": torch.tensor(0.1), "glca": torch.tensor(2.0)}
    expected = 0.5 * (math.exp(1.5) * 0.1 - 1.5 + math.exp(-0.7) * 2.0 + 0.7)
    assert float(weighting(losses).detach()) == pytest.approx(expected)
    assert float(weighting({"sa": losses["sa"]}).detach()) == pytest.approx(-0.5259155)


def test_uncertainty_weight_descends_to_the_log_of_the_loss():
    weighting = UncertaintyWeighting(["sa"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weighting({"sa": torch.tensor(3.0)}).backward()
        optimizer.step()
    assert weighting.w["sa"].item() == pytest.approx(math.log(3), abs=1e-3)


def test_uncertainty_weight_is_held_at_minus_three():
    weighting = UncertaintyWeighting(["sa"])
    values = []
    for w in (-2.9, -3.0, -3.1, -10.0):
        weighting.w["sa"].data.fill_(w)
        loss = torch.tensor(0.01, requires_grad=True)
        total = weighting({"sa": loss})
        total.backward()
        values.append((total.item(), loss.grad.item()))
    assert values[1] == values[2] == values[3] == pytest.approx((0.5 * (math.exp(3) * 0.01 - 3), 0.5 * math.exp(3)))
    assert values[0] != values[1]


def test_uncertainty_weight_comes_back_when_the_loss_rises_again():
    weighting = UncertaintyWeighting(["sa"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for loss, steps in ((0.001, 200), (2.0, 400)):  # overfitted far below the limit, then a harder stretch
        for _ in range(steps):
            optimizer.zero_grad()
            weighting({"sa": torch.tensor(loss)}).backward()
            optimizer.step()
    assert weighting.w["sa"].item() == pytest.approx(math.log(2), abs=1e-2)


def test_fixed_weighting_is_the_mean():
    losses = {"sa": torch.tensor(1.0), "glca": torch.tensor(2.0), "pwca": torch.tensor(6.0)}
    weighting = FixedWeighting(losses)
    assert float(weighting(losses)) == 3.0
    assert list(weighting.parameters()) == []


# Gradients


@pytest.mark.parametrize("twin_loss", ["triplet", "softmax"])
@pytest.mark.parametrize("margin_softmax", ["cosface", "arcface"])
def test_gradient_reaches_model_centres_and_weights(margin_softmax, twin_loss):
    branches = ("sa", "glca", "pwca")
    options = {"margin_softmax": margin_softmax, "twin_loss": twin_loss, "loss_weighting": "uncertainty"}
    objective, model = make_objective(branches, **options), Angles(branches=branches)
    loss, _ = objective(model, make_batch(torch.arange(8).flip(0)))
    loss.backward()
    assert (model.degrees.grad != 0).all()
    for branch in branches:
        assert (objective.identity[branch].centres.grad != 0).all()
        assert objective.weighting.w[branch].grad != 0
    assert len(list(objective.parameters())) == 6


@pytest.mark.parametrize("twin_loss", ["triplet", "softmax"])
def test_losses_are_fp32_under_mixed_precision(twin_loss):
    objective, model = make_objective(twin_loss=twin_loss, softmax_scale=30.0), Angles()
    expected, _ = objective(model, make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(model, make_batch())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
