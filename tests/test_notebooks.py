"""The notebooks, run as a user runs them: by papermill, in an empty folder, with the embedded library."""

import ast
import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from papermill import inspect_notebook

from build_notebooks import build
from dcal_core.config.recipes import CLASSES, class_of

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
FACE = {name: value for name, value in SMALL.items() if name not in ("families_per_batch", "images_per_person")}
FACE |= {"preset": "adaface_demo", "run_dir": "face", "width": 8, "triplets_per_batch": 4}
# Runs the cells up to the parameters' check with IPython alone, much faster than a kernel.
CHECK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
    if cell["metadata"].get("tags") == ["parameters"]:
        shell.run_cell(sys.argv[2]).raise_error()
    if "".join(cell["source"]).startswith("# Use the library"):
        break
"""
NOTEBOOKS = ("prepare", "train", "evaluate", "attention", "deploy")
pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


def built(name):
    """A notebook as built from today's sources."""
    return json.loads(build(ROOT / f"notebooks_src/{name}.py"))


def environment():
    """This process's environment without a network."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "no_proxy": "*", "https_proxy": "http://127.0.0.1:9"}


def execute(folder, name, notebook, parameters, **variables):
    """The cells of a notebook that papermill's command has executed in a folder, and the process that has done it."""
    (folder / f"{name}_built.ipynb").write_text(json.dumps(notebook))
    arguments = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", f"{name}_built.ipynb", f"{name}.ipynb", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment() | variables, capture_output=True, text=True)
    return json.loads((folder / f"{name}.ipynb").read_text())["cells"], done


def papermill(folder, name, notebook, parameters):
    """The cells of a notebook that papermill's command has executed to its end."""
    cells, done = execute(folder, name, notebook, parameters)
    assert done.returncode == 0, done.stderr
    return cells


def pictures_in(cells):
    """Every PNG that executed cells show, in order."""
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


def text_of(cells):
    """Everything that executed cells printed."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def figures_of(run, *names):
    """The bytes of figures in a run's folder."""
    return [(run / f"figures/{name}.png").read_bytes() for name in names]


def test_the_audit_writes_its_report(folder):
    data = {name: value for name, value in SMALL.items() if name.startswith(("preset", "image", "synthetic"))}
    cells = papermill(folder, "prepare", built("prepare"), data | {"run_dir": "checked", "drop_suggested": "true"})
    audit = json.loads((folder / "checked/audit.json").read_text())
    assert audit["data"] == "SYNTHETIC" and audit["splits"]["train"]["people"] == 24
    assert pictures_in(cells) == figures_of(folder / "checked", "images_per_person")
    assert "embedded" in text_of(cells) and "SYNTHETIC" in text_of(cells)


@pytest.fixture(scope="module")
def stopped(folder):
    """The cells of train.ipynb whose time is up at once, and papermill's process."""
    return execute(folder, "stopped", built("train"), SMALL | {"time_budget_hours": 0})


@pytest.fixture(scope="module")
def trained(folder, stopped):
    """train.ipynb in one kernel, its story run twice: the stopped run goes on; and another recipe. Returns the cells of
    each."""
    notebook = built("train")
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    story = notebook["cells"][sources.index("## Where this runs") :]
    change = {"cell_type": "code", "source": [f"given = {FACE}"], "metadata": {}, "outputs": []}
    again = [change | {"execution_count": None, "id": "change"}, *story]
    notebook["cells"] += [cell | {"id": f"{cell['id']}-again"} for cell in again]
    cells = papermill(folder, "train", notebook, SMALL | {"resume": "true"})
    starts = [i for i, cell in enumerate(cells) if "".join(cell["source"]) == "## Where this runs"]
    return cells[: starts[1]], cells[starts[1] :]


def test_training_that_stops_early_shows_its_curves_and_papermill_says_so_last(folder, stopped):
    cells, done = stopped
    printed = text_of(cells)
    assert "(embedded)" in printed and "Time budget used up: saved after 1 batch" in printed
    assert "Best validation EER" not in printed
    assert len(pictures_in(cells)) == 3  # the families, and curves of one batch
    (error,) = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    sentence = "Training is NOT finished: 1 batch done, best validation EER so far: none yet. All of it is saved in"
    assert error["evalue"].startswith(sentence) and "Kaggle" not in error["evalue"]
    assert error["traceback"] == [f"Unfinished: {error['evalue']}"]  # below the cell it stands alone
    assert done.returncode == 1 and done.stderr.rstrip().splitlines()[-1] == error["traceback"][0]
    assert cells.index(next(cell for cell in cells if error in cell.get("outputs", []))) >= len(cells) - 2


