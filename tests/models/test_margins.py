import copy
import math
import statistics
import warnings

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss

from dcal_core.models.margins import AdaFaceMargin, MarginSoftmax

ANGLES = [0.2, 0.7, 1.3, math.pi / 2, 2.0, 2.6]
KINDS = ["cosface", "arcface", "adaface"]
POOR, USUAL, GOOD = 0.0, 20.0, 1000.0  # norms at which a large h has AdaFace's quality at -1, 0 and 1


def cosines(*degrees):
    return torch.tensor([math.cos(math.radians(angle)) for angle in degrees], dtype=torch.double)


def two_people(kind, margin, scale, label_smoothing=0.0):
    """Class centres along the two axes, of unequal lengths, which must not matter."""
    head = MarginSoftmax(2, 2, kind, margin, scale, label_smoothing).double()
    head.centres.data = torch.tensor([[3.0, 0.0], [0.0, 0.1]], dtype=torch.double)
    return head


def at(*angles):
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=torch.double)


def added(kind, cosine, margin, norm=USUAL, h=100.0):
    """Logits of cosines to the own centre, of embeddings of one norm; a large h takes AdaFace's quality to its ends."""
    head = MarginSoftmax(2, 2, kind, margin, 1.0, 0.0, h).to(cosine.dtype).eval()
    return head.add_margin(cosine, torch.full_like(cosine, norm))


def test_margins_at_known_angles():
    given = cosines(0, 30, 60, 90, 120)
    for m in (30, 60):
        shifted = cosines(*(angle + m for angle in (0, 30, 60, 90, 120)))
        torch.testing.assert_close(added("arcface", given, math.radians(m)), shifted, atol=3e-4, rtol=0)
    torch.testing.assert_close(added("cosface", given, 0.3), given - 0.3)
    torch.testing.assert_close(added("arcface", given, 0.0), given)


def test_adaface_at_known_angles_and_norms():
    m, given = math.radians(30), cosines(30, 60, 90, 120)
    torch.testing.assert_close(added("adaface", given, m, POOR), cosines(60, 90, 120, 150))  # as ArcFace
    torch.testing.assert_close(added("adaface", given, m, USUAL), given - m)  # as CosFace
    torch.testing.assert_close(added("adaface", given, m, GOOD), cosines(0, 30, 60, 90) - 2 * m, atol=1e-6, rtol=0)
    # mean 20, std 100 and h 1/2: a norm of 60 is 0.4 standard deviations above, u = 0.2
    torch.testing.assert_close(
        added("adaface", given, m, 60, 0.5), cosines(24, 54, 84, 114) - 1.2 * m, atol=1e-5, rtol=0
    )
    # norms count up to 100 only: u = 1/2 x 0.8
    expected = cosines(18, 48, 78, 108) - 1.4 * m
    for norm in (100, 100.1, 1e9, math.inf):
        torch.testing.assert_close(added("adaface", given, m, norm, 0.5), expected, atol=1e-5, rtol=0)


def test_adaface_holds_angles_between_0_and_180_degrees():
    nearly = math.cos(1e-3)
    assert added("adaface", cosines(0, 10), 0.5, GOOD).tolist() == pytest.approx([nearly - 1] * 2)
    assert added("adaface", cosines(160, 180), 0.5, POOR).tolist() == pytest.approx([-nearly] * 2)


def test_arcface_goes_on_in_a_straight_line_where_the_sum_passes_180_degrees():
    m = math.radians(60)
    torch.testing.assert_close(added("arcface", cosines(130, 150, 180), m), cosines(130, 150, 180) - m * math.sin(m))


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("norm", [POOR, USUAL, GOOD])
@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_angle_never_gives_a_larger_logit(kind, norm, margin):
    angles = torch.linspace(0, math.pi, 5001, dtype=torch.double)
    logits = added(kind, angles.cos(), margin, norm)
    assert (logits.diff() <= 1e-15).all()
    clipped = 1e-3 if kind == "adaface" else 0.0
    assert (logits <= angles.cos() + clipped + 1e-9).all()  # and the margin never helps


