"""How many multiplications DCAL needs on a plain ViT, by arithmetic: what no implementation can go below.

N tokens, P of them patches, of width C, in D blocks with an FFN of width F (4 C in most); counts are
multiply-accumulates for one image, without norms, softmax and activations.
"""

import math
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a plain timm ViT that decide its cost, and R, the share of patches that GLCA selects."""

    tokens: int
    patches: int
    width: int
    depth: int
    hidden: int
    pixels: int  # values in a patch: 3 colours x side x side
    local_ratio: float

    @classmethod
    def of(cls, vit: nn.Module, local_ratio: float) -> "Shape":
        """The shape of a backbone."""
        patches = vit.patch_embed.num_patches
        height, width = vit.patch_embed.patch_size
        return cls(
            tokens=patches + vit.num_prefix_tokens,
            patches=patches,
            width=vit.embed_dim,
            depth=len(vit.blocks),
            hidden=vit.blocks[0].mlp.fc1.out_features,
            pixels=3 * height * width,
            local_ratio=local_ratio,
        )

    def block(self, queries: int, keys: int) -> int:
        """A block whose output and FFN are wanted in `queries` rows, keys and values projected for all N tokens, and
        each query compared with `keys` of them: 12 N C² + 2 N² C where all are N."""
        rows = queries * (2 * self.width**2 + 2 * self.width * self.hidden)  # q, output projection, FFN
        return rows + 2 * self.tokens * self.width**2 + 2 * queries * keys * self.width

    def embedding(self) -> int:
        """The patch layer."""
        return self.patches * self.pixels * self.width

    def plain(self) -> int:
        """The backbone alone, which is also the SA branch."""
        return self.embedding() + self.depth * self.block(self.tokens, self.tokens)

    def pair_wise(self) -> int:
        """The PWCA stream: the same blocks with the keys of two images, the last of them for CLS alone."""
        return (self.depth - 1) * self.block(self.tokens, 2 * self.tokens) + self.block(1, 2 * self.tokens)

    def global_local(self) -> int:
        """One GLCA block on CLS and the selected patches."""
        return self.block(1 + math.ceil(self.local_ratio * self.patches), self.tokens)

    def rollout(self) -> int:
        """The attention maps of all layers again, of the last its CLS row; the row that goes down them costs little."""
        return (self.depth - 1) * self.tokens**2 * self.width + self.tokens * self.width

    def encoding(self) -> int:
        """DCAL without gradients: SA, rollout, GLCA."""
        return self.plain() + self.rollout() + self.global_local()

    def training(self) -> int:
        """A DCAL training step: forward and, at twice its cost, backward through all but the rollout."""
        return 3 * (self.plain() + self.pair_wise() + self.global_local()) + self.rollout()
