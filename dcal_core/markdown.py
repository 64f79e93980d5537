"""Tables that are read as text in a terminal and as Markdown in a notebook."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; raises ValueError for a row that is longer or shorter than the head."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    first, *others = (f"| {' | '.join(row)} |" for row in padded)
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *others])
