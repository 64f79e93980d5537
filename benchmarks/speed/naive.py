"""DCAL as it is written down first, straight from the paper's equations: what the benchmark compares ours with.

Softmax maps are written to memory and kept for rollout, the SA and the PWCA stream go through the blocks one after the
other, rollout multiplies whole matrices, and GLCA computes all tokens before it takes the selected ones. The
embeddings are the same as DCAL's. B images, N tokens, H heads of width d, C = H d channels.
"""

import torch
from torch import Tensor, nn

from dcal_core.models.dcal import DCAL
from dcal_core.models.verifier import Features


def heads(attention: nn.Module, x: Tensor) -> list[Tensor]:
    """Queries, keys and values of tokens x [B, N, C], each [B, H, N, d]."""
    B, N, _ = x.shape
    q, k, v = attention.qkv(x).reshape(B, N, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return [attention.q_norm(q), attention.k_norm(k), v]


def naive_block(block: nn.Module, x: Tensor, partner: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One block on tokens x [B, N, C], with the keys and values of image partner[i] too if given; also returns the
    attention map [B, H, N, N or 2N]."""
    q, k, v = heads(block.attn, block.norm1(x))
    if partner is not None:
        k = torch.cat([k, k[partner]], 2)
        v = torch.cat([v, v[partner]], 2)
    attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    joined = (attention @ v).transpose(1, 2).flatten(2)  # [B, N, C]
    x = x + block.ls1(block.attn.proj(block.attn.norm(joined)))
    return x + block.ls2(block.mlp(block.norm2(x))), attention


@torch.no_grad()
def rollout(maps: list[Tensor]) -> Tensor:
    """Ŝ = S̄_L ⋯ S̄_1 with S̄ = ½ S + ½ I, [B, N, N], of head-mean maps S [B, N, N], first layer to last."""
    eye = torch.eye(maps[0].shape[-1], device=maps[0].device)
    product = (maps[0] + eye) / 2
    for layer in maps[1:]:
        product = (layer + eye) / 2 @ product
    return product


class NaiveDCAL(nn.Module):
    """A DCAL of at most one GLCA block, without dropout, run the naive way on the given model's own weights."""

    def __init__(self, model: DCAL):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, partner: Tensor | None = None) -> dict[str, Tensor]:
        """The embedding of each branch, [B, width], of RGB images [B, 3, S, S] in [0, 1]."""
        model = self.model
        vit = self.model.vit
        prefix = vit.num_prefix_tokens
        start = x = vit.norm_pre(vit._pos_embed(vit.patch_embed((images - model.mean) / model.std)))
        maps = []
        for layer in vit.blocks:
            x, attention = naive_block(layer, x)
            maps.append(attention.detach())
        cls, patches = self.last_tokens(x)
        parts = {"sa": model.readout.whole(cls, patches)}
        if model.glca:
            means = [attention.float().mean(1) for attention in maps]
            chosen = rollout(means)[:, 0, prefix:].topk(model.selected).indices  # [B, L]
            everywhere = model.glca_norm(naive_block(model.glca[0], x)[0])  # [B, N, C]
            rows = (chosen + prefix).unsqueeze(-1).expand(-1, -1, x.shape[-1])
            parts["glca"] = model.readout.local(everywhere[:, 0], everywhere.gather(1, rows), chosen, patches)
        if partner is not None:
            y = start
            for i, layer in enumerate(vit.blocks):
                y = naive_block(layer, y, partner if i in model.pwca_layers else None)[0]
            parts["pwca"] = model.readout.whole(*self.last_tokens(y))
        return {branch: model.necks[branch](part) for branch, part in parts.items()}

    def last_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """CLS [B, C] and the patches [B, N, C] at the end of the blocks."""
        x = self.model.vit.norm(x)
        return x[:, 0], x[:, self.model.vit.num_prefix_tokens :]

    def encode(self, images: Tensor) -> Features:
        """As DCAL's own `encode`."""
        return Features(self(images))
