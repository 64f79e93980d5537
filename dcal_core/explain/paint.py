"""Maps painted over faces, for figures and for the browser, and charts of estimates with their intervals.

Colours are perceptually even (viridis). Only signed maps have two sides: purple speaks for one person, orange for two,
which colour-blind eyes tell apart; both are bright, to be seen on dark faces too. The larger a value, the more it
covers the face, which is grey, so that colour means the map alone, and stays visible, so that a mark can be seen.
S: side of a picture, px; g: patches along it. Pictures are RGB uint8 [S, S, 3].
"""

import base64
import html
import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image, ImageDraw
from scipy.ndimage import maximum_filter

from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.lettering import main_font, picture_font, visible
from dcal_core.verification.words import estimate_in_words, number_text

SIDE = 336  # px: a whole number of px a patch for grids of 7, 8, 12, 14, 16, 21 and 24
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SIGNED = LinearSegmentedColormap.from_list("signed", ("#ff8c1a", "#f7f7f7", "#9f5bff"))
SCALES = {False: colormaps["viridis"], True: SIGNED}  # by whether the map is signed
ENDS = {False: ("none", "most"), True: ("two people", "one person")}  # what both ends of the colours mean
FRAME, DASH = 4, 6  # px
GAP, LINE, BAR, TEXT = 16, 24, 14, 15  # px, of a saved view
OPACITY = 0.6  # of the largest weight
GREY = "#777777"
MARKERS = ("o", "s")

# ---- pictures


