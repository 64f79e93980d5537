import math

import pytest
import torch
from timm.models.vision_transformer import Block

from dcal_core.models.attention import attention_map, global_local_block, joint_block, project, rollout_row

WIDTH, HEADS, TOKENS = 32, 2, 7
BLOCKS = {
    "plain": {"qkv_bias": True},
    "layer scale": {"qkv_bias": True, "init_values": 1e-5},
    "qk norm": {"qkv_bias": True, "qk_norm": True},
    "attention norm": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
}
every_block = pytest.mark.parametrize("kind", BLOCKS)


def make_block(kind="plain", **rates):
    """A timm block every parameter of which matters: no norm, scale or bias is left at its neutral value."""
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS, **BLOCKS[kind], **rates).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return block


def tokens(images, seed=1, count=TOKENS):
    return torch.randn(images, count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def split_heads(block, x):
    """Queries, keys and values by slicing the three thirds of the projection, each [B, H, N, d]."""
    thirds = block.attn.qkv(block.norm1(x)).split(WIDTH, -1)
    heads = [torch.stack(third.split(WIDTH // HEADS, -1), 1) for third in thirds]
    return block.attn.q_norm(heads[0]), block.attn.k_norm(heads[1]), heads[2]


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
    x = x + block.ls1(block.attn.proj(block.attn.norm(attended)))
    return x + block.ls2(block.mlp(block.norm2(x)))


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


@every_block
def test_one_stream_is_timms_own_block(kind):
    block, x = make_block(kind), tokens(3)
    torch.testing.assert_close(joint_block(block, x)[0], block(x))


@every_block
def test_dropout_and_stochastic_depth_fall_as_in_timms_own_block(kind):
    block, x = make_block(kind, attn_drop=0.2, proj_drop=0.2, drop_path=0.4).train(), tokens(8)
    torch.manual_seed(5)
    expected = block(x)
    torch.manual_seed(5)
    torch.testing.assert_close(joint_block(block, x)[0], expected)
    assert not torch.allclose(block.eval()(x), expected)  # the rates did something


@every_block
def test_with_itself_as_partner_pair_attention_is_self_attention(kind):
    block, x = make_block(kind), tokens(4)
    own, pair = joint_block(block, torch.cat([x, x]), torch.arange(4))[0].split(4)
    torch.testing.assert_close(own, block(x))
    torch.testing.assert_close(pair, own, atol=1e-5, rtol=0)


@every_block
def test_pair_attention_is_equation_4(kind):
    block, x, partner = make_block(kind), tokens(3), torch.tensor([2, 0, 1])
    own, pair = joint_block(block, torch.cat([x, x]), partner)[0].split(3)
    torch.testing.assert_close(pair, naive_pair_block(block, x, partner.tolist()))
    assert ((pair - own).flatten(1).abs().amax(1) > 1e-3).all()


def test_streams_run_together_as_they_would_apart():
    block, first, second, partner = make_block(), tokens(3, seed=1), tokens(3, seed=2), torch.tensor([1, 2, 0])
    own, pair = joint_block(block, torch.cat([first, second]), partner)[0].split(3)
    torch.testing.assert_close(own, joint_block(block, first)[0])
    torch.testing.assert_close(pair, naive_pair_block(block, second, partner.tolist()))


def test_partner_is_the_named_image_and_no_other():
    block, x, partner = make_block(), tokens(4), torch.tensor([2, 3, 1, 0])
    before = joint_block(block, torch.cat([x, x]), partner)[0][4:]
    changed = x.clone()
    changed[3] = tokens(1, seed=9)[0]
    after = joint_block(block, torch.cat([x, changed]), partner)[0][4:]
    assert [not torch.allclose(before[i], after[i]) for i in range(4)] == [False, True, False, True]


def test_queries_and_keys_of_every_stream_come_back():
    block, x = make_block("qk norm"), tokens(4)
    for partner in (None, torch.tensor([1, 0])):
        _, q, k = joint_block(block, x, partner)
        expected_q, expected_k, _ = split_heads(block, x)
        torch.testing.assert_close(q, expected_q)
        torch.testing.assert_close(k, expected_k)


@every_block
def test_all_tokens_as_local_tokens_are_the_plain_block(kind):
    block, x = make_block(kind), tokens(2)
    torch.testing.assert_close(global_local_block(block, x, x), block(x))


def test_local_tokens_ask_all_tokens():
    block, x = make_block(), tokens(2)
    torch.testing.assert_close(global_local_block(block, x[:, [0, 5, 2]], x), block(x)[:, [0, 5, 2]])
    changed = x.clone()
    changed[:, 6] = tokens(1, seed=9)[0, 0]  # a token that was not selected is still a key and a value
    assert not torch.allclose(global_local_block(block, x[:, [0, 5, 2]], changed), block(x)[:, [0, 5, 2]])


def test_attention_map_is_the_mean_of_the_heads_softmaxes():
    q, k, _ = project(make_block().attn, tokens(2))
    expected = sum(torch.softmax(q[:, h] @ k[:, h].mT / math.sqrt(WIDTH / HEADS), -1) for h in range(HEADS)) / HEADS
    torch.testing.assert_close(attention_map(q, k), expected.float())
    half = attention_map(10 * q.bfloat16(), 10 * k.bfloat16())  # in fp32 whatever comes in
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(-1), torch.ones(2, TOKENS))


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_rollout_row_is_the_cls_row_of_the_full_product(depth):
    generator = torch.Generator().manual_seed(depth)
    queries, keys = ([2 * torch.randn(2, 2, 6, 4, generator=generator) for _ in range(depth)] for _ in range(2))
    row = rollout_row(queries, keys)
    torch.testing.assert_close(row.double(), naive_rollout(queries, keys)[:, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(row.sum(-1), torch.ones(2))
    if depth > 1:  # layers the other way round are another answer, so the oracle does watch the order
        assert not torch.allclose(row.double(), naive_rollout(queries[::-1], keys[::-1])[:, 0], atol=1e-3)


def test_rollout_row_keeps_no_graph():
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    assert not rollout_row([q], [q]).requires_grad
