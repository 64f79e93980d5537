"""QAConv against its definition, place by place, and what blocks, order and visibility must not or must change."""

import math

import pytest
import torch
import torch.nn.functional as F

from dcal_core.models import qaconv
from dcal_core.models.qaconv import QAConv

PLACES, CHANNELS = 4, 6


def make_features(count, seed=0, places=PLACES):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, CHANNELS, places, generator=random), dim=1)


def make_visible(count, seed=0):
    return torch.rand(count, PLACES, generator=torch.Generator().manual_seed(100 + seed))


def make_qaconv(joint=False):
    """With weights, biases and statistics of its own, signs included."""
    torch.manual_seed(3)
    module = QAConv(PLACES, joint).eval()
    with torch.no_grad():
        for norm in (module.bn, module.logit_bn):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        module.fc.weight.normal_()
        module.fc.bias.normal_()
    return module


def normalised(x, norm, mean=None, var=None):
    mean, var = (norm.running_mean, norm.running_var) if mean is None else (mean, var)
    return norm.weight.item() * (x - float(mean)) / math.sqrt(float(var) + norm.eps) + norm.bias.item()


def matches_of(a, b, v_a=None, v_b=None):
    """The best matches of one pair's places, a's and then b's, by four loops."""
    found = []
    for one, other, v in ((a, b, v_b), (b, a, v_a)):
        for p in range(PLACES):
            values = []
            for r in range(PLACES):
                correlation = 0.0
                for c in range(CHANNELS):
                    correlation += float(one[c, p]) * float(other[c, r])
                values.append(correlation if v is None else (1 + correlation) * float(v[r]) - 1)
            found.append(max(values))
    return found


