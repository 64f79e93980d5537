"""Backbones: the timm vision transformers whose parts DCAL can recombine."""

import difflib
from functools import partial

import timm
from timm.layers import Attention, HybridEmbed
from timm.models import eva
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.errors import ConfigError

PLAIN = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")  # timm's modules that may hold such
BLOCKS = {(Block, Attention), (eva.EvaBlock, eva.EvaAttention)}  # eva: DINOv3 among others


def hybrid_tiny(img_size: int, **rates: float) -> VisionTransformer:
    """The demo's backbone: a convolutional stem to stride 8, then 3 blocks of width 96; learns on a CPU within minutes.

    A plain patch layer of this size learns nothing in that time, and positions with a larger initial spread are
    distinguished sooner.
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


def not_plain(name: str) -> ConfigError:
    """The refusal of a backbone whose blocks DCAL cannot recombine."""
    return ConfigError(
        f"backbone={name!r} is not a plain vision transformer with a CLS token, which DCAL needs: "
        "take a vit_*, deit_*, *_dinov2 or *_dinov3 model of timm."
    )


def check_name(name: str) -> None:
    """Refuse a backbone that timm lacks, or of another kind, before anything is built."""
    base = name.split(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, ["hybrid_tiny", *timm.list_models()], n=3, cutoff=0.0)
        raise ConfigError(f"backbone={name!r} is no timm model: try {', '.join(near)}.")
    if name != base and name not in (tagged := timm.list_pretrained(f"{base}.*")):
        raise ConfigError(f"backbone={name!r}: timm has {base} as {', '.join([base, *tagged])}.")
    if not timm.models.is_model_in_modules(base, PLAIN):
        raise not_plain(name)


def timm_backbone(name: str, image_size: int, **options) -> nn.Module:
    """A timm model for images of one size, so that positions are made once and not for each batch."""
    return timm.create_model(name, img_size=image_size, num_classes=0, dynamic_img_size=False, **options)


def check_backbone(name: str, vit: nn.Module) -> nn.Module:
    """The backbone, if its blocks are those whose parts DCAL recombines."""
    blocks = getattr(vit, "blocks", [])
    attentions = [getattr(block, "attn", None) for block in blocks]
    known = all((type(b), type(attention)) in BLOCKS for b, attention in zip(blocks, attentions, strict=True))
    if not attentions or not known or attentions[0].qkv is None or getattr(attentions[0], "gate", None) is not None:
        raise not_plain(name)  # qkv: some project q, k and v apart
    if getattr(vit, "cls_token", None) is None or getattr(vit, "rope_mixed", False):
        raise not_plain(name)
    return vit


def create_backbone(config: DCALConfig, **weights) -> nn.Module:
    """The backbone as timm builds it, by default with random weights."""
    rates = {
        "proj_drop_rate": config.dropout,
        "attn_drop_rate": config.attention_dropout,
        "drop_path_rate": config.drop_path,
    }
    if config.backbone == "hybrid_tiny":
        return hybrid_tiny(config.image_size, **rates)
    check_name(config.backbone)
    return check_backbone(config.backbone, timm_backbone(config.backbone, config.image_size, **rates, **weights))
