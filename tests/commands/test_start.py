"""What a training that cannot end well is refused for, before any data is drawn, read or decoded."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
import tiny
import torch

from dcal_core import storage
from dcal_core.commands import chosen, new_run, start
from dcal_core.commands.prepare import begin_audit
from dcal_core.commands.session import begin_with_trained
from dcal_core.commands.start import begin_training
from dcal_core.config.recipes import load
from dcal_core.data.locate import INDEX_FILES
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError
from dcal_core.storage import StorageError

PARAMS = Path(__file__).parents[2] / "params"
REAL = ["kaggle_t4x2", "kaggle_t4x2_paper", "kaggle_p100", "local_2080ti", "adaface_full", "adaface_frozen"]
REAL += ["oaml_twins", "oaml_ms1mv2"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    for module in (chosen, start):
        monkeypatch.setattr(module, "gpu_verdict", lambda: (False, "no GPU"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def data(tmp_path):
    """A folder with index files, which nobody opens."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        for part in ("dataset_infor", "twin_pairs"):
            (folder / f"{split}_{part}.json").touch()
    return folder


def nothing_written(folder: Path, *besides: Path) -> bool:
    return sorted(set(folder.rglob("*")) - set(besides)) == []


# ---- data and a GPU


@pytest.mark.parametrize(
    "begin", [lambda given: begin_training("Train", given, PARAMS), lambda g: begin_audit(g, PARAMS)]
)
@pytest.mark.parametrize("preset", REAL)
def test_a_preset_for_real_data_draws_no_twins(tmp_path, refused, preset, begin):
    with refused(DataError, preset, "real data", "data_root", "--preset demo"):
        begin({"preset": preset})
    assert nothing_written(tmp_path)


def test_a_preset_of_ones_own_draws_twins_where_it_says_how_many(tmp_path, refused):
    file = tmp_path / "mine.yaml"
    file.write_text("backbone: hybrid_tiny\nallow_random_init: true\n")
    with refused(DataError, "preset mine.yaml is for real data"):
        begin_training("Train", {"preset": str(file)}, PARAMS)
    begin_training("Train", {"preset": str(file), "synthetic_families": "8", "run_dir": "a"}, PARAMS)
    file.write_text("backbone: hybrid_tiny\nallow_random_init: true\nsynthetic_families: 8\n")
    begin_training("Train", {"preset": str(file), "run_dir": "b"}, PARAMS)


def test_auto_alone_falls_back_to_drawn_twins_and_says_so_in_its_first_line(capsys, data):
    begin_training("Train", {"preset": "demo"}, PARAMS)
    assert capsys.readouterr().out.splitlines()[0] == "Train"
    begin_training("Train", {"preset": "auto"}, PARAMS)  # there is data, but no GPU
    assert capsys.readouterr().out.splitlines()[0] == "Train (no GPU: the demo's small model)"
    for file in data.iterdir():
        file.unlink()
    begin_training("Train", {"preset": "auto"}, PARAMS)
    assert capsys.readouterr().out.splitlines()[0] == "Train (no data found: on drawn twins, SYNTHETIC)"


@pytest.mark.parametrize("preset", REAL)
def test_a_preset_for_a_gpu_is_not_trained_for_weeks_on_a_cpu(data, refused, preset):
    with refused(ConfigError, preset, "no GPU", "weeks", "gpu=optional", "--preset demo"):
        begin_training("Train", {"preset": preset}, PARAMS)


def test_a_preset_for_a_gpu_can_be_forced(data):
    given = {"preset": "kaggle_t4x2", "gpu": "optional", "backbone": "hybrid_tiny", "allow_random_init": "true"}
    assert begin_training("Train", given, PARAMS).config.gpu == "optional"


# ---- what was known at second 0

BOTH = {
    "weights a picture": ({"weights": "picture.pth"}, "is a PNG picture"),
    "precision": ({"precision": "fp16"}, "precision=fp16 needs a GPU"),
    "resume_from nowhere": ({"resume_from": "gone"}, "resume_from=gone: neither a run"),
    "run_dir a file": ({"run_dir": "picture.pth"}, "picture.pth"),
    "no benchmarks to choose by": ({"best_by": "benchmarks"}, "best_by=benchmarks: none of lfw.bin, "),
}
DCAL = BOTH | {
    "unknown backbone": ({"backbone": "resnet50"}, "backbone='resnet50'"),
    "misspelt backbone": ({"backbone": "vit_bse_patch16_224"}, "try vit_base"),
    "no weights for the demo's backbone": ({"allow_random_init": "false"}, "has no pretrained weights"),
    "weights missing": ({"weights": "gone.pth"}, "weights=gone.pth: there is no such file"),
    "weights a folder": ({"weights": "data"}, "weights=data is a folder"),
    "weights of another model": ({"weights": "other.pth"}, "lacks"),
    "resume_from data": ({"resume_from": "data"}, "resume_from=data: neither a run"),
    "run_dir in a file": ({"run_dir": "picture.pth/run"}, "picture.pth"),
    "a misspelt run_dir to resume": ({"resume": "true", "run_dir": "rnu"}, "no run in"),
}
ADAFACE = BOTH | {
    "weights missing": ({"weights": "gone.ckpt"}, "weights=gone.ckpt: there is no such file"),
    "no weights": ({"allow_random_init": "false"}, "give weights=<file>"),
}
CASES = [pytest.param("demo", *case, id=name) for name, case in DCAL.items()]
CASES += [pytest.param("adaface_demo", *case, id=f"adaface: {name}") for name, case in ADAFACE.items()]


