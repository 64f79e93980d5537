import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.models.margins import MarginSoftmax
from dcal_core.training.triplet_objective import DISTANCES, TripletObjective, TwinTriplets

DEGREES = [0, 40, 100, 10, 200, 30, 90, 95, 270]  # three triplets, row by row
LENGTHS = [1.0, 5.0, 0.1, 2.0, 3.0, 4.0, 1.5, 0.7, 10.0]  # which must not matter
PERSON = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2, 3])
OF_TORCH = {
    "cosine": lambda a, b: 1 - F.cosine_similarity(a, b),
    "euclidean": lambda a, b: nn.PairwiseDistance(eps=0.0)(F.normalize(a), F.normalize(b)),
}


class Angles(nn.Module):
    """Embeds the images of all processes at known angles, whichever it is given."""

    def __init__(self, degrees=DEGREES, lengths=LENGTHS):
        super().__init__()
        self.degrees = nn.Parameter(torch.tensor(degrees, dtype=torch.float32))
        self.lengths = torch.tensor(lengths)

    def forward(self, images):
        angle = torch.deg2rad(self.degrees)
        return {"embedding": self.lengths[:, None] * torch.stack([angle.cos(), angle.sin()], 1)}


def make_objective(people=4, kind="cosface", scale=8.0, **options):
    torch.manual_seed(0)
    softmax = {"kind": kind, "margin": 0.2, "scale": scale, "label_smoothing": 0.1, "adaface_h": 5.0}
    options = {
        "twin_margin": 0.3,
        "triplet_distance": "cosine",
        "margin_softmax": softmax,
        "softmax_weight": 0.0,
    } | options
    return TripletObjective(width=2, people=people, **options)


def make_batch(**changes):
    return {"images": torch.zeros(9, 3, 2, 2), "person": PERSON, "family": PERSON // 2} | changes


def naive_distance(a, b, distance):
    """Of unit embeddings at angles in degrees: 1 - cos, or the chord."""
    between = math.radians(a - b)
    return 1 - math.cos(between) if distance == "cosine" else abs(2 * math.sin(between / 2))


def naive_triplets(degrees, margin, distance):
    """The mean loss, the mean distances, and the share of losses above 0."""
    losses, to_positive, to_negative = [], [], []
    for first in range(0, len(degrees), 3):
        anchor, positive, negative = degrees[first : first + 3]
        to_positive.append(naive_distance(anchor, positive, distance))
        to_negative.append(naive_distance(anchor, negative, distance))
        losses.append(max(0.0, to_positive[-1] - to_negative[-1] + margin))
    sums = [sum(values) for values in (losses, to_positive, to_negative, [loss > 0 for loss in losses])]
    return [value / len(losses) for value in sums]


# The loss of given triplets


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_and_figures_are_the_naive_loop(distance, margin):
    loss, logs = TwinTriplets(margin, distance)(Angles()(None)["embedding"])
    expected = naive_triplets(DEGREES, margin, distance)
    found = [float(value.detach()) for value in (loss, logs["d_ap"], logs["d_an"], logs["active"])]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6) and expected[0] > 0


def test_loss_at_known_angles():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])  # a right angle to the positive, two to the negative
    cosine, logs = TwinTriplets(1.5, "cosine")(square)
    assert [float(value) for value in (cosine, *logs.values())] == pytest.approx([1 - 2 + 1.5, 1, 2, 1])
    euclidean, logs = TwinTriplets(1.5, "euclidean")(square)
    assert [float(value) for value in (euclidean, *logs.values())] == pytest.approx(
        [math.sqrt(2) - 2 + 1.5, math.sqrt(2), 2, 1]
    )


@pytest.mark.parametrize("margin", [0.1, 0.5])
@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_and_gradients_are_those_of_pytorch(distance, margin):
    torch.manual_seed(0)
    rows = torch.randn(60, 8, requires_grad=True)
    other = nn.TripletMarginWithDistanceLoss(distance_function=OF_TORCH[distance], margin=margin)
    loss, _ = TwinTriplets(margin, distance)(rows)
    expected = other(rows[0::3], rows[1::3], rows[2::3])
    torch.testing.assert_close(loss, expected)
    ours, theirs = torch.autograd.grad(loss, rows), torch.autograd.grad(expected, rows)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_triplets_beyond_the_margin_count_as_nought_in_the_mean(distance):
    within, beyond = [0, 90, 0], [0, 0, 180]
    one, logs_one = TwinTriplets(0.3, distance)(Angles(within, [1.0] * 3)(None)["embedding"])
    two, logs_two = TwinTriplets(0.3, distance)(Angles(within + beyond, [1.0] * 6)(None)["embedding"])
    assert float(one.detach()) > 0.3 and float(two.detach()) == pytest.approx(float(one.detach()) / 2)
    assert (logs_one["active"], logs_two["active"]) == (1, 0.5)


