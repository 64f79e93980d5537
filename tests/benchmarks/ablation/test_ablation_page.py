"""The page's table of the ablation is the one that its JSON, kept beside it, makes."""

import json
from pathlib import Path

from benchmarks.ablation.effects import as_markdown
from benchmarks.ablation.rows import ROWS

ROOT = Path(__file__).parents[3]


def test_the_page_shows_the_ablation_that_was_measured():
    found = json.loads((ROOT / "docs/ablation.json").read_text())
    assert found["data"] == "SYNTHETIC" and found["test_families"] >= 100
    assert as_markdown(found["rows"]) in (ROOT / "docs/ablation.md").read_text()
    meanings = {row.name: row.meaning for row in ROWS}
    for line in found["rows"]:
        assert line["meaning"] == meanings[line["row"]]
