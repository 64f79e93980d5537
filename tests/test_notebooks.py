"""The built notebooks, run as a user runs them: by papermill, in an empty folder, without the package installed."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "preset": "demo",
    "run_dir": "out",
    "image_size": 32,
    "synthetic_families": 12,
    "synthetic_images": 3,
    "validation_share": 0.3,
    "families_per_batch": 4,
    "images_per_person": 2,
    "steps_per_epoch": 3,
    "epochs": 2,
}
pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


def papermill(folder, notebook, **parameters):
    """Run a built notebook in a folder by papermill's command; the finished process."""
    arguments = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", ROOT / "notebooks" / notebook, notebook, *arguments]
    no_network = {"HF_HUB_OFFLINE": "1", "no_proxy": "*", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, cwd=folder, env=os.environ | no_network, capture_output=True, text=True)


def pictures_in(folder, notebook):
    """Every PNG that an executed notebook shows, in order."""
    cells = json.loads((folder / notebook).read_text())["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


def text_of(folder, notebook):
    """Everything that an executed notebook printed."""
    cells = json.loads((folder / notebook).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def test_the_audit_writes_its_report(folder):
    data = {name: value for name, value in SMALL.items() if name.startswith(("preset", "image", "synthetic"))}
    done = papermill(folder, "prepare.ipynb", **data, run_dir="checked", drop_suggested="true")
    assert done.returncode == 0, done.stderr
    audit = json.loads((folder / "checked/audit.json").read_text())
    assert audit["data"] == "SYNTHETIC" and audit["splits"]["train"]["people"] == 24
    assert (folder / "checked/figures/images_per_person.png").is_file()
    assert "SYNTHETIC" in text_of(folder, "prepare.ipynb")


def test_training_stops_cleanly_when_the_time_is_up(folder):
    done = papermill(folder, "train.ipynb", **SMALL, time_budget_hours=0)
    assert done.returncode == 0, done.stderr
    printed = text_of(folder, "train.ipynb")
    assert "embedded" in printed and "Time budget used up: saved after 1 batches" in printed
    assert json.loads(next(folder.glob("out/checkpoints/last/*/progress.json")).read_text())["batch"] == 1


def test_training_goes_on_where_it_stopped(folder):
    done = papermill(folder, "train.ipynb", **SMALL, resume="true")
    assert done.returncode == 0, done.stderr
    printed = text_of(folder, "train.ipynb")
    assert "Going on from" in printed and "1 batches done" in printed and "Best validation EER" in printed
    progress = json.loads(next(folder.glob("out/checkpoints/last/*/progress.json")).read_text())
    assert progress["finished"] and progress["batch"] == 6
    assert (folder / "out/figures/loss_curves.png").is_file()
    assert len(json.loads((folder / "out/training_log.json").read_text())["epochs"]) == 2


def test_evaluation_writes_the_report(folder):
    done = papermill(folder, "evaluate.ipynb", preset="demo", run_dir="out", bootstrap_draws=100)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "out/report.json").read_text())
    counts = report["metrics"]["counts"]
    assert report["data"] == "SYNTHETIC" and (counts["genuine"], counts["impostor"]) == (31 * 2 * 28, 31 * 64)
    assert report["metrics"]["eer"]["low"] <= report["metrics"]["eer"]["value"] <= report["metrics"]["eer"]["high"]
    reliability = [] if "reason" in report["calibration"] else ["reliability"]
    kept = [folder / f"out/figures/{name}.png" for name in ("scores", "roc", "det", *reliability, "confusable")]
    assert pictures_in(folder, "evaluate.ipynb") == [file.read_bytes() for file in kept]
    page = (folder / "out/report.html").read_text()
    assert "SYNTHETIC DATA" in page and "31 families" in page and "EER" in text_of(folder, "evaluate.ipynb")


def test_the_other_recipe_trains_in_the_same_notebook_and_leaves_weights_that_others_read(folder):
    shared = {name: value for name, value in SMALL.items() if name not in ("families_per_batch", "images_per_person")}
    face = {"preset": "adaface_demo", "run_dir": "face", "width": 8, "triplets_per_batch": 4}
    done = papermill(folder, "train.ipynb", **shared | face)
    assert done.returncode == 0, done.stderr
    printed = text_of(folder, "train.ipynb")
    (weights,) = (folder / "face/models").glob("twin_tuned_ir18_full_100pct_margin0.3_epoch*.ckpt")
    assert weights.name in printed and "Best validation EER" in printed
    kept = [folder / f"face/figures/{name}.png" for name in ("families", "loss_curves", "validation_curves")]
    assert pictures_in(folder, "train.ipynb") == [file.read_bytes() for file in kept]


def test_systems_stand_side_by_side(folder):
    done = papermill(
        folder, "evaluate.ipynb", preset="adaface_demo", run_dir="face", compare="out", bootstrap_draws=100
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "face/report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["face", "out"]
    assert (folder / "face/figures/systems.png").read_bytes() in pictures_in(folder, "evaluate.ipynb")
    assert "Compared with other systems" in (folder / "face/report.html").read_text()


def test_attention_leads_from_an_image_to_what_to_believe(folder):
    done = papermill(folder, "attention.ipynb", preset="demo", run_dir="out", synthetic_test_families=3)
    assert done.returncode == 0, done.stderr
    drawn = {file.stem for file in folder.glob("out/figures/*.png")}
    assert drawn >= {"layers", "co-twins", "co-twins_regions", "one_person", "family", "browse", "faithfulness"}
    assert len(list(folder.glob("out/explained/*_attention_stats.json"))) == 1
    trust = json.loads((folder / "out/explained/faithfulness.json").read_text())
    assert trust["data"] == "SYNTHETIC" and trust["families"] <= 3
    cells = json.loads((folder / "attention.ipynb").read_text())["cells"]
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    assert any("Twin attention maps" in str(data.get("text/plain")) and "image/png" in data for data in shown)
    assert not any("widget" in kind for data in shown for kind in data)  # nobody is there to press anything
    assert any("No map proves" in "".join(data.get("text/markdown", "")) for data in shown)
    assert "SYNTHETIC" in text_of(folder, "attention.ipynb")


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        ({"resumee": "true"}, "did you mean resume?"),
        ({"resume": "maybe"}, "parameter resume='maybe': takes true or false"),
    ],
)
def test_a_parameter_that_makes_no_sense_stops_the_notebook_with_a_sentence(folder, parameters, sentence):
    done = papermill(folder, "train.ipynb", **parameters)
    assert done.returncode == 1 and sentence in done.stderr
