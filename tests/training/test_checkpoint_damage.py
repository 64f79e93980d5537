"""What a run's folder may take on the disk, what damage does to it, and that nothing in it is executed."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from test_checkpoints import WHOLE
from tiny import RUN_CONFIG, Parts, damage, files, names, new_run, same

from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError, StorageError, check_seal, seal, size_of
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.resume import newest_whole

# ---- damage


def facts(**changes) -> dict:
    return WHOLE.model_dump() | changes


def test_progress_is_read_back_from_json():
    for progress in (WHOLE, Progress()):  # no EER yet is infinity
        assert Progress.read(json.loads(json.dumps(progress.model_dump())), Path("progress.json")) == progress
    assert Progress.read(facts(seconds=3, more=1), Path("progress.json")).seconds == 3


NO_NUMBER = ["1", None, [1], {}, True]
ODD = {
    "batch": [*NO_NUMBER, -1, 1.5, float("nan"), float("inf")],
    "best_eer": [*NO_NUMBER, -0.1, float("nan"), float("-inf")],
    "best_error": [*NO_NUMBER, -0.1, float("nan"), float("-inf")],
    "stale": [*NO_NUMBER, -1, 0.0],
    "parts": [*NO_NUMBER, -1],
    "seconds": [*NO_NUMBER, -0.5, float("nan")],
    "tracker_run": [None, 3, ["a"], True],
    "finished": [None, 0, 1, "true", "false"],
    "at_chance": [None, 0, 1, "true", "false"],
    "skipped": [*NO_NUMBER, -1],
    "skipped_in_row": [*NO_NUMBER, -1],
    "schedule_from": [*NO_NUMBER, -1],
    "recent": [None, {}, "[]", 3, [1], [["loss", 1.0]], [{"loss": "1"}], [{"loss": None}], [{}, {"loss": [1.0]}]],
}


@pytest.mark.parametrize("name", Progress.model_fields)
def test_progress_of_the_wrong_kind_is_refused_by_name_and_value(refused, name):
    for value in ODD[name]:
        with refused(DamagedError, "run/progress.json", f"{name}", "Input should be", "restore it"):
            Progress.read(facts(**{name: value}), Path("run/progress.json"))


@pytest.mark.parametrize("name", Progress.model_fields)
def test_progress_defaults_what_it_lacks_but_the_number_of_batches(refused, name):
    """A checkpoint of an earlier version may lack what was added since."""
    lacking = {key: value for key, value in facts().items() if key != name}
    if name == "batch":
        with refused(DamagedError, "run/progress.json", "batch", "restore it"):
            Progress.read(lacking, Path("run/progress.json"))
    else:
        new = {name: WHOLE.best_eer if name == "best_error" else getattr(Progress(), name)}  # once it was the only mark
        assert Progress.read(lacking, Path("run/progress.json")) == WHOLE.model_copy(update=new)


def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, capsys):
    run = new_run(tmp_path / "run", batch=7)
    for seed, (name, batch) in enumerate([("damaged1", 9), ("damaged2", 9)], 1):
        Parts(seed).save(run, batch=batch)
        damage(run.folder.saved[0])
        found = newest_whole(run.folder, own=True)
        assert (found.path.name, found.facts["batch"]) == ("00000007", 7)
        said = capsys.readouterr().out
        assert str(run.folder.path / "checkpoints/last/00000009/optimizer.safetensors") in said
        assert said.endswith(". The checkpoint before it is used.\n") and said.count("\n") == 1
        assert (run.folder.checkpoints / "last" / f"00000009.{name}" / "optimizer.safetensors").stat().st_size == 100
    other = Parts(5)
    assert other.restore(run).batch == 7 and same(other.state(), Parts(0).state())
    assert names(run.folder.checkpoints / "last") == ["00000007", "00000009.damaged1", "00000009.damaged2"]


def test_progress_that_makes_no_sense_is_damage_though_its_checksum_is_right(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    Parts(1).save(run, batch=9)
    file = run.folder.saved[0] / "progress.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"best_eer": float("nan")}))
    seal(run.folder.saved[0])
    check_seal(run.folder.saved[0])
    assert newest_whole(run.folder, own=True).facts["batch"] == 7


def test_where_all_checkpoints_are_damaged_every_start_says_so_and_changes_nothing(tmp_path, refused, capsys):
    run = new_run(tmp_path / "run", batch=7)
    Parts(1).save(run, batch=9)
    for checkpoint in run.folder.saved:
        damage(checkpoint)
    before = files(tmp_path)
    for _ in range(2):  # else the second session would start afresh in the folder of the first
        with refused(DamagedError, run.folder.path, "no checkpoint", "resume=false", "restore"):
            newest_whole(run.folder, own=True)
        said = capsys.readouterr().out
        assert str(run.folder.saved[0]) in said and str(run.folder.saved[1]) in said
    assert files(tmp_path) == before


def test_damage_in_an_attached_run_is_named_but_not_set_aside(tmp_path, capsys):
    run = new_run(tmp_path / "input" / "a", batch=7)
    Parts(1).save(run, batch=9)
    damage(run.folder.saved[0])
    before = files(tmp_path)
    assert newest_whole(run.folder, own=False).facts["batch"] == 7
    assert str(run.folder.saved[0]) in capsys.readouterr().out and files(tmp_path) == before


def test_a_run_without_a_checkpoint_has_none_that_is_whole(tmp_path):
    assert newest_whole(new_run(tmp_path / "run").folder, own=True) is None
    assert newest_whole(RunFolder(tmp_path / "nowhere"), own=True) is None


# ---- disk budget


def crowded(tmp_path, **budget) -> Run:
    """A run with models of three epochs, the best one and two checkpoints."""
    run = new_run(tmp_path / "run", RUN_CONFIG.replace(**budget))
    for batch in (7, 8):
        Parts(batch).save(run, batch=batch)
    for folder in (*map(run.folder.epoch, (5, 10, 20)), run.folder.best):
        run.save_model(folder, Parts(0).model)
    return run


def test_what_can_be_spared_goes_oldest_first_and_is_said_until_nothing_may_go(tmp_path, capsys, refused):
    run = crowded(tmp_path)
    last = run.folder.checkpoints / "last"
    expendable = [*(run.folder.checkpoints / f"epoch_{epoch}" for epoch in (5, 10, 20)), last / "00000007"]
    for number, folder in enumerate(expendable):
        size = size_of(run.folder.path)
        run.config = RUN_CONFIG.model_copy(update={"disk_budget_gb": (size - 0.5) / 1e9})
        run.make_room(0)
        assert [path.exists() for path in expendable] == [False] * (number + 1) + [True] * (3 - number)
        assert str(folder) in (said := capsys.readouterr().out) and "disk_budget_gb" in said and said.count("\n") == 1
        run.make_room(size - 1 - size_of(run.folder.path))  # as much as was freed
        assert capsys.readouterr().out == ""
    run.config = RUN_CONFIG.model_copy(update={"disk_budget_gb": (size_of(run.folder.path) + 99) / 1e9})
    with refused(StorageError, run.folder.path, "disk_budget_gb", "raise it"):
        run.make_room(100)
    assert names(run.folder.checkpoints) == ["best", "last"] and names(last) == ["00000008"]
    check_seal(last / "00000008")


def test_the_budget_counts_what_is_about_to_be_written(tmp_path, capsys):
    run = crowded(tmp_path)
    free = 100  # bytes: fewer than a model or a checkpoint takes
    run.config = RUN_CONFIG.model_copy(update={"disk_budget_gb": (size_of(run.folder.path) + free) / 1e9})
    run.save_model(run.folder.epoch(25), Parts(0).model)
    assert names(run.folder.checkpoints) == ["best", "epoch_10", "epoch_20", "epoch_25", "last"]
    Parts(1).save(run, batch=9)
    assert "epoch_10" not in names(run.folder.checkpoints) and names(run.folder.checkpoints / "last") == [
        "00000008",
        "00000009",
    ]


def test_within_the_budget_nothing_goes(tmp_path, capsys):
    run = crowded(tmp_path)
    Parts(1).save(run, batch=9)
    assert names(run.folder.checkpoints) == ["best", "epoch_10", "epoch_20", "epoch_5", "last"]
    assert capsys.readouterr().out == ""


def test_a_disk_with_too_little_left_is_told_before_anything_is_written_or_removed(tmp_path, monkeypatch, refused):
    run, before = crowded(tmp_path, disk_budget_gb=0.001), files(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 99, 99))
    for write in (lambda: Parts(1).save(run, batch=9), lambda: run.save_model(run.folder.best, Parts(1).model)):
        with refused(StorageError, run.folder.path, "0.00 GB free", "run_dir", "run again to go on"):
            write()
    assert files(tmp_path) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    Parts(1).save(run, batch=9)
    assert run.progress().batch == 9
