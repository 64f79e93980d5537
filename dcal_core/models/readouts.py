"""From tokens to an embedding: what a branch of DCAL reads once its blocks have run."""

import torch
from torch import Tensor, nn


class ClsReadout(nn.Module):
    """The paper's readout: the CLS token; for GLCA joined with the mean of the selected tokens.

    Read at CLS alone, one GLCA block gives the same numbers whatever was selected: its rows do not see one another.
    """

    reads_patches = False  # of whole streams

    def __init__(self, width: int, patches: int, with_local: bool = True):
        super().__init__()
        self.whole_width, self.local_width = width, 2 * width

    def whole(self, cls: Tensor, patches: Tensor) -> Tensor:
        """From CLS [B, C] and all patches [B, N, C] to [B, C]."""
        return cls

    def local(self, cls: Tensor, chosen: Tensor, places: Tensor) -> Tensor:
        """From CLS [B, C] and the chosen tokens [B, L, C], whatever their places, to [B, 2C]."""
        return torch.cat([cls, chosen.mean(1)], -1)


class TokenReadout(nn.Module):
    """CLS joined with the patches read by place, as face networks do: for aligned faces, where a place means the same.

    Each patch is reduced to a few channels, then a linear layer has weights of its own for each place. A mark at a
    certain place is thus found in tens of steps, which takes attention to CLS hundreds.
    """

    reads_patches = True

    def __init__(self, width: int, patches: int, with_local: bool = True, reduced: int = 32):
        super().__init__()
        self.whole_width = self.local_width = 2 * width
        self.patches = patches
        readers = [
            nn.Sequential(nn.Linear(width, reduced), nn.Flatten(), nn.Linear(patches * reduced, width))
            for _ in range(1 + with_local)
        ]
        self.read_whole, self.read_local = readers[0], readers[1] if with_local else None

    def whole(self, cls: Tensor, patches: Tensor) -> Tensor:
        """From CLS [B, C] and all patches [B, N, C] to [B, 2C]."""
        return torch.cat([cls, self.read_whole(patches)], -1)

    def local(self, cls: Tensor, chosen: Tensor, places: Tensor) -> Tensor:
        """From CLS [B, C] and the chosen tokens [B, L, C], put back in their places [B, L] among zeros, to [B, 2C]."""
        B, _, C = chosen.shape
        canvas = chosen.new_zeros(B, self.patches, C).scatter(1, places.unsqueeze(-1).expand(-1, -1, C), chosen)
        return torch.cat([cls, self.read_local(canvas)], -1)


READOUTS = {"cls": ClsReadout, "tokens": TokenReadout}
