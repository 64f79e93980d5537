"""Tables as text: worked by hand."""

import pytest
from IPython.core.formatters import DisplayFormatter
from markdown_it import MarkdownIt

from dcal_core.markdown import Markdown, literal, markdown_table, table


def test_columns_are_as_wide_as_their_widest_cell():
    assert table(["name", "n"], [["a", "1,000"], ["longest", ""]]) == (
        "| name    | n     |\n"
        "|---------|-------|\n"
        "| a       | 1,000 |\n"
        "| longest |       |"
    )  # fmt: skip


def test_a_head_alone_is_a_table():
    assert table(["name"], []) == "| name |\n|------|"


@pytest.mark.parametrize("row", [["a"], ["a", "b", "c"]])
def test_a_row_of_another_length_is_refused(row):
    with pytest.raises(ValueError):
        table(["name", "n"], [["a", "b"], row])


NAMES = [
    "a|b", "a||b", "line\nbreak", "cr\rlf\r\n", "next\x85line", "line\u2028separator", "`tick`", "``", "back\\slash",
    "a\\|b", "$1 and $2", "<b>bold</b>", "<!-- gone", "&amp;", "*bold*", "**x**", "__init__", "_x_", "a_b_c",
    "[link](x)", "~~struck~~", "שלום", "\u202etxt.exe", "张伟", "👨‍👩‍👧", "---", "# title", "1. one", "x" * 300,
]  # fmt: skip


def cells_of(text: str) -> list[list[str]]:
    """The table as a Markdown reader of GitHub's kind shows it: the text of each cell."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    assert tokens[0].type == "table_open" and tokens[-1].type == "table_close"
    rows = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in token.children))
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_letters_break_no_table_and_are_shown(name):
    shown = cells_of(table(["who", name], [[name, "1"], ["other", name]]))
    assert [len(row) for row in shown] == [2, 2, 2]
    expected = "".join(letter if letter not in "\n\r\x85\u2028\u202e" else ascii(letter)[1:-1] for letter in name)
    assert shown == [["who", expected], [expected, "1"], ["other", expected]]


def test_different_names_look_different():
    assert len({literal(name) for name in NAMES}) == len(NAMES)


def test_cells_that_are_markdown_stay_so():
    assert markdown_table(["`a`"], ["*b*"]) == "| `a` |\n|-----|\n| *b* |"


def test_a_log_shows_a_displayed_text_as_it_is():
    text = "- *one*\n- two"
    shown, _ = DisplayFormatter().format(Markdown(text), include=["text/plain", "text/markdown"])
    assert shown == {"text/plain": text, "text/markdown": text}