@pytest.mark.parametrize("rows", [torch.ones(3, 2), torch.zeros(6, 2), torch.tensor([[1.0, 0], [-1, 0], [1, 0]])])
@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_finite_where_embeddings_coincide_or_oppose(distance, rows):
    rows = rows.clone().requires_grad_()
    loss, _ = TwinTriplets(0.3, distance)(rows)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss.isfinite() and gradient.isfinite().all()


def test_rows_that_are_no_triplets_are_refused():
    with pytest.raises(RuntimeError):
        TwinTriplets(0.3, "cosine")(torch.zeros(4, 2))


# The objective


@pytest.mark.parametrize("distance", DISTANCES)
def test_without_softmax_it_is_the_triplet_loss_alone(distance):
    objective = make_objective(triplet_distance=distance)
    loss, logs = objective(Angles(), make_batch())
    mean, d_ap, d_an, active = naive_triplets(DEGREES, 0.3, distance)
    expected = {"embedding/twin": mean, "loss": mean, "d_ap": d_ap, "d_an": d_an, "active": active}
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(expected, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(mean, rel=1e-5)
    assert objective.state_dict() == {}


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_margin_softmax_over_all_people_is_added_by_its_weight(kind):
    options = {"kind": kind, "softmax_weight": 0.7}
    loss, logs = make_objective(**options)(Angles(), make_batch())
    torch.manual_seed(0)
    identity = MarginSoftmax(2, 4, kind, 0.2, 8.0, 0.1, 5.0)(Angles()(None)["embedding"], PERSON)
    assert float(logs["embedding/identity"]) == pytest.approx(float(identity.detach()), rel=1e-6)
    expected = naive_triplets(DEGREES, 0.3, "cosine")[0] + 0.7 * float(identity.detach())
    assert float(loss.detach()) == float(logs["loss"]) == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in logs.values())


def test_images_are_of_this_process_and_people_of_all():
    objective = make_objective(softmax_weight=1.0)
    whole, _ = objective(Angles(), make_batch())
    part, _ = objective(Angles(), make_batch(images=torch.zeros(3, 3, 2, 2)))
    assert float(whole.detach()) == float(part.detach())


def test_gradient_reaches_model_and_centres():
    objective, model = make_objective(softmax_weight=1.0, twin_margin=2.0), Angles()
    loss, _ = objective(model, make_batch())
    loss.backward()
    assert (model.degrees.grad != 0).all() and (objective.identity.centres.grad != 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_descent_brings_each_anchor_nearer_to_its_person_than_to_the_co_twin(distance):
    objective, model = make_objective(triplet_distance=distance), Angles()
    optimizer = torch.optim.Adam(model.parameters(), lr=2.0)  # degrees
    for _ in range(100):
        loss, logs = objective(model, make_batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) == 0 and logs["active"] == 0
    rows = F.normalize(model(None)["embedding"].detach(), dim=1).unflatten(0, (-1, 3))
    assert ((rows[:, 0] * rows[:, 1]).sum(1) > (rows[:, 0] * rows[:, 2]).sum(1)).all()


def test_losses_of_embeddings_in_half_precision_are_fp32():
    def half(images):
        return {"embedding": Angles()(images)["embedding"].bfloat16()}

    for weight in (0.0, 1.0):
        loss, logs = make_objective(softmax_weight=weight)(half, make_batch())
        assert loss.dtype == torch.float32 and {value.dtype for value in logs.values()} == {torch.float32}


def test_losses_are_fp32_under_mixed_precision():
    objective = make_objective(scale=30.0, softmax_weight=1.0)
    expected, _ = objective(Angles(), make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(Angles(), make_batch())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
