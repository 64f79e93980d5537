"""The rehearsal: recipes held against one another on validation families, at every level of alignment."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import drawn_twins

from benchmarks import trials
from benchmarks.rehearsal import __main__ as command
from benchmarks.rehearsal.curves import LEAST, draw_curves, summaries, summary_table
from benchmarks.rehearsal.rows import NEW, ROWS
from benchmarks.trials import Row, over_seeds
from dcal_core.config.recipes import load
from dcal_core.installation import presets_folder

TINY = dict(
    image_size=32, backbone="test_vit", allow_random_init=True, validation_share=0.4, families_per_batch=2,
    images_per_person=2, precision="fp32",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("elsewhere")


class Done:
    """A run whose result is known."""

    def __init__(self, row, seed, *curve):
        self.row = row
        self.seed = seed
        self.curve = curve

    def result(self):
        return {"validation": list(self.curve)} if self.curve else None


def test_every_row_changes_one_thing_or_is_a_main_one():
    base = load(command.PRESET, presets_folder(), command.GIVEN)
    configs = {row.name: base.replace(**row.changes) for row in ROWS}
    assert len({config.fingerprint() for config in configs.values()}) == len(ROWS)
    old, new = (next(row.changes for row in ROWS if row.name == name) for name in ("paper", NEW))
    compared = {name for name in old | new if name != "twin_temperature"}  # which a triplet loss does not read
    covered = set()
    for row in ROWS:
        if row.against == NEW and not row.main:
            changed = {name for name in row.changes if row.changes[name] != new.get(name)}
            assert changed and not changed & covered, row.name
            own = row.name in ("fast", "still", "sa")  # which no part of the paper's recipe explains
            assert own or all(row.changes[name] == old[name] for name in changed), row.name
            covered |= changed
    assert covered >= {name for name in compared if old[name] != new.get(name)}  # so no difference goes unexamined


def test_what_runs_come_to():
    rows = (Row(NEW, "the new one", main=True), Row("cls", "read at CLS", against=NEW))
    done = [
        Done(NEW, 0, (10, 0.3), (20, 0.1)),
        Done(NEW, 1, (10, 0.08), (20, 0.2)),
        Done("cls", 0, (10, 0.5), (20, 0.4)),
        Done("cls", 1, (10, 0.5), (20, 0.7)),
        Done("cls", 2),  # not trained yet
    ]
    new, cls = summaries(rows, done)
    assert new["eer"]["value"] == pytest.approx(0.15) and new["learnt"] == {"0": 20, "1": 10}
    assert cls["learnt"] == {"0": None, "1": None} and cls["difference"]["value"] == pytest.approx(0.4)
    reach = 12.7062 * 0.1  # Student's t of one degree of freedom; differences of 0.3 and 0.5, standard error 0.1
    assert cls["difference"]["high"] - 0.4 == pytest.approx(reach, rel=1e-4)
    assert "+40.0 (-87.1 to +167.1)" in summary_table([new, cls]) and "never, never" in summary_table([new, cls])
    assert over_seeds([0.5]) == {"value": 0.5, "low": None, "high": None}  # one seed shows no spread


def test_the_command_trains_at_every_level_and_looks_at_test_families_when_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))
    levels = [str(drawn_twins(tmp_path / name)) for name in ("aligned", "photographs")]
    given = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    options = [*levels, "--rows", NEW, "cls", "--seeds", "1", "--steps", "4", "--every", "2", "--jobs", "2"]
    options += ["--folder", "out", *given]
    assert command.main(options) == 0
    found = json.loads(Path("out/rehearsal.json").read_text())
    assert found["data"] == "SYNTHETIC"
    assert [line["row"] for line in found["rows"]] == ["new-aligned", "cls-aligned", "new-photographs"]
    for line in found["rows"]:
        assert [step for step, _ in line["curves"]["0"]] == [2, 4]
    assert Path("out/rehearsal.md").read_text().strip() in capsys.readouterr().out
    assert Path("out/rehearsal.png").is_file() and not list(Path("out").glob("*/*/scores.npy"))
    weights = {file: file.stat().st_mtime_ns for file in Path("out").glob("*/*/checkpoints/best/model.safetensors")}
    assert len(weights) == 3 and command.main([*options, "--test"]) == 0
    assert all(file.stat().st_mtime_ns == written for file, written in weights.items())  # none is trained again
    scored = json.loads(Path("out/test-photographs.json").read_text())
    assert [line["row"] for line in scored["rows"]] == ["new-photographs"] and scored["test_families"] == 2
    assert len(list(Path("out").glob("*/*/scores.npy"))) == 3  # the named rows, main or not


def test_an_unknown_row_is_named(capsys):
    assert command.main(["nowhere", "--rows", "salt"]) == 1
    assert "--rows salt: takes some of paper, " in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--steps", "10"], ["--steps", "0"], ["--every", "0"]])
def test_validations_that_do_not_fit_the_steps_are_refused(capsys, given):
    assert command.main(["nowhere", *given]) == 1
    assert "take a multiple of --every" in capsys.readouterr().err


def test_a_figure_shows_a_perfect_recipe_on_its_lowest_line():
    line = {"row": "new-aligned", "meaning": "new (aligned)", "curves": {"0": [[20, 0.3], [40, 0.0]]}}
    (axes,) = draw_curves([line], "SYNTHETIC").axes
    assert list(axes.lines[0].get_ydata()) == [0.3, LEAST] and axes.get_ylim()[0] < LEAST


def test_levels_of_one_name_are_refused(capsys):
    assert command.main(["one/aligned", "two/aligned"]) == 1
    assert "one/aligned, two/aligned: folders of one name" in capsys.readouterr().err
