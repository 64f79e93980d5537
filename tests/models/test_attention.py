import math

import pytest
import torch
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import nn

from dcal_core.models.attention import (
    ConcatPartner,
    attend,
    attend_and_map,
    attention_map,
    joint_block,
    project,
    rollout_row,
    rows_block,
)

WIDTH, HEADS, TOKENS, PREFIX = 32, 2, 7, 3
BLOCKS = {
    "plain": {"qkv_bias": True},
    "layer scale": {"qkv_bias": True, "init_values": 1e-5},
    "qk norm": {"qkv_bias": True, "qk_norm": True},
    "attention norm": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
}
EVA_BLOCKS = {
    "eva": {},
    "dinov3": {"rotate_half": True, "init_values": 1e-5, "qkv_bias": False},
    "dinov3, biases": {"rotate_half": True, "init_values": 1e-5},
    "eva02": {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
    "eva, qk norm": {"qk_norm": True},
}
every_block = pytest.mark.parametrize("kind", [*BLOCKS, *EVA_BLOCKS])
eva_block = pytest.mark.parametrize("kind", EVA_BLOCKS)


def make_block(kind="plain", **rates):
    """A timm block every parameter of which matters: no norm, scale or bias is left at its neutral value."""
    torch.manual_seed(0)
    if kind in EVA_BLOCKS:
        block = EvaBlock(WIDTH, HEADS, num_prefix_tokens=PREFIX, **EVA_BLOCKS[kind], **rates)
    else:
        block = Block(WIDTH, HEADS, **BLOCKS[kind], **rates)
    block = block.double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
        if getattr(block.attn, "k_bias", None) is not None:
            nn.init.normal_(block.attn.k_bias)
    return block


def angles():
    """By how much each pair of channels of each patch is turned, [P, d / 2]."""
    random = torch.Generator().manual_seed(4)
    return 3 * torch.rand(TOKENS - PREFIX, WIDTH // HEADS // 2, generator=random, dtype=torch.double)


def rope_of(kind):
    """Sines and cosines of the angles as timm lays them out for a block, [P, 2d]; None for blocks without positions."""
    if kind not in EVA_BLOCKS:
        return None
    half = EVA_BLOCKS[kind].get("rotate_half", False)
    spread = angles().repeat(1, 2) if half else angles().repeat_interleave(2, 1)
    return torch.cat([spread.sin(), spread.cos()], 1)


def timms(block, x, rope):
    """timm's own forward of a block."""
    return block(x) if rope is None else block(x, rope=rope)


def tokens(images, seed=1, count=TOKENS):
    return torch.randn(images, count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def naive_turned(x, half):
    """Queries or keys [B, H, N, d] with each pair of channels of each patch turned by its angle, pair by pair."""
    turned, d = x.clone(), x.shape[-1]
    for place, row in enumerate(angles()):
        for pair, angle in enumerate(row.tolist()):
            i, j = (pair, pair + d // 2) if half else (2 * pair, 2 * pair + 1)
            a, b = x[:, :, PREFIX + place, i], x[:, :, PREFIX + place, j]
            turned[:, :, PREFIX + place, i] = a * math.cos(angle) - b * math.sin(angle)
            turned[:, :, PREFIX + place, j] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def split_heads(block, x):
    """Queries, keys and values by slicing the three thirds of the projection, each [B, H, N, d]."""
    projected = block.attn.qkv(block.norm1(x))
    if isinstance(block, EvaBlock) and block.attn.q_bias is not None:
        projected = projected + torch.cat([block.attn.q_bias, block.attn.k_bias, block.attn.v_bias])
    q, k, v = (torch.stack(third.split(WIDTH // HEADS, -1), 1) for third in projected.split(WIDTH, -1))
    q, k = block.attn.q_norm(q), block.attn.k_norm(k)
    if isinstance(block, EvaBlock):
        q, k = (naive_turned(t, block.attn.rotate_half) for t in (q, k))
    return q, k, v


def naive_scaled(block, place, x):
    """A residual times the block's layer scale, if it has one."""
    if isinstance(block, EvaBlock):
        gamma = (block.gamma_1, block.gamma_2)[place - 1]
        return x if gamma is None else x * gamma
    return (block.ls1, block.ls2)[place - 1](x)


@torch.no_grad()
def naive_pair_block(block, x, partner):
    """Equation 4 token by token: every query sees the keys of its own image and of the partner's in one softmax."""
    q, k, v = split_heads(block, x)
    attended = torch.zeros_like(x)
    for i, j in enumerate(partner):
        for head in range(HEADS):
            width = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            keys, values = [*k[i, head], *k[j, head]], [*v[i, head], *v[j, head]]
            for n in range(x.shape[1]):
                scores = [math.exp(float(q[i, head, n] @ key) / math.sqrt(WIDTH / HEADS)) for key in keys]
                mixed = sum(score * value for score, value in zip(scores, values, strict=True))
                attended[i, n, width] = mixed / sum(scores)
    x = x + naive_scaled(block, 1, block.attn.proj(block.attn.norm(attended)))
    return x + naive_scaled(block, 2, block.mlp(block.norm2(x)))


def naive_rollout(queries, keys):
    """The whole product of ½ S + ½ I from the last layer down to the first, [B, N, N], by explicit loops."""
    B, H, N, d = queries[0].shape
    result = torch.zeros(B, N, N, dtype=torch.double)
    for b in range(B):
        product = torch.eye(N, dtype=torch.double)
        for q, k in zip(queries, keys, strict=True):
            S = torch.zeros(N, N, dtype=torch.double)
            for h in range(H):
                for n in range(N):
                    weights = [math.exp(float(q[b, h, n] @ k[b, h, m]) / math.sqrt(d)) for m in range(N)]
                    S[n] += torch.tensor(weights, dtype=torch.double) / sum(weights) / H
            product = (0.5 * S + 0.5 * torch.eye(N, dtype=torch.double)) @ product
        result[b] = product
    return result


# Queries, keys and values


@every_block
def test_queries_keys_and_values_are_the_thirds_of_the_projection(kind):
    block, x = make_block(kind), tokens(2)
    projected = project(block.attn, block.norm1(x), rope_of(kind))
    for ours, expected in zip(projected, split_heads(block, x), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kinds", ["q", "k", "v", "qk", "kv"])
@every_block
def test_a_part_of_the_projection_is_that_part_of_the_whole(kind, kinds):
    block, x, rope = make_block(kind), tokens(2), rope_of(kind)
    whole = dict(zip("qkv", project(block.attn, x, rope), strict=True))
    parts = project(block.attn, x, rope, kinds)
    assert len(parts) == len(kinds)
    for name, part in zip(kinds, parts, strict=True):
        torch.testing.assert_close(part, whole[name])


@eva_block
def test_prefix_tokens_and_values_are_not_turned(kind):
    block, x, rope = make_block(kind), tokens(2), rope_of(kind)
    for name, turned, still in zip("qkv", project(block.attn, x, rope), project(block.attn, x), strict=True):
        moved = (turned - still).abs().amax((0, 1, 3)) > 1e-3  # by token
        assert moved.tolist() == [name != "v" and n >= PREFIX for n in range(TOKENS)]


@eva_block
def test_positions_may_be_given_per_image(kind):
    block, x, rope = make_block(kind), tokens(3), rope_of(kind)
    each = torch.stack([rope, rope.flip(0), rope]).unsqueeze(1)  # [B, 1, P, 2d]
    shared = project(block.attn, x, rope), project(block.attn, x, rope.flip(0))
    for own, first, second in zip(project(block.attn, x, each), *shared, strict=True):
        torch.testing.assert_close(own, torch.stack([first[0], second[1], first[2]]))


# SA and PWCA


@every_block
def test_one_stream_is_timms_own_block(kind):
    block, x, rope = make_block(kind), tokens(3), rope_of(kind)
    torch.testing.assert_close(joint_block(block, x, rope)[0], timms(block, x, rope))


@every_block
def test_dropout_and_stochastic_depth_fall_as_in_timms_own_block(kind):
    block, x, rope = make_block(kind, attn_drop=0.2, proj_drop=0.2, drop_path=0.4).train(), tokens(8), rope_of(kind)
    torch.manual_seed(5)
    expected = timms(block, x, rope)
    torch.manual_seed(5)
    torch.testing.assert_close(joint_block(block, x, rope)[0], expected)
    assert not torch.allclose(timms(block.eval(), x, rope), expected)  # the rates did something


@every_block
def test_with_itself_as_partner_pair_attention_is_self_attention(kind):
    block, x, rope = make_block(kind), tokens(4), rope_of(kind)
    own, pair = joint_block(block, torch.cat([x, x]), rope, torch.arange(4))[0].split(4)
    torch.testing.assert_close(own, timms(block, x, rope))
    torch.testing.assert_close(pair, own, atol=1e-5, rtol=0)


@every_block
def test_pair_attention_is_equation_4(kind):
    block, x, partner = make_block(kind), tokens(3), torch.tensor([2, 0, 1])
    own, pair = joint_block(block, torch.cat([x, x]), rope_of(kind), partner)[0].split(3)
    torch.testing.assert_close(pair, naive_pair_block(block, x, partner.tolist()))
    assert ((pair - own).flatten(1).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("kind", ["plain", "dinov3"])
def test_streams_run_together_as_they_would_apart(kind):
    block, rope = make_block(kind), rope_of(kind)
    first, second, partner = tokens(3, seed=1), tokens(3, seed=2), torch.tensor([1, 2, 0])
    own, pair = joint_block(block, torch.cat([first, second]), rope, partner)[0].split(3)
    torch.testing.assert_close(own, joint_block(block, first, rope)[0])
    torch.testing.assert_close(pair, naive_pair_block(block, second, partner.tolist()))


def test_partner_is_the_named_image_and_no_other():
    block, x, partner = make_block(), tokens(4), torch.tensor([2, 3, 1, 0])
    before = joint_block(block, torch.cat([x, x]), partner=partner)[0][4:]
    changed = x.clone()
    changed[3] = tokens(1, seed=9)[0]
    after = joint_block(block, torch.cat([x, changed]), partner=partner)[0][4:]
    assert [not torch.allclose(before[i], after[i]) for i in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("kind", ["qk norm", "dinov3, biases"])
def test_queries_and_keys_of_every_stream_come_back(kind):
    block, x = make_block(kind), tokens(4)
    for partner in (None, torch.tensor([1, 0])):
        *_, q, k = joint_block(block, x, rope_of(kind), partner)
        expected_q, expected_k, _ = split_heads(block, x)
        torch.testing.assert_close(q, expected_q)
        torch.testing.assert_close(k, expected_k)


PARTNERS = [[2, 0, 1, 3], [1, 0, 3, 2], [0, 1, 2, 3], [3, 2, 0, 1]]  # permutations; some leave images in place


def keys_of_a_block():
    """Keys as the projection gives them: [B, H, N, d], between queries and values in memory [B, N, 3, H, d]."""
    k = project(make_block().attn, tokens(4))[1].detach()
    assert not k.is_contiguous()
    return k


@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize("contiguous", [False, True])
def test_concat_partner_is_indexing_and_concatenating(partner, contiguous):
    partner, random = torch.tensor(partner), torch.Generator().manual_seed(2)
    k = keys_of_a_block().contiguous() if contiguous else keys_of_a_block()
    ours, theirs = (k.detach().requires_grad_() for _ in range(2))
    beside, expected = ConcatPartner.apply(ours, partner), torch.cat([theirs, theirs[partner]], 2)
    assert torch.equal(beside, expected)
    gradient = torch.randn(4, 2 * TOKENS, HEADS, WIDTH // HEADS, generator=random, dtype=torch.double).transpose(1, 2)
    given = gradient.clone()
    beside.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(gradient, given)  # another function may still need it


@pytest.mark.parametrize("partner", PARTNERS)
def test_concat_partner_has_the_gradient_of_finite_differences(partner):
    k = torch.randn(4, 3, 2, 2, dtype=torch.double).transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(ConcatPartner.apply, (k, torch.tensor(partner)))


# GLCA


def only_rows(*given, **options):
    """The rows that `rows_block` returns, without its queries and keys."""
    return rows_block(*given, **options)[0]


@every_block
def test_queries_of_the_rows_and_keys_of_all_tokens_come_back(kind):
    block, x, rope = make_block(kind), tokens(2), rope_of(kind)
    _, q, k = rows_block(block, x[:, :1], x, rope=rope)
    expected_q, expected_k, _ = split_heads(block, x)
    torch.testing.assert_close(q, expected_q[:, :, :1])  # CLS has no position
    torch.testing.assert_close(k, expected_k)


@every_block
def test_all_tokens_as_local_tokens_are_the_plain_block(kind):
    block, x, rope = make_block(kind), tokens(2), rope_of(kind)
    torch.testing.assert_close(only_rows(block, x, x, rope, rope), timms(block, x, rope))


def test_local_tokens_ask_all_tokens():
    block, x = make_block(), tokens(2)
    torch.testing.assert_close(only_rows(block, x[:, [0, 5, 2]], x), block(x)[:, [0, 5, 2]])
    changed = x.clone()
    changed[:, 6] = tokens(1, seed=9)[0, 0]  # a token that was not selected is still a key and a value
    assert not torch.allclose(only_rows(block, x[:, [0, 5, 2]], changed), block(x)[:, [0, 5, 2]])


@eva_block
def test_local_tokens_ask_from_their_own_places(kind):
    block, x, rope = make_block(kind), tokens(2), rope_of(kind)
    rows = torch.tensor([[0, 5, 3], [0, 4, 6]])  # CLS and two patches, others in each image
    images = torch.arange(2)[:, None]
    local_rope = rope[rows[:, 1:] - PREFIX].unsqueeze(1)  # [B, 1, 2, 2d]
    expected = timms(block, x, rope)[images, rows]
    torch.testing.assert_close(only_rows(block, x[images, rows], x, local_rope, rope), expected)
    misplaced = only_rows(block, x[images, rows], x, local_rope.flip(2), rope)
    torch.testing.assert_close(misplaced[:, 0], expected[:, 0])  # CLS has no place
    assert ((misplaced - expected)[:, 1:].abs().amax(-1) > 1e-3).all()


@every_block
def test_a_row_with_a_partner_is_that_of_the_whole_stream(kind):
    block, x, rope, partner = make_block(kind), tokens(3), rope_of(kind), torch.tensor([2, 0, 1])
    whole = joint_block(block, torch.cat([x, x]), rope, partner)[0][3:]
    cls = only_rows(block, x[:, :1], x, rope=rope, partner=partner)
    torch.testing.assert_close(cls, whole[:, :1])
    assert ((cls - only_rows(block, x[:, :1], x, rope=rope))[:, 0].abs().amax(-1) > 1e-3).all()


# Rollout


def test_attention_map_is_the_mean_of_the_heads_softmaxes():
    q, k, _ = project(make_block().attn, tokens(2))
    expected = sum(torch.softmax(q[:, h] @ k[:, h].mT / math.sqrt(WIDTH / HEADS), -1) for h in range(HEADS)) / HEADS
    torch.testing.assert_close(attention_map(q, k), expected.float())
    half = attention_map(10 * q.bfloat16(), 10 * k.bfloat16())  # in fp32 whatever comes in
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(-1), torch.ones(2, TOKENS))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("seen", [(0, 0), (3, 1), (2, TOKENS), (3, TOKENS)])
def test_attending_is_the_same_however_much_of_the_map_is_asked_for(seen, gradients):
    attention = make_block().attn
    q, k, v = project(attention, tokens(3))
    with torch.set_grad_enabled(gradients):
        attended, seen_map = attend_and_map(attention, q, k, v, seen)
    torch.testing.assert_close(attended, attend(attention, q, k, v), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen_map, attention_map(q, k)[: seen[0], : seen[1]])
    assert attended.requires_grad == gradients and not seen_map.requires_grad


@torch.no_grad()
def test_attention_dropout_holds_where_the_map_is_kept():
    attention = make_block(attn_drop=0.5).attn.train()
    q, k, v = project(attention, tokens(3))
    seen = (3, TOKENS)
    first, second = attend_and_map(attention, q, k, v, seen), attend_and_map(attention, q, k, v, seen)
    assert not torch.allclose(first[0], second[0])
    assert torch.equal(first[1], second[1])  # rollout sees the weights before dropout


def queries_and_keys(depth, dtype=torch.float32):
    """Those of `depth` layers, [2, 3, 6, 4] each."""
    random = torch.Generator().manual_seed(depth)
    return [[2 * torch.randn(2, 3, 6, 4, generator=random).to(dtype) for _ in range(depth)] for _ in range(2)]


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_rollout_row_is_the_cls_row_of_the_full_product(depth):
    queries, keys = queries_and_keys(depth)
    row = rollout_row(list(map(attention_map, queries, keys)))
    torch.testing.assert_close(row.double(), naive_rollout(queries, keys)[:, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(row.sum(-1), torch.ones(2))
    if depth > 1:  # layers the other way round are another answer, so the oracle does watch the order
        assert not torch.allclose(row.double(), naive_rollout(queries[::-1], keys[::-1])[:, 0], atol=1e-3)


@pytest.mark.parametrize("depth", [1, 12])
def test_rollout_row_stays_in_fp32_under_mixed_precision(depth):
    queries, keys = queries_and_keys(depth, torch.bfloat16)
    plain = rollout_row(list(map(attention_map, queries, keys)))
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16  # it is on
        row = rollout_row(list(map(attention_map, queries, keys)))
    assert row.dtype == torch.float32 and torch.equal(row, plain)
    torch.testing.assert_close(row.sum(-1), torch.ones(2), atol=1e-5, rtol=0)
    # bfloat16 has 8 bits; here only the scores q k have been rounded to them
    torch.testing.assert_close(row.double(), naive_rollout(queries, keys)[:, 0], atol=2e-2, rtol=0)


def test_rollout_row_keeps_no_graph():
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    assert not attention_map(q, q).requires_grad
    assert not rollout_row([torch.rand(1, 4, 4, requires_grad=True)] * 2).requires_grad


def test_rollout_row_needs_only_the_cls_row_of_the_last_layer():
    maps = list(torch.rand(3, 2, 5, 5))
    before = [layer.clone() for layer in maps]
    torch.testing.assert_close(rollout_row([*maps[:-1], maps[-1][:, :1]]), rollout_row(maps))
    assert all(map(torch.equal, maps, before))
