"""A face with a map laid over it, as pixels: what the browser draws anew whenever a control is touched.

S: side of a picture; g: patches along it. Pictures are RGB uint8 [S, S, 3].
"""

import base64
import html
import io

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter

SIDE = 336  # px: whole ones for grids of 7, 8, 12, 14, 16, 21 and 24
COLOURS = {False: colormaps["viridis"], True: colormaps["PuOr"]}  # by whether the map is signed
ENDS = {False: ("little", "much"), True: ("speaks for two people", "speaks for one person")}
FRAME, DASH = 4, 6  # px
GAP, LINE, BAR, TEXT = 16, 24, 14, 15  # px, of a saved view


def enlarged(face: np.ndarray) -> np.ndarray:
    """A face uint8 [s, s, 3] as a picture."""
    return np.asarray(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def coloured(strength: np.ndarray, signed: bool) -> np.ndarray:
    """The colours, RGB from 0 to 255, of values from 0 to 1, or from -1 where signed; [...] -> [..., 3]."""
    colours = 255 * COLOURS[signed]((strength + 1) / 2 if signed else strength)[..., :3]
    return colours.astype(np.float32)


def overlaid(picture: np.ndarray, values: np.ndarray, peak: float, signed: bool, opacity: float) -> np.ndarray:
    """A picture under a map [g, g]: colour tells the value, and the further that is from 0, the more it covers.

    peak: the size of the value, above 0, that has the last colour and covers as much as `opacity`, from 0 to 1.
    """
    strength = np.clip(values / peak, -1 if signed else 0, 1).astype(np.float32)
    cover = opacity * np.abs(strength)[..., None]
    place = np.arange(len(picture)) * len(values) // len(picture)  # the patch of each row of pixels
    left, added = (part[place][:, place] for part in (1 - cover, cover * coloured(strength, signed) + 0.5))  # to round
    return (left * picture + added).astype(np.uint8)


def framed(picture: np.ndarray, patch: int, grid: int, dashed: bool) -> np.ndarray:
    """A picture with a frame, white between black, just inside a patch, counted by rows from 0 to P - 1."""
    picture = picture.copy()
    ends = [[-(-(at + more) * len(picture) // grid) for more in (0, 1)] for at in divmod(patch, grid)]
    part = picture[slice(*ends[0]), slice(*ends[1])]
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    edge = np.minimum(np.minimum(y, y[::-1]), np.minimum(x, x[:, ::-1]))  # px to the nearest one
    frame = (edge < FRAME) & (not dashed or (x // DASH + y // DASH) % 2 == 0)
    part[frame] = np.where((edge > 0) & (edge < FRAME - 1), 255, 0)[frame][:, None]
    return picture


def contoured(picture: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """A picture with a line, white and outside of it black, around the marks bool [s, s]."""
    wide = np.asarray(Image.fromarray(marks).resize((len(picture), len(picture)), Image.Resampling.NEAREST))
    white, black = (maximum_filter(wide, 1 + 2 * width) for width in (2, 3))  # px
    picture = picture.copy()
    picture[black & ~wide] = 0
    picture[white & ~wide] = 255
    return picture


def png(picture: np.ndarray) -> bytes:
    """A picture as PNG, packed lightly: it is to be quick."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def tag(picture: np.ndarray, words: str) -> str:
    """A picture as HTML, with words for those who cannot see it."""
    data = base64.b64encode(png(picture)).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def bar(signed: bool, width: int) -> np.ndarray:
    """The colours from the least value to the most, uint8 [BAR, width, 3]."""
    row = coloured(np.linspace(-1 if signed else 0, 1, width), signed)
    return np.broadcast_to(np.rint(row).astype(np.uint8), (BAR, width, 3))


def sheet(pictures: list[np.ndarray], lines: list[str], signed: bool) -> np.ndarray:
    """Pictures side by side under lines of text, and below them what the colours mean, uint8 [height, width, 3]."""
    width, head = len(pictures) * (SIDE + GAP) + GAP, len(lines) * LINE + GAP
    whole = Image.new("RGB", (width, head + SIDE + LINE + GAP), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(TEXT)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + number * LINE), line, "black", font)
    for number, picture in enumerate(pictures):
        whole.paste(Image.fromarray(picture), (GAP + number * (SIDE + GAP), head))
    below = head + SIDE + GAP // 2
    middle = width // 2
    whole.paste(Image.fromarray(bar(signed, SIDE // 2)), (middle - SIDE // 4, below + 4))
    for words, x, anchor in zip(ENDS[signed], (middle - SIDE // 4 - 8, middle + SIDE // 4 + 8), "rl", strict=True):
        draw.text((x, below), words, "black", font, anchor=f"{anchor}a")
    return np.asarray(whole)
