"""From tokens to an embedding: what a branch of DCAL reads once its blocks have run."""

import torch
from torch import Tensor, nn


class ByPlace(nn.Module):
    """Patches [B, N, C] read by place, as face networks do, to [B, C]: for aligned faces, where a place means the same.

    Each patch is reduced to a few channels, then a linear layer has its own weights for each place. It learns a mark
    at a certain place in tens of steps, where attention to CLS takes hundreds.
    """

    def __init__(self, width: int, patches: int, reduced: int = 32):
        super().__init__()
        self.read = nn.Sequential(nn.Linear(width, reduced), nn.Flatten(), nn.Linear(patches * reduced, width))

    def forward(self, patches: Tensor) -> Tensor:
        return self.read(patches)

    def parts(self, patches: Tensor) -> Tensor:
        """What each patch adds to the output, [B, N, C]; their sum lacks the last layer's bias."""
        reduce, _, spread = self.read
        weight = spread.weight.unflatten(1, (patches.shape[1], -1))  # [C, N, reduced]
        return torch.einsum("bpr,cpr->bpc", reduce(patches), weight)


def second_look(chosen: Tensor, places: Tensor, patches: Tensor) -> Tensor:
    """All patches as SA left them, [B, N, C], with GLCA's chosen ones [B, L, C] at their places [B, L]."""
    return patches.scatter(1, places.unsqueeze(-1).expand_as(chosen), chosen.to(patches.dtype))


class Readout(nn.Module):
    """How the whole streams (SA, PWCA) and GLCA become embeddings: CLS, joined with what their names say.

    whole: "cls" alone, or joined with all patches by "place". local: joined with the "mean" of the selected patches,
    or with all patches by "place", the selected ones as GLCA left them; or "cls" alone, to show that GLCA's CLS sees no
    other row, so that it does not depend on the selection.
    """

    def __init__(self, width: int, patches: int, whole: str, local: str | None):
        super().__init__()
        self.local_kind = local
        self.whole_width = width if whole == "cls" else 2 * width
        self.local_width = width if local == "cls" else 2 * width
        self.whole_places = ByPlace(width, patches) if whole == "place" else None
        self.local_places = ByPlace(width, patches) if local == "place" else None

    @property
    def reads_patches(self) -> bool:
        """Whether whole streams are read at more than CLS."""
        return self.whole_places is not None

    def whole(self, cls: Tensor, patches: Tensor) -> Tensor:
        """From CLS [B, C] and all patches [B, N, C] to [B, whole_width]."""
        return cls if self.whole_places is None else torch.cat([cls, self.whole_places(patches)], -1)

    def local(self, cls: Tensor, chosen: Tensor, places: Tensor, patches: Tensor) -> Tensor:
        """From GLCA's CLS [B, C] and chosen patches [B, L, C], their places [B, L], and all patches as SA left them,
        [B, N, C], to [B, local_width]."""
        if self.local_kind == "cls":
            return cls
        if self.local_kind == "mean":
            return torch.cat([cls, chosen.mean(1)], -1)
        return torch.cat([cls, self.local_places(second_look(chosen, places, patches))], -1)


class BatchNormNeck(nn.BatchNorm1d):
    """The batch-norm neck between a branch and its losses, without shift (Luo et al., 2019, arXiv 1903.07071)."""

    def __init__(self, width: int):
        super().__init__(width)
        self.bias.requires_grad_(False)

    @property
    def scale(self) -> Tensor:
        """The factor of each channel in eval mode, [width]."""
        return self.weight / (self.running_var + self.eps).sqrt()


READOUTS = {  # how the whole streams and GLCA are read
    "cls": ("cls", "mean"),  # the paper's
    "local_tokens": ("cls", "place"),
    "tokens": ("place", "place"),
    "cls_alone": ("cls", "cls"),
}
