"""What computes: the part of a predictor that a format of weights decides.

A packed folder holds `config.json`, all that is known about the model, and its weights in one or more formats. An
engine runs one of them. Everything else in this package imports neither PyTorch nor an engine, so that a machine
without PyTorch can verify too.

config.json:

    format          1
    image_size      side of the model's input, px
    fit             how an image that is not square becomes square: stretch, pad or crop
    landmarks       where the faces it knows have eyes, nose and mouth, [5, 2] shares of the side; null if not aligned
    architecture    plain values that rebuild the model without its weights, its recipe among them
    decision        from a score to a verdict and likelihood ratios (verification/decision.py)
    range           the measures of the validation images, and the limits of what is validated; null if not measured
    label           the data that it was trained and calibrated on; starts with SYNTHETIC for drawn twins
    provenance      hashes of weights and data, code, seed, dates, and the score with its interval

N faces or pairs; H = W = image_size; D numbers in a descriptor.
"""

import importlib.util
import pkgutil
from pathlib import Path
from typing import Protocol

import numpy as np

from dcal_core.errors import ConfigError
from dcal_core.missing import because
from dcal_core.storage import DamagedError, read_json

ABOUT_FILE = "config.json"
ONNX_FILE = "model.onnx"  # in a packed folder: the same model for onnxruntime, which starts sooner than PyTorch
FORMAT = 1
FIELDS = {  # of config.json, with their types
    "image_size": int,
    "fit": str,
    "landmarks": list | None,
    "architecture": dict,
    "decision": dict,
    "range": dict | None,
    "label": str,
    "provenance": dict,
}
ENGINES = {  # the end of a file's name to what opens it, `module:function`, and what that needs; preferred first
    ".safetensors": ("dcal_core.deploy.torch_engine:open_weights", "torch"),
    ".onnx": ("dcal_core.deploy.onnx_engine:OnnxEngine", "onnxruntime"),
}


class Engine(Protocol):
    """A trained model as a predictor uses it; safe to call from several threads.

    about: what config.json holds.
    """

    about: dict

    def encode(self, faces: np.ndarray) -> np.ndarray:
        """Descriptors [N, D] float32 of faces [N, H, W, 3], RGB uint8; colour order and normalisation happen here."""

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Scores [N] float64 of descriptor i of a with descriptor i of b, [N, D] each, higher = more alike."""


def compare_file(model: Path) -> Path:
    """Where the graph that compares the descriptors of an exported model lies, if their dot products do not."""
    return model.with_suffix(f".compare{model.suffix}")


def is_compare_file(file: Path) -> bool:
    """Whether a file is such a graph."""
    return file.stem.endswith(".compare")


def dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products [N] float64 of row i of a with row i of b, [N, D] each."""
    return np.einsum("nd,nd->n", a, b, dtype=np.float64)


def read_about(folder: Path) -> dict:
    """What a packed folder's config.json holds; ConfigError if it is no such folder, DamagedError if it is damaged."""
    file = Path(folder) / ABOUT_FILE
    if not file.is_file():
        raise ConfigError(
            f"{folder} holds no packed model ({ABOUT_FILE} is missing{because(folder)}): pack a trained run with "
            "`twins pack RUN DIR`."
        )
    return check_about(read_json(file), file)


def check_about(about: dict, file: Path) -> dict:
    """What config.json holds, as found in a file; ConfigError for another format, DamagedError."""
    if about.get("format") != FORMAT:
        raise ConfigError(f"{file} is not of a packed model of format {FORMAT}: pack the run again with `twins pack`.")
    for name, kind in FIELDS.items():
        if name not in about or not isinstance(about[name], kind) or isinstance(about[name], bool):
            raise DamagedError(f"{file} is damaged: {name} is missing or of another type; pack the run again.")
    return about


def open_engine(model: Path) -> Engine:
    """The engine of a packed folder, or of one file of weights; ConfigError if none is there.

    Of the files in a folder the first in ENGINES for which what it needs is installed.
    """
    model = Path(model)
    if not model.exists():
        raise ConfigError(f"{model}: there is no such file or folder{because(model)}: give a packed model, or a run.")
    if not model.is_file():
        read_about(model)
        model = first_weights(model)
    if model.suffix not in ENGINES:
        raise ConfigError(f"{model} is no weights of a known format: name a packed folder or a file {endings()}.")
    opens, _ = ENGINES[model.suffix]
    return pkgutil.resolve_name(opens)(model)


def quick_engine(folder: Path) -> Engine | None:
    """The engine of ONNX_FILE in a packed folder, which starts sooner than PyTorch; None where that is not the folder's
    own model in fp32, or onnxruntime is missing."""
    file = Path(folder) / ONNX_FILE
    if not file.is_file() or not importlib.util.find_spec(ENGINES[file.suffix][1]):
        return None
    engine = open_engine(file)
    own = read_about(folder) | {"export": engine.about["export"]}
    return engine if engine.about == own and engine.about["export"]["precision"] == "fp32" else None


def endings() -> str:
    return " or ".join(f"*{ending}" for ending in ENGINES)


def first_weights(folder: Path) -> Path:
    """The weights of a packed folder that this machine can run best."""
    found = [file for ending in ENGINES for file in sorted(folder.glob(f"*{ending}")) if not is_compare_file(file)]
    found.sort(key=lambda file: file.suffix == ".onnx" and file.name != ONNX_FILE)  # those of 8 bits, for example, last
    if not found:
        raise ConfigError(f"{folder} holds no weights of a known format ({endings()}): pack the run again.")
    runnable = [file for file in found if importlib.util.find_spec(ENGINES[file.suffix][1])]
    if not runnable:
        needs = sorted({ENGINES[file.suffix][1] for file in found})
        raise ConfigError(f"{folder}: to run its weights, install {' or '.join(needs)}.")
    return runnable[0]
