"""Random changes of training images on their device: moved, mirrored, recoloured, erased, blended with other people.

Each image has its own draws, because draws shared by the images of one person would give that person away. They are
made on the CPU and sent together from pinned memory. torchvision's transforms send theirs by
torch.tensor(..., device=...), which waits until the GPU has finished all its work.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ERASED_AREA = (0.02, 0.33)  # share of the image, as in arXiv 1708.04896
ERASED_ASPECT = (0.3, 3.3)  # height over width


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random affine, mirroring, colour and erasing of images [B, 3, S, S] in [0, 1], drawn for each image separately.

    A change that is off leaves every pixel as it is.
    """

    rotation_deg: float  # the largest one
    shift: float  # the largest change as a share, up to 1; of the next three too
    scale: float
    brightness: float
    contrast: float
    flip_prob: float
    erase_prob: float

    @torch.no_grad()
    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Augmented images, a pure function of (images, seed); global generators stay as they were."""
        draws = self.draw_for(images, seed)
        images = self.move(images, draws)
        if self.brightness or self.contrast:
            recolour_(images, column(draws[5]), column(draws[6]))
        if self.erase_prob:
            erase_(images, *draws[7:])
        return images

    @torch.no_grad()
    def masks(self, masks: Tensor, seed: int, fill: float = 0.0) -> Tensor:
        """Masks [B, 1, S, S] or [B, S, S] of images that are augmented with the same seed: moved and mirrored like
        them, bilinearly, and 0 (hidden) where they are erased; `fill` lies around them."""
        draws = self.draw_for(masks, seed)
        size = masks.shape[-1]
        moved = self.move(masks.reshape(-1, 1, size, size), draws, fill)  # [B, 1, S, S]
        if self.erase_prob:
            erase_(moved, *draws[7:])
        return moved.reshape(masks.shape)

    def move(self, images: Tensor, draws: Tensor, fill: float = 0.0) -> Tensor:
        """Images [B, C, S, S], moved and mirrored as drawn; always a new tensor, so that it may be changed in place."""
        if self.rotation_deg or self.shift or self.scale:
            return affine(images, draws[:5], fill)
        if self.flip_prob:
            return torch.where(column(draws[4]) < 0, images.flip(-1), images)  # exact, since nothing is resampled
        return images.clone()

    def draw_for(self, images: Tensor, seed: int) -> Tensor:
        """The draws for images [B, ...], on their device."""
        draws = self.draw(len(images), seed)
        if images.is_cuda:
            draws = draws.pin_memory()
        return draws.to(images.device, non_blocking=True)

    def draw(self, count: int, seed: int) -> Tensor:
        """Rows [11, count]: angle (radians), right, down (half sides), zoom, side (-1: mirrored), factors of brightness
        and contrast, and top, bottom, left, right of what is erased (shares of the side; empty where nothing is)."""
        drawn = torch.rand(12, count, generator=torch.Generator().manual_seed(seed))
        angle, right, down, zoom, brightness, contrast = 2 * drawn[:6] - 1
        flipped, erased, area, aspect, top, left = drawn[6:]
        area = ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])
        aspect = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** aspect  # as often flat as tall
        is_erased = erased < self.erase_prob
        height, width = (square.sqrt().clamp(max=1) * is_erased for square in (area * aspect, area / aspect))
        top = top * (1 - height)
        left = left * (1 - width)
        return torch.stack(
            [
                angle * math.radians(self.rotation_deg),
                right * 2 * self.shift,
                down * 2 * self.shift,
                1 + zoom * self.scale,
                1 - 2.0 * (flipped < self.flip_prob),
                1 + brightness * self.brightness,
                1 + contrast * self.contrast,
                top,
                top + height,
                left,
                left + width,
            ]
        )


def column(values: Tensor) -> Tensor:
    """One value for each image [B], against images [B, 3, S, S]."""
    return values[:, None, None, None]


def affine(images: Tensor, draws: Tensor, fill: float) -> Tensor:
    """Images [B, C, S, S] turned clockwise, zoomed, moved and then mirrored by draws [5, B], bilinearly; `fill` lies
    around them."""
    angle, right, down, zoom, side = draws
    size = images.shape[-1]
    centres = (2 * torch.arange(size, device=images.device) + 1) / size - 1  # [S], of the pixels, in half sides
    x = side[:, None] * centres - right[:, None]  # [B, S]
    y = centres - down[:, None]  # [B, S]
    cos = (angle.cos() / zoom)[:, None]
    sin = (angle.sin() / zoom)[:, None]
    across = torch.stack([cos * x, -sin * x], -1)  # [B, S, 2]
    along = torch.stack([sin * y, cos * y], -1)  # [B, S, 2]
    # Where each pixel comes from, [B, S, S, 2]; F.affine_grid, a matrix product, takes four times as long on a CPU.
    grid = across[:, None] + along[:, :, None]
    if fill:
        return F.grid_sample(images - fill, grid, align_corners=False) + fill
    return F.grid_sample(images, grid, align_corners=False)


def recolour_(images: Tensor, brightness: Tensor, contrast: Tensor) -> None:
    """Scale the brightness of images [B, 3, S, S], then their contrast about the mean grey, by factors [B, 1, 1, 1]."""
    images.mul_(brightness).clamp_(0, 1)
    red, green, blue = images.mean((2, 3), keepdim=True).split(1, dim=1)  # [B, 1, 1, 1] each
    grey = 0.2989 * red + 0.587 * green + 0.114 * blue  # as in torchvision
    images.mul_(contrast).add_(grey * (1 - contrast)).clamp_(0, 1)


def erase_(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> None:
    """Make images [B, C, S, S] 0 where a pixel's centre lies in the box, given [B] in shares of the side."""
    size = images.shape[-1]
    centres = (torch.arange(size, device=images.device) + 0.5) / size  # [S]
    rows = (centres >= top[:, None]) & (centres < bottom[:, None])  # [B, S]
    columns = (centres >= left[:, None]) & (centres < right[:, None])
    images.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def blend_people(images: Tensor, donor: Tensor, weight: Tensor) -> Tensor:
    """Images [B, 3, S, S] with those of `donor` [B] blended in, each pixel by its weight [1, 1, S, S]."""
    return images.lerp(images[donor], weight)
