"""Dual Cross-Attention Learning on a timm vision transformer (Zhu et al., CVPR 2022, arXiv 2205.02151).

Three branches share one backbone. SA is the backbone itself. GLCA looks again at the patches that attention rollout
ranks highest. PWCA, in training only, lets another image's tokens distract the same blocks, so that they learn to
tell faces apart.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcal_core.models.attention import global_local_block, joint_block, rollout_row
from dcal_core.models.features import Features
from dcal_core.models.readouts import READOUTS


def unit_concat(parts: dict[str, Tensor]) -> Tensor:
    """The branches' embeddings, each scaled to unit length, side by side as one unit vector, [B, sum of widths]."""
    return torch.cat([F.normalize(part.float(), dim=-1) for part in parts.values()], -1) / math.sqrt(len(parts))


class BatchNormNeck(nn.BatchNorm1d):
    """The batch-norm neck between a branch and its losses, without shift (Luo et al., 2019, arXiv 1903.07071)."""

    def __init__(self, width: int):
        super().__init__(width)
        self.bias.requires_grad_(False)


class DCAL(nn.Module):
    """A twin verifier on any timm ViT: `encode` gives an SA and a GLCA embedding, `compare` their mean cosine.

    local_ratio: R, the share of patches that GLCA selects. glca_blocks: M. pwca_layers: indices of the blocks, from
    0, in which PWCA pairs the images. mean, std: of the RGB values in [0, 1] that the backbone was trained on.
    """

    def __init__(
        self,
        *,
        vit: nn.Module,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        local_ratio: float = 0.3,
        glca_blocks: int = 1,
        pwca_layers: range = range(0),
        readout: str = "cls",
        similarity: str = "cosine",
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.vit, self.image_size, self.similarity = vit, image_size, similarity
        self.pwca_layers, self.gradient_checkpointing = pwca_layers, gradient_checkpointing
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        patches = vit.patch_embed.num_patches
        self.selected = max(1, math.ceil(local_ratio * patches))  # L patches
        # GLCA has weights of its own; the last block's are the best place to start from.
        self.glca = nn.ModuleList(copy.deepcopy(vit.blocks[-1]) for _ in range(glca_blocks))
        self.glca_norm = copy.deepcopy(vit.norm) if glca_blocks else None
        self.readout = READOUTS[readout](vit.embed_dim, patches, with_local=bool(glca_blocks))
        self.widths = {"sa": self.readout.whole_width}
        if glca_blocks:
            self.widths["glca"] = self.readout.local_width
        if pwca_layers:
            self.widths["pwca"] = self.readout.whole_width  # a neck of its own: distracted tokens differ in statistics
        self.necks = nn.ModuleDict({branch: BatchNormNeck(width) for branch, width in self.widths.items()})

    @property
    def pretrained(self) -> nn.Module:
        """The part that does not start from random weights, and so learns more slowly."""
        return self.vit

    def embed(self, images: Tensor) -> Tensor:
        """Tokens [B, N, C] of RGB images [B, 3, h, w], uint8 or float in [0, 1], of any size."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        x = self.vit.patch_embed((images - self.mean) / self.std)
        return self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(x)))

    def run_blocks(self, x: Tensor, partner: Tensor | None = None) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """All blocks on tokens x [B, N, C]: the last tokens, [2B, N, C] with PWCA behind SA, and q, k and x of SA per
        block."""
        B, layers = len(x), {"q": [], "k": [], "x": []}
        for i, block in enumerate(self.vit.blocks):
            pairing = partner is not None and i in self.pwca_layers
            if pairing and len(x) == B:
                x = torch.cat([x, x])  # until the first pairing both streams are one
            arguments = (block, x, partner if pairing else None)
            if self.gradient_checkpointing and self.training:
                x, q, k = checkpoint(joint_block, *arguments, use_reentrant=False)
            else:
                x, q, k = joint_block(*arguments)
            for name, tensor in zip("qkx", (q, k, x), strict=True):
                layers[name].append(tensor[:B].detach())
        return x, layers

    def select(self, layers: dict[str, list[Tensor]]) -> Tensor:
        """Indices [B, L], among all N tokens, of the patches that rollout from CLS ranks highest."""
        prefix = self.vit.num_prefix_tokens  # CLS, and registers, which hold no place in the image
        return rollout_row(layers["q"], layers["k"])[:, prefix:].topk(self.selected).indices + prefix

    def look_again(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """GLCA: CLS and the chosen tokens [B, L] through its blocks, [B, 1 + L, C], normalised."""
        rows = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)  # [B, 1 + L]
        local = tokens.gather(1, rows.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        for block in self.glca:
            local = global_local_block(block, local, tokens)
        return self.glca_norm(local)

    def branches(self, images: Tensor, partner: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The embedding of every branch that runs, [B, width], and the intermediates by name."""
        x, layers = self.run_blocks(self.embed(images), partner)
        B, prefix = len(images), self.vit.num_prefix_tokens
        whole = self.vit.norm(x)
        embeddings = self.readout.whole(whole[:, 0], whole[:, prefix:])  # SA, and PWCA behind it
        parts = {"sa": embeddings[:B]}
        trace = {f"{name}.{i}": t for name, tensors in layers.items() for i, t in enumerate(tensors)}
        if self.glca:
            chosen = self.select(layers)
            local = self.look_again(x[:B], chosen)
            parts["glca"] = self.readout.local(local[:, 0], local[:, 1:], chosen - prefix)
            trace |= {"selected": chosen, "local": local}
        if len(x) > B:
            parts["pwca"] = embeddings[B:]
        return {branch: self.necks[branch](part) for branch, part in parts.items()}, trace

    def forward(self, images: Tensor, partner: Tensor | None = None) -> dict[str, Tensor]:
        """Training: the embedding of each branch, [B, width]; PWCA runs where `partner` [B] names each image's
        distractor."""
        return self.branches(images, partner)[0]

    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """SA and GLCA embeddings of RGB images [B, 3, h, w]; `trace` adds q, k, tokens per block and the selected
        indices."""
        parts, intermediates = self.branches(images)
        return Features(parts, intermediates if trace else {})

    def compare(self, a: Features, b: Features) -> Tensor:
        """Scores [Na, Nb], higher = more alike: the mean of the branches' cosines, or minus the Euclidean distance."""
        cosine = unit_concat(a.parts) @ unit_concat(b.parts).T
        return cosine if self.similarity == "cosine" else -(2 - 2 * cosine).clamp(min=0).sqrt()