def naive_adaface(angles, norms, margin=0.4, h=0.333, mean=20.0, std=100.0):
    """AdaFace's logits of one training batch, the first, written out number by number."""
    norms = [min(max(norm, 0.001), 100.0) for norm in norms]
    mean = 0.99 * mean + 0.01 * statistics.mean(norms)
    std = 0.99 * std + 0.01 * statistics.stdev(norms) if len(norms) > 1 else std
    logits = []
    for angle, norm in zip(angles, norms, strict=True):
        quality = min(max(h * (norm - mean) / (std + 0.001), -1.0), 1.0)
        angle = math.acos(min(max(math.cos(angle), -0.999), 0.999))
        turned = min(max(angle - margin * quality, 0.001), math.pi - 0.001)
        logits.append(math.cos(turned) - (margin + margin * quality))
    return logits


@pytest.mark.parametrize("theta", ANGLES)
@pytest.mark.parametrize("person", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_at_known_angles(kind, person, theta):
    margin, scale = 0.4, 8.0
    own = theta if person == 0 else abs(math.pi / 2 - theta)
    other = abs(math.pi / 2 - theta) if person == 0 else theta
    if kind == "cosface":
        logit = math.cos(own) - margin
    elif kind == "adaface":
        logit = naive_adaface([own], [7.0])[0]
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


@pytest.mark.parametrize("kind", KINDS)
def test_label_smoothing_is_that_of_cross_entropy(kind):
    embeddings, person = at(*ANGLES), torch.tensor([0, 1, 0, 1, 0, 1])
    cosine = embeddings.clone()  # to the two axes
    rows = torch.arange(6)
    cosine[rows, person] = added(kind, cosine[rows, person], 0.2, norm=1.0, h=0.333)
    for smoothing in (0.0, 0.1, 0.5):
        expected = F.cross_entropy(10 * cosine, person, label_smoothing=smoothing)
        torch.testing.assert_close(two_people(kind, 0.2, 10.0, smoothing).eval()(embeddings, person), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_mean_of_the_images(kind):
    head, person = two_people(kind, 0.3, 10.0).eval(), torch.tensor([0, 1, 0, 1, 0, 1])
    each = [head(at(angle), person[i : i + 1]) for i, angle in enumerate(ANGLES)]
    torch.testing.assert_close(head(at(*ANGLES), person), sum(each) / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_embedding_and_centre_coincide_or_oppose(kind, margin, dtype):
    beyond = torch.tensor([-1.0, 1.0, 1 + 1e-7, -1 - 1e-7], dtype=dtype, requires_grad=True)
    for norm in (POOR, USUAL, GOOD):
        added(kind, beyond, margin, norm).sum().backward()
        assert beyond.grad.isfinite().all()
    head = MarginSoftmax(3, 2, kind, margin, 30.0, 0.1).to(dtype)
    embeddings = torch.stack([2 * head.centres[0].detach(), -3 * head.centres[1].detach()]).requires_grad_()
    for person in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        loss = head(embeddings, person)
        loss.backward()
        assert loss.isfinite() and embeddings.grad.isfinite().all() and head.centres.grad.isfinite().all()


# Sampled classes


def sampled(share, people=40, kind="cosface"):
    torch.manual_seed(0)
    return MarginSoftmax(8, people, kind, 0.3, 8.0, 0.1, sample_share=share)


@pytest.mark.parametrize("share", [1.0, 0.999])  # the second rounds up to all classes too
@pytest.mark.parametrize("kind", KINDS)
def test_of_all_classes_sampling_is_cross_entropy_over_all(kind, share):
    head, embeddings, person = sampled(share, kind=kind), torch.randn(12, 8), torch.arange(12) % 5
    cosine = F.normalize(embeddings, dim=1) @ F.normalize(head.centres, dim=1).T
    own = cosine.gather(1, person[:, None])
    own = copy.deepcopy(head.add_margin)(own, embeddings.norm(dim=1, keepdim=True))
    expected = F.cross_entropy(8 * cosine.scatter(1, person[:, None], own), person, label_smoothing=0.1)
    (wanted,) = torch.autograd.grad(expected, head.centres)
    loss = head(embeddings, person)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert share < 1 or torch.equal(loss, expected)  # to the bit, as runs of all versions
    torch.testing.assert_close(head.centres.grad, wanted, atol=1e-6, rtol=1e-4)


def test_a_sample_is_the_classes_of_the_batch_and_others_at_random():
    head, person = sampled(0.25), torch.tensor([3, 7, 7, 39])
    drawn = []
    for _ in range(20):
        classes, centres = head.classes(person)
        assert torch.equal(centres, head.centres[classes]) and len(set(classes.tolist())) == len(classes) == 10
        assert {3, 7, 39} <= set(classes.tolist())
        drawn += classes.tolist()
    assert len(set(drawn)) > 35  # in twenty steps nearly everyone has been among the others
    assert head.classes(torch.arange(25))[0].sort().values.tolist()[:25] == [*range(25)]  # more than the share has


def test_the_sampled_loss_is_the_dense_one_of_the_classes_in_the_sample(monkeypatch):
    head, embeddings, person = sampled(0.25), torch.randn(4, 8), torch.tensor([3, 7, 7, 39])
    classes, centres = head.classes(person)
    monkeypatch.setattr(head, "classes", lambda person: (classes, head.centres[classes]))
    few = sampled(1.0, people=len(classes))
    few.centres.data = centres.detach().clone()
    places = torch.tensor([classes.tolist().index(one) for one in person])
    loss = head(embeddings, person)
    torch.testing.assert_close(loss, few(embeddings, places))
    loss.backward()
    others = [one for one in range(40) if one not in classes]
    assert head.centres.grad[others].abs().sum() == 0 and head.centres.grad[classes].abs().sum(1).min() > 0


# AdaFace's statistics


@pytest.mark.parametrize("h", [0.1, 0.333, 5.0, 100.0])
def test_adaface_is_the_naive_loop(h):
    norms = [3.0, 50.0, 0.0, 21.5, 140.0, 19.0]
    head, person = MarginSoftmax(2, 2, "adaface", 0.4, 8.0, 0.0, h).double(), torch.tensor([0] * 6)
    head.centres.data = torch.tensor([[3.0, 0.0], [0.0, 0.1]], dtype=torch.double)
    embeddings = torch.tensor(norms, dtype=torch.double)[:, None] * at(*ANGLES)
    embeddings[2] = 1e-4 * at(ANGLES[2])[0]  # a norm below the smallest, of a direction all the same
    loss = head(embeddings, person)
    logits = naive_adaface(ANGLES, norms, h=h)
    others = [math.cos(abs(math.pi / 2 - angle)) for angle in ANGLES]
    expected = [math.log(1 + math.exp(8 * (other - own))) for own, other in zip(logits, others, strict=True)]
    assert float(loss.detach()) == pytest.approx(statistics.mean(expected), rel=1e-9)


def test_adaface_moves_its_statistics_in_training_only():
    margin = AdaFaceMargin(0.4, 0.333)
    assert (margin.mean.item(), margin.std.item()) == (20, 100)  # where the authors begin
    margin(torch.zeros(4), torch.tensor([10.0, 20.0, 30.0, 40.0]))
    assert margin.mean.item() == pytest.approx(0.99 * 20 + 0.01 * 25)
    assert margin.std.item() == pytest.approx(0.99 * 100 + 0.01 * math.sqrt(500 / 3), rel=1e-6)  # of n - 1
    kept = {name: value.clone() for name, value in margin.state_dict().items()}
    margin.eval()(torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 90.0]))
    assert kept.keys() == {"mean", "std"}  # they are saved with the weights
    assert all(torch.equal(value, kept[name]) for name, value in margin.state_dict().items())


def test_adaface_takes_the_norms_after_it_has_moved_its_statistics():
    margin = AdaFaceMargin(0.4, 100.0, momentum=1.0).double()  # the statistics are those of the batch
    logits = margin(torch.zeros(3, dtype=torch.double), torch.tensor([9.0, 10.0, 11.0], dtype=torch.double))
    assert logits.tolist() == pytest.approx([-math.sin(0.4), -0.4, math.sin(0.4) - 0.8], abs=1e-6)


def test_a_batch_of_one_leaves_adaface_its_spread():
    head = two_people("adaface", 0.4, 8.0)
    for _ in range(3):
        assert head(at(0.3), torch.tensor([0])).isfinite()
    assert head.add_margin.std.item() == 100
    assert head.add_margin.mean.item() == pytest.approx(1 + 19 * 0.99**3)


def test_no_gradient_flows_through_the_norms():
    """The loss of a sphere's point depends on its direction alone, so its gradient is at right angles to it."""
    torch.manual_seed(0)
    head, embeddings = MarginSoftmax(8, 5, "adaface", 0.4, 16.0, 0.1, 5.0), 20 * torch.randn(12, 8)
    embeddings.requires_grad_()
    head(embeddings, torch.arange(12) % 5).backward()
    along = F.cosine_similarity(embeddings.grad, embeddings.detach(), dim=1)
    assert embeddings.grad.norm(dim=1).min() > 0 and along.abs().max() < 1e-4
    assert not any(buffer.requires_grad for buffer in head.buffers())


def test_the_other_margins_have_no_statistics():
    assert MarginSoftmax(2, 2, "cosface", 0.4, 8.0, 0.0).state_dict().keys() == {"centres"}
    assert MarginSoftmax(2, 2, "arcface", 0.4, 8.0, 0.0).state_dict().keys() == {"centres"}


def test_adaface_without_h_is_cosface_and_warns():
    with pytest.warns(UserWarning, match=r"^adaface_h=0 .*CosFace: .*0\.333\.$"):
        head = MarginSoftmax(2, 2, "adaface", 0.4, 8.0, 0.0, 0.0).double()
    given = cosines(20, 60, 150)
    norms = torch.tensor([1.0, 50.0, 90.0], dtype=torch.double)
    torch.testing.assert_close(head.add_margin(given, norms), given - 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MarginSoftmax(2, 2, "adaface", 0.4, 8.0, 0.0)
        MarginSoftmax(2, 2, "cosface", 0.4, 8.0, 0.0, 0.0)


# Centres from mean embeddings


def test_centres_turn_to_the_means_and_keep_their_lengths():
    head = MarginSoftmax(3, 2, "cosface", 0.0, 8.0, 0.0)
    lengths, means = head.centres.detach().norm(dim=1), torch.tensor([[0.0, 3.0, 4.0], [-0.1, 0.0, 0.0]])
    head.start_from(means.double())
    expected = lengths[:, None] * torch.tensor([[0.0, 0.6, 0.8], [-1.0, 0.0, 0.0]])
    torch.testing.assert_close(head.centres.detach(), expected)
    assert head.centres.requires_grad and head.centres.is_leaf
    assert float(head(means, torch.tensor([0, 1])).detach()) == pytest.approx(math.log(1 + math.exp(-8)), rel=1e-3)


@pytest.mark.parametrize(
    "means", [torch.ones(3, 3), torch.ones(2, 4), torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.full((2, 3), math.nan)]
)
def test_means_without_a_direction_for_each_person_are_refused(means):
    head = MarginSoftmax(3, 2, "cosface", 0.0, 8.0, 0.0)
    before = head.centres.detach().clone()
    with pytest.raises(ValueError, match=r"for 2 class centres of width 3: give every person a finite mean"):
        head.start_from(means)
    assert torch.equal(head.centres, before)
