"""`python -m benchmarks.gpu`: all that is claimed of a GPU, part by part, as lines and as JSON.

Each part has its time, and what one leaves over the next may take: eight minutes in all on one data-centre GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from benchmarks.gpu.job import Job, full_job, small_job
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.process import Machine, look, measure
from benchmarks.speed.memory import forked
from dcal_core.storage import read_json, write_text

FULL_OUTPUT = Path("docs/gpu.json")
SMALL_OUTPUT = Path("runs/gpu_small.json")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """What to measure, and the file for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--weights", type=Path, help="the rehearsal's ViT, of benchmarks.rehearsal.weights")
    parser.add_argument("--output", type=Path, help=f"default: {FULL_OUTPUT}; with --small: {SMALL_OUTPUT}")
    parser.add_argument("--small", action="store_true", help="tiny sizes on a CPU: shows only that every part runs")
    options = parser.parse_args(arguments)
    if options.weights and not options.weights.is_file():
        parser.error(f"--weights {options.weights}: no such file")
    options.output = options.output or (SMALL_OUTPUT if options.small else FULL_OUTPUT)
    return options


def about(machine: Machine, small: bool) -> dict:
    """What all parts of a file have in common."""
    return {
        "device": machine.device,
        "precision": machine.precision,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "timm": timm.__version__,
        "small": small,
    }


def earlier_parts(output: Path, common: dict) -> dict:
    """The parts that the file has already, of the same device and versions."""
    found = read_json(output) if output.is_file() else {}
    return found["parts"] if all(found.get(name) == value for name, value in common.items()) else {}


def any_weights(folder: Path) -> Path:
    """A weights file of the small form's backbone; made in another process, as all that computes."""
    file = folder / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    return file


def measure_all(names: list[str], job: Job, method: str, common: dict, output: Path) -> dict:
    """Measure the parts one after the other; the file is written anew after each of them."""
    parts = earlier_parts(output, common)
    end = time.monotonic()
    for name in names:
        end += PARTS[name].seconds
        job = replace(job, end=end)
        print(f"\n== {name}, at most {job.left:.0f} s: {PARTS[name].rows.__doc__}", flush=True)
        parts[name] = measure(name, job, method)
        print(f"{name}: {parts[name]['ended']} after {parts[name]['seconds']} s. {parts[name]['why']}".rstrip())
        date = datetime.now(UTC).isoformat(timespec="seconds")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, json.dumps(common | {"date": date, "parts": parts}, indent=1) + "\n")
    return {name: parts[name] for name in names}


def main(arguments: list[str]) -> int:
    """Measure the parts; returns the exit status, 1 where one has failed or there is no GPU."""
    options = read_options(arguments)
    # Otherwise only to ask whether there is a GPU would bar forked processes from it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    if options.small:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    method, machine = look()
    if not (machine.gpu or options.small):
        sentence = "run it on a machine whose GPU works, or give --small, which shows on a CPU that every part runs."
        print(f"These measurements are a GPU's, and none works here ({machine.verdict}): {sentence}", file=sys.stderr)
        return 1
    common = about(machine, options.small)
    print(", ".join(f"{name} {value}" for name, value in common.items()))
    print("median (quartiles), goal, parts")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dcal_gpu_") as scratch:
        folder = Path(scratch)
        if options.small:
            job = small_job(options.weights or forked(any_weights, folder), folder)
        else:
            job = full_job(machine.precision, options.weights, folder)
        found = measure_all(options.parts, job, method, common, options.output)
    failed = [name for name, part in found.items() if part["ended"] == "failed"]
    missed = [row["name"] for part in found.values() for row in part["rows"] if row["met"] is False]
    print(f"\nwritten to {options.output} after {time.monotonic() - began:.0f} s; goals missed: {len(missed)}")
    print("\n".join(f"missed: {name}" for name in missed))
    if failed:
        print(f"failed: {', '.join(failed)}; --parts {' '.join(failed)} tries again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
