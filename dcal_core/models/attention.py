"""The three attentions of DCAL on the blocks of a timm vision transformer, with the blocks' own weights.

Dual Cross-Attention Learning, Zhu et al., CVPR 2022, arXiv 2205.02151: self-attention (SA); pair-wise cross-attention
(PWCA, section 3.3); global-local cross-attention (GLCA, section 3.2); attention rollout, which tells GLCA where.
B images, N tokens (prefix tokens, CLS the first, then patches), H heads of width d, C = H d channels. `rope` holds the
rotary positions of the patches, [P, .] or [B, 1, P, .], for backbones that have them.
"""

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn


def turned(attention: nn.Module, x: Tensor, rope: Tensor | None) -> Tensor:
    """Queries or keys [B, H, N, d] with the patches turned by their rotary positions; prefix tokens have none."""
    if rope is None:
        return x
    prefix, patches = x.split([x.shape[2] - rope.shape[-2], rope.shape[-2]], 2)
    return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=attention.rotate_half).type_as(x)], 2)


def project(attention: nn.Module, x: Tensor, rope: Tensor | None = None, kinds: str = "qkv") -> list[Tensor]:
    """Queries, keys and values of tokens x [B, N, C], or those of them that `kinds` names, each [B, H, N, d]."""
    qkv, first, C = attention.qkv, "qkv".index(kinds), attention.qkv.out_features // 3
    bias = qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # EVA keeps them apart; its keys' never learns
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    rows = slice(first * C, (first + len(kinds)) * C)
    projected = F.linear(x, qkv.weight[rows], bias if bias is None else bias[rows])
    parts = projected.unflatten(-1, (len(kinds), attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [., B, H, N, d]
    norms = {"q": attention.q_norm, "k": attention.k_norm}
    return [
        part if kind == "v" else turned(attention, norms[kind](part), rope)
        for kind, part in zip(kinds, parts.unbind(0), strict=True)
    ]


def attend(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v by the fused kernel, heads joined, [B, Nq, C]; the map is never written to memory."""
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) in fp32, [B, H, n, N], of queries [B, H, n, d] and keys [B, H, N, d]."""
    # Flattened first, since matmul would copy the transposed keys; beta=0: nothing is added.
    nothing, keys = q.new_empty(1, 1, 1), k.flatten(0, 1).transpose(1, 2)
    scores = torch.baddbmm(nothing, q.flatten(0, 1), keys, beta=0, alpha=q.shape[-1] ** -0.5)
    return scores.softmax(-1, dtype=torch.float32).unflatten(0, q.shape[:2])


@torch.no_grad()
def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """The head mean of the attention weights, [B, n, N], without gradient."""
    return attention_weights(q, k).mean(1)


def attend_seen(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor, seen: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What `attend` gives, [B, N, C], and the attention map [b, n, N] of the first `seen` = (b, n) images, queries."""
    b, n = seen
    if (b, n) != (len(q), q.shape[2]) or torch.is_grad_enabled():
        return attend(attention, q, k, v), attention_map(q[:b, :, :n], k[:b])
    # Without gradients nothing keeps the weights, and forming them once for both is cheaper than the fused kernel.
    weights = attention_weights(q, k)
    attended = attention.attn_drop(weights).to(v.dtype).flatten(0, 1) @ v.flatten(0, 1)  # [B H, N, d]
    return attended.unflatten(0, v.shape[:2]).transpose(1, 2).flatten(2), weights.mean(1)


class BesidePartner(torch.autograd.Function):
    """Keys or values [B, H, N, d] with those of image partner[i] behind those of image i, [B, H, 2N, d].

    partner: a permutation [B]. Indexing and concatenating would do the same with twice the memory traffic, and, going
    back, add up by atomics what a permutation need only put in order.
    """

    @staticmethod
    def forward(ctx, own: Tensor, partner: Tensor) -> Tensor:
        ctx.save_for_backward(partner)
        images = torch.stack([torch.arange(len(partner), device=partner.device), partner], 1)  # [B, 2]
        tokens = own.transpose(1, 2).index_select(0, images.flatten())  # [2B, N, H, d], as the projection left them
        return tokens.unflatten(0, (-1, 2)).flatten(1, 2).transpose(1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (partner,) = ctx.saved_tensors
        own, lent = grad.chunk(2, 2)
        return torch.empty_like(own).index_copy_(0, partner, lent).add_(own), None


def scaled(block: nn.Module, place: int, x: Tensor) -> Tensor:
    """A block's first or second residual with its layer scale: a module in plain blocks, a parameter in EVA's."""
    if hasattr(block, "ls1"):
        return getattr(block, f"ls{place}")(x)
    gamma = getattr(block, f"gamma_{place}")
    return x if gamma is None else gamma * x


def finish(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a pre-norm block: project what was attended to and add it to x, both [B, N, C], then the FFN."""
    x = x + block.drop_path1(scaled(block, 1, block.attn.proj_drop(block.attn.proj(block.attn.norm(attended)))))
    return x + block.drop_path2(scaled(block, 2, block.mlp(block.norm2(x))))


def joint_block(
    block: nn.Module,
    x: Tensor,
    rope: Tensor | None = None,
    partner: Tensor | None = None,
    seen: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One block on the SA stream and, behind it along the batch, the PWCA stream; also returns the SA attention map
    [b, n, N] of the first `seen` = (b, n) images and tokens, and the queries and keys of all streams.

    Without `partner`, x [B, N, C] is one plain self-attention stream. With it, x is [2B, N, C], or [B, N, C] where both
    streams are still the same, and comes out as [2B, N, C]: the second half attends to its own tokens and those of
    image partner[i] in one softmax, softmax(Q₁ [K₁; K₂]ᵀ / √d) [V₁; V₂] (equation 4). Both streams share every linear
    layer in one call and part only in the attention itself.
    """
    B = len(x) if partner is None else len(partner)
    q, k, v = project(block.attn, block.norm1(x), rope)
    streams = list(zip(q.split(B), k.split(B), v.split(B), strict=True))  # one or two
    attended, seen_map = attend_seen(block.attn, *streams[0], seen)
    if partner is not None:
        q2, k2, v2 = streams[-1]
        pair = attend(block.attn, q2, BesidePartner.apply(k2, partner), BesidePartner.apply(v2, partner))
        attended = torch.cat([attended, pair])  # [2B, N, C]
        x = x if len(x) > B else torch.cat([x, x])
    return finish(block, x, attended), seen_map, q, k


def rows_block(
    block: nn.Module,
    rows: Tensor,
    tokens: Tensor,
    rows_rope: Tensor | None = None,
    rope: Tensor | None = None,
    partner: Tensor | None = None,
) -> Tensor:
    """One block for some rows [B, L, C] only, which query all tokens [B, N, C], and those of image partner[i] if given.

    As a GLCA block, softmax(Qˡ Kᵍᵀ / √d) Vᵍ (equation 3), then the FFN on these rows alone.
    """
    (q,) = project(block.attn, block.norm1(rows), rows_rope, "q")
    k, v = project(block.attn, block.norm1(tokens), rope, "kv")
    if partner is not None:
        k, v = BesidePartner.apply(k, partner), BesidePartner.apply(v, partner)
    return finish(block, rows, attend(block.attn, q, k, v))


@torch.no_grad()
def rollout_row(maps: list[Tensor]) -> Tensor:
    """The CLS row of the attention rollout through layers with these maps, [B, N], each row summing to 1.

    maps: first layer to last, [B, N, N] each, of the last the row of CLS alone, [B, 1, N], is enough. Rollout is
    Ŝ = S̄_L ⋯ S̄_1 with S̄ = ½ S + ½ I (equations 1 and 2). Only row 0 is wanted, so a row vector r ← ½ (r + r S) is
    taken from the last layer down to the first: the same numbers without a product of two N x N matrices.
    """
    row = maps[-1][:, :1] / 2
    row[:, :, 0] += 0.5
    with torch.autocast(row.device.type, enabled=False):  # the row stays in fp32
        for layer in reversed(maps[:-1]):
            row = torch.baddbmm(row, row, layer, beta=0.5, alpha=0.5)
    return row.squeeze(1)
