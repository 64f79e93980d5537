"""Dual Cross-Attention Learning on a timm vision transformer (Zhu et al., CVPR 2022, arXiv 2205.02151).

Three branches share one backbone. SA is the backbone itself. GLCA looks again at the patches that attention rollout
ranks highest. PWCA, in training only, lets another image's tokens distract the same blocks, so that they learn to
tell faces apart.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcal_core.config.dcal import DCALConfig
from dcal_core.config.parameters import limits
from dcal_core.distributed import gather
from dcal_core.errors import ConfigError
from dcal_core.models.attention import attention_weights, joint_block, rollout_row, rows_block
from dcal_core.models.backbones import check_name, hybrid_tiny, timm_backbone
from dcal_core.models.readouts import READOUTS, BatchNormNeck, Readout, second_look
from dcal_core.models.similarity import SIMILARITIES, Cosine
from dcal_core.models.verifier import Features, Verifier, square


def unit_concat(parts: dict[str, Tensor]) -> Tensor:
    """The branches' embeddings, each scaled to unit length, side by side as one unit vector, [B, sum of widths]."""
    return torch.cat([F.normalize(part.float(), dim=-1) for part in parts.values()], -1) / math.sqrt(len(parts))


class DCAL(Verifier):
    """A twin verifier on any timm ViT: `encode` gives an SA and a GLCA embedding, `compare` scores pairs of them.

    local_ratio: R, the share of patches that GLCA selects. glca_blocks: M. pwca_layers: indices of the blocks, from
    0, in which PWCA pairs the images. mean, std: of the RGB values in [0, 1] that the backbone was trained on.
    readout: see `readouts.py`. neck: "bn" or "none". similarity, temperature: see `similarity.py`.
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
        pwca_layers: Sequence[int] = (),
        readout: str = "cls",
        neck: str = "bn",
        similarity: str = "cosine",
        temperature: float = 0.07,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.vit = vit
        self.image_size = image_size
        self.grid = vit.patch_embed.grid_size[0]
        self.pwca_layers = pwca_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

        patches = vit.patch_embed.num_patches
        self.selected = max(1, math.ceil(local_ratio * patches))  # L patches
        # GLCA has weights of its own; the last block's are the best place to start from
        self.glca = nn.ModuleList(copy.deepcopy(vit.blocks[-1]) for _ in range(glca_blocks))
        self.glca_norm = copy.deepcopy(self.norm) if glca_blocks else None

        whole, local = READOUTS[readout]
        self.readout = Readout(vit.embed_dim, patches, whole, local if glca_blocks else None)
        self.widths = {"sa": self.readout.whole_width}
        if glca_blocks:
            self.widths["glca"] = self.readout.local_width
        if pwca_layers:
            self.widths["pwca"] = self.readout.whole_width  # a neck of its own: distracted tokens differ in statistics
        make_neck = BatchNormNeck if neck == "bn" else nn.Identity
        self.necks = nn.ModuleDict({branch: make_neck(width) for branch, width in self.widths.items()})
        compared = sum(width for branch, width in self.widths.items() if branch != "pwca")
        self.similarity = SIMILARITIES[similarity](compared, temperature)

    @property
    def blank(self) -> Tensor:
        """The mean colour, which normalisation turns into 0."""
        return self.mean

    @property
    def norm(self) -> nn.Module:
        """The backbone's last norm, which timm moves behind the pooling where it pools patches."""
        return self.vit.fc_norm if isinstance(self.vit.norm, nn.Identity) else self.vit.norm

    def pretrained_depths(self) -> dict[str, int]:
        """How many blocks lie above each parameter that starts from pretrained weights, by its name."""
        depths = {}
        count = len(self.vit.blocks)
        for name, _ in self.vit.named_parameters():
            part, _, rest = name.partition(".")
            above = count - 1 - int(rest.split(".")[0]) if part == "blocks" else count
            depths[f"vit.{name}"] = 0 if part in ("norm", "fc_norm") else above
        return depths | {name: 0 for name, _ in self.named_parameters() if name.startswith("glca")}

    def forward(self, images: Tensor, partner: Tensor | None = None) -> dict[str, Tensor]:
        """Training: each branch's embedding [B, width] of all processes' images; partner [b]: PWCA's distractors."""
        parts, _ = self.branches(images, partner)
        return {branch: self.necks[branch](gather(part)) for branch, part in parts.items()}

    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """SA and GLCA embeddings of RGB images [B, 3, h, w]; `trace` adds the intermediates that `Verifier` names."""
        parts, inside = self.branches(images, trace=trace)
        parts = {branch: self.necks[branch](part) for branch, part in parts.items()}
        if trace:
            inside |= self.place_parts(parts, inside)
        return Features(parts, inside)

    def compare(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Scores [Na, Nb] of the branches' embeddings, joined at equal weight."""
        self.check_reading(reading)
        return self.similarity(unit_concat(a.parts), unit_concat(b.parts))

    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        self.check_reading(reading)
        return self.similarity.pairs(unit_concat(a.parts), unit_concat(b.parts))

    def vectors(self, features: Features) -> Tensor | None:
        return unit_concat(features.parts) if type(self.similarity) is Cosine else None

    def branches(
        self, images: Tensor, partner: Tensor | None = None, trace: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The output of every branch that runs, [B, width], before its neck, and the intermediates by name."""
        tokens, rope = self.embed(images)  # [B, N, C]
        tokens, distracted, maps, inside = self.run_blocks(tokens, rope, partner, trace)
        cls, patches = self.last_tokens(tokens)
        parts = {"sa": self.readout.whole(cls, patches)}
        if self.glca:
            chosen = self.select(maps)  # [B, L]
            local, looks = self.global_local(tokens, chosen, rope)  # [B, 1 + L, C]
            places = chosen - self.vit.num_prefix_tokens
            parts["glca"] = self.readout.local(local[:, 0], local[:, 1:], places, patches)
            if trace:
                inside |= {"selected": chosen, "local": local.detach()}
                inside |= {f"glca.{m}": attention_weights(q, k).detach() for m, (q, k) in enumerate(looks)}
        if distracted is not None:
            parts["pwca"] = self.readout.whole(*self.last_tokens(distracted))
        return parts, inside

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, N, C] of RGB images [B, 3, h, w] of any size, and their rotary positions, or None."""
        images = (square(images, self.image_size) - self.mean) / self.std
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        x, rope = x if isinstance(x, tuple) else (x, None)
        return self.vit.norm_pre(x), rope

    def run_blocks(
        self, x: Tensor, rope: Tensor | None, partner: Tensor | None, trace: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor], dict[str, Tensor]]:
        """SA, and with `partner` PWCA, through all blocks, on tokens x [B, N, C].

        Returns the last tokens of SA and of PWCA (None without); SA's attention maps [B, N, N], of the last block the
        row of CLS alone; and, with `trace`, what each block did.
        """
        B, N, _ = x.shape
        distracted = None
        maps = []
        inside = {}
        for i, block in enumerate(self.vit.blocks):
            last = i == len(self.vit.blocks) - 1
            pairing = partner if i in self.pwca_layers else None
            parted = pairing is not None or x.shape[0] > B  # until the first pairing both streams are one
            if parted and last and not self.readout.reads_patches:  # of PWCA only CLS is read
                distracted, _, _ = rows_block(block, x[-B:, :1], x[-B:], rope=rope, partner=pairing)  # [B, 1, C]
                x = x[:B]
                pairing = None
            mapped = (B if self.glca or trace else 0, 1 if last else N)
            x, sa_map, q, k = self.run_block(block, x, rope, pairing, mapped)
            maps.append(sa_map)
            if trace:
                done = {"q": q, "k": k, "x": x, "map": sa_map}
                inside |= {f"{name}.{i}": tensor[:B].detach() for name, tensor in done.items()}
        if x.shape[0] > B:
            x, distracted = x.split(B)
        return x, distracted, maps, inside

    def run_block(self, *given) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`joint_block`; with gradient checkpointing, training computes it again on the way back to save memory."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(joint_block, *given, use_reentrant=False)
        return joint_block(*given)

    def select(self, maps: list[Tensor]) -> Tensor:
        """Indices [B, L], among all N tokens, of the patches that rollout from CLS ranks highest; of equal ones the
        first, but in training, where topk leaves ties open."""
        prefix = self.vit.num_prefix_tokens  # CLS, and registers, which hold no place in the image
        row = rollout_row(maps)[:, prefix:]
        if self.training:  # runs stay what they were to the bit
            return row.topk(self.selected).indices + prefix
        ranked = row.sort(dim=-1, descending=True, stable=True)  # as an exported model breaks ties
        return ranked.indices[:, : self.selected] + prefix

    def global_local(self, tokens: Tensor, chosen: Tensor, rope: Tensor | None) -> tuple[Tensor, list]:
        """CLS and the chosen tokens [B, L] after GLCA, normalised, [B, 1 + L, C]; and each block's queries and keys."""
        rows = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)  # [B, 1 + L]
        local = tokens.gather(1, rows.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        local_rope = None if rope is None else rope[chosen - self.vit.num_prefix_tokens].unsqueeze(1)  # [B, 1, L, .]
        looks = []
        for block in self.glca:
            local, q, k = rows_block(block, local, tokens, local_rope, rope)
            looks.append((q, k))
        return self.glca_norm(local), looks

    def last_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """CLS [B, C] and all patches [B, N, C] of a whole stream's last tokens, normalised."""
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :]

    @torch.no_grad()
    def place_parts(self, embeddings: dict[str, Tensor], inside: dict[str, Tensor]) -> dict[str, Tensor]:
        """`place.<branch>` of the trace: what each patch adds to the last numbers of a unit embedding, [B, P, w].

        Exact, since reading by place and the neck are linear; constants belong to no patch. Only a cosine is their sum.
        """
        if type(self.similarity) is not Cosine:
            return {}
        _, patches = self.last_tokens(inside[f"x.{len(self.vit.blocks) - 1}"])
        read = {}
        if self.readout.whole_places is not None:
            read["sa"] = self.readout.whole_places.parts(patches)
        if self.readout.local_places is not None:
            places = inside["selected"] - self.vit.num_prefix_tokens
            read["glca"] = self.readout.local_places.parts(second_look(inside["local"][:, 1:], places, patches))
        parts = {}
        for branch, part in read.items():
            if isinstance(self.necks[branch], BatchNormNeck):
                part = part * self.necks[branch].scale[-part.shape[-1] :]
            parts[f"place.{branch}"] = part / embeddings[branch].norm(dim=-1)[:, None, None]
        return parts


