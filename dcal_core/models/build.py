"""From a name to a model, and from a folder to a trained one.

A model folder holds `model.json`, the architecture as plain values, and `model.safetensors`, the weights: neither can
execute code when read.
"""

import json
from functools import partial
from pathlib import Path

import timm
from safetensors.torch import load_file, save_file
from timm.layers import Attention, HybridEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from dcal_core.config import Config, ConfigError
from dcal_core.models.dcal import DCAL

WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")


def hybrid_tiny(img_size: int, **rates: float) -> VisionTransformer:
    """The demo's backbone: a convolutional stem to stride 8, then 3 blocks of width 96; learns on a CPU within minutes.

    A plain patch layer of this size learns nothing in that time, and positions drawn with a larger spread than usual
    are told apart sooner.
    """
    stem = ConvStem(channels=(32, 64, 96, 96), depth=4, kernel_size=3, stride=(2, 2, 2, 1), act_layer=nn.PReLU)
    vit = VisionTransformer(
        img_size=img_size,
        patch_size=1,
        embed_dim=96,
        depth=3,
        num_heads=4,
        num_classes=0,
        embed_layer=partial(HybridEmbed, backbone=stem),
        **rates,
    )
    nn.init.normal_(vit.pos_embed, std=0.5)
    vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return vit


def check_backbone(name: str, vit: nn.Module) -> nn.Module:
    """The backbone, if its blocks are those whose parts DCAL recombines; raises ConfigError."""
    blocks = getattr(vit, "blocks", [])
    plain = len(blocks) and all(type(b) is Block and isinstance(b.attn, Attention) for b in blocks)
    if not plain or getattr(blocks[0].attn, "gate", None) is not None or getattr(vit, "cls_token", None) is None:
        raise ConfigError(
            f"backbone={name!r} is not a plain vision transformer with a CLS token, which DCAL needs: "
            "take a vit_*, deit_* or *_dinov2 model of timm."
        )
    return vit


def find_weights(backbone: str, roots: list[Path]) -> Path | None:
    """The one attached weight file below the roots whose path names the backbone, e.g. a Kaggle model; raises
    ConfigError."""
    wanted = backbone.split(".")[0]
    files = (path for root in roots for ending in WEIGHT_FILES for path in Path(root).glob(f"models/**/*{ending}"))
    found = sorted(path for path in files if wanted in str(path).replace("-", "_").lower())
    if len(found) > 1:
        raise ConfigError(f"{len(found)} attached files fit backbone={backbone!r}: choose one by weights={found[0]}, …")
    return found[0] if found else None


def pretrained_backbone(config: Config, input_roots: list[Path]) -> nn.Module:
    """The timm backbone, its weights from `weights`, an attached model or timm's hub; raises ConfigError."""
    rates = {
        "proj_drop_rate": config.dropout,
        "attn_drop_rate": config.attention_dropout,
        "drop_path_rate": config.drop_path,
    }
    if config.backbone == "hybrid_tiny":
        if not config.allow_random_init:
            raise ConfigError("backbone=hybrid_tiny has no pretrained weights: set allow_random_init=true.")
        return hybrid_tiny(config.image_size, **rates)
    if not timm.is_model(config.backbone):
        near = timm.list_models(f"*{config.backbone.split('.')[0]}*")[:3] or timm.list_models("vit_base*")[:3]
        raise ConfigError(f"backbone={config.backbone!r} is no timm model: try {', '.join(near)}.")
    create = partial(timm.create_model, config.backbone, img_size=config.image_size, num_classes=0, **rates)
    file = Path(config.weights) if config.weights else find_weights(config.backbone, input_roots)
    if file:
        if not file.is_file():
            raise ConfigError(f"weights={file}: there is no such file.")
        print(f"Pretrained weights of {config.backbone}: {file}")
        return create(pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    if config.allow_random_init:
        print(f"{config.backbone} starts from random weights (allow_random_init=true).")
        return create(pretrained=False)
    try:
        return create(pretrained=True)
    except Exception as error:  # whatever the hub's client raises without a network, the cure is the same
        raise ConfigError(
            f"the pretrained weights of {config.backbone} were neither attached nor to be had from timm's hub "
            f"({type(error).__name__}). Switch the internet on, or attach the Kaggle model of that name, or give "
            "weights=<file>; allow_random_init=true trains from nothing."
        ) from error


def architecture_of(config: Config, vit: nn.Module) -> dict:
    """Everything that rebuilds the model without its weights, as plain values."""
    depth = len(vit.blocks)
    if max(config.pwca_first, config.pwca_last) > depth:
        raise ConfigError(f"pwca_first, pwca_last: {config.backbone} has {depth} blocks; lower them.")
    pwca = range(config.pwca_first - 1, config.pwca_last or depth) if config.pwca_first else range(0)
    return {
        "recipe": config.recipe,
        "backbone": config.backbone,
        "image_size": config.image_size,
        "mean": list(vit.pretrained_cfg["mean"]),
        "std": list(vit.pretrained_cfg["std"]),
        "local_ratio": config.local_ratio,
        "glca_blocks": config.glca_blocks,
        "pwca_layers": list(pwca),
        "readout": config.readout,
        "similarity": config.similarity,
    }


def assemble(architecture: dict, vit: nn.Module, gradient_checkpointing: bool = False) -> DCAL:
    """The model of an architecture around its backbone."""
    parts = {
        key: architecture[key]
        for key in ("image_size", "mean", "std", "local_ratio", "glca_blocks", "readout", "similarity")
    }
    layers = architecture["pwca_layers"]
    pwca = range(layers[0], layers[-1] + 1) if layers else range(0)
    return DCAL(
        vit=check_backbone(architecture["backbone"], vit),
        pwca_layers=pwca,
        gradient_checkpointing=gradient_checkpointing,
        **parts,
    )


def new_model(config: Config, input_roots: list[Path]) -> tuple[DCAL, dict]:
    """A model to train, on pretrained weights, and its architecture; raises ConfigError."""
    vit = check_backbone(config.backbone, pretrained_backbone(config, input_roots))
    architecture = architecture_of(config, vit)
    return assemble(architecture, vit, config.gradient_checkpointing), architecture


def save_model(folder: Path, model: nn.Module, architecture: dict) -> None:
    """Write the model into a folder."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, Path(folder) / "model.safetensors")
    (Path(folder) / "model.json").write_text(json.dumps(architecture, indent=1))


def load_model(folder: Path) -> nn.Module:
    """The trained model of a folder, on the CPU and in eval mode; raises ConfigError where the folder holds none."""
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise ConfigError(f"{folder} holds no trained model (model.json is missing): train first, or set run_dir.")
    architecture = json.loads((folder / "model.json").read_text())
    name, size = architecture["backbone"], architecture["image_size"]
    vit = hybrid_tiny(size) if name == "hybrid_tiny" else timm.create_model(name, img_size=size, num_classes=0)
    model = assemble(architecture, vit)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
