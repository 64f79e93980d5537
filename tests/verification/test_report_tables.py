from dcal_core.verification.report_tables import (
    calibration_table,
    metrics_table,
    mistakes_table,
    security_table,
    systems_table,
    verdict_table,
)
from dcal_core.verification.words import CO_TWINS, metric_name


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_tables_are_whole_and_name_the_data(result):
    for make in (metrics_table, verdict_table, security_table, calibration_table, mistakes_table):
        widths = {len(row) for row in rows(str(make(result)))}
        assert len(widths) == 1 and "nan" not in str(make(result)), make.__name__
    assert "**SYNTHETIC**" in str(metrics_table(result))
    names = [metric_name(name) for name in result["metrics"] if name != "counts" and "fnmr_at" not in name]
    assert [row[0] for row in rows(str(metrics_table(result)))[2:]] == names
    systems = rows(str(systems_table(result)))
    assert [row[0] for row in systems[2:]] == ["ours", "other"]
    assert systems[0] == ["system", *map(metric_name, CO_TWINS.compared)]


def test_a_verdict_is_told_by_kind_with_what_it_was_chosen_for(result):
    text, verdict = str(verdict_table(result)), result["verdict"]
    shares = [cell.split(" (")[0] for cell in rows(text)[2][1:]]
    assert shares == [f"{100 * verdict['genuine'][name]['value']:.1f} %" for name in ("same", "undecided", "different")]
    assert (
        "The limits allow at most 10 % errors in each class even if all pairs of one more family were wrong; on" in text
    )
    assert "on the 12 validation families themselves that leaves 2.5 %." in text


def test_what_cannot_be_told_has_its_reason(result):
    assert "not resolvable with 12 families" in str(metrics_table(result))
    assert str(calibration_table({"calibration": {"reason": "no"}})) == "No calibration: no."


def test_a_notebook_displays_what_a_shell_prints(result):
    table = verdict_table(result)
    assert table._repr_markdown_() == repr(table) == str(table) and len(table.rows) == 2
    assert f"{table.caption}:" in str(table)


def test_mistakes_name_what_was_answered(result):
    for row, pair in zip(mistakes_table(result).rows, result["confusable"], strict=True):
        assert row[0] == ("one person" if pair["genuine"] else "co-twins")
        assert row[1].startswith("one person" if pair["matched"] else "two people")
        assert row[1].endswith("WRONG") == (pair["matched"] != pair["genuine"])
        assert row[3:] == pair["paths"]


def test_equal_columns_stand_once(result):
    assert len(rows(str(metrics_table(result)))[0]) == 2  # all families have one size
    uneven = result | {"metrics_per_family": result["metrics_per_family"] | {"eer": result["metrics"]["fmr"]}}
    assert len(rows(str(metrics_table(uneven)))[0]) == 3


def test_a_verdict_without_a_range_of_doubt_has_no_such_column(result):
    verdict = result["verdict"]
    limits = verdict["thresholds"] | {"different_below": 0.5, "same_from": 0.5}
    sure = str(verdict_table(result | {"verdict": verdict | {"thresholds": limits}}))
    assert rows(sure)[0] == ["pairs of", "“same”", "“different”"] and "got a verdict" not in sure
    assert "“undecided”" in rows(str(verdict_table(result)))[0]
