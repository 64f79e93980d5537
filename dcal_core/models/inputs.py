"""What every model does first with its images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def square(images: Tensor, side: int) -> Tensor:
    """RGB images [B, 3, h, w], uint8 or float in [0, 1], resized to floats in [0, 1], [B, 3, side, side]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return images
