"""One image file: read, decoded, set upright, made square; nothing of it is kept."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dcal_core.data.records import image_in_record
from dcal_core.missing import because

Image.init()  # registers all formats with Pillow, before threads need them

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not EPS, which starts another program
ENDINGS = tuple(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"]
)
LARGEST = 64_000_000  # pixels; a larger image is taken for a decompression bomb
DIM = 0.26  # of white; 16-bit samples that reach no more, as those of a 14-bit or 12-bit sensor, would come out dark
BARS = (128, 128, 128)  # beside a padded image: close to what networks take for no input
BACKGROUND = "white"  # behind transparent pixels, as in a browser
UPRIGHT = {  # by EXIF orientation; ImageOps.exif_transpose also writes the other tags anew, and fails where one is odd
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image(name: str) -> bool:
    """Whether a file's name ends as that of an image."""
    return name.lower().endswith(ENDINGS)


class Unreadable(Exception):
    """An image cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Packed:
    """An image in a file of several; it can stand where the path of an image's own file does."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        return self.data


def decode(data: bytes, size: int, fit: str = "stretch") -> np.ndarray:
    """An image file as [3, size, size] uint8 RGB, upright, transparent pixels on white; raises Unreadable.

    fit: an image that is not square is distorted ("stretch"), gets grey bars ("pad") or loses its ends ("crop").
    """
    return np.ascontiguousarray(squared(open_upright(data, 2 * size), size, fit).transpose(2, 0, 1))  # [3, S, S]


def squared(image: Image.Image, size: int, fit: str = "stretch") -> np.ndarray:
    """An RGB image as [size, size, 3] uint8, made square by `fit` as `decode` does."""
    if fit == "pad":
        image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=BARS)
    elif fit == "crop":
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def open_upright(data: bytes, least: int | None = None) -> Image.Image:
    """An image file as RGB, upright, transparent pixels on white; raises Unreadable. A large JPEG is decoded at 1/2,
    1/4 or 1/8 of its size if its sides stay at `least` px or more; None: at full size."""
    if not data:
        raise Unreadable("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.verify()  # a PNG's checksums, which decoding does not check
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                raise Unreadable(f"{image.width} x {image.height} pixels, more than {LARGEST:,}")
            if least:
                image.draft(None, (least, least))
            depth = _depth(image)
            image.load()
            return upright(image, depth)
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not an image, or none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        raise Unreadable(f"cannot be decoded: {error}") from None


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height, px, of an image file that `open_upright` can read: its own, however small it was decoded."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size[::-1] if sideways else image.size


def upright(image: Image.Image, depth: int = 8) -> Image.Image:
    """A decoded image, with samples of 8 or 16 bits, as RGB, turned as its EXIF data ask, transparent pixels on white;
    raises Unreadable."""
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    return _to_rgb(image if turn is None else image.transpose(turn), depth)


def _depth(image: Image.Image) -> int:
    """Bits of a sample, 8 or 16, of an image that is not loaded yet; Pillow cuts colours to their upper 8."""
    layouts = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    deep = any(";16" in str(layout[0]) or layout[-1] == 0xFFFF for layout in layouts)  # the latter: a PPM's white
    return 16 if deep or image.mode.startswith("I") else 8


def _to_rgb(image: Image.Image, depth: int) -> Image.Image:
    if image.mode == "F":
        raise Unreadable("floating-point pixels, which have no agreed range")
    if image.mode.startswith("I"):  # grey, which Pillow would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise Unreadable("grey values beyond 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    colours = image.convert("RGB")
    brightest = max(high for _, high in colours.getextrema()) / 255
    if depth == 16 and brightest <= DIM:
        raise Unreadable(
            f"samples of 16 bits that reach {brightest:.0%} of white only: scale them to all 16 bits, or to 8"
        )
    if not image.has_transparency_data:
        return colours
    ground = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def read_file(path: str | Path | Packed) -> bytes:
    """The bytes of an image file, which may be in a record; raises Unreadable."""
    if isinstance(path, Packed):
        return path.data
    if (found := image_in_record(path)) is not None:
        return found
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise Unreadable("cannot be read: not a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"there is no such file{because(path)}") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}{because(path)}") from None
