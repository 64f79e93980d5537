"""Runs that learn have no finding, stopped early too; each planted fault is found under its name: in short for one
recipe and few batches, and for all of them with -m faults."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from planted import FAULTS, HEALTHY, STEPS, findings_of, from_weights, painted, plant, train

from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import TwinData, open_split, split_families
from dcal_core.training import task

QUICK = {  # faults that a run shows at once, by recipe
    "adaface": ("people mixed",),
    "oaml": ("no matching",),
}
STAGES = (6, 39, 45, 30)  # batches of the sessions of a run, which make 120 together


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


def named(findings) -> list[str]:
    return [finding.name for finding in findings]


@pytest.mark.parametrize("recipe", HEALTHY)
def test_a_run_that_has_just_begun_has_no_finding(recipe, tmp_path):
    data = painted()
    assert named(findings_of(train(HEALTHY[recipe], tmp_path / "run", data, batches=3), data)) == []


@pytest.mark.parametrize(("recipe", "fault"), [(recipe, fault) for recipe, faults in QUICK.items() for fault in faults])
def test_a_fault_is_found_at_once_under_its_name(recipe, fault, tmp_path, monkeypatch):
    quick = replace(FAULTS[fault], batches=2)
    found = plant(quick, recipe, tmp_path / "run", painted(), monkeypatch)
    assert [name for name in named(found) if name.startswith(quick.name)], named(found)
    assert all(one.sentence.endswith(".") and one.panel in "abcdefgh" and one.cure for one in found)


# ---- at length


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Splits by seed, of 60 families that are drawn with marks that are plain to see."""
    root = tmp_path_factory.mktemp("drawn")
    for split, families in (("train", 60), ("test", 2)):
        shared = {"size": tiny.SIZE, "difficulty": 0.0, "seed": 0, "workers": 1}
        generate(root, split=split, families=families, images_per_person=4, **shared)

    def of_seed(seed: int) -> TwinData:
        indexes = split_families(read_indexes(root)[0], 0.3, seed=seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(splits, "scratch_root", lambda: root)
            opened = {index.name: open_split(index, root, HEALTHY["dcal"]) for index in indexes}
        return TwinData(root, "SYNTHETIC", opened)

    return of_seed


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """Whole runs that learn, by recipe, trained when they are first asked for."""
    folders: dict[str, Path] = {}

    def of_recipe(recipe: str) -> Path:
        if recipe not in folders:
            folders[recipe] = tmp_path_factory.mktemp(recipe) / "run"
            train(HEALTHY[recipe], folders[recipe], drawn(0))
        return folders[recipe]

    return of_recipe


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("recipe", HEALTHY)
def test_a_run_that_learns_has_no_finding_wherever_it_is_stopped(recipe, seed, drawn, tmp_path):
    data, config = drawn(seed), HEALTHY[recipe].replace(seed=seed)
    found = []
    for batches in STAGES:
        run = train(config, tmp_path / "run", data, batches)
        found += [(run.progress().batch, name) for name in named(findings_of(run, data))]
    assert run.progress().batch == STEPS and run.progress().best_eer < 0.45
    assert found == []


@pytest.mark.faults
@pytest.mark.parametrize("recipe", HEALTHY)
def test_a_run_from_trained_weights_has_no_finding(recipe, drawn, trained, tmp_path):
    config = from_weights(HEALTHY[recipe], trained(recipe))
    data = drawn(0)
    assert named(findings_of(train(config, tmp_path / "run", data, batches=4), data)) == []


@pytest.mark.faults
@pytest.mark.parametrize(("recipe", "fault"), [(recipe, one) for one in FAULTS for recipe in FAULTS[one].recipes])
def test_a_planted_fault_is_found_under_its_name(recipe, fault, drawn, trained, tmp_path, monkeypatch):
    start = trained(recipe) if FAULTS[fault].from_trained else None
    found = named(plant(FAULTS[fault], recipe, tmp_path / "run", drawn(0), monkeypatch, start))
    assert [name for name in found if name.startswith(FAULTS[fault].name)], found
