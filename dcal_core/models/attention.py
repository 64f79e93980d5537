"""The three attentions of DCAL, computed with the weights of a timm vision transformer's own blocks.

Dual Cross-Attention Learning (Zhu et al., CVPR 2022, arXiv 2205.02151) adds two attentions to self-attention (SA):
- global-local cross-attention (GLCA, section 3.2): selected tokens query all tokens of the image;
- pair-wise cross-attention (PWCA, section 3.3): all tokens of an image query those of two images.
Attention rollout tells which tokens GLCA selects.

B images; N tokens: CLS, further prefix tokens if the backbone has them, then the patches; H heads of width d; C = H d
channels. `rope` holds the rotary positions of the patches, [P, .] or [B, 1, P, .], or is None.
"""

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

# ---- one attention: queries, keys and values, and what they give


def rotate(attention: nn.Module, x: Tensor, rope: Tensor | None) -> Tensor:
    """Queries or keys [B, H, N, d], the patches rotated by their positions; prefix tokens have no position."""
    if rope is None:
        return x
    prefix, patches = x.split([x.shape[2] - rope.shape[-2], rope.shape[-2]], 2)
    return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=attention.rotate_half).type_as(x)], 2)


def project(attention: nn.Module, x: Tensor, rope: Tensor | None = None, kinds: str = "qkv") -> list[Tensor]:
    """Queries, keys and values of tokens x [B, N, C], or those that `kinds` names ("q", "kv"), each [B, H, N, d]."""
    C = attention.qkv.out_features // 3
    first = "qkv".index(kinds)
    rows = slice(first * C, (first + len(kinds)) * C)
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # EVA keeps three biases; that of the keys never learns
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    projected = F.linear(x, attention.qkv.weight[rows], bias if bias is None else bias[rows])
    parts = projected.unflatten(-1, (len(kinds), attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [., B, H, N, d]
    norms = {"q": attention.q_norm, "k": attention.k_norm}
    return [
        part if kind == "v" else rotate(attention, norms[kind](part), rope)
        for kind, part in zip(kinds, parts.unbind(0), strict=True)
    ]


def attend(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d) V by the fused kernel, heads joined, [B, Nq, C]; it never writes the weights to memory."""
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d) in fp32, [B, H, n, N], of queries [B, H, n, d] and keys [B, H, N, d]."""
    # Flattened first, since matmul would copy the transposed keys; with beta=0 nothing is added.
    nothing = q.new_empty(1, 1, 1)
    keys = k.flatten(0, 1).transpose(1, 2)
    scores = torch.baddbmm(nothing, q.flatten(0, 1), keys, beta=0, alpha=q.shape[-1] ** -0.5)
    return scores.softmax(-1, dtype=torch.float32).unflatten(0, q.shape[:2])


@torch.no_grad()
def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """The attention weights, mean of the heads, [B, n, N], without gradient."""
    return attention_weights(q, k).mean(1)


def attend_and_map(
    attention: nn.Module, q: Tensor, k: Tensor, v: Tensor, mapped: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What `attend` gives, [B, N, C], and the map [b, n, N] of the first `mapped` = (b, n) images and queries."""
    b, n = mapped
    if (b, n) != (q.shape[0], q.shape[2]) or torch.is_grad_enabled():
        return attend(attention, q, k, v), attention_map(q[:b, :, :n], k[:b])
    # Without gradients nothing keeps the weights, and forming them once for both is cheaper than the fused kernel.
    weights = attention_weights(q, k)
    attended = attention.attn_drop(weights).to(v.dtype).flatten(0, 1) @ v.flatten(0, 1)  # [B H, N, d]
    return attended.unflatten(0, v.shape[:2]).transpose(1, 2).flatten(2), weights.mean(1)


# ---- one block: attention, then the feed-forward network


def layer_scale(block: nn.Module, place: int, x: Tensor) -> Tensor:
    """A block's first or second residual, scaled: by a module in plain blocks, by a parameter in EVA's."""
    if hasattr(block, "ls1"):
        return getattr(block, f"ls{place}")(x)
    gamma = getattr(block, f"gamma_{place}")
    return x if gamma is None else gamma * x


def finish_block(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a pre-norm block: x plus the projected attention, both [B, N, C], then the feed-forward network."""
    x = x + block.drop_path1(layer_scale(block, 1, block.attn.proj_drop(block.attn.proj(block.attn.norm(attended)))))
    return x + block.drop_path2(layer_scale(block, 2, block.mlp(block.norm2(x))))


# ---- PWCA, equation 4


class ConcatPartner(torch.autograd.Function):
    """Keys or values [B, H, N, d], each image followed by image partner[i], [B, H, 2N, d]; partner: a permutation [B].

    The same as indexing and concatenating, with half the memory traffic; and, as a permutation, its gradient is put in
    order instead of added up by atomics.
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


def joint_block(
    block: nn.Module,
    x: Tensor,
    rope: Tensor | None = None,
    partner: Tensor | None = None,
    mapped: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One block on the SA stream and, behind it along the batch, the PWCA stream.

    Without `partner`, x [B, N, C] is one plain self-attention stream. With it, x is [2B, N, C], or [B, N, C] while both
    streams are still the same, and comes out as [2B, N, C]. The second half attends to its own tokens and to those of
    image partner[i] in one softmax, softmax(Q₁ [K₁; K₂]ᵀ / √d) [V₁; V₂] (equation 4). Both streams share every linear
    layer in one call; only the attention itself differs.

    Also returns the SA attention map [b, n, N] of the first `mapped` = (b, n) images and tokens, and the queries and
    keys of all streams.
    """
    B = x.shape[0] if partner is None else len(partner)
    q, k, v = project(block.attn, block.norm1(x), rope)
    streams = [(q, k, v)]
    if x.shape[0] > B:
        streams = list(zip(q.split(B), k.split(B), v.split(B), strict=True))
    attended, sa_map = attend_and_map(block.attn, *streams[0], mapped)
    if partner is not None:
        q2, k2, v2 = streams[-1]
        pair = attend(block.attn, q2, ConcatPartner.apply(k2, partner), ConcatPartner.apply(v2, partner))
        attended = torch.cat([attended, pair])  # [2B, N, C]
        x = x if x.shape[0] > B else torch.cat([x, x])
    return finish_block(block, x, attended), sa_map, q, k


# ---- GLCA, equation 3


def rows_block(
    block: nn.Module,
    rows: Tensor,
    tokens: Tensor,
    rows_rope: Tensor | None = None,
    rope: Tensor | None = None,
    partner: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block for some rows [B, L, C] only, which query all tokens [B, N, C], and those of image partner[i] if given.

    As a GLCA block, softmax(Qˡ Kᵍᵀ / √d) Vᵍ (equation 3), then the feed-forward network on these rows alone. Also
    returns the queries and keys.
    """
    (q,) = project(block.attn, block.norm1(rows), rows_rope, "q")
    k, v = project(block.attn, block.norm1(tokens), rope, "kv")
    if partner is not None:
        k = ConcatPartner.apply(k, partner)
        v = ConcatPartner.apply(v, partner)
    return finish_block(block, rows, attend(block.attn, q, k, v)), q, k


# ---- rollout, equations 1 and 2


@torch.no_grad()
def rollout_row(maps: list[Tensor]) -> Tensor:
    """The CLS row of the attention rollout through layers with these maps, [B, N], each row summing to 1.

    maps: first layer to last, [B, N, N] each; of the last one the row of CLS, [B, 1, N], is enough. Rollout is
    Ŝ = S̄_L ⋯ S̄_1 with S̄ = ½ S + ½ I (equations 1 and 2). Only row 0 is needed, so a row vector r ← ½ (r + r S) goes
    from the last layer down to the first: the same numbers without a product of two N x N matrices.
    """
    row = maps[-1][:, :1] / 2
    row[:, :, 0] += 0.5
    with torch.autocast(row.device.type, enabled=False):  # the row stays in fp32
        for layer in reversed(maps[:-1]):
            row = torch.baddbmm(row, row, layer, beta=0.5, alpha=0.5)
    return row.squeeze(1)
