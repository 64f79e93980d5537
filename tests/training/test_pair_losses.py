import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import SupConLoss as OtherSupCon
from pytorch_metric_learning.losses import TripletMarginLoss

from dcal_core.training.pair_losses import SupConLoss, TripletLoss, VerificationLoss, negative_weights, relations

# Batches as families of people with so many images each.
PAIRS = ((2, 2), (2, 2))
UNEVEN = ((3, 2), (1, 4, 2), (2, 2))  # unlike ours: a family of three, and a person with one image
ONE_FAMILY = ((3, 2, 2),)
STRANGERS = ((2,), (3,), (2,))
BATCHES = [PAIRS, UNEVEN, ONE_FAMILY, STRANGERS]
RATIOS = [(1.0, 0.0), (0.25, 0.25), (0.1, 0.7), (0.0, 0.5)]  # co-twins to unrelated people
LOSSES = [TripletLoss(0.5, 0.3, 0.2), SupConLoss(0.1, 0.3, 0.2), VerificationLoss(0.5, 0.3, 0.2)]


def labels(batch):
    """Person [B] and family [B], images of one person not side by side, numbers with gaps."""
    people = [(family, images) for family, members in enumerate(batch) for images in members]
    rows = [(10 + 3 * p, 5 * f) for p, (f, images) in enumerate(people) for _ in range(images)]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    person, family = zip(*rows, strict=True)
    return torch.tensor(person), torch.tensor(family)


def circle(images):
    """Embeddings at known angles, in degrees, no two equally far apart, and all their cosines as lists of numbers."""
    degrees = [47.3 * i * i + 11.7 * i for i in range(images)]
    cosines = [[math.cos(math.radians(a - b)) for b in degrees] for a in degrees]
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([angle.cos(), angle.sin()], 1), cosines


def naive_kind(a, b, person, family):
    if a == b:
        return "itself"
    if family[a] != family[b]:
        return "unrelated"
    return "genuine" if person[a] == person[b] else "twin"


def naive_of(kind, a, person, family):
    return [b for b in range(len(person)) if naive_kind(a, b, person, family) == kind]


def naive_negatives(a, person, family, hard, soft):
    """(image, weight) of each negative."""
    twins, others = (naive_of(kind, a, person, family) for kind in ("twin", "unrelated"))
    if not twins or not others:
        return [(n, 1.0) for n in twins + others]
    share = soft / (hard + soft)
    return [(n, 1 - share) for n in twins] + [(n, share * len(twins) / len(others)) for n in others]


def naive_triplet(score, person, family, margin, hard, soft):
    total = weights = 0.0
    for a in range(len(person)):
        for p in naive_of("genuine", a, person, family):
            for n, weight in naive_negatives(a, person, family, hard, soft):
                loss = score[a][n] - score[a][p] + margin
                if loss > 0:
                    total, weights = total + weight * loss, weights + weight
    return total / weights if weights else 0.0


def naive_supcon(score, person, family, temperature, hard, soft):
    losses = []
    for a in range(len(person)):
        positives = naive_of("genuine", a, person, family)
        total = sum(math.exp(score[a][p] / temperature) for p in positives)
        for n, weight in naive_negatives(a, person, family, hard, soft):
            total += weight * math.exp(score[a][n] / temperature)
        if positives:
            losses.append(-sum(math.log(math.exp(score[a][p] / temperature) / total) for p in positives))
            losses[-1] /= len(positives)
    return sum(losses) / len(losses)


def naive_verification(score, person, family, ratios, scale, bias):
    means = {}
    for kind, ratio in zip(("genuine", "twin", "unrelated"), ratios, strict=True):
        sign = 1 if kind == "genuine" else -1
        pairs = [(a, b) for a in range(len(person)) for b in naive_of(kind, a, person, family)]
        if pairs and ratio:
            losses = [math.log(1 + math.exp(-sign * (scale * score[a][b] + bias))) for a, b in pairs]
            means[ratio, kind] = sum(losses) / len(losses)
    return sum(ratio * mean for (ratio, _), mean in means.items()) / sum(ratio for ratio, _ in means)


def twin_triplets(person, family):
    """All (anchor, same person, co-twin) rows."""
    names = person.tolist(), family.tolist()
    rows = [
        (a, p, n)
        for a in range(len(person))
        for p in naive_of("genuine", a, *names)
        for n in naive_of("twin", a, *names)
    ]
    return tuple(torch.tensor(rows).T)


# Genuine pairs and co-twins