def enlarged(face: np.ndarray) -> np.ndarray:
    """A face uint8 [s, s, 3] as a picture."""
    return np.asarray(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def greyed(picture: np.ndarray) -> np.ndarray:
    """A picture without its colours, so that colour means the map alone."""
    grey = np.rint(picture @ np.array(LUMA)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def coloured(strength: np.ndarray, signed: bool) -> np.ndarray:
    """The colours, RGB from 0 to 255, of values from 0 to 1, or from -1 if signed; [...] -> [..., 3]."""
    colours = 255 * SCALES[signed]((strength + 1) / 2 if signed else strength)[..., :3]
    return colours.astype(np.float32)


def smoothed(values: np.ndarray, side: int) -> np.ndarray:
    """A map [g, g] as fp32 [side, side]: each value at the middle of its patch, and linear between them."""
    patches = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(patches.resize((side, side), Image.Resampling.BILINEAR))


def overlaid(picture: np.ndarray, values: np.ndarray, peak: float, signed: bool, opacity: float) -> np.ndarray:
    """A picture in grey under a map [g, g]: colour tells the value, and the further that is from 0, the more it covers.

    peak: the size of the value, above 0, that has the last colour and covers as much as `opacity`, from 0 to 1.
    """
    strength = np.clip(smoothed(values, len(picture)) / float(peak), -1 if signed else 0, 1)
    cover = opacity * np.abs(strength)[..., None]
    return ((1 - cover) * greyed(picture) + cover * coloured(strength, signed) + 0.5).astype(np.uint8)  # + 0.5 to round


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
    """A picture with a line, white and black outside, around the marks bool [s, s]."""
    wide = np.asarray(Image.fromarray(marks).resize((len(picture), len(picture)), Image.Resampling.NEAREST))
    white = maximum_filter(wide, 5)  # a line of 2 px
    black = maximum_filter(wide, 7)
    picture = picture.copy()
    picture[black & ~wide] = 0
    picture[white & ~wide] = 255
    return picture


def painted_pair(
    view: PairView, maps: np.ndarray, signed: bool, opacity: float = OPACITY, outlined: bool = True
) -> tuple[list[np.ndarray], float]:
    """Both faces of a pair under their maps [2, g, g], with a line around their marks if `outlined`; and the peak that
    both share, as `overlaid` takes it, but 0 if the maps are zero everywhere."""
    peak = float(np.abs(maps).max())
    sides = zip(view.faces, maps, strict=True)
    pictures = [overlaid(enlarged(face), values, peak or 1.0, signed, opacity) for face, values in sides]
    if outlined and view.marks is not None:
        pictures = [contoured(picture, marks) for picture, marks in zip(pictures, view.marks, strict=True)]
    return pictures, peak


def colour_ramp(signed: bool, width: int) -> np.ndarray:
    """The colours from the least value to the most, uint8 [BAR, width, 3]."""
    row = coloured(np.linspace(-1 if signed else 0, 1, width), signed)
    return np.broadcast_to(np.rint(row).astype(np.uint8), (BAR, width, 3))


def sheet(pictures: list[np.ndarray], lines: list[str], signed: bool, ends: tuple[str, str]) -> np.ndarray:
    """Pictures side by side under lines of text, above what both ends of the colours mean, uint8 [height, width, 3]."""
    width = len(pictures) * (SIDE + GAP) + GAP
    head = len(lines) * LINE + GAP
    whole = Image.new("RGB", (width, head + SIDE + LINE + GAP), "white")
    draw = ImageDraw.Draw(whole)
    font = picture_font(TEXT)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + number * LINE), visible(line, main_font()), "black", font)
    for number, picture in enumerate(pictures):
        whole.paste(Image.fromarray(picture), (GAP + number * (SIDE + GAP), head))
    below = head + SIDE + GAP // 2
    left = width // 2 - SIDE // 4
    right = width // 2 + SIDE // 4
    whole.paste(Image.fromarray(colour_ramp(signed, SIDE // 2)), (left, below + 4))
    low, high = ends
    draw.text((left - 8, below), low, "black", font, anchor="ra")
    draw.text((right + 8, below), high, "black", font, anchor="la")
    return np.asarray(whole)


def encoded(picture: np.ndarray, form: str = "PNG") -> bytes:
    """A picture as a PNG, compressed lightly to be quick, or as a JPEG, a tenth as large."""
    out = io.BytesIO()
    options = {"compress_level": 1} if form == "PNG" else {"quality": 90}
    Image.fromarray(picture).save(out, form, **options)
    return out.getvalue()


def image_tag(picture: np.ndarray, description: str, form: str = "PNG") -> str:
    """A picture as HTML, with a description for screen readers."""
    data = base64.b64encode(encoded(picture, form)).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/{form.lower()};base64,{data}">'


def colour_bar(signed: bool, ends: tuple[str, str], width: int = SIDE) -> str:
    """A bar of the colours as HTML; ends: what both ends mean, for screen readers."""
    low, high = ends
    return image_tag(colour_ramp(signed, width), f"colours from {low} to {high}")


# ---- faces in figures


def wrapped(text: str, width: int) -> str:
    """A text in lines of at most `width` letters, keeping its own line breaks."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def peak_of(weights: np.ndarray) -> float:
    """The size of the largest weight, or 1 if all are zero."""
    return float(abs(weights).max()) or 1.0


def show_picture(axes: Axes, picture: np.ndarray, extent: tuple[float, ...] | None = None) -> None:
    """A picture without axes; extent: as `imshow` takes it."""
    axes.imshow(picture, extent=extent)
    axes.set_axis_off()


def show_map(
    axes: Axes, face: np.ndarray, weights: np.ndarray, signed: bool = False, peak: float | None = None
) -> None:
    """A map [g, g] over a face uint8 [s, s, 3] in grey; positions on the axes are pixels of the face.

    peak: as `overlaid`, by default the map's own.
    """
    picture = overlaid(enlarged(face), weights, peak or peak_of(weights), signed, OPACITY)
    end = len(face) - 0.5
    show_picture(axes, picture, (-0.5, end, end, -0.5))


def scale_ends(name: str, peak: float, unit: str | None = None) -> tuple[str, str]:
    """What both ends of the colours of a map of this name mean: a word and the value; unit: if not the map's own."""
    low, high = ENDS[MAPS[name].signed]
    value = f"{peak:.2g} {unit or MAPS[name].unit}"
    return (f"{low}: -{value}", f"{high}: +{value}") if MAPS[name].signed else (f"{low}: 0", f"{high}: {value}")


def show_colours(axes: Axes, signed: bool, ends: tuple[str, str], width: int = 60) -> None:
    """A bar of the colours, with what both ends mean below it, in lines of at most `width` letters."""
    axes.imshow(colour_ramp(signed, SIDE), aspect="auto")
    axes.set(xticks=[], yticks=[])
    for x, text, side in zip((0, 1), ends, ("left", "right"), strict=True):
        lines = wrapped(text.replace(": ", "\n"), width)
        axes.text(x, -0.4, lines, ha=side, va="top", fontsize=8.5, transform=axes.transAxes)


# ---- estimates, {"value", "low", "high"}


def estimate_text(estimate: dict | None, unit: str) -> str:
    """An estimate with its interval, or a dash."""
    if estimate is None or estimate["value"] is None:
        return "-"
    return number_text(estimate["value"], unit) if estimate["low"] is None else estimate_in_words(estimate, unit)


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """A row for each label, the first at the top."""
    axes.set_yticks(range(len(labels)), labels=labels, fontsize=10)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(labelsize=10)


def draw_estimate(axes: Axes, y: float, estimate: dict, factor: float = 1, **look) -> None:
    """An estimate as a dot and its interval as a line, as far as it has them."""
    if estimate["value"] is None:
        return
    if estimate["low"] is not None:
        axes.plot([factor * estimate["low"], factor * estimate["high"]], [y, y], color=look["color"], linewidth=1.6)
    axes.plot(factor * estimate["value"], y, linestyle="none", markersize=7, zorder=3, **look)


def draw_areas(axes: Axes, areas: Sequence[float]) -> None:
    """A bar at the share of the face that each row's region covers: what an even spread would give."""
    look = {"linestyle": "none", "marker": "|", "markersize": 15, "markeredgewidth": 2.5, "color": GREY}
    axes.plot(100 * np.array(areas), range(len(areas)), label="share of the picture's area", **look)
