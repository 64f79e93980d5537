"""The page's tables of the ablation are those of the JSON files beside it, and its sentences say what these say."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.ablation.__main__ import EARLY
from benchmarks.ablation.effects import as_markdown
from benchmarks.ablation.learning import as_table
from benchmarks.ablation.rows import CONFIRM, ROWS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "ablation.md").read_text(encoding="utf-8")
NO_GAIN = "no gain of full DCAL over self-attention alone is shown"


def published(name: str) -> dict:
    return json.loads((DOCS / f"ablation/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name, rows, families", [("exploration", ROWS, 120), ("confirmation", CONFIRM, 200)])
def test_the_page_shows_the_ablation_that_was_measured(name, rows, families):
    found = published(name)
    assert found["data"] == "SYNTHETIC" and found["test_families"] == families
    assert as_markdown(found["rows"]) in PAGE
    meanings = {row.name: row.meaning for row in rows}
    assert {line["row"]: line["meaning"] for line in found["rows"]} == {
        line["row"]: meanings[line["row"]] for line in found["rows"]
    }


def test_the_confirmation_is_the_one_that_was_planned():
    found = published("confirmation")
    assert {line["row"]: len(line["seeds"]) for line in found["rows"]} == {
        row.name: 5 if row.main else 3 for row in CONFIRM
    }
    planned = {"synthetic_test_seed": 2028, "epochs": 24, "steps_per_epoch": 50, "seed": 0}
    assert {name: found["parameters"][name] for name in planned} == planned
    assert as_table(found["learning"], EARLY) in PAGE
    scored = {(run["row"], str(run["seed"])): run["eer"] for run in found["runs"]}
    seeds = {(line["row"], seed): eer for line in found["rows"] for seed, eer in line["seeds"].items()}
    assert scored == pytest.approx(seeds, abs=1e-9)
    assert len({run["fingerprint"] for run in found["runs"]}) == len(scored)
    assert as_markdown(published("pretrained")["rows"]) in PAGE


@pytest.mark.parametrize("name, seeds", [("longer", 5), ("alike", 3), ("few", 3)])
def test_the_follow_ups_are_those_that_were_planned(name, seeds):
    found = published(name)
    planned = {"synthetic_test_seed": 2030, "seed": 5}
    assert {one: found["parameters"][one] for one in planned} == planned
    assert all(list(line["seeds"]) == [str(5 + number) for number in range(seeds)] for line in found["rows"])
    assert as_markdown(found["rows"]) in PAGE and as_table(found["learning"], EARLY) in PAGE


def test_the_sentence_to_take_away_follows_from_the_primary_figure():
    lines = {line["row"]: line for line in published("confirmation")["rows"]}
    primary = lines["full_cls"]["relative"]
    logs = [math.log(lines["full_cls"]["seeds"][seed] / eer) for seed, eer in lines["sa_cls"]["seeds"].items()]
    assert primary["value"] == pytest.approx(math.expm1(sum(logs) / len(logs)))
    for page in (PAGE, (DOCS.parent / "README.md").read_text(encoding="utf-8")):
        assert (primary["high"] >= 0) == (NO_GAIN in " ".join(page.split()))
        for name in ("full_cls", "sa_by_place"):
            low, high = (f"{100 * lines[name]['relative'][end]:+.0f}" for end in ("low", "high"))
            assert f"{low} to {high})" in page
