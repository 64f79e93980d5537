"""`python -m dcal_core`: what it says, its exit status, and training from a shell in one process and in two."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from dcal_core.commands import train
from dcal_core.commands.catalogue import COMMANDS
from dcal_core.commands.options import given_parameters, known_fields, read_options
from dcal_core.config.recipes import CLASSES, class_of, load, presets
from dcal_core.distributed import ENDED, OUTCOMES, read_outcomes
from dcal_core.installation import presets_folder
from dcal_core.models.files import load_model
from dcal_core.training import task

ROOT = Path(__file__).parents[1]
VALUES = tiny.VALUES | {"validation_share": 0.4, "steps_per_epoch": 2, "epochs": 1}


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
    assert code == status and err == ("There is no command 'trian'.\n" if arguments == ["trian"] else "")
    assert out.startswith("usage: python -m dcal_core <command> [options]")
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(COMMANDS)


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
        (["--preset", "kagle"], "preset='kagle': did you mean kaggle_t4x2? It takes one of auto, adaface_demo, "),
        (["--preset", "dmo"], "preset='dmo': did you mean demo? It takes one of auto, "),
        (["--preset", "Demo"], "preset='Demo': did you mean demo? It takes one of auto, "),
        (["--preset", "kaggle_t4"], "preset='kaggle_t4': did you mean kaggle_t4x2? It takes one of auto, "),
        (["-p", "lerning_rate", "1"], "unknown parameter 'lerning_rate' in the given parameters: did you mean lr?"),
        (["--learning-rate", "1"], "unknown option '--learning-rate': did you mean lr?"),
        (
            ["--batch_size", "8"],
            "unknown option '--batch_size': did you mean families_per_batch or triplets_per_batch or pairs_per_batch?",
        ),
        (["-p", "num_epochs", "8"], "unknown parameter 'num_epochs' in the given parameters: did you mean epochs?"),
        (["-p", "data_dir", "x"], "unknown parameter 'data_dir' in the given parameters: did you mean data_root?"),
        (["--output_dir", "x"], "unknown option '--output_dir': did you mean run_dir?"),
        (["--img_size", "9"], "unknown option '--img_size': did you mean image_size?"),
        (["--checkpoint_evry", "9"], "unknown option '--checkpoint_evry': did you mean checkpoint_every?"),
        (["-f", "no/such.yaml"], "-f no/such.yaml: there is no such file"),
        (["-f", "."], "-f .: there is no such file"),
        (["--epoch", "3"], "unknown option '--epoch': did you mean epochs?"),
        (["-p", "epoch", "3"], "unknown parameter 'epoch' in the given parameters: did you mean epochs?"),
        (["-p", "epoch=3"], "unknown parameter 'epoch' in the given parameters: did you mean epochs?"),
        (["--Epochs=3"], "unknown option '--Epochs=3': did you mean epochs?"),
        (["demo"], "unknown option 'demo': python -m dcal_core train --help"),
        (["-p", "epochs", "1", "-p", "epochs", "2"], "parameter epochs is given more than once: keep one of them."),
        (["--epochs", "1", "-p", "epochs=1"], "parameter epochs is given more than once: keep one of them."),
        (["--resume", "perhaps"], "parameter resume='perhaps': takes true or false"),
        (["--preset", "demo", "-p", "families_per_batch", "3", "-p", "nproc", "2"], "families_per_batch=3 cannot be"),
    ],
)
def test_what_makes_no_sense_ends_in_one_sentence(command, arguments, sentence):
    code, _, err = command("train", *arguments)
    assert code == 1 and err.startswith(f"ConfigError: {sentence}") and err.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command_line", [["-p", "epochs"], ["-p", "epochs", "3", "lr"], ["--epochs"], ["--preset"]])
def test_a_command_line_that_cannot_be_read_is_a_usage_error(command, command_line):
    code, _, err = command("train", *command_line)
    assert code == 2 and err.startswith("usage: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "epochs", "3", "-p", "resume", "false"],
        ["-p", "epochs=3", "-p", "resume=no"],
        ["--epochs", "3", "--resume", "false"],
        ["--epochs=3", "--resume=off"],
    ],
)
def test_parameters_in_every_form_that_people_type(arguments):
    given, _ = given_parameters(read_options("train", ["--preset", "demo", *arguments]))
    config = load(given.pop("preset"), presets_folder(), given)
    assert config.epochs == 3 and config.resume is False


def test_a_truth_value_may_stand_alone_and_a_value_may_hold_an_equals_sign():
    given, _ = given_parameters(read_options("prepare", ["--align", "-p", "run_dir=a=b", "--seed", "7"]))
    assert given == {"preset": "auto", "align": "true", "run_dir": "a=b", "seed": "7"}


WITH_PARAMETERS = {name: command.shown.split() for name, command in COMMANDS.items() if command.refuses}


@pytest.mark.parametrize("command_name", WITH_PARAMETERS)
def test_the_help_lists_presets_parameters_and_an_example_without_torch(command_name):
    """In a process of its own, since here torch is imported."""
    asked = f"import sys; from dcal_core.__main__ import main\ntry: main({[command_name, '--help']})\n"
    code = asked + "finally: sys.stderr.write(str({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "set()"
    assert "example:\n" in done.stdout and "--max_skipped" not in done.stdout
    listed = set(re.findall(r"^  --(\w+)", done.stdout, re.M)) & set(known_fields())
    assert listed == set(WITH_PARAMETERS[command_name])
    assert ("epochs" in listed) == (command_name == "train")
    assert all(re.search(rf"^  {preset} +\w", done.stdout, re.M) for preset in presets(presets_folder()))


def test_the_help_names_no_parameter_that_there_is_not():
    for shown in WITH_PARAMETERS.values():
        assert set(shown) <= set(known_fields()) and len(shown) == len(set(shown))


def test_all_parameters_are_listed_on_demand(command):
    code, out, _ = command("train", "--help-all")
    names = {name for recipe in CLASSES for name in class_of(recipe).model_fields}
    assert code == 0 and all(f"--{name} " in out for name in names)


def test_a_preset_of_ones_own_may_lie_anywhere_under_three_endings(command, tmp_path):
    for ending in ("yaml", "yml", "json"):
        file = tmp_path / f"mine.{ending}"
        file.write_text('{"epochs": 0}')
        code, _, err = command("train", "-f", str(file))
        assert code == 1 and err.startswith("ConfigError: parameter epochs=0: takes 1 to")
    file = tmp_path / "mine.txt"
    file.touch()
    assert "-f " in (err := command("train", "-f", str(file))[2]) and "let its name end in .yaml" in err


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
    said = (
        rf"Best validation EER \d+\.\d% \(SYNTHETIC\), 2 batches, \d\.\d min of training, in {re.escape(str(folder))}"
    )
    assert re.search(rf"\n{said}\n$", out)
    assert "Preset small.yaml, seed 3" in out
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["seed"], saved["lr"], saved["families_per_batch"]) == (3, 1e-4, 2)
    assert len(json.loads((folder / "trained_on.json").read_text())["people"]) == 10
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


def test_a_finished_run_is_extended_by_a_new_schedule_exactly_however_it_is_interrupted(command, preset, tmp_path):
    assert command("train", "-f", preset, "-p", "run_dir", "whole")[0] == 0
    code, _, err = command("train", "-f", preset, "-p", "run_dir", "whole", "-p", "epochs", "3")
    assert code == 1 and "epochs: 1 then, 3 now" in err and "extend=true" in err
    shutil.copytree("whole", "parted")
    code, _, err = command("train", "-f", preset, "-p", "run_dir", "whole", "-p", "extend", "true", "--lr", "1e-3")
    assert code == 1 and "lr: " in err  # nothing but epochs may differ
    more = ["-f", preset, "--epochs", "3", "--extend"]
    code, out, _ = command("train", *more, "--run_dir", "whole")
    assert code == 0 and "Extending the finished run" in out and "to 3 epochs: a new schedule" in out
    assert "6 batches" in out and "Already" not in out
    for _ in range(2):
        code, out, _ = command("train", *more, "--run_dir", "parted", "--time_budget_hours", "0")
        assert code == 0 and "NOT finished" in out
    assert "Extending" not in out and "Going on from" in out
    code, out, _ = command("train", "-f", preset, "--epochs", "3", "--run_dir", "parted")  # extend is needed once
    assert code == 0 and "6 batches" in out
    parted, whole = (files(tmp_path / run / "checkpoints/last/00000006") for run in ("parted", "whole"))
    for weights in ("model.safetensors", "objective.safetensors", "optimizer.safetensors"):
        assert parted[weights] == whole[weights]
    code, out, _ = command("train", *more, "--run_dir", "whole")
    assert code == 0 and out.count("Already finished") == 1


def test_a_run_that_is_not_finished_is_not_extended(command, preset):
    given = ["-f", preset, "--run_dir", "begun", "--time_budget_hours", "0"]
    assert command("train", *given, "--epochs", "2")[0] == 0
    code, _, err = command("train", *given, "--epochs", "3", "--extend")
    assert code == 1 and "is not finished: finish it first" in err and err.count("\n") == 1


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
