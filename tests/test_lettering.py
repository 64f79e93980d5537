"""Names in figures as they are."""

import io
import itertools
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from dcal_core.lettering import as_written, visible

NAMES = ["cash $1 and $2", "$$50001", "$x^2$", "a_b", r"\frac", "100 %", "<b>", "a|b", "'\"", "50001", "#&~{}"]
SCRIPTS = ["张伟", "김민수", "👩", "👨", "Ωmega", "Ёж", "שלום", "سلام", "é", "e\u0301", "ไทย", "\u202eabc", "a\u200bb"]


def titled(name: str) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 10], [1, 100], label=f"{name} in the legend")
    axes.set(title=name, xlabel=name, yscale="log")
    axes.set_xticks([1, 10], [name, "other"])
    axes.legend()
    figure.suptitle(name)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """What is drawn; a letter that is missing from the fonts fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(out := io.BytesIO(), format="rgba", dpi=60)
    return np.frombuffer(out.getvalue(), np.uint8)


@pytest.mark.parametrize("name", [*NAMES, *SCRIPTS])
def test_every_name_can_be_drawn(name):
    figure = as_written(titled(name))
    pixels(figure)
    assert figure.axes[0].get_title() == visible(name) and not figure.axes[0].title.get_parse_math()
    if name in NAMES:
        assert visible(name) == name


def test_different_names_look_different():
    drawn = [pixels(as_written(titled(name))) for name in (*NAMES, *SCRIPTS) if name != "e\u0301"]  # é
    for a, b in itertools.combinations(range(len(drawn)), 2):
        assert not np.array_equal(drawn[a], drawn[b]), (a, b)


def test_the_powers_of_an_axis_stay_formulas():
    figure = as_written(titled("name"))
    pixels(figure)
    labels = figure.axes[0].yaxis.get_ticklabels()
    assert any("10^{" in label.get_text() for label in labels) and all(label.get_parse_math() for label in labels)


def test_what_cannot_be_seen_is_escaped_and_lines_stay():
    assert visible("a\u202eb\u200b\x07\nc") == "a\\u202eb\\u200b\\x07\nc"
    assert visible("\U0010ffff") == "\\U0010ffff"
