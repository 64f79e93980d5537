import math

import pytest
import torch
import torch.nn.functional as F

from dcal_core.models.similarity import SIMILARITIES, Cosine, Euclidean, Learned


def faces(width, families=8, images=4):
    """Unit vectors [families x 2 x images, width]: twins alike, images of one person more so."""
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(families, n, m, width, generator=random) for n, m in ((1, 1), (2, 1), (2, images))]
    return F.normalize((parts[0] + 0.7 * parts[1] + 0.5 * parts[2]).reshape(-1, width), dim=-1)


def trained(width, temperature=0.07, **options):
    """A learned similarity with weights far from its start."""
    torch.manual_seed(0)
    similarity = Learned(width, temperature, **options)
    for weights in similarity.parameters():
        torch.nn.init.normal_(weights)
    return similarity


def naive_learned(similarity, a, b):
    """One pair, head by head."""
    size = similarity.query.out_features // similarity.heads
    cosines, weights = [], []
    for head in range(similarity.heads):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (m.weight[rows].double() for m in (similarity.query, similarity.key, similarity.value))
        cosines.append(float(F.cosine_similarity(value @ a, value @ b, dim=0).detach()))
        agreement = float(((query @ a) @ (key @ b) + (query @ b) @ (key @ a)).detach()) / 2
        weights.append(agreement / similarity.temperature)
    weights = [math.exp(weight - max(weights)) for weight in weights]
    return sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)


def rank_correlation(x, y):
    """Spearman's."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (x, y)])
    return float(torch.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_all_give_a_score_per_pair_and_the_highest_to_equals(name):
    torch.manual_seed(0)
    x = faces(16)
    similarity = SIMILARITIES[name](16, 0.07)
    score = similarity(x, x[:5]).detach()
    assert score.shape == (64, 5)
    assert score.argmax(0).tolist() == [0, 1, 2, 3, 4]


def test_cosine_and_distance_at_known_angles():
    angle = torch.deg2rad(torch.tensor([0.0, 60.0, 180.0]))
    x = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(Cosine(2, 1.0)(x[:1], x), torch.tensor([[1.0, 0.5, -1.0]]))
    torch.testing.assert_close(Euclidean(2, 1.0)(x[:1], x), torch.tensor([[0.0, -1.0, -2.0]]), atol=1e-5, rtol=1e-6)
    y = faces(16)
    torch.testing.assert_close(Euclidean(16, 1.0)(y, y[:3]), -torch.cdist(y, y[:3]), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_gradients_are_finite_between_equal_and_opposite_embeddings(name):
    similarity = SIMILARITIES[name](4, 0.07)
    x = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [-1.0, 0, 0, 0]]).requires_grad_()
    similarity(x, x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(weights.grad.isfinite().all() for weights in similarity.parameters())


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_learned_is_the_naive_loop(temperature):
    similarity, x = trained(6, temperature, heads=4, hidden=12), faces(6, 2, 2)
    similarity.query.weight.data /= 6  # so that no head takes it all
    with torch.no_grad():
        score = similarity(x, x[:3])
    for i in range(len(x)):
        for j in range(3):
            expected = naive_learned(similarity, x[i].double(), x[j].double())
            assert float(score[i, j]) == pytest.approx(expected, abs=1e-4)


def test_learned_is_symmetric_and_bounded():
    similarity, x = trained(24), faces(24)
    a, b = x[:40], torch.cat([x[30:], -x[:5]])
    with torch.no_grad():
        torch.testing.assert_close(similarity(a, b), similarity(b, a).T)
        assert similarity(a, b).abs().max() <= 1 + 1e-6
        torch.testing.assert_close(similarity(a, a).diagonal(), torch.ones(40))
        torch.testing.assert_close(similarity(a, -a).diagonal(), -torch.ones(40))


@pytest.mark.parametrize("width, least", [(16, 0.98), (256, 0.98), (512, 0.98), (1024, 0.85)])
def test_learned_starts_near_the_cosine(width, least):
    torch.manual_seed(0)
    similarity, x = Learned(width, 0.07), faces(width)
    pairs = torch.block_diag(*torch.ones(8, 8, 8)).triu(1) == 1  # twins and genuine, of whom it shall tell
    with torch.no_grad():
        assert rank_correlation(similarity(x, x)[pairs], (x @ x.T)[pairs]) > least


def test_learned_starts_with_equal_heads_and_learns_which_matter():
    torch.manual_seed(0)
    x = torch.cat([faces(8), F.normalize(torch.randn(64, 8), dim=-1)], 1) / math.sqrt(
        2
    )  # the second half tells nothing
    similarity = Learned(16, 0.1, heads=2, hidden=16)
    similarity.value.weight.data = torch.eye(16)
    similarity.value.requires_grad_(False)
    telling, idle = (2 * half @ half.T for half in x.split(8, 1))  # the cosines of each head
    torch.testing.assert_close(similarity(x, x).detach(), (telling + idle) / 2)
    optimizer = torch.optim.Adam([similarity.query.weight, similarity.key.weight], lr=0.01)
    for _ in range(100):
        loss = F.mse_loss(similarity(x, x), telling)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * F.mse_loss((telling + idle) / 2, telling)


def test_learned_trains_all_its_weights():
    similarity, x = trained(16), faces(16)
    similarity(x, x).square().sum().backward()
    assert all((weights.grad != 0).any() for weights in similarity.parameters())
