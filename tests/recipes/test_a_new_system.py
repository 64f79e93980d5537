"""Adding a system: its own files and one line in each of three tables; then every command and notebook knows it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy"
OWN_FILES = {"config.py": "config/toy.py", "model.py": "models/toy.py", "recipe.py": "recipes/toy.py"}
LINES = {  # a table, the line before which the new one stands, and the new one
    "config/recipes.py": '    "toy": "dcal_core.config.toy:ToyConfig",',
    "models/files.py": '    "toy": "dcal_core.models.toy",',
    "recipes/catalogue.py": '    "toy": "dcal_core.recipes.toy:ToyRecipe",',
}
WALK = """
import sys
from pathlib import Path
from dcal_core.commands import evaluate, explain, train
toy = ["--preset", "toy", "-p", "run_dir", sys.argv[1]]
assert train.main([*toy, "-p", "time_budget_hours", "0"]) == 0  # ends after the first batch
assert train.main(toy) == 0
assert train.main(["--preset", "toy", "-p", "run_dir", sys.argv[2]]) == 0  # without a stop
assert evaluate.main(["-p", "run_dir", sys.argv[1]]) == 0
explain.SHOWN = 1  # pairs drawn
assert explain.main(["-p", "run_dir", sys.argv[1]]) == 0
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The project with the toy system moved in."""
    house = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("dcal_core", "notebooks_src", "params"):
        shutil.copytree(ROOT / name, house / name, ignore=ignored)
    shutil.copy(ROOT / "build_notebooks.py", house)
    for source, target in OWN_FILES.items():
        shutil.copy(TOY / source, house / "dcal_core" / target)
    for table, line in LINES.items():
        file = house / "dcal_core" / table
        before = file.read_text()
        (last,) = [one for one in before.splitlines() if one.startswith('    "adaface": "dcal_core.')]
        file.write_text(before.replace(last, f"{last}\n{line}"))
    (house / "params" / "toy.yaml").write_text(
        "recipe: toy\nimage_size: 32\nepochs: 3\nsteps_per_epoch: 2\ntoy_batch: 2\nlr: 0.1\nloader_workers: 0\n"
        "synthetic_families: 12\nsynthetic_images: 3\nsynthetic_test_families: 6\nvalidation_share: 0.5\n"
        "bootstrap_draws: 100\n"
    )
    return house


@pytest.fixture(scope="module")
def walked(house):
    """The runs of the toy, stopped once and never, trained, evaluated and explained in the house."""
    runs = [house / "stopped", house / "whole"]
    command = [sys.executable, "-c", WALK, *map(str, runs)]
    done = subprocess.run(command, cwd=house, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return runs, done.stdout


def test_a_new_system_is_its_own_files_and_three_lines():
    assert len(OWN_FILES) == len(LINES) == 3
    for source in OWN_FILES:
        assert (TOY / source).is_file()


def test_it_trains_and_resumes_exactly_though_its_batches_look_at_the_model(walked):
    (stopped, whole), out = walked
    assert "Going on from" in out and "6 batches" in out
    for name in ("model", "objective", "optimizer", "sampling"):
        file = f"checkpoints/last/00000006/{name}.safetensors"
        assert (stopped / file).read_bytes() == (whole / file).read_bytes(), name


def test_it_is_drawn_exported_evaluated_and_explained(walked):
    (run, _), out = walked
    assert (run / "figures" / "loss_curves.png").is_file() and (run / "models" / "toy.txt").is_file()
    report = json.loads((run / "report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["stopped", "stopped, first"]
    assert json.loads((run / "explained" / "faithfulness.json").read_text())["maps"]


def test_it_is_built_into_the_notebooks(house):
    done = subprocess.run([sys.executable, "build_notebooks.py"], cwd=house, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, files in {"train": ("config", "models", "recipes"), "evaluate": ("config", "models")}.items():
        notebook = json.loads((house / "notebooks" / f"{name}.ipynb").read_text())
        text = "".join("".join(cell["source"]) for cell in notebook["cells"])
        for folder in files:
            assert f"dcal_core/{folder}/toy.py" in text, (name, folder)
