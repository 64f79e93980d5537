"""Random changes of training images on their device: moved, mirrored, recoloured, erased, cropped, made coarse, blended
with other people.

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
KEPT_AREA = (0.2, 1.0)  # of a crop, and the rest as AdaFace has them (Kim et al., CVPR 2022, section 4.1)
KEPT_ASPECT = (3 / 4, 4 / 3)
COARSE_SIDE = (0.2, 1.0)  # share of the side
PHOTOMETRIC = 0.5  # the largest change of brightness, contrast and saturation, share


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random affine, mirroring, colour and erasing of images [B, 3, S, S] in [0, 1], then AdaFace's crop, low
    resolution and photometric change, drawn for each image separately.

    A change that is off leaves every pixel as it is.
    """

    rotation_deg: float  # the largest one
    shift: float  # the largest change as a share, up to 1; of the next three too
    scale: float
    brightness: float
    contrast: float
    flip_prob: float
    erase_prob: float
    crop_prob: float = 0.0
    low_resolution_prob: float = 0.0
    photometric_prob: float = 0.0

    @torch.no_grad()
    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Augmented images, a pure function of (images, seed); global generators stay as they were."""
        draws = self.draw_for(images, seed)
        images = self.move(images, draws)
        if self.brightness or self.contrast:
            recolour_(images, column(draws[5]), column(draws[6]))
        if self.erase_prob:
            erase_(images, *draws[7:11])
        if self.crop_prob:
            erase_(images, *draws[11:15], outside=True)
        if self.low_resolution_prob:
            images = coarsen(images, draws[15])
        if self.photometric_prob:
            saturate_(images, column(draws[18]))
            recolour_(images, column(draws[16]), column(draws[17]))
        return images

    @torch.no_grad()
    def masks(self, masks: Tensor, seed: int, fill: float = 0.0) -> Tensor:
        """Masks [B, 1, S, S] or [B, S, S] of images that are augmented with the same seed: moved and mirrored like
        them, bilinearly, and 0 (hidden) where they are erased or cropped; `fill` lies around them."""
        draws = self.draw_for(masks, seed)
        size = masks.shape[-1]
        moved = self.move(masks.reshape(-1, 1, size, size), draws, fill)  # [B, 1, S, S]
        if self.erase_prob:
            erase_(moved, *draws[7:11])
        if self.crop_prob:
            erase_(moved, *draws[11:15], outside=True)
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
        """Rows [19, count]: angle (radians), right, down (half sides), zoom, side (-1: mirrored), factors of brightness
        and contrast; top, bottom, left, right of what is erased, and of what a crop keeps (shares of the side); share
        of the side to which an image is made coarse; factors of AdaFace's brightness, contrast and saturation."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(12, count, generator=generator)
        angle, right, down, zoom, brightness, contrast = 2 * drawn[:6] - 1
        flipped, erased, *of_box = drawn[6:]
        cropped, *of_crop, coarse, side, strong = torch.rand(8, count, generator=generator)
        side = COARSE_SIDE[0] + side * (COARSE_SIDE[1] - COARSE_SIDE[0])
        factors = 2 * torch.rand(3, count, generator=generator) - 1
        return torch.stack(
            [
                angle * math.radians(self.rotation_deg),
                right * 2 * self.shift,
                down * 2 * self.shift,
                1 + zoom * self.scale,
                1 - 2.0 * (flipped < self.flip_prob),
                1 + brightness * self.brightness,
                1 + contrast * self.contrast,
                *box(of_box, ERASED_AREA, ERASED_ASPECT, erased < self.erase_prob, otherwise=0.0),
                *box(of_crop, KEPT_AREA, KEPT_ASPECT, cropped < self.crop_prob, otherwise=1.0),
                torch.where(coarse < self.low_resolution_prob, side, 1.0),
                *(1 + factors * PHOTOMETRIC * (strong < self.photometric_prob)),
            ]
        )


def box(drawn: list[Tensor], areas: tuple, aspects: tuple, applies: Tensor, otherwise: float) -> tuple[Tensor, ...]:
    """Top, bottom, left and right [B] of boxes from draws of area, aspect, top and left, each [B] in 0 to 1; of the
    side `otherwise` where none `applies`."""
    area, aspect, top, left = drawn
    area = areas[0] + area * (areas[1] - areas[0])
    aspect = aspects[0] * (aspects[1] / aspects[0]) ** aspect  # as often flat as tall
    squares = (area * aspect, area / aspect)
    height, width = (torch.where(applies, square.sqrt().clamp(max=1), otherwise) for square in squares)
    top = top * (1 - height)
    left = left * (1 - width)
    return top, top + height, left, left + width


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


def saturate_(images: Tensor, factor: Tensor) -> None:
    """Scale how far the colours of images [B, 3, S, S] are from grey, by factors [B, 1, 1, 1]."""
    red, green, blue = images.split(1, dim=1)  # [B, 1, S, S] each
    grey = 0.2989 * red + 0.587 * green + 0.114 * blue
    images.mul_(factor).add_(grey * (1 - factor)).clamp_(0, 1)


def erase_(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, outside: bool = False) -> None:
    """Make images [B, C, S, S] 0 where a pixel's centre lies in the box, given [B] in shares of the side, or outside
    it."""
    size = images.shape[-1]
    centres = (torch.arange(size, device=images.device) + 0.5) / size  # [S]
    rows = (centres >= top[:, None]) & (centres < bottom[:, None])  # [B, S]
    columns = (centres >= left[:, None]) & (centres < right[:, None])
    inside = rows[:, None, :, None] & columns[:, None, None, :]  # [B, 1, S, S]
    images.masked_fill_(inside ^ outside, 0.0)


def coarsen(images: Tensor, share: Tensor) -> Tensor:
    """Images [B, 3, S, S] made smaller by averages over areas, to a share [B] of their side, and large again
    bilinearly; a share of 1 changes nothing."""
    size = images.shape[-1]
    side = (share * size).round()[:, None, None]  # [B, 1, 1], n
    pixels = torch.arange(size, device=images.device, dtype=images.dtype)
    small = pixels[:, None]  # [S, 1]; the first n are used
    overlap = torch.minimum((small + 1) * size / side, pixels + 1) - torch.maximum(small * size / side, pixels)
    down = overlap.clamp(min=0) * side / size  # [B, S, S], small from large
    place = torch.minimum(((pixels[:, None] + 0.5) * side / size - 0.5).clamp(min=0), side - 1)  # [B, S, 1]
    up = (1 - (place - pixels).abs()).clamp(min=0)  # [B, S, S], large from small
    with torch.autocast(images.device.type, enabled=False):
        both = (up @ down)[:, None]  # [B, 1, S, S]
        coarse = (both @ images @ both.mT).clamp(0, 1)
    return torch.where(column(share) < 1, coarse, images)


def blend_people(images: Tensor, donor: Tensor, weight: Tensor) -> Tensor:
    """Images [B, 3, S, S] with those of `donor` [B] blended in, each pixel by its weight [1, 1, S, S]."""
    return images.lerp(images[donor], weight)