def test_relations_of_two_families():
    person, family = torch.tensor([7, 7, 8, 3]), torch.tensor([1, 1, 1, 0])
    genuine, twin, unrelated = (relation.tolist() for relation in relations(person, family))
    assert genuine == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert twin == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert unrelated == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize("hard, soft", RATIOS)
@pytest.mark.parametrize("batch", [PAIRS, UNEVEN])
def test_negatives_count_as_many_as_co_twin_images_in_the_given_proportion(batch, hard, soft):
    _, twin, unrelated = relations(*labels(batch))
    weights, drawn = negative_weights(twin, unrelated, hard, soft), twin.sum(1)
    torch.testing.assert_close(weights.sum(1), drawn)
    torch.testing.assert_close((weights * twin).sum(1), drawn * hard / (hard + soft))
    torch.testing.assert_close((weights * unrelated).sum(1), drawn * soft / (hard + soft))
    assert (weights[twin + unrelated == 0] == 0).all()


@pytest.mark.parametrize("hard, soft", RATIOS)
@pytest.mark.parametrize("batch, kind", [(ONE_FAMILY, 0), (STRANGERS, 1)])
def test_a_kind_that_is_missing_leaves_its_share_to_the_other(batch, kind, hard, soft):
    negatives = relations(*labels(batch))[1:]
    torch.testing.assert_close(negative_weights(*negatives, hard, soft), negatives[kind])
    assert negatives[kind].sum() > 0


# Against naive loops at known angles


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("hard, soft", RATIOS)
@pytest.mark.parametrize("batch", BATCHES)
def test_triplet_is_the_naive_loop(batch, hard, soft, margin):
    person, family = labels(batch)
    unit, score = circle(len(person))
    loss = TripletLoss(margin, hard, soft)(unit @ unit.T, person, family)
    expected = naive_triplet(score, person.tolist(), family.tolist(), margin, hard, soft)
    assert float(loss) == pytest.approx(expected, rel=1e-4) and expected > 0


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("hard, soft", RATIOS)
@pytest.mark.parametrize("batch", BATCHES)
def test_supcon_is_the_naive_loop(batch, hard, soft, temperature):
    person, family = labels(batch)
    unit, score = circle(len(person))
    loss = SupConLoss(temperature, hard, soft)(unit @ unit.T, person, family)
    expected = naive_supcon(score, person.tolist(), family.tolist(), temperature, hard, soft)
    assert float(loss) == pytest.approx(expected, rel=1e-4) and expected > 0


@pytest.mark.parametrize("scale, bias", [(10.0, -5.0), (3.0, 1.0)])
@pytest.mark.parametrize("ratios", [(0.5, 0.5, 0.0), (0.2, 0.3, 0.5), (0.4, 0.0, 0.6)])
@pytest.mark.parametrize("batch", BATCHES)
def test_verification_is_the_naive_loop(batch, ratios, scale, bias):
    person, family = labels(batch)
    unit, score = circle(len(person))
    loss = VerificationLoss(*ratios)
    loss.log_scale.data.fill_(math.log(scale))
    loss.bias.data.fill_(bias)
    expected = naive_verification(score, person.tolist(), family.tolist(), ratios, scale, bias)
    assert float(loss(unit @ unit.T, person, family).detach()) == pytest.approx(expected, rel=1e-4)


def test_verification_starts_at_ten_times_the_score_minus_five():
    loss = VerificationLoss(0.5, 0.5, 0.0)
    assert float(loss.log_scale.exp().detach()) == pytest.approx(10) and float(loss.bias.detach()) == -5


