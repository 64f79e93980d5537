"""The three attentions of DCAL on the blocks of a timm vision transformer, with the blocks' own weights.

Dual Cross-Attention Learning, Zhu et al., CVPR 2022, arXiv 2205.02151: self-attention (SA); pair-wise cross-attention
(PWCA, section 3.3); global-local cross-attention (GLCA, section 3.2); attention rollout, which tells GLCA where.
B images, N tokens (prefix tokens, CLS the first, then patches), H heads of width d, C = H d channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def project(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens x [B, N, C], each [B, H, N, d]."""
    B, N, _ = x.shape
    qkv = attention.qkv(x).reshape(B, N, 3, attention.num_heads, -1)  # [B, N, 3, H, d]
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, N, d]
    return attention.q_norm(q), attention.k_norm(k), v


def attend(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v by the fused kernel, [B, H, Nq, d]; the map itself is never written to memory."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=attention.attn_drop.p if attention.training else 0.0)


def finish(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a pre-norm block: join the heads [B, H, N, d], project, add to x [B, N, C], then the FFN."""
    joined = attended.transpose(1, 2).flatten(2)  # [B, N, C]
    x = x + block.drop_path1(block.ls1(block.attn.proj_drop(block.attn.proj(block.attn.norm(joined)))))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def joint_block(block: nn.Module, x: Tensor, partner: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """One block on the SA stream and, behind it along the batch, the PWCA stream; also returns q and k of all streams.

    Without `partner`, x [B, N, C] is one plain self-attention stream. With it, x is [2B, N, C] and the second half
    attends to its own tokens and those of image partner[i] in one softmax: softmax(Q₁ [K₁; K₂]ᵀ / √d) [V₁; V₂]
    (equation 4). Both streams share every linear layer in one call and part only in the attention itself.
    """
    q, k, v = project(block.attn, block.norm1(x))
    if partner is None:
        attended = attend(block.attn, q, k, v)
    else:
        B = len(partner)
        (q1, q2), (k1, k2), (v1, v2) = (t.split(B) for t in (q, k, v))
        own = attend(block.attn, q1, k1, v1)
        pair = attend(block.attn, q2, torch.cat([k2, k2[partner]], 2), torch.cat([v2, v2[partner]], 2))
        attended = torch.cat([own, pair])  # [2B, H, N, d]
    return finish(block, x, attended), q, k


def global_local_block(block: nn.Module, local: Tensor, tokens: Tensor) -> Tensor:
    """One GLCA block: local tokens [B, L, C] query all tokens [B, N, C], softmax(Qˡ Kᵍᵀ / √d) Vᵍ (equation 3), then
    the FFN."""
    q, _, _ = project(block.attn, block.norm1(local))
    _, k, v = project(block.attn, block.norm1(tokens))
    return finish(block, local, attend(block.attn, q, k, v))


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """The head mean of softmax(q kᵀ / √d) in fp32, [B, N, N], from q and k [B, H, N, d]."""
    scores = q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, H, N, N]
    return scores.softmax(-1).mean(1)


@torch.no_grad()
def rollout_row(queries: list[Tensor], keys: list[Tensor]) -> Tensor:
    """The CLS row of the attention rollout through all given layers (first to last), [B, N], each row summing to 1.

    Rollout is Ŝ = S̄_L ⋯ S̄_1 with S̄ = ½ S + ½ I (equations 1 and 2). Only row 0 is wanted, so a row vector is taken
    from the last layer down to the first, r ← ½ (r + r S): the same numbers without a product of two N x N matrices.
    """
    B, _, N, _ = queries[0].shape
    row = F.one_hot(torch.zeros(B, dtype=torch.long, device=queries[0].device), N).float()  # [B, N]
    for q, k in zip(reversed(queries), reversed(keys), strict=True):
        row = (row + torch.einsum("bn,bnm->bm", row, attention_map(q, k))) / 2
    return row