# ---- the model and its folder (see files.py)

_, MOST_BLOCKS = limits(DCALConfig.model_fields["pwca_last"])
ARCHITECTURE = {  # what model.json holds, by the parameter that it came from, if it came from one
    "recipe": "recipe",
    "backbone": "backbone",
    "image_size": "image_size",
    "mean": None,
    "std": None,
    "local_ratio": "local_ratio",
    "glca_blocks": "glca_blocks",
    "pwca_layers": None,
    "readout": "readout",
    "neck": "neck",
    "similarity": "similarity",
    "temperature": "similarity_temperature",
}


def architecture_of(config: DCALConfig, vit: nn.Module) -> dict:
    """What rebuilds the model without its weights, as plain values."""
    depth = len(vit.blocks)
    if max(config.pwca_first, config.pwca_last) > depth:
        raise ConfigError(f"pwca_first, pwca_last: {config.backbone} has {depth} blocks; lower them.")
    paired = config.pwca_first and config.pwca_prob  # without, its neck would wait for gradients that never come
    pwca = range(config.pwca_first - 1, config.pwca_last or depth) if paired else range(0)
    found = {name: list(vit.pretrained_cfg[name]) for name in ("mean", "std")} | {"pwca_layers": list(pwca)}
    return {name: getattr(config, field) if field else found[name] for name, field in ARCHITECTURE.items()}


