"""Tables that are read as text in a terminal and as Markdown in a notebook, with names of any characters in them."""

import re
import unicodedata
from collections.abc import Sequence

# What would start a code span, emphasis, HTML, a formula, a link or the next cell; `_` within a word starts nothing.
MARKUP = re.compile(r"[\\`*<|$\[\]~&]|(?<![^\W_])_|_(?![^\W_])")
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # controls that turn the text after them


class Markdown(str):
    """A text that a notebook displays as Markdown, and a log as it is."""

    __repr__ = _repr_markdown_ = str.__str__


def literal(text: str) -> str:
    """A text of any characters as Markdown that shows it as it is; line breaks and controls become visible escapes."""
    shown = []
    for letter in text:
        control = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        hidden = control or unicodedata.bidirectional(letter) in TURNING
        shown.append(ascii(letter)[1:-1] if hidden else letter)
    return MARKUP.sub(r"\\\g<0>", "".join(shown))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of `literal` texts; raises ValueError for a row that is longer or shorter than the head."""
    return markdown_table(*([literal(cell) for cell in row] for row in (head, *rows)))


def markdown_table(head: Sequence[str], *rows: Sequence[str]) -> str:
    """The same of cells that are Markdown already, its columns lined up."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    first, *others = (f"| {' | '.join(row)} |" for row in padded)
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *others])
