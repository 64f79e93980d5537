"""`python -m dcal_core`: what it says, its exit status, and training from a shell in one process and in two."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from dcal_core.commands import train
from dcal_core.config.recipes import load
from dcal_core.distributed import ENDED, OUTCOMES, read_outcomes
from dcal_core.models.files import load_model
from dcal_core.training import task

VALUES = tiny.VALUES | {"validation_share": 0.25, "steps_per_epoch": 2, "epochs": 1}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset's file for a few drawn twins."""
    folder = tmp_path_factory.mktemp("drawn")
    data = tiny.drawn_twins(folder / "twins")
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(VALUES | {"data_root": str(data)}))
    return str(file)


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    """One thread, no GPU, and nobody is told where dcal_core is."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs `python -m dcal_core <arguments>` here, and gives its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["dcal_core", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("dcal_core", run_name="__main__")
        return end.value.code, *capfd.readouterr()

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---- commands


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0), (["trian"], 2)])
def test_without_a_command_the_commands_are_listed(command, arguments, status):
    code, out, err = command(*arguments)
    assert code == status and err == ""
    assert out.startswith("usage: python -m dcal_core <command> [options]")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "prepare",
        "train",
        "evaluate",
        "explain",
    ]


def test_a_command_gets_the_other_arguments_and_gives_the_exit_status(command, monkeypatch):
    given = []
    monkeypatch.setattr(train, "main", lambda arguments: given.append(arguments) or 7)
    assert command("train", "-p", "epochs", "3")[0] == 7 and given == [["-p", "epochs", "3"]]


def test_help_of_a_command(command):
    code, out, _ = command("train", "--help")
    assert code == 0 and out.startswith("usage: python -m dcal_core train") and "--preset" in out


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "epochz", "3"], "unknown parameter 'epochz' in the given parameters: did you mean epochs?"),
        (["-p", "epochs", "many"], "parameter epochs='many': takes a whole number (epochs)."),
        (["--preset", "kagle"], "preset='kagle': takes auto or one of adaface_demo, adaface_frozen, "),
        (["-f", "no/such.yaml"], "preset='such': takes auto or one of ."),
        (["--preset", "demo", "-p", "families_per_batch", "3", "-p", "nproc", "2"], "families_per_batch=3 cannot be"),
    ],
)
def test_what_makes_no_sense_ends_in_one_sentence(command, arguments, sentence):
    code, _, err = command("train", *arguments)
    assert code == 1 and err.startswith(f"ConfigError: {sentence}") and err.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command_line", [["train", "-p", "epochs"], ["train", "--presets", "x", "y"]])
def test_a_command_line_that_cannot_be_read_is_a_usage_error(command, command_line):
    code, _, err = command(*command_line)
    assert code == 2 and err.startswith("usage: ")


def test_an_error_of_ours_comes_with_its_traceback(command, preset, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "train_run", fail)
    code, _, err = command("train", "-f", preset)
    assert code == 1 and "Traceback" in err and err.endswith("\nRuntimeError: a bug\n")


def test_a_process_of_several_leaves_the_reason_of_its_end_to_its_launcher(command, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "by torchrun")
    monkeypatch.setenv(OUTCOMES, str(tmp_path))
    code, _, err = command("train", "-p", "epochz", "3")
    assert code == 1 and err == f"{ENDED}0.\n"  # the launcher says it once, for all its processes
    (outcome,) = read_outcomes(tmp_path)
    assert outcome["failed"] and outcome["kind"] == "ConfigError" and outcome["values"] == {}
    assert outcome["message"].startswith("unknown parameter 'epochz'")
    assert [file.name for file in tmp_path.iterdir()] == ["0.json"]


# ---- training


def test_a_preset_is_trained_and_a_second_time_nothing_is_left(command, preset, tmp_path):
    code, out, err = command("train", "-f", preset, "-p", "seed", "3", "-p", "lr", "1e-4")
    folder = tmp_path / "runs" / "small"
    assert code == 0 and "Traceback" not in err
    best = re.escape(str(folder / "checkpoints"))
    assert re.search(rf"\nBest validation EER \d+\.\d% \(SYNTHETIC\), 2 batches, in {best}\n$", out)
    assert "Preset small, seed 3" in out
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["seed"], saved["lr"], saved["families_per_batch"]) == (3, 1e-4, 2)
    assert len(json.loads((folder / "trained_on.json").read_text())["people"]) == 12
    assert load_model(folder / "checkpoints" / "best").encode(torch.zeros(1, 3, 32, 32)).parts.keys() == {"sa", "glca"}
    before = files(folder / "checkpoints")
    code, out, _ = command("train", "-f", preset, "-p", "seed", "3", "-p", "lr", "1e-4")
    assert code == 0 and "nothing is left to train" in out and "2 batches" in out
    assert files(folder / "checkpoints") == before
    code, _, err = command("train", "-f", preset, "-p", "seed", "4")
    assert code == 1 and err.count("\n") == 1 and "seed: 3 then, 4 now" in err
    code, out, _ = command("train", "-f", preset, "-p", "seed", "4", "-p", "resume", "false")
    assert code == 0 and "is now in" in out
    assert files(tmp_path / "runs" / "small.old1" / "checkpoints") == before


def test_two_processes_train_a_preset_once(command, preset, tmp_path):
    code, out, err = command("train", "-f", preset, "-p", "nproc", "2", "-p", "run_dir", "pair")
    assert code == 0 and "Traceback" not in out + err, out + err
    for once in ("No earlier run in", "Best validation EER", "hybrid_tiny starts from random weights"):
        assert out.count(once) == 1
    folder = tmp_path / "pair"
    found = sorted(files(folder))
    weights = [f"{name}.safetensors" for name in ("model", "objective", "optimizer")]
    last = ["SHA256SUMS", "model.json", "progress.json", "scaler.json", *weights]
    last = [f"checkpoints/last/00000002/{name}" for name in last]
    best = [f"checkpoints/best/{name}" for name in ("SHA256SUMS", "facts.json", "model.json", "model.safetensors")]
    curves = ["figures/loss_curves.png", "figures/validation_curves.png"]
    logs = ["config.json", "lock", "metrics.jsonl", "trained_on.json", "training_log.json"]
    assert found == sorted([*best, *last, *curves, *logs])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["batch"], "loss" in line, "validation/eer" in line) for line in lines] == [
        (2, True, False),
        (2, False, True),
    ]
    given = {"nproc": 2, "run_dir": str(folder)}
    assert json.loads((folder / "config.json").read_text()) == {
        "fingerprint": load("small", Path(preset).parent, given).fingerprint(),
        **load("small", Path(preset).parent, given).as_dict(),
    }
    code, out, _ = command("train", "-f", preset, "-p", "run_dir", "pair")  # one process can go on with it
    assert code == 0 and "nothing is left to train" in out
    assert sorted(files(folder)) == found
    assert sorted(os.listdir()) == ["pair", "runs"] and os.listdir("runs") == ["scratch"]
