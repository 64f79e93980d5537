"""Names in figures as they are: no formulas, and escapes for letters that no font here has."""

import functools
import unicodedata

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter
from PIL import ImageFont

NO_LETTERS = ("Last Resort", "cm", "STIXSize", "STIXNon")  # families that draw boxes, or have other signs in the places
HIDDEN = ("Cc", "Cf", "Cs")  # Unicode's categories of controls, of marks without a width, and of halves of a letter


def as_written(figure: Figure) -> Figure:
    """The figure, with its titles, labels and legends shown letter by letter.

    A `$` starts no formula. Letters that the figure's font lacks are taken from another installed font or, where none
    has them, shown as escapes, so that different names look different (not those that differ in Unicode form alone).
    """
    powers = set()
    for axis in figure.findobj(Axis):
        shown = axis.get_major_formatter()
        if isinstance(shown, LogFormatter):
            powers.update(axis.get_ticklabels(which="both"))  # 10^2 is a formula
        elif isinstance(shown, FuncFormatter):  # names, from set_xticks or set_yticks
            axis.set_major_formatter(lambda value, place, shown=shown: visible(shown(value, place)))
    for text in set(figure.findobj(Text)) - powers:
        text.set_parse_math(False)
        text.set_text(visible(text.get_text()))
        if families := {font_with(letter) for letter in text.get_text()} - {None, main_font()}:
            text.set_fontfamily([*text.get_fontfamily(), *sorted(families)])
    return figure


def visible(name: str, family: str = "") -> str:
    """A text with escapes, as Python writes them in ASCII, for what leaves no mark of its own; line breaks stay.

    family: the one font that there is; empty: any that is installed.
    """
    shown = []
    for letter in name:
        font = font_with(letter) if unicodedata.category(letter) not in HIDDEN else None
        drawn = letter == "\n" or (font and family in ("", font))
        shown.append(letter if drawn else ascii(letter)[1:-1])
    return "".join(shown)


@functools.cache
def picture_font(size: float) -> ImageFont.FreeTypeFont:
    """The figures' font for text that Pillow draws into a picture."""
    return ImageFont.truetype(findfont(FontProperties()), size)


@functools.cache
def main_font() -> str:
    """The family that figures are set in."""
    return get_font(findfont(FontProperties())).family_name


@functools.cache
def font_with(letter: str) -> str | None:
    """The family of an installed font that has a letter, that of the figures first; None where none has it."""
    for file in [findfont(FontProperties()), *sorted({font.fname for font in fontManager.ttflist})]:
        font = get_font(file)
        if not font.family_name.startswith(NO_LETTERS) and font.get_char_index(ord(letter)):
            return font.family_name
    return None
