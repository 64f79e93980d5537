"""A model written in PyTorch's own formats, `torch.export` and TorchScript, and opened again.

Opening such a file can run code: only what this process has just written is opened here. N faces or pairs.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dcal_core.deploy.engine import ABOUT_FILE, compare_file, dots
from dcal_core.deploy.graphs import Compare, Describe, examples_of, program_of


class Callables:
    """An engine of two functions of tensors, on the CPU; the second is None where scores are dot products."""

    def __init__(self, describe: Callable, compare: Callable | None):
        self.describe = describe
        self.compare = compare

    def encode(self, faces: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.describe(torch.from_numpy(np.ascontiguousarray(faces))).numpy()

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if self.compare is None:
            return dots(a, b)
        with torch.no_grad():
            return self.compare(torch.from_numpy(a), torch.from_numpy(b)).double().numpy()


def _program(graph: Describe | Compare, examples: tuple[Tensor, ...], file: Path, about: str) -> None:
    torch.export.save(program_of(graph, examples), file, extra_files={ABOUT_FILE: about})


def _script(graph: Describe | Compare, examples: tuple[Tensor, ...], file: Path, about: str) -> None:
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(graph, examples, check_trace=False), file, _extra_files={ABOUT_FILE: about})


def _write(save: Callable, describe: Describe, compare: Compare, about: dict, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own formats
        save(describe, examples_of(describe), file, json.dumps(about, allow_nan=False))
        if not compare.by_dot:
            save(compare, examples_of(compare), compare_file(file), "{}")


def _open(load: Callable, file: Path) -> Callables:
    beside = compare_file(file)
    return Callables(load(file), load(beside) if beside.is_file() else None)


def write_program(describe: Describe, compare: Compare, about: dict, file: Path) -> None:
    """Write a model as `torch.export` does, with `about`, and beside it the graph that compares, where it is needed."""
    _write(_program, describe, compare, about, file)


def open_program(file: Path) -> Callables:
    """The engine of what `write_program` has written."""
    return _open(lambda one: torch.export.load(one).module(), file)


def write_script(describe: Describe, compare: Compare, about: dict, file: Path) -> None:
    """The same as TorchScript."""
    _write(_script, describe, compare, about, file)


def open_script(file: Path) -> Callables:
    """The engine of what `write_script` has written."""
    return _open(torch.jit.load, file)
