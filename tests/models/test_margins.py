import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss

from dcal_core.models.margins import MARGINS, MarginSoftmax, arcface, cosface

ANGLES = [0.2, 0.7, 1.3, math.pi / 2, 2.0, 2.6]


def cosines(*degrees):
    return torch.tensor([math.cos(math.radians(angle)) for angle in degrees], dtype=torch.double)


def two_people(kind, margin, scale, label_smoothing=0.0):
    """Class centres along the two axes, of unequal lengths, which must not matter."""
    head = MarginSoftmax(2, 2, kind, margin, scale, label_smoothing).double()
    head.centres.data = torch.tensor([[3.0, 0.0], [0.0, 0.1]], dtype=torch.double)
    return head


def at(*angles):
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=torch.double)


def test_margins_at_known_angles():
    given = cosines(0, 30, 60, 90, 120)
    torch.testing.assert_close(arcface(given, math.radians(30)), cosines(30, 60, 90, 120, 150), atol=2e-4, rtol=0)
    torch.testing.assert_close(arcface(given, math.radians(60)), cosines(60, 90, 120, 150, 180), atol=3e-4, rtol=0)
    torch.testing.assert_close(cosface(given, 0.3), given - 0.3)
    torch.testing.assert_close(arcface(given, 0.0), given)


def test_arcface_goes_on_in_a_straight_line_where_the_sum_passes_180_degrees():
    m = math.radians(60)
    torch.testing.assert_close(arcface(cosines(130, 150, 180), m), cosines(130, 150, 180) - m * math.sin(m))


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", MARGINS)
def test_a_larger_angle_never_gives_a_larger_logit(kind, margin):
    angles = torch.linspace(0, math.pi, 5001, dtype=torch.double)
    logits = MARGINS[kind](angles.cos(), margin)
    assert (logits.diff() <= 0).all()
    assert (logits <= angles.cos() + 1e-9).all()  # and the margin never helps


@pytest.mark.parametrize("theta", ANGLES)
@pytest.mark.parametrize("person", [0, 1])
@pytest.mark.parametrize("kind", MARGINS)
def test_loss_at_known_angles(kind, person, theta):
    margin, scale = 0.4, 8.0
    own = theta if person == 0 else abs(math.pi / 2 - theta)
    other = abs(math.pi / 2 - theta) if person == 0 else theta
    if kind == "cosface":
        logit = math.cos(own) - margin
    else:
        logit = math.cos(own + margin) if own + margin < math.pi else math.cos(own) - margin * math.sin(margin)
    expected = math.log(1 + math.exp(scale * (math.cos(other) - logit)))
    loss = two_people(kind, margin, scale)(7 * at(theta), torch.tensor([person]))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind, margin", [("cosface", 0.0), ("cosface", 0.35), ("arcface", 0.3), ("arcface", 1.4)])
def test_loss_and_gradients_are_those_of_pytorch_metric_learning(kind, margin):
    torch.manual_seed(0)
    embeddings, person = torch.randn(40, 8), torch.randint(5, (40,))
    head = MarginSoftmax(8, 5, kind, margin, 16.0, 0.0)
    if kind == "arcface":
        other = ArcFaceLoss(5, 8, margin=math.degrees(margin), scale=16.0)
    else:
        other = CosFaceLoss(5, 8, margin=margin, scale=16.0)
    other.W.data = head.centres.data.T.clone()
    ours, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss, expected = head(ours, person), other(theirs, person)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(head.centres.grad, other.W.grad.T, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", MARGINS)
def test_label_smoothing_is_that_of_cross_entropy(kind):
    embeddings, person = at(*ANGLES), torch.tensor([0, 1, 0, 1, 0, 1])
    cosine = embeddings.clone()  # to the two axes
    rows = torch.arange(6)
    cosine[rows, person] = MARGINS[kind](cosine[rows, person], 0.2)
    for smoothing in (0.0, 0.1, 0.5):
        expected = F.cross_entropy(10 * cosine, person, label_smoothing=smoothing)
        torch.testing.assert_close(two_people(kind, 0.2, 10.0, smoothing)(embeddings, person), expected)


@pytest.mark.parametrize("kind", MARGINS)
def test_loss_is_the_mean_of_the_images(kind):
    head, person = two_people(kind, 0.3, 10.0), torch.tensor([0, 1, 0, 1, 0, 1])
    each = [head(at(angle), person[i : i + 1]) for i, angle in enumerate(ANGLES)]
    torch.testing.assert_close(head(at(*ANGLES), person), sum(each) / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("kind", MARGINS)
def test_gradients_are_finite_where_embedding_and_centre_coincide_or_oppose(kind, margin, dtype):
    beyond = torch.tensor([-1.0, 1.0, 1 + 1e-7, -1 - 1e-7], dtype=dtype, requires_grad=True)
    MARGINS[kind](beyond, margin).sum().backward()
    assert beyond.grad.isfinite().all()
    head = MarginSoftmax(3, 2, kind, margin, 30.0, 0.1).to(dtype)
    embeddings = torch.stack([2 * head.centres[0].detach(), -3 * head.centres[1].detach()]).requires_grad_()
    for person in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        loss = head(embeddings, person)
        loss.backward()
        assert loss.isfinite() and embeddings.grad.isfinite().all() and head.centres.grad.isfinite().all()