def test_papermill_says_last_why_it_was_refused(folder):
    wrong = SMALL | {"run_dir": "none", "data_root": "nowhere"}
    _, done = execute(folder, "refused", built("train"), wrong)
    last = done.stderr.rstrip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("DataError: ") and "nowhere" in last


def test_training_goes_on_where_it_stopped(folder, stopped, trained):
    printed = text_of(trained[0])
    assert "Going on from" in printed and "1 batch" in printed and "Best validation EER" in printed
    assert "NOT finished" not in printed
    progress = json.loads(next(folder.glob("out/checkpoints/last/*/progress.json")).read_text())
    assert progress["finished"] and progress["batch"] == 6
    assert pictures_in(trained[0]) == figures_of(folder / "out", "families", "loss_curves", "validation_curves")
    assert pictures_in(trained[0])[1:] != pictures_in(stopped[0])[1:]
    assert len(json.loads((folder / "out/training_log.json").read_text())["epochs"]) == 2


def test_adaface_trains_in_the_same_notebook_and_exports_its_weights(folder, trained):
    (weights,) = (folder / "face/models").glob("twin_tuned_ir18_full_100pct_margin0.3_epoch*.ckpt")
    printed = text_of(trained[1])
    assert weights.name in printed and "Best validation EER" in printed
    assert pictures_in(trained[1]) == figures_of(folder / "face", "families", "loss_curves", "validation_curves")


@pytest.fixture(scope="module")
def evaluated(folder, trained):
    """The cells of evaluate.ipynb."""
    chosen = {"preset": "demo", "run_dir": "out", "compare": "face", "bootstrap_draws": 100}
    return papermill(folder, "evaluate", built("evaluate"), chosen)


def test_evaluation_writes_the_report_with_systems_side_by_side(folder, evaluated):
    cells = evaluated
    report = json.loads((folder / "out/report.json").read_text())
    counts = report["metrics"]["counts"]
    assert report["data"] == "SYNTHETIC" and (counts["genuine"], counts["impostor"]) == (31 * 2 * 28, 31 * 64)
    assert report["metrics"]["eer"]["low"] <= report["metrics"]["eer"]["value"] <= report["metrics"]["eer"]["high"]
    assert [system["name"] for system in report["systems"]] == ["out", "face"]
    reliability = [] if "reason" in report["calibration"] else ["reliability"]
    examined = ["tippett", "pav", "ece"] if "fitted" in report["calibration"] else []
    kept = figures_of(folder / "out", "scores", "roc", "det", "systems", *reliability, *examined, "confusable")
    assert pictures_in(cells) == kept
    page = (folder / "out/report.html").read_text()
    assert "SYNTHETIC DATA" in page and "31 families" in page and "EER" in text_of(cells)
    assert "How good is it beside other systems?" in page


def test_attention_leads_from_an_image_to_what_to_believe(folder, trained):
    chosen = {"preset": "demo", "run_dir": "out", "synthetic_test_families": 3}
    cells = papermill(folder, "attention", built("attention"), chosen)
    drawn = {file.stem for file in folder.glob("out/figures/*.png")}
    assert drawn >= {"layers", "co-twins", "co-twins_regions", "one_person", "family", "browse", "faithfulness"}
    assert len(list(folder.glob("out/explained/*_attention_stats.json"))) == 1
    trust = json.loads((folder / "out/explained/faithfulness.json").read_text())
    assert trust["data"] == "SYNTHETIC" and trust["families"] <= 3
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    assert any("Twin attention maps" in str(data.get("text/plain")) and "image/png" in data for data in shown)
    assert not any("widget" in kind for data in shown for kind in data)  # nobody is there to press anything
    assert any("No map proves" in "".join(data.get("text/markdown", "")) for data in shown)
    assert "SYNTHETIC" in text_of(cells)


