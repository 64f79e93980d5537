"""A trained model in other runtimes' formats, each compared with the model in PyTorch before it is left.

N faces or pairs; S the model's image size, px; D numbers in a descriptor.
"""

import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dcal_core.deploy.engine import Engine
from dcal_core.deploy.graphs import Compare, Describe
from dcal_core.deploy.torch_files import Callables
from dcal_core.errors import UserError
from dcal_core.missing import lacks
from dcal_core.models.verifier import Verifier
from dcal_core.storage import disk_errors

LIMIT = 1e-4  # of the difference in score between a file in fp32 and the model in PyTorch
PAIRS = 500  # of faces, on which they are compared
BATCHES = (1, 2, 7)  # faces, the first sizes of a batch that are tried; then BATCH
BATCH = 32


class ExportError(UserError):
    """What was exported does not give the model's scores, or this machine cannot export it."""


@dataclass(frozen=True)
class Form:
    """A format: the end of a file's name, and by `module:name` what writes a file (describe, compare, about, file) and
    what opens it as an engine."""

    ending: str
    write: str
    open: str


FORMS = {
    "onnx": Form(".onnx", "dcal_core.deploy.onnx_files:write_onnx", "dcal_core.deploy.onnx_engine:OnnxEngine"),
    "torch_export": Form(
        ".pt2", "dcal_core.deploy.torch_files:write_program", "dcal_core.deploy.torch_files:open_program"
    ),
    "torchscript": Form(".pt", "dcal_core.deploy.torch_files:write_script", "dcal_core.deploy.torch_files:open_script"),
    "tensorrt": Form(
        ".engine", "dcal_core.deploy.tensorrt_files:write_engine", "dcal_core.deploy.tensorrt_files:TensorRTEngine"
    ),
}


def functions_of(form: str) -> tuple[Callable, Callable]:
    """What writes a format, and what opens it; ExportError where something that it needs is not installed."""
    try:
        return tuple(pkgutil.resolve_name(name) for name in (FORMS[form].write, FORMS[form].open))
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":  # which no extra installs
            cure = "pip install tensorrt, on a machine with an NVIDIA GPU"
            raise ExportError(f"--format {form} needs tensorrt, which is not installed: {cure}.") from None
        raise ExportError(lacks(f"--format {form}", error.name, "export")) from None


def describe_all(engine: Engine, faces: np.ndarray) -> np.ndarray:
    """Descriptors [N, D] of faces [N, S, S, 3], by batches of several sizes."""
    ends = np.cumsum(BATCHES)
    ends = np.append(ends, np.arange(ends[-1] + BATCH, len(faces), BATCH))
    return np.concatenate([engine.encode(part) for part in np.split(faces, ends) if len(part)])


def some_pairs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """PAIRS pairs of so many faces, drawn; no face with itself. Returns a and b."""
    random = np.random.default_rng(seed)
    a = random.integers(0, count, PAIRS)
    return a, (a + random.integers(1, count, PAIRS)) % count


def differences(one: Engine, other: Engine, faces: np.ndarray) -> np.ndarray:
    """Absolute differences [PAIRS] of the scores that two engines give to pairs of faces [N, S, S, 3]."""
    a, b = some_pairs(len(faces))
    scores = []
    for engine in (one, other):
        rows = describe_all(engine, faces)
        scores.append(engine.compare_pairs(rows[a], rows[b]))
    return np.abs(scores[0] - scores[1])


@contextmanager
def left_whole(file: Path) -> Iterator[Path]:
    """A path to write to, as are those beside it; where nothing fails, all of them are moved to where `file` lies."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder, disk_errors(file):
        yield Path(folder) / file.name
        for one in sorted(Path(folder).iterdir(), key=lambda one: one.name == file.name):  # what it refers to first
            os.replace(one, file.with_name(one.name))


def write_checked(model: Verifier, about: dict, file: Path, form: str, faces: np.ndarray) -> float:
    """Write a model in one of FORMS, and return the largest difference of PAIRS scores from the model's own;
    ExportError if one differs by more than LIMIT."""
    write, open_file = functions_of(form)
    describe, compare = Describe(model.cpu().eval()), Compare(model)
    write(
        describe, compare, about | {"export": {"format": form, "precision": "fp32", "torch": torch.__version__}}, file
    )
    eager = Callables(describe, None if compare.by_dot else compare)
    worst = float(differences(eager, open_file(file), faces).max())
    if not worst <= LIMIT:  # nor where it is no number
        raise ExportError(
            f"{file.name}: its scores differ from the model's by up to {worst:.2g}, more than {LIMIT:g}, so it was not "
            "left: take another format, or report this with the model's config.json."
        )
    return worst


def export(model: Verifier, about: dict, file: Path, form: str, faces: np.ndarray) -> float:
    """Write a model in one of FORMS, as `write_checked` does; no file is left where it raises.

    about: what config.json holds. faces: [N, S, S, 3] uint8, 2 or more, of the kind that the model knows.
    """
    with left_whole(file) as new:
        return write_checked(model, about, new, form, faces)
