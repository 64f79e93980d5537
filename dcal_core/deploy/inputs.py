"""What a predictor takes as an image: a path, the bytes of a file, a PIL image, an array or a tensor.

Everything becomes an upright RGB picture and a key by its content. What cannot is `Unreadable`, with the reason.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.data.decoding import LARGEST, Packed, Unreadable, open_upright, read_file, upright, upright_size

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with opacity


@dataclass(frozen=True, eq=False)
class Source:
    """An image that is not decoded yet.

    key: SHA-256 of its content. open: gives it as RGB and upright, at a fraction of its size where it is a large JPEG
    and its sides stay at so many px; None for its whole size. Raises Unreadable. size: gives its whole width and
    height, px, once it was opened.
    """

    name: str
    key: str
    open: Callable[[int | None], Image.Image]
    size: Callable[[], tuple[int, int]]


def source_of(given, name: str = "image") -> Source:
    """The source of an image as it is given; `name` is for one without a path. Raises Unreadable.

    Arrays and tensors: [H, W], [H, W, C] or [C, H, W] of 1, 3 (RGB) or 4 (RGB, opacity) channels; uint8, uint16, or
    floats in [0, 1].
    """
    if isinstance(given, str | Path | Packed):
        data = read_file(given)
        return of_file(data, str(given))
    if isinstance(given, bytes | bytearray | memoryview):
        return of_file(bytes(given), name)
    picture = of_pil(given) if isinstance(given, Image.Image) else of_array(given)
    content = np.asarray(picture)
    key = hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()
    return Source(name, key, lambda least=None: picture, lambda: picture.size)


def of_file(data: bytes, name: str) -> Source:
    """The source of an image file's content."""
    return Source(name, hashlib.sha256(data).hexdigest(), partial(open_upright, data), partial(upright_size, data))


def of_pil(picture: Image.Image) -> Image.Image:
    """A PIL image as RGB and upright; raises Unreadable."""
    if not picture.width or not picture.height or picture.width * picture.height > LARGEST:
        raise Unreadable(f"{picture.width} x {picture.height} pixels, where 1 to {LARGEST:,} are taken")
    try:
        return upright(picture, 16 if picture.mode.startswith("I") else 8)
    except Unreadable:
        raise
    except Exception as error:  # a lazy file that is damaged raises almost anything
        raise Unreadable(f"cannot be decoded: {error}") from None


def of_array(given) -> Image.Image:
    """An array, or a tensor of PyTorch, as RGB; raises Unreadable."""
    try:
        given = given.detach().cpu().numpy() if hasattr(given, "detach") else given
        values = np.asarray(given)
    except Exception as error:  # whatever an object of another library does
        raise Unreadable(f"not an image: {type(given).__name__} ({error})") from None
    if not isinstance(given, np.ndarray):
        raise Unreadable(
            f"not an image: give a path, bytes, a PIL image, an array or a tensor, not {type(given).__name__}"
        )
    if values.ndim == 3 and values.shape[2] not in CHANNELS and values.shape[0] in CHANNELS:
        values = values.transpose(1, 2, 0)  # [H, W, C]
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in CHANNELS or not 0 < values.size <= LARGEST * values.shape[2]:
        raise Unreadable(f"an array of shape {list(values.shape)}, where [H, W, C] or [C, H, W] is taken")
    values = eight_bits(values)
    values = np.repeat(values, 3, 2) if values.shape[2] == 1 else values
    return upright(Image.fromarray(np.ascontiguousarray(values)))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Samples as uint8: of 16 bits the upper 8, of floats in [0, 1] 255 times as much; raises Unreadable."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind != "f":
        raise Unreadable(f"an array of {values.dtype}, where uint8, uint16 or floats in [0, 1] are taken")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise Unreadable("an array of floats outside of [0, 1]")
    return np.round(values * 255.0).astype(np.uint8)