def test_a_run_is_put_to_use(folder, evaluated):
    """After its evaluation, as the tests of this file stand."""
    cells = papermill(
        folder, "deploy", built("deploy"), {"preset": "demo", "run_dir": "out", "synthetic_test_families": 3}
    )
    assert {file.name for file in (folder / "out/packed").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert json.loads((folder / "out/packed/config.json").read_text())["range"]["limits"]
    assert pictures_in(cells) == figures_of(folder / "out", "answer_one_person", "answer_co-twins")
    assert "In truth one person:" in text_of(cells) and "validated range" in text_of(cells)
    rows = (folder / "out/results.csv").read_text().splitlines()
    assert len(rows) == len((folder / "out/pairs.csv").read_text().splitlines()) == 361
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    tables = ["".join(data["text/markdown"]) for data in shown if "text/markdown" in data]
    assert tables[0].startswith("360 pairs: ")
    there = all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript"))
    assert [name for name in ("PyTorch", "ONNX", "ONNX, 8 bits") if f"| {name} " in tables[1]] == (
        ["PyTorch", "ONNX", "ONNX, 8 bits"] if there else ["PyTorch"]
    )
    assert there or "Not exported: " in text_of(cells)


@pytest.mark.parametrize(
    "parameter, sentence",
    [
        ('resumee = "true"', "did you mean resume?"),
        ('resume = "maybe"', "parameter resume='maybe': takes true or false"),
    ],
)
def test_a_parameter_that_makes_no_sense_stops_the_notebook_with_a_sentence(folder, parameter, sentence):
    (folder / "checked.ipynb").write_text(json.dumps(built("train")))
    command = [sys.executable, "-c", CHECK, "checked.ipynb", parameter]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr
    assert "Traceback" not in done.stdout and sentence in done.stdout  # what stands below the cell


CHANGED = ["epochs", "lr", "image_size", "families_per_batch", "triplets_per_batch", "weights", "nproc"]
CHANGED += ["time_budget_hours", "tracker"]


def test_papermill_finds_what_people_change_in_the_parameters_cell(folder):
    """So it does not warn of an unknown parameter; and what is None there is the preset's."""
    (folder / "inspected.ipynb").write_text(json.dumps(built("train")))
    found = inspect_notebook(folder / "inspected.ipynb")
    ways = ["preset", "data_root", "run_dir", "resume", "resume_from", "seed"]
    assert [*found] == [*ways, *CHANGED] and all(one["help"] for one in found.values())
    assert [name for name, one in found.items() if one["default"] == "None"] == ["resume", *CHANGED]
    known = {name for recipe in CLASSES for name in class_of(recipe).model_fields}
    assert {*found} <= {"preset", *known}
    command = [sys.executable, "-c", f"{CHECK}\nprint(shell.user_ns['given'])", "inspected.ipynb", "epochs = 3"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [*ast.literal_eval(done.stdout.splitlines()[-1])] == [
        "preset",
        "data_root",
        "run_dir",
        "resume_from",
        "seed",
        "epochs",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_story_is_told_in_small_cells_each_after_a_word(name):
    cells = [cell for cell in built(name)["cells"] if "core" not in cell["metadata"].get("tags", [])]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["attachments"]  # what comes out is seen first
    assert ["parameters"] in [cell["metadata"].get("tags") for cell in cells[:4]]
    for cell in cells:
        lines = cell["source"]
        if cell["cell_type"] == "code":
            most = 60 if lines[0].startswith("# ====") else 25  # the model's own parts are as long as they are
            assert len(lines) <= most and max(map(len, lines)) <= (121 if most == 60 else 116), lines


def test_a_gpu_is_asked_for_where_the_model_runs_thousands_of_times():
    asked = {name: built(name)["metadata"]["kaggle"]["isGpuEnabled"] for name in NOTEBOOKS}
    assert asked == {"prepare": False, "train": True, "evaluate": False, "attention": True, "deploy": False}
    firsts = {name: " ".join("".join(built(name)["cells"][0]["source"]).split()) for name in NOTEBOOKS}
    assert [name for name, first in firsts.items() if "o GPU is needed" in first] == [
        "prepare",
        "evaluate",
        "deploy",
    ]
    assert "Both T4s train together" in firsts["train"] and "A GPU is worth" in firsts["attention"]


def test_preparing_data_carries_models_to_find_wrong_labels_by_and_no_training():
    source = "".join("".join(cell["source"]) for cell in built("prepare")["cells"])
    files = [line for line in source.splitlines() if line.startswith("# ==== ")]
    assert [line for line in files if "/models/files.py" in line]
    assert not [line for line in files if "/recipes/" in line or "/training/" in line]