@pytest.mark.parametrize(("preset", "given", "words"), CASES)
def test_what_was_known_at_the_start_is_refused_before_the_data(tmp_path, data, preset, given, words):
    (tmp_path / "picture.pth").write_bytes(b"\x89PNG\r\n\x1a\n")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ConfigError, StorageError)) as refusal:
        begin_training("Train", {"preset": preset} | given, PARAMS)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_data(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(new_run.os, "access", lambda place, mode: False)  # as root would be allowed all
    with refused(ConfigError, f"run_dir={tmp_path}/runs/demo", "nothing can be written", "another folder"):
        begin_training("Train", {"preset": "demo"}, PARAMS)
    assert nothing_written(tmp_path)


def test_a_full_disk_is_refused_before_the_data(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda place: Usage(10**9, 10**9, 10**5))
    with refused(StorageError, tmp_path, "0.00 GB free", "another run_dir"):
        begin_training("Train", {"preset": "demo"}, PARAMS)
    assert nothing_written(tmp_path)


def test_a_run_to_resume_that_is_not_there_is_told_those_that_are(tmp_path, refused):
    for name in ("demo", "demo2"):
        tiny.new_run(tmp_path / "runs" / name, batch=3)
    for given in ({"resume": "true", "run_dir": "runs/dmo"}, {"resume": True, "run_dir": "runs/dmo"}):
        with refused(ConfigError, "resume=true", "runs/dmo; there are", "runs/demo, ", "runs/demo2: correct run_dir"):
            begin_training("Train", {"preset": "demo"} | given, PARAMS)
    begin_training("Train", {"preset": "demo", "run_dir": "runs/dmo"}, PARAMS)  # resume by default: a new run


def test_a_first_session_may_ask_to_resume_and_says_that_it_starts(tmp_path, capsys):
    begin_training("Train", {"preset": "demo", "resume": "true"}, PARAMS)
    assert f"A new run in {tmp_path / 'runs/demo'}" in capsys.readouterr().out.splitlines()[:5]
    (tmp_path / "runs/demo/config.json").write_text(json.dumps(load("demo", PARAMS, {}).as_dict()))
    begin_training("Train", {"preset": "demo", "resume": "true"}, PARAMS)
    assert "A new run" not in capsys.readouterr().out


@pytest.mark.parametrize("begin", [begin_training, begin_audit])
@pytest.mark.parametrize("place", ["elsewhere", "~/own", "data", "a link"])
def test_data_that_is_given_is_not_called_drawn_twins(tmp_path, monkeypatch, capsys, begin, place):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / {"~/own": "own", "a link": "real"}.get(place, place)
    folder.mkdir()
    for name in INDEX_FILES:
        (folder / name).write_text("{}")
    if place == "a link":
        (tmp_path / place).symlink_to(folder)
    given = {"preset": "auto"} if place == "data" else {"preset": "auto", "data_root": place}
    args = () if begin is begin_audit else ("Check",)
    begin(*args, given, PARAMS)
    first = capsys.readouterr().out.splitlines()[0]
    assert "no GPU" in first and "SYNTHETIC" not in first


def test_a_run_to_evaluate_that_is_not_there_is_told_those_that_are(tmp_path, refused):
    tiny.new_run(tmp_path / "runs" / "demo", batch=3)
    with refused(ConfigError, "no trained model in", "runs/dmo; there is", "runs/demo: train one first, or correct"):
        begin_with_trained("Evaluate", {"preset": "demo", "run_dir": "runs/dmo"}, PARAMS)
    with refused(ConfigError, "runs/demo yet: train it for one epoch"):
        begin_with_trained("Evaluate", {"preset": "demo", "run_dir": "runs/demo"}, PARAMS)


@pytest.mark.parametrize("compare", ["gone", "runs/demo, gone"])
def test_a_run_to_compare_that_is_not_there_is_refused_before_the_data(tmp_path, refused, compare):
    run = tiny.new_run(tmp_path / "runs" / "demo", load("demo", PARAMS, {}))
    run.save_model(run.folder.best, tiny.linear_model())
    with refused(ConfigError, f"compare={tmp_path / 'gone'}: no trained model in", "there is", "runs/demo"):
        begin_with_trained("Evaluate", {"preset": "demo", "compare": compare}, PARAMS)


@pytest.mark.parametrize(("lr", "warned"), [("9", True), ("0.2", True), ("0.1", False), ("1e-4", False)])
def test_a_learning_rate_out_of_any_sane_range_is_warned_of(capsys, lr, warned):
    begin_training("Train", {"preset": "demo", "lr": lr}, PARAMS)
    assert (f"Warning: lr={lr} is above 0.1" in capsys.readouterr().out) == warned


@pytest.mark.parametrize(("gpus", "families", "found"), [(0, 4, 1), (1, 4, 1), (2, 4, 2), (3, 4, 2), (2, 3, 1)])
def test_no_number_of_processes_is_as_many_as_there_are_gpus(monkeypatch, capsys, gpus, families, found):
    monkeypatch.setattr(start, "gpu_verdict", lambda: (gpus > 0, f"{gpus} GPUs"))
    monkeypatch.setattr(start.torch.cuda, "device_count", lambda: gpus)
    given = {"preset": "demo", "nproc": "0", "families_per_batch": str(families), "precision": "fp32"}
    assert begin_training("Train", given, PARAMS).config.nproc == found
    assert (f"{found} GPUs train together" in capsys.readouterr().out) == (found > 1)


def test_the_weights_are_read_before_the_data_without_a_word(capsys, tmp_path):
    begin_training("Train", {"preset": "demo"}, PARAMS)
    assert "random weights" not in capsys.readouterr().out
