"""Occlusion-aware metric learning (OAML): a face network compared as a whole and place by place, where a head says
which places are visible.

github.com/adam-a-i/OAML, whose names these are, so that its weights fit. B images, W of all processes; P = g x g places
of C channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_core.distributed import gather
from dcal_core.models import adaface
from dcal_core.models.adaface import AdaFace, network_of
from dcal_core.models.face_weights import FaceWeights, check_layout, check_tensors
from dcal_core.models.qaconv import QAConv
from dcal_core.models.verifier import Features

OWN = ("joint", "visibility", "local_finer", "local_window")
ARCHITECTURE = adaface.ARCHITECTURE | {name: name for name in OWN}  # of model.json
ADDED = {"local_finer": False, "local_window": 0}
check_architecture = adaface.check_architecture


class OcclusionHead(nn.Module):
    """How visible each place is, as logits [B, P], from the map [B, C, g, g] before the embedding."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.conv2 = nn.Conv2d(channels // 4, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv2(self.bn1(self.conv1(features)).relu()).flatten(1)


class OAML(AdaFace):
    """AdaFace with a matcher of places (`qaconv.py`) and an occlusion head. It compares globally, by the cosine of the
    embeddings, locally, by the logit of the matched places, and by both, fused: standardised and weighed.

    joint: of the matcher's weights. visibility: whether places count as far as they are visible. local_finer: places
    are those of the map of the stage before the last, twice as many to a side. local_window: of the matcher. network:
    as `AdaFace`.
    """

    readings = ("fused", "global", "local")

    def __init__(
        self,
        *,
        joint: bool = False,
        visibility: bool = True,
        local_finer: bool = False,
        local_window: int = 0,
        **network,
    ):
        super().__init__(**network)
        self.channels = self.backbone.embedding_layer.in_features // self.grid**2
        self.finer = local_finer
        if local_finer:
            self.channels //= 2
            self.grid *= 2
        self.visibility = visibility
        self.qaconv = QAConv(self.grid**2, joint, local_window)
        self.occlusion_head = OcclusionHead(self.channels)
        # Weights, means and scales of the global and the local scores, and an offset: buffers go with the weights.
        self.register_buffer("fusion", torch.tensor([0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0]))

    def take_weights(self, found: FaceWeights, colour_order: str) -> list[str]:
        """As AdaFace's; the matcher and the occlusion head are taken too, each if the file has it."""
        taken = super().take_weights(found, colour_order)
        model = f"OAML with joint={'true' if self.qaconv.biases == 1 else 'false'}"
        for part in ("qaconv.", "occlusion_head."):
            layout = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(part)}
            state = {name: found.beside[name] for name in layout if name in found.beside}
            if state:
                check_tensors(state)
                check_layout(state, layout, model)
                self.load_state_dict(state, strict=False)
                taken += state
        return taken

    def take_fusion(self, weight, mean, scale, offset) -> None:
        """Fuse the global and the local scores as weight [2] x (score - mean [2]) / scale [2], summed, + offset."""
        self.fusion.copy_(torch.cat([torch.as_tensor(part).flatten() for part in (weight, mean, scale, offset)]))

    def places(self, features: Tensor) -> Tensor:
        """The map [B, C, g, g] as places of unit length, [B, C, P]."""
        return F.normalize(features.float().flatten(2), dim=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Training: the embedding [W, width] and the places, "local" [W, C, P], of the images of all processes, and
        "visible_logits" [B, P] of this one's."""
        places, features = self.maps(images)
        local = gather(self.places(places))
        return {"embedding": self.embed(features), "local": local, "visible_logits": self.occlusion_head(places)}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map whose places are matched, [B, C, g, g], and the one before the embedding."""
        finer, last = self.backbone.two_maps(self.prepare(images))
        return finer if self.finer else last, last

    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """Embeddings [B, width], places "local" [B, C, P] of unit length and how "visible" they are, 0 to 1, [B, P];
        `trace` adds the last `map` [B, C, g, g] and `visible`."""
        places, last = self.maps(images)
        visible = self.occlusion_head(places).sigmoid()
        parts = {"embedding": self.backbone.output_layer(last), "local": self.places(places), "visible": visible}
        return Features(parts, {"map": places, "visible": visible} if trace else {})

    def compare(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Cosines, logits, or both fused, [Na, Nb]."""
        return self.read(reading, a, b, super().compare, self.qaconv)

    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        return self.read(reading, a, b, super().compare_pairs, self.qaconv.pairs)

    def vectors(self, features: Features) -> None:
        return None  # the places of two faces are matched

    def match_places(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Of the local score; see `Verifier`."""
        return self.qaconv.parts(*self.matched(a, b))

    def read(self, reading: str | None, a: Features, b: Features, cosines: Callable, logits: Callable) -> Tensor:
        """The scores of a reading; only the parts of that reading are needed."""
        self.check_reading(reading)
        scores = []
        if reading != "local":
            scores.append(cosines(a, b))
        if reading != "global":
            scores.append(logits(*self.matched(a, b)))
        if len(scores) == 1:
            return scores[0]
        weight, mean, scale, offset = self.fusion.split((2, 2, 2, 1))
        return ((torch.stack(scores, -1) - mean) / scale) @ weight + offset

    def matched(self, a: Features, b: Features) -> list[Tensor]:
        """What the matcher takes of two sets of features."""
        names = ("local", "visible") if self.visibility else ("local",)
        return [side.parts[name].float() for name in names for side in (a, b)]


def rebuild(architecture: dict, **training) -> OAML:
    """The model of an architecture, without its trained weights; training: dropout and frozen."""
    own = {name: architecture[name] for name in OWN}
    model = OAML(**network_of(architecture), **own, **training)
    model.architecture = architecture
    return model