def naive(module, a, b, v_a=None, v_b=None):
    """The logit of one pair [C, P], in eval mode."""
    weight, bias = module.fc.weight[0].tolist(), module.fc.bias.item()
    orders = []
    for one, other, v_one, v_other in ((a, b, v_a, v_b), (b, a, v_b, v_a)):
        total = bias if len(weight) == 2 * PLACES else 2 * bias
        for place, match in enumerate(matches_of(one, other, v_one, v_other)):
            p = place % PLACES
            both = 1.0 if v_a is None else float(v_a[p]) * float(v_b[p])
            total += weight[place % len(weight)] * both * normalised(match, module.bn)
        orders.append(normalised(total, module.logit_bn))
    return sum(orders) / 2


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("joint", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_definition(joint, seen):
    module, a, b = make_qaconv(joint), make_features(3, 1), make_features(5, 2)
    v_a, v_b = (make_visible(3, 1), make_visible(5, 2)) if seen else (None, None)
    expected = [
        [naive(module, x, y, *((v_a[i], v_b[j]) if seen else ())) for j, y in enumerate(b)] for i, x in enumerate(a)
    ]
    logits = module(a, b, v_a, v_b)
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    seen_3 = (v_a, v_b[:3]) if seen else ()
    torch.testing.assert_close(module.pairs(a, b[:3], *seen_3), logits[:, :3].diagonal(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("joint", [False, True])
@torch.no_grad()
def test_neither_order_nor_blocks_change_a_logit(monkeypatch, joint, training):
    module, a, b = make_qaconv(joint).train(training), make_features(5, 1), make_features(7, 2)
    v_a, v_b = make_visible(5, 1), make_visible(7, 2)
    logits = module(a, b, v_a, v_b)
    torch.testing.assert_close(module(b, a, v_b, v_a).T, logits, atol=1e-5, rtol=1e-5)
    for block in (1, 3):
        monkeypatch.setattr(qaconv, "BLOCK", block)
        torch.testing.assert_close(module(a, b, v_a, v_b), logits, atol=1e-5, rtol=1e-5)


def test_in_training_the_batch_norms_see_all_pairs_and_both_directions(monkeypatch):
    monkeypatch.setattr(qaconv, "BLOCK", 2)
    module, a = make_qaconv().train(), make_features(5, 1)
    before = module.bn.running_mean.item()
    found = torch.tensor([[matches_of(x, y) for y in a] for x in a])  # [5, 5, 2 P]
    logits = module(a, a)
    assert module.bn.running_mean.item() == pytest.approx(0.9 * before + 0.1 * found.mean().item(), abs=1e-6)
    assert module.bn.num_batches_tracked == module.logit_bn.num_batches_tracked == 1
    evidence = normalised(found, module.bn, found.mean(), found.var(unbiased=False))
    total = (evidence * module.fc.weight.detach().repeat(1, 2)).sum(-1)
    expected = normalised(total, module.logit_bn, total.mean(), total.var(unbiased=False))
    torch.testing.assert_close(logits.detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seen", [False, True])
def test_gradients_reach_both_images_and_all_weights_through_the_blocks(monkeypatch, seen):
    monkeypatch.setattr(qaconv, "BLOCK", 2)
    module = make_qaconv().double().train()
    a, b = (make_features(3, seed).double().requires_grad_() for seed in (1, 2))
    visible = [make_visible(3, seed).double().requires_grad_() for seed in (1, 2)] if seen else []
    weights = torch.randn(3, 3, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda *given: (module(*given) * weights).sum(), (a, b, *visible))
    (module(a, b, *visible) * weights).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


# ---- visibility


def faces_of(*directions):
    """One face [1, 2, P] whose places point in these directions, degrees."""
    angles = torch.tensor([directions]).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


@torch.no_grad()
def test_a_hidden_place_is_nobodys_match_however_poor_the_visible_ones_are():
    module = make_qaconv()
    with torch.no_grad():
        module.fc.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    face, other = faces_of(0, 0, 0, 0), faces_of(150, 150, 0, 150)  # the best match is hidden, all others negative
    everything, hidden = torch.ones(1, PLACES), torch.tensor([[1.0, 1, 0, 1]])
    logit = module.pairs(face, other, everything, hidden)
    without = module.pairs(face, faces_of(150, 150, 150, 150), everything, everything)
    torch.testing.assert_close(logit - without, torch.zeros(1), atol=2e-2, rtol=0)  # but for b's own third place
    assert module.pairs(face, other, everything, everything) - without > 0.1


@torch.no_grad()
def test_less_visibility_never_makes_a_match_better():
    a, b = make_features(6, 1), make_features(6, 2)
    for less in (0.7, 0.3, 0.0):
        visible = torch.ones(6, PLACES)
        fewer = visible.clone()
        fewer[:, 1] = less
        places = [qaconv.places_of(b, v) for v in (visible, fewer)]
        whole, part = (qaconv.places_of(a, visible) @ one.mT for one in places)  # 1 + S, times v_b
        assert (part.amax(-1) <= whole.amax(-1) + 1e-6).all()


@torch.no_grad()
def test_what_one_face_hides_counts_in_neither():
    """Change a place that is hidden: the logit stays, and that of a face that hides nothing does not."""
    module, a, b = make_qaconv(), make_features(1, 1), make_features(1, 2)
    changed = a.clone()
    changed[:, :, 2] = -a[:, :, 2]
    hidden, everything = torch.tensor([[1.0, 1, 0, 1]]), torch.ones(1, PLACES)
    torch.testing.assert_close(
        module.pairs(changed, b, hidden, everything), module.pairs(a, b, hidden, everything), atol=2e-2, rtol=0
    )
    assert (module.pairs(changed, b, everything, everything) - module.pairs(a, b, everything, everything)).abs() > 0.1


@torch.no_grad()
def test_where_all_is_visible_or_all_is_hidden():
    module, a, b = make_qaconv(), make_features(3, 1), make_features(5, 2)
    plain = module(a, b)
    torch.testing.assert_close(module(a, b, torch.ones(3, PLACES), torch.ones(5, PLACES)), plain, atol=1e-5, rtol=1e-5)
    nothing = module(a, b, torch.zeros(3, PLACES), torch.zeros(5, PLACES))
    neutral = normalised(2 * module.fc.bias.item(), module.logit_bn)  # no evidence for either
    torch.testing.assert_close(nothing, torch.full((3, 5), neutral), atol=1e-3, rtol=0)


# ---- the layouts of others


@pytest.mark.parametrize("joint, inputs", [(False, 49), (True, 98)])
def test_the_layouts_of_the_authors_and_of_oaml(joint, inputs):
    module = QAConv(joint=joint)
    norm = [("weight", [1]), ("bias", [1]), ("running_mean", [1]), ("running_var", [1]), ("num_batches_tracked", [])]
    expected = {f"{name}.{part}": shape for name in ("bn", "logit_bn") for part, shape in norm}
    expected |= {"fc.weight": [1, inputs], "fc.bias": [1]}
    assert {name: list(tensor.shape) for name, tensor in module.state_dict().items()} == expected


@torch.no_grad()
def test_a_new_qaconv_gives_twice_the_mean_match():
    a, b = make_features(1, 1), make_features(1, 2)
    expected = sum(matches_of(a[0], b[0])) / PLACES
    for joint in (False, True):
        assert QAConv(PLACES, joint).eval().pairs(a, b).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seen", [False, True])
@torch.no_grad()
def test_with_a_window_a_match_is_looked_for_nearby_alone(monkeypatch, seen):
    side = 4
    places = side**2
    torch.manual_seed(0)
    module = QAConv(places, window=1).eval()
    module.fc.weight.normal_()
    a, b = make_features(3, 1, places), make_features(2, 2, places)
    visible = [torch.rand(count, places) for count in (3, 2)] if seen else [None, None]
    expected = torch.zeros(3, 2, 2, places)
    at = torch.zeros(3, 2, 2, places, dtype=torch.long)
    for i in range(3):
        for j in range(2):
            scores = a[i].T @ b[j]  # [P of a, P of b]: within a window what is hidden is no reason to look elsewhere
            for p in range(places):
                near = [r for r in range(places) if max(abs(p // side - r // side), abs(p % side - r % side)) < 2]
                for order, row in enumerate((scores[p], scores[:, p])):
                    at[i, j, order, p] = max(near, key=lambda r, row=row: row[r])
                    expected[i, j, order, p] = row[near].max()
    both = seen and torch.stack(torch.broadcast_tensors(visible[0][:, None], visible[1]), 2)  # [3, 2, 2, P]
    logits = module.judge(expected, both if seen else None)
    for block in (48, 2):
        monkeypatch.setattr(qaconv, "BLOCK", block)
        torch.testing.assert_close(module(a, b, *visible), logits, atol=1e-5, rtol=1e-5)
    pairs = a[:2], b, *(v if v is None else v[:2] for v in visible)
    torch.testing.assert_close(module.pairs(*pairs), logits[:2].diagonal(), atol=1e-5, rtol=1e-5)
    assert torch.equal(module.parts(*pairs)[1], torch.stack([at[0, 0], at[1, 1]]))
    assert not torch.allclose(QAConv(places).eval()(a, b), QAConv(places, window=1).eval()(a, b))
