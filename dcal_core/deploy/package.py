"""One folder that holds a trained model and all that is known about it, without its run or its data.

    config.json         see engine.py
    model.safetensors   the weights
    README.md           a model card, written from the evaluation's report (card.py)

The names are those of the Hugging Face Hub, so that a folder can be a repository there.
"""

import hashlib
import json
import shutil
from pathlib import Path

from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.data.twins import SYNTHETIC
from dcal_core.deploy.card import card_of
from dcal_core.deploy.engine import ABOUT_FILE, FORMAT, Engine, open_engine, read_about
from dcal_core.errors import ConfigError
from dcal_core.runs import DECISION_FILE, MODEL_FILE, WEIGHTS_FILE, RunFolder, found_of, weights_hash
from dcal_core.storage import disk_errors, read_json, whole_file, write_text
from dcal_core.verification.decision import read_rule

CARD = "README.md"
OF_HUB = ("config.json", "README.md", "*.safetensors", "*.onnx")  # what is fetched of a repository


def about_run(run: RunFolder, measured: dict | None = None) -> dict:
    """What config.json will hold of a run that was evaluated; ConfigError before that, DamagedError.

    measured: its validated range, None for what an earlier packing has left in it.
    """
    if not (run.best / MODEL_FILE).is_file():
        raise ConfigError(f"{run} holds no trained model: train one, or name another run.")
    rule = read_rule(run.best)
    if rule is None:
        raise ConfigError(f"{run} was not evaluated, so its scores have no meaning yet: run `twins evaluate` first.")
    architecture = read_json(run.best / MODEL_FILE)
    parameters = run.parameters()
    return {
        "format": FORMAT,
        "image_size": architecture.get("image_size"),
        "fit": parameters.get("fit", "stretch"),
        "landmarks": landmarks_of(run),
        "architecture": architecture,
        "decision": rule.as_dict(),
        "range": measured or range_of(run),
        "label": rule.data,
        "provenance": provenance(run, parameters),
    }


def landmarks_of(run: RunFolder) -> list | None:
    """Where the faces that a run was trained on have eyes, nose and mouth; None if they were not aligned."""
    if run.on_aligned():
        return ARCFACE.tolist()
    return DRAWN.tolist() if run.data().startswith(SYNTHETIC) else None


def range_of(run: RunFolder) -> dict | None:
    """The validated range as it was measured for a run's weights, None where it was not."""
    return found_of(run.best, run.range) or None


def provenance(run: RunFolder, parameters: dict) -> dict:
    """Where a model comes from, and how well it did."""
    report = found_of(run.best, run.report)
    return {
        "weights": weights_hash(run.best),
        "run": run.path.name,
        "system": report.get("system"),
        "code": report.get("code"),
        "seed": parameters.get("seed"),
        "parameters": parameters.get("fingerprint"),
        "trained_on": {
            "data": run.data(),
            "people": len(run.people()),
            "sha256": hashlib.sha256(run.trained_on.read_bytes()).hexdigest(),
        },
        "evaluated": {
            "data": report.get("data"),
            "created": report.get("created"),
            "families": report.get("metrics", {}).get("counts", {}).get("families"),
            "eer": report.get("metrics", {}).get("eer"),
        },
    }


def pack(run: RunFolder, folder: Path, measured: dict | None = None) -> Path:
    """Write a run's best model as a packed folder, and return it; config.json comes last, and names the weights.

    measured: as `about_run`. ConfigError if the folder holds something else; StorageError.
    """
    about = about_run(run, measured)
    folder = Path(folder)
    if folder.exists() and not (folder / ABOUT_FILE).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files: name a new folder, or that of a packed model.")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / WEIGHTS_FILE) as new:
            shutil.copyfile(run.best / WEIGHTS_FILE, new)
    write_text(folder / CARD, card_of(about, found_of(run.best, run.report)))
    write_text(folder / ABOUT_FILE, json.dumps(about, indent=1, allow_nan=False) + "\n")
    return folder


def engine_of(model: Path) -> Engine:
    """The engine of a packed folder, of one file of weights in it, or of a run that was evaluated."""
    run = RunFolder(model)
    if not (run.best / MODEL_FILE).is_file():
        return open_engine(model)
    from dcal_core.deploy.torch_engine import TorchEngine  # a packed folder may do without PyTorch

    return TorchEngine(run.best / WEIGHTS_FILE, about_run(run))


def newest_run(root: Path) -> Path:
    """The run below a folder whose model was evaluated last; ConfigError if there is none."""
    found = [
        RunFolder(folder) for folder in sorted(root.glob("*")) if (RunFolder(folder).best / DECISION_FILE).is_file()
    ]
    if not found:
        raise ConfigError(
            f"{root} holds no run that was trained and evaluated: give --model DIR, or run `twins train` and "
            "`twins evaluate`."
        )
    return max(found, key=lambda run: (run.best / DECISION_FILE).stat().st_mtime).path


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of a packed model by its path, or by the name of a repository on the Hugging Face Hub, which is
    downloaded unless it is in the cache; ConfigError if it cannot be had."""
    if Path(name).exists():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ConfigError(
            f"{name}: there is no such folder, and a download needs huggingface_hub, which is not installed: "
            "pip install huggingface_hub."
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=OF_HUB))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: neither a folder nor a repository that can be fetched ({reason}).") from None


def save(model: Path, folder: Path) -> Path:
    """Write what `engine_of` takes as a packed folder elsewhere, and return it."""
    run = RunFolder(model)
    if (run.best / MODEL_FILE).is_file():
        return pack(run, folder)
    source = model.parent if model.is_file() else model
    read_about(source)
    with disk_errors(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder
