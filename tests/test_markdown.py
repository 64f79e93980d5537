"""Tables as text: worked by hand."""

import pytest

from dcal_core.markdown import table


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
