import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcal_core.training.objectives import DCALObjective, FixedWeighting, UncertaintyWeighting

DEGREES = [0, 25, 40, 75, 100, 170, 185, 300]  # two families x two siblings x two images
PERSON, FAMILY = torch.arange(8) // 2, torch.arange(8) // 4
THREE = ("sa", "glca", "pwca")
TWIN_LOSSES = ["triplet", "supcon", "verification"]


class Angles(nn.Module):
    """Embeds image i at its own angle, in every branch at another length; PWCA runs where there are partners.

    Images are all of this process; the embeddings are those of all processes.
    """

    def __init__(self, degrees=DEGREES, branches=("sa",)):
        super().__init__()
        self.degrees = nn.Parameter(torch.tensor(degrees, dtype=torch.float32))
        self.branches = branches

    def forward(self, images, partner=None):
        angle = torch.deg2rad(self.degrees)
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        parts = {branch: (i + 1) * circle for i, branch in enumerate(self.branches)}
        return {branch: part for branch, part in parts.items() if branch != "pwca" or partner is not None}

    def compare(self, a, b):
        self.compared = set(a.parts), set(b.parts)
        a, b = (F.normalize(sum(features.parts.values()), dim=-1) for features in (a, b))
        return a @ b.T


def make_objective(branches=("sa",), people=4, kind="cosface", scale=8.0, **options):
    torch.manual_seed(0)
    options = {
        "margin_softmax": {"kind": kind, "margin": 0.2, "scale": scale, "label_smoothing": 0.1},
        "softmax_weight": 1.0,
        "twin_loss": "triplet",
        "twin_margin": 0.5,
        "twin_temperature": 0.1,
        "twin_weight": 1.0,
        "positive_ratio": 0.5,
        "hard_negative_ratio": 0.5,
        "soft_negative_ratio": 0.0,
        "loss_weighting": "fixed",
    } | options
    return DCALObjective(widths={branch: 2 for branch in branches}, people=people, **options)


def make_batch(**more):
    return {"images": torch.zeros(8, 3, 2, 2, dtype=torch.uint8), "person": PERSON, "family": FAMILY} | more


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


def naive_supcon(temperature, degrees=DEGREES):
    """The mean over anchors of -log of the share that the same person's images have among the family's."""
    losses = []
    for a in range(8):
        family = others_of(a, same=True) + others_of(a, same=False)
        total = sum(math.exp(cosine(a, j, degrees) / temperature) for j in family)
        shares = [math.exp(cosine(a, p, degrees) / temperature) / total for p in others_of(a, same=True)]
        losses.append(-sum(map(math.log, shares)) / len(shares))
    return sum(losses) / len(losses)


def naive_verification(degrees=DEGREES):
    """The mean over genuine and the mean over co-twin pairs, half each."""
    means = []
    for same, sign in ((True, 1), (False, -1)):
        pairs = [(a, b) for a in range(8) for b in others_of(a, same=same)]
        losses = [math.log(1 + math.exp(-sign * (10 * cosine(a, b, degrees) - 5))) for a, b in pairs]
        means.append(sum(losses) / len(losses))
    return sum(means) / 2


def naive_identity(centres, margin, scale, smoothing, people=(0, 0, 1, 1, 2, 2, 3, 3)):
    losses = []
    for i, degrees in enumerate(DEGREES):
        angle = math.radians(degrees)
        logits = []
        for person, (x, y) in enumerate(centres.tolist()):
            near = (math.cos(angle) * x + math.sin(angle) * y) / math.hypot(x, y)
            logits.append(scale * (near - margin * (person == people[i])))
        total = math.log(sum(map(math.exp, logits)))
        targets = [smoothing / 4 + (1 - smoothing) * (person == people[i]) for person in range(4)]
        losses.append(sum(t * (total - logit) for t, logit in zip(targets, logits, strict=True)))
    return sum(losses) / 8