def test_verification_learns_the_line_between_genuine_and_co_twin_pairs():
    person, family = labels(PAIRS)
    genuine, _, _ = relations(person, family)
    loss = VerificationLoss(0.5, 0.5, 0.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(0.8 + 0.1 * genuine, person, family).backward()
        optimizer.step()
    threshold = -loss.bias / loss.log_scale.exp()
    assert 0.8 < float(threshold.detach()) < 0.9


# Against pytorch-metric-learning


def assert_same(ours, theirs, person, family, indices):
    torch.manual_seed(0)
    a = torch.randn(len(person), 6).requires_grad_()
    b = a.detach().clone().requires_grad_()
    unit = F.normalize(a, dim=-1)
    loss, expected = ours(unit @ unit.T, person, family), theirs(b, person, indices)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    assert (a.grad != 0).any()


OTHERS = [
    (TripletLoss, 0.2, TripletMarginLoss(margin=0.2, distance=CosineSimilarity())),
    (TripletLoss, 1.5, TripletMarginLoss(margin=1.5, distance=CosineSimilarity())),
    (SupConLoss, 0.1, OtherSupCon(temperature=0.1)),
    (SupConLoss, 0.7, OtherSupCon(temperature=0.7)),
]


@pytest.mark.parametrize("kind, value, other", OTHERS)
@pytest.mark.parametrize("batch", [PAIRS, ((4, 4), (4, 4), (4, 4)), ((3, 2), (2, 4, 2))])
def test_on_co_twins_alone_it_is_pytorch_metric_learning_on_their_triplets(batch, kind, value, other):
    person, family = labels(batch)
    assert_same(kind(value, 1.0, 0.0), other, person, family, twin_triplets(person, family))


@pytest.mark.parametrize("kind, value, other", OTHERS)
@pytest.mark.parametrize("batch", [ONE_FAMILY, STRANGERS])  # of these all negatives weigh 1
def test_on_all_negatives_it_is_pytorch_metric_learning_without_indices(batch, kind, value, other):
    assert_same(kind(value, 0.3, 0.2), other, *labels(batch), None)


# Behaviour


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_order_of_the_images_does_not_matter(loss):
    person, family = labels(UNEVEN)
    unit, _ = circle(len(person))
    order = torch.randperm(len(person), generator=torch.Generator().manual_seed(1))
    expected, moved = unit @ unit.T, unit[order] @ unit[order].T
    torch.testing.assert_close(loss(moved, person[order], family[order]), loss(expected, person, family))


@pytest.mark.parametrize("kind, value", [(TripletLoss, 1.0), (SupConLoss, 0.1)])
def test_without_a_soft_share_unrelated_people_do_not_matter(kind, value):
    person, family = labels(PAIRS)
    score = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    nearer = torch.where(family[:, None] == family, score, 1.0)
    for soft, same in ((0.0, True), (0.5, False)):
        loss = kind(value, 0.5, soft)
        assert torch.allclose(loss(score, person, family), loss(nearer, person, family)) == same


def test_triplets_beyond_the_margin_leave_zero_and_no_gradient():
    person, family = labels(PAIRS)
    genuine, _, _ = relations(person, family)
    score = genuine.clone().requires_grad_()
    loss = TripletLoss(0.5, 0.5, 0.5)(score, person, family)
    loss.backward()
    assert float(loss.detach()) == 0 and (score.grad == 0).all()


def test_supcon_keeps_far_apart_scores_at_a_low_temperature():
    """e^1000 is beyond fp32: the negative 1 nearer than the positive costs 1/t."""
    person, family = torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.long)
    score = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert float(SupConLoss(0.001, 1.0, 0.0)(score, person, family)) == pytest.approx(1000)


DEGENERATE = {
    "identical": [[1.0, 0.0]] * 8,
    "duplicates": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]] * 2,
    "opposed": [[1.0, 0.0], [-1.0, 0.0]] * 4,
    "zero": [[0.0, 0.0]] * 8,
}


@pytest.mark.parametrize("batch", [PAIRS, ONE_FAMILY, STRANGERS, ((8,),), ((1,),) * 8, ((1, 1),) * 4, ((2,),), ((1,),)])
@pytest.mark.parametrize("embeddings", DEGENERATE)
@pytest.mark.parametrize(
    "loss",
    LOSSES + [TripletLoss(0.0, 1.0, 0.0), SupConLoss(0.001, 1.0, 0.0), VerificationLoss(0.5, 0.0, 0.5)],
    ids=lambda loss: type(loss).__name__,
)
def test_loss_and_gradients_are_finite_in_degenerate_batches(loss, embeddings, batch):
    person, family = labels(batch)
    rows = torch.tensor(DEGENERATE[embeddings][: len(person)]).requires_grad_()
    unit = F.normalize(rows, dim=-1)
    value = loss(unit @ unit.T, person, family)
    parameters = list(loss.parameters())
    gradients = torch.autograd.grad(value, [rows, *parameters])
    assert value.isfinite() and float(value.detach()) >= 0
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_loss_falls_as_genuine_pairs_rise_and_negatives_fall(loss):
    person, family = labels(UNEVEN)
    genuine, _, _ = relations(person, family)
    values = [float(loss(sign * (2 * genuine - 1), person, family).detach()) for sign in (-0.5, -0.1, 0.1, 0.2)]
    assert all(a > b for a, b in itertools.pairwise(values))
