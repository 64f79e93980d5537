"""What a run has logged, summed up by epoch."""

import math
from itertools import groupby

import numpy as np


def by_epoch(history: list[dict]) -> list[dict]:
    """The lines of metrics.jsonl as one dictionary for each epoch: `epoch`, the number of its last `batch`, the `lr`
    there, the steps `skipped`, every figure of training as its mean over the batches, and the validation."""
    found, done = [], 0
    for epoch, lines in groupby(history, key=lambda line: math.ceil(line["epoch"])):
        lines = list(lines)
        covered = np.diff([done, *(line["batch"] for line in lines)])  # batches behind each line's means
        done = lines[-1]["batch"]
        found.append({"epoch": epoch, "batch": done})
        for name in dict.fromkeys(name for line in lines for name in line if name not in found[-1]):
            logged = [(line[name], batches) for line, batches in zip(lines, covered, strict=True) if name in line]
            found[-1][name] = summed_up(name, *zip(*logged, strict=True))
    return found


def summed_up(name: str, values: tuple[float, ...], batches: tuple[int, ...]) -> float:
    """A figure of an epoch, from those of its lines and the batches that each of them covers."""
    if name == "skipped":
        return sum(values)
    if name == "lr" or name.startswith("validation/"):
        return values[-1]
    return float(np.average(values, weights=batches))