def check_architecture(found: dict) -> None:
    """Refuse impossible values that come from no parameter, and unknown backbones."""
    for name, number, count in (("mean", float, 3), ("std", float, 3), ("pwca_layers", int, None)):
        values = found[name]
        complete = isinstance(values, list) and len(values) == (count or len(values))
        if not complete or any(type(value) not in (number, int) or not 0 <= value < MOST_BLOCKS for value in values):
            raise ConfigError(f"{name} is {values!r:.40}")
    layers = found["pwca_layers"]
    if not all(found["std"]) or layers != list(range(layers[0], layers[-1] + 1) if layers else []):
        raise ConfigError(f"std is {found['std']}, pwca_layers is {layers!r:.40}")
    if found["backbone"] != "hybrid_tiny":
        check_name(found["backbone"])  # which also keeps timm from fetching a model of any other name


def assemble(architecture: dict, vit: nn.Module, gradient_checkpointing: bool = False) -> DCAL:
    """The model of an architecture around its backbone; it keeps the architecture, to be saved with the weights."""
    options = {name: value for name, value in architecture.items() if name not in ("recipe", "backbone")}
    model = DCAL(vit=vit, gradient_checkpointing=gradient_checkpointing, **options)
    model.architecture = architecture
    return model


def rebuild(architecture: dict) -> DCAL:
    """The model of an architecture, without its trained weights."""
    name = architecture["backbone"]
    size = architecture["image_size"]
    vit = hybrid_tiny(size) if name == "hybrid_tiny" else timm_backbone(name, size)
    if max(architecture["pwca_layers"], default=0) >= len(vit.blocks):
        raise ConfigError(f"pwca_layers names more than the {len(vit.blocks)} blocks of {name}")
    return assemble(architecture, vit)