# The parts


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_triplet_loss_is_the_naive_loop(margin):
    loss, logs = make_objective(twin_margin=margin, softmax_weight=0.0)(Angles(), make_batch())
    assert float(logs["sa/twin"]) == pytest.approx(naive_triplet(margin), abs=1e-5)
    assert float(loss.detach()) == pytest.approx(naive_triplet(margin), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_supcon_is_the_naive_loop(temperature):
    objective = make_objective(twin_loss="supcon", twin_temperature=temperature, softmax_weight=0.0)
    loss, logs = objective(Angles(), make_batch())
    assert float(logs["sa/twin"]) == pytest.approx(naive_supcon(temperature), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(naive_supcon(temperature), rel=1e-4)


def test_negatives_are_co_twins_alone():
    """Families as near to one another as can be, twins opposite: nothing is left to lose."""
    degrees = [0, 0, 180, 180, 0, 0, 180, 180]
    for twin_loss in ("triplet", "supcon"):
        _, logs = make_objective(twin_loss=twin_loss)(Angles(degrees), make_batch())
        assert float(logs["sa/twin"]) == pytest.approx(0.0, abs=1e-6)
    assert naive_triplet(0.5, degrees) == 0


@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
def test_a_soft_share_takes_unrelated_people_as_negatives(twin_loss):
    degrees = [0, 0, 180, 180, 0, 0, 180, 180]
    twin = []
    for soft in (0.0, 0.1, 0.3):
        objective = make_objective(twin_loss=twin_loss, hard_negative_ratio=0.5 - soft, soft_negative_ratio=soft)
        _, logs = objective(Angles(degrees), make_batch())
        twin.append(float(logs["sa/twin"]))
    assert twin[0] < twin[1] and (twin[1] < twin[2] or twin_loss == "triplet")  # whose mean is over what is violated


def test_verification_is_the_naive_loop():
    loss, logs = make_objective(twin_loss="verification", softmax_weight=0.0)(Angles(), make_batch())
    assert float(logs["sa/twin"]) == pytest.approx(naive_verification(), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(naive_verification(), rel=1e-4)


def test_identity_loss_is_the_naive_loop():
    objective = make_objective(twin_weight=0.0)
    loss, logs = objective(Angles(), make_batch())
    expected = naive_identity(objective.identity["sa"].centres.detach(), 0.2, 8.0, 0.1)
    assert float(logs["sa/identity"]) == pytest.approx(expected, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_identity_loss_of_blended_people_is_of_both_by_their_share():
    objective, other = make_objective(twin_weight=0.0), [3, 3, 2, 0, 1, 0, 2, 2]
    loss, _ = objective(Angles(), make_batch(other=torch.tensor(other), share=torch.tensor(0.3)))
    arguments = (objective.identity["sa"].centres.detach(), 0.2, 8.0, 0.1)
    expected = 0.7 * naive_identity(*arguments) + 0.3 * naive_identity(*arguments, other)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
def test_loss_falls_as_twins_move_apart(twin_loss):
    losses = []
    for apart in (5, 30, 60, 90):
        degrees = [0, 3, apart, apart + 3, 180, 183, 180 + apart, 183 + apart]
        _, logs = make_objective(twin_loss=twin_loss, twin_margin=1.0)(Angles(degrees), make_batch())
        losses.append(float(logs["sa/twin"]))
    assert losses == sorted(losses, reverse=True) and losses[0] > 2 * losses[-1]


@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
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


def test_images_are_of_this_process_and_people_of_all():
    whole, _ = make_objective()(Angles(), make_batch())
    part, _ = make_objective()(Angles(), make_batch(images=torch.zeros(4, 3, 2, 2)))
    assert float(whole.detach()) == float(part.detach())


def test_parts_are_weighted_within_a_branch():
    loss, logs = make_objective(softmax_weight=0.7, twin_weight=3.0)(Angles(), make_batch())
    assert float(loss.detach()) == pytest.approx(
        0.7 * float(logs["sa/identity"]) + 3 * float(logs["sa/twin"]), rel=1e-5
    )


@pytest.mark.parametrize("part, absent", [("identity", "softmax_weight"), ("twin", "twin_weight")])
def test_a_part_of_no_weight_is_not_there(part, absent):
    objective = make_objective(THREE, twin_loss="verification", **{absent: 0.0})
    loss, logs = objective(Angles(branches=THREE), make_batch())
    assert loss.isfinite() and not any(part in name for name in logs) and len(logs) == 3
    assert not any(part in name for name, _ in objective.named_parameters())
    assert list(objective.parameters())


def test_learned_similarity_verifies_pairs_of_the_branches_that_compare():
    options = {"softmax_weight": 0.0, "twin_loss": "verification"}
    objective, model = make_objective(THREE, learned_similarity=True, **options), Angles(branches=THREE)
    loss, logs = objective(model, make_batch(partner=torch.arange(8)))
    assert model.compared == ({"sa", "glca"}, {"sa", "glca"})
    assert float(logs["similarity/verification"]) == pytest.approx(naive_verification(), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(naive_verification(), rel=1e-4)  # the mean of four alike
    assert set(logs) == {f"{branch}/twin" for branch in THREE} | {"similarity/verification", "loss"}
    assert not any(value.requires_grad for value in logs.values())
    assert "similarity" in make_objective(learned_similarity=True, loss_weighting="uncertainty").weighting.w
    plain = make_objective(THREE)
    plain(model := Angles(branches=THREE), make_batch())
    assert not hasattr(model, "compared") and plain.similarity is None


@pytest.mark.parametrize(
    "partner, branches", [({}, {"sa", "glca"}), ({"partner": torch.arange(8).flip(0)}, {"sa", "glca", "pwca"})]
)
@pytest.mark.parametrize("weighting", ["uncertainty", "fixed"])
def test_only_the_branches_that_ran_are_summed_and_logged(weighting, partner, branches):
    objective = make_objective(THREE, loss_weighting=weighting)
    loss, logs = objective(Angles(branches=THREE), make_batch(**partner))
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


@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_gradient_reaches_model_centres_and_weights(kind, twin_loss):
    options = {"kind": kind, "twin_loss": twin_loss, "loss_weighting": "uncertainty"}
    objective, model = make_objective(THREE, learned_similarity=True, **options), Angles(branches=THREE)
    loss, _ = objective(model, make_batch(partner=torch.arange(8).flip(0)))
    loss.backward()
    assert (model.degrees.grad != 0).all()
    assert all((parameter.grad != 0).all() for parameter in objective.parameters())
    lines = 2 * (3 if twin_loss == "verification" else 0) + 2  # scale and bias: of each branch, of the similarity
    assert len(list(objective.parameters())) == 3 + 4 + lines


@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
def test_losses_are_fp32_under_mixed_precision(twin_loss):
    objective = make_objective(twin_loss=twin_loss, scale=30.0, learned_similarity=True)
    expected, _ = objective(Angles(), make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(Angles(), make_batch())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


# Speed


class Waits(TorchDispatchMode):
    """Records the operations that on a GPU make the host wait: those whose result it must see to go on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal")
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):  # a mask's number of trues is the length
            waits |= any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if waits:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighting", ["uncertainty", "fixed"])
@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
@pytest.mark.parametrize("twin_loss", TWIN_LOSSES)
def test_neither_loss_nor_gradients_wait_for_the_device(twin_loss, kind, weighting):
    options = {"twin_loss": twin_loss, "kind": kind, "loss_weighting": weighting}
    ratios = {"hard_negative_ratio": 0.3, "soft_negative_ratio": 0.2}
    objective, model = make_objective(THREE, learned_similarity=True, **options, **ratios), Angles(branches=THREE)
    batch = make_batch(partner=torch.arange(8), other=PERSON.flip(0), share=torch.tensor(0.3))
    with Waits() as waits:
        loss, _ = objective(model, batch)
        loss.backward()
    assert waits.seen == []
    assert (model.degrees.grad != 0).any()


def test_operations_that_wait_are_seen():
    x = torch.arange(4.0)
    for wait in (
        x.max().item,
        x.nonzero,
        lambda: x[x > 1],
        lambda: bool((x > 1).any()),
        lambda: x.masked_select(x > 1),
    ):
        with Waits() as waits:
            wait()
        assert len(waits.seen) == 1
    with Waits() as waits:
        x.clone()[x > 1] = 0.0
    assert waits.seen
    with Waits() as waits:
        SupConLoss()(torch.randn(8, 4), PERSON)
    assert len(waits.seen) > 1
