"""A folder for each person through all commands: what needs co-twins refuses at the start, all else says who is who."""

import json
import shutil
from pathlib import Path

import pytest
import tiny

from dcal_core.__main__ import main
from dcal_core.commands import start
from dcal_core.commands.start import begin_training
from dcal_core.data.splits import NO_CO_TWINS
from dcal_core.data.twins import DataError

PARAMS = Path(__file__).parents[2] / "params"
SHORT = {"steps_per_epoch": 2, "epochs": 1, "validation_share": 0.4, "bootstrap_draws": 100, "sampler": "random"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn people, in a folder each."""
    root = tiny.drawn_twins(tmp_path_factory.mktemp("drawn") / "drawn", train=8, test=4)
    people = root.parent / "people"
    for folder in [*(root / "train").iterdir(), *(root / "test").iterdir()]:
        shutil.copytree(folder, people / folder.name)
    return people


@pytest.fixture(autouse=True)
def here(elsewhere, monkeypatch):
    monkeypatch.setattr(start, "gpu_verdict", lambda: (False, "no GPU"))


def given(values: dict, root: Path) -> list[str]:
    """A preset of these values, and where data and run are, as arguments."""
    Path("preset.yaml").write_text(json.dumps(values))
    return ["-f", "preset.yaml", "-p", "data_root", str(root), "-p", "run_dir", "run"]


@pytest.mark.parametrize("preset", ["demo", "kaggle_t4x2"])
def test_what_learns_from_co_twins_is_refused_before_anything_is_read(drawn, preset, monkeypatch):
    monkeypatch.setattr("dcal_core.data.roots.read_people", lambda *_: pytest.fail("read"))
    words = f"learns from families of co-twins, and {drawn} names none: list them in twin_pairs.json .* adaface or oaml"
    with pytest.raises(DataError, match=words):
        begin_training("Train", {"preset": preset, "data_root": str(drawn)}, PARAMS)
    assert not Path("runs").exists()


def test_it_is_trained_on_evaluated_audited_and_said_to_be_without_co_twins(drawn, capsys):
    arguments = given(tiny.OAML_VALUES | SHORT, drawn)
    for command in ("train", "evaluate"):
        assert main([command, *arguments]) == 0
        assert NO_CO_TWINS in capsys.readouterr().out
    assert main(["prepare", "--preset", "demo", *arguments[2:5]]) == 0
    said = capsys.readouterr().out
    assert NO_CO_TWINS in said and "recipe learns from families of co-twins" in said
    result = json.loads(Path("run/report.json").read_text())
    assert result["co_twins"] is False and result["terms"]["impostors"] == "unrelated people"
    assert [one["name"] for one in result["systems"]] == ["run", "run, global", "run, local"]
    assert all({"tar_at_fmr_0.001", "tar_at_fmr_0.0001"} <= set(one["metrics"]) for one in result["systems"])
    page = Path("run/report.html").read_text()
    assert "somebody else" in page and "How safe is it against a twin" not in page
