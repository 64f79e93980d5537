"""`twins diagnose`: its files, exit status and refusals, on a run of a few batches."""

import json
from pathlib import Path

import pytest
import tiny

from dcal_core.__main__ import main
from dcal_core.commands import diagnose
from dcal_core.commands.run_to_diagnose import run_to_diagnose
from dcal_core.commands.train import train_run
from dcal_core.data.splits import open_data
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError
from dcal_core.installation import presets_folder
from dcal_core.runs import RunFolder
from dcal_core.training import task

CONFIG = tiny.dcal_config(
    synthetic_families=12,
    synthetic_images=3,
    synthetic_difficulty=0.0,
    validation_share=0.25,
    families_per_batch=3,
    steps_per_epoch=2,
    epochs=1,
)


@pytest.fixture(scope="module")
def run(draw_apart, tmp_path_factory):
    """A finished run of two batches, with the data that it was trained on in its scratch folder."""
    with pytest.MonkeyPatch.context() as patched:
        draw_apart(patched)
        patched.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
        data = open_data(CONFIG, ("train", "validation"))
        yield train_run(CONFIG, RunFolder(tmp_path_factory.mktemp("runs") / "run"), data)[0]


def test_a_diagnosis_leaves_its_files_and_says_by_its_status_whether_something_is_found(run, monkeypatch, capsys):
    for findings, status in (([], 0), ([found], diagnose.FOUND)):
        monkeypatch.setattr(diagnose, "diagnose", lambda evidence, findings=findings: findings)
        assert main(["diagnose", str(run.folder)]) == status
        said = capsys.readouterr().out
        assert ("Nothing found" in said) == (not findings)
        assert "Not checked: Colour order and normalisation" in said
        result = json.loads(run.folder.diagnosis.read_text())
        assert [one["name"] for one in result["findings"]] == [one.name for one in findings]
        assert result["data"] == "SYNTHETIC" and result["batch"] == 2
        assert set(result["measured"]["co_twins"]) == {"train", "validation"}
    assert "1. blank images (cause; panel h)\n   They are blank.\n   Measured 0.5, limit 0.05. Cure: look." in said
    assert (run.folder.figures / "diagnosis.png").stat().st_size > 10_000


found = diagnose.Finding("blank images", "They are blank.", 0.5, 0.05, "h", "look")


def test_a_run_without_a_checkpoint_is_refused(refused, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    for folder, state in (("nothing", "no run"), ("begun", "no checkpoint yet")):
        with refused(ConfigError, tmp_path / folder, state):
            run_to_diagnose({"preset": "auto", "run_dir": str(tmp_path / folder)}, presets_folder())


def test_the_folder_of_a_preset_is_taken_where_none_is_named(refused, elsewhere):
    with refused(ConfigError, Path("runs") / "adaface_demo", "no run"):
        run_to_diagnose({"preset": "adaface_demo"}, presets_folder())


def test_other_data_than_the_runs_are_refused(run, refused):
    with refused(DataError, "holds other people or images", run.folder):
        diagnose.data_of(CONFIG.replace(seed=1), run.folder)
    run.folder.trained_on.write_text(run.folder.trained_on.read_text().replace("SYNTHETIC", "nd-twin"))
    with refused(DataError, "the run was trained on nd-twin"):
        diagnose.data_of(CONFIG, run.folder)
