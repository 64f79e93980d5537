"""Tiny models and images for the tests of maps: DCAL on each kind of backbone, and one that can be worked by hand."""

import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dcal_core.explain.catalogue import MAPS
from dcal_core.models.dcal import DCAL
from dcal_core.models.oaml import OAML
from dcal_core.models.verifier import Features, Verifier

SIZE, GRID, DEPTH, HEADS = 32, 4, 3, 2
BACKBONES = {
    "plain": (VisionTransformer, {}),
    "registers": (VisionTransformer, {"reg_tokens": 4, "no_embed_class": True}),
    "dinov3": (
        Eva,
        {
            "global_pool": "token",
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "use_abs_pos_emb": False,
            "num_reg_tokens": 4,
        },
    ),
}
OF_OAML = ("local", "visible")  # maps that OAML alone has
OF_DCAL = tuple(name for name in MAPS if name not in OF_OAML)
PREFIX = {"plain": 1, "registers": 5, "dinov3": 5}  # CLS alone, or with registers


def make_model(kind="plain", **dcal):
    torch.manual_seed(0)
    make, options = BACKBONES[kind]
    vit = make(img_size=SIZE, patch_size=8, embed_dim=32, depth=DEPTH, num_heads=HEADS, num_classes=0, **options)
    model = DCAL(vit=vit, image_size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), **dcal).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
        for neck in model.necks.values():
            if isinstance(neck, nn.BatchNorm1d):
                neck.running_mean.normal_()
                neck.running_var.uniform_(0.5, 2)
    return model


def make_oaml(**options):
    """A small OAML, on the same grid, whose heads have learnt something."""
    torch.manual_seed(0)
    model = OAML(depth=18, image_size=16 * GRID, width=8, **options).eval()
    with torch.no_grad():
        for parameter in (*model.qaconv.parameters(), *model.occlusion_head.parameters()):
            parameter.add_(torch.randn_like(parameter) / 2)
        model.qaconv.bn.running_mean.fill_(0.8)
    return model


def make_images(count, seed=1):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


class Brightness(Verifier):
    """A face is known by how bright each patch is, and alike by the product: linear, so that maps have known values."""

    def __init__(self):
        super().__init__()
        self.eval()

    def encode(self, images, trace=False):
        return Features({"patches": F.adaptive_avg_pool2d(images.mean(1), GRID).flatten(1)})

    def compare(self, a, b, reading=None):
        return a.parts["patches"] @ b.parts["patches"].T

    def compare_pairs(self, a, b, reading=None):
        return (a.parts["patches"] * b.parts["patches"]).sum(-1)
