"""How the rows of a benchmark are printed, and the name of what they were measured on."""

import platform
from pathlib import Path

import torch

from benchmarks.speed.timing import Row
from dcal_core.environment import gpu_verdict

NAME_WIDTH = 56


def line(row: Row) -> str:
    """A row of the table."""
    unit = row.unit and f" {row.unit}"
    goal = ""
    if row.goal is not None:
        goal = f"{'>=' if row.at_least else '<='} {row.goal:g}{unit}, {'met' if row.met else 'MISSED'}"
    figure = f"{row.figure.median:.3g} ({row.figure.low:.3g} to {row.figure.high:.3g}){unit}"
    parts = " / ".join(f"{part.median:.3g}" for part in row.parts.values()) + f" {row.parts_unit}" if row.parts else ""
    remarks = "; ".join(filter(None, (parts, row.note)))
    return f"{row.name:{NAME_WIDTH}}  {figure:23}  {goal:15}  {remarks}".rstrip()


def device_name() -> str:
    """The GPU, or else the processor."""
    if gpu_verdict()[0]:
        return torch.cuda.get_device_name(0)
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
