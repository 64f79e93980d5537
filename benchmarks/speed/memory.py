"""The largest memory that a training step takes: on a GPU by its allocator, on a CPU by a process of its own.

The CPU's figure is the peak of the resident set (VmHWM of Linux) above what it was before the model was built.
`ru_maxrss` would not do: a new process inherits it from the one that started it. Neither would glibc's malloc as it
comes, since it keeps freed blocks for later: with a fixed threshold it gives every large block back at once.
"""

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

import dcal_core
from benchmarks.speed.subjects import Setting, Subject, constant_batch

SMALL = 64  # px, to warm up
PAGE = 4096  # bytes, the least by which a resident set grows
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(figure: str) -> int:
    """VmRSS, the memory that this process holds now, or VmHWM, the most that it ever held, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{figure}:"))


def peak_above(device: str, work: Callable) -> int:
    """Bytes, above 0, that a work takes at most, above what is in use before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    work()
    return max(PAGE, resident("VmHWM") - before)  # a work that fits into what was freed before it takes no new page


def peak_of_training(kind: str, setting: Setting, size: int, images: int) -> int:
    """Bytes that a subject takes at most from when it is built until it is trained."""
    batch = constant_batch(images, size, setting.device)
    Subject(kind, setting, SMALL).train(constant_batch(4, SMALL, setting.device))  # loads libraries and kernels

    def build_and_train() -> None:
        subject = Subject(kind, setting, size)
        subject.make_state()  # a first step would leave it behind for the second, which holds the peak
        subject.train(batch)

    return peak_above(setting.device, build_and_train)


def peaks_here(jobs: list[tuple[str, int, int]], setting: Setting) -> list[int]:
    """Peak bytes of each job (kind, px, images) in this process."""
    return [peak_of_training(kind, setting, size, batch) for kind, size, batch in jobs]


def peaks(jobs: list[tuple[str, int, int]], setting: Setting) -> list[int]:
    """Peak bytes of each job (kind, px, images); on a CPU each runs in a process of its own."""
    if setting.device == "cuda":
        return peaks_here(jobs, setting)
    command = [sys.executable, "-m", "benchmarks.speed.memory", json.dumps([jobs, asdict(setting)])]
    path = os.pathsep.join([str(Path(dcal_core.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | RETURN_AT_ONCE | {"PYTHONPATH": path}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def forked(work: Callable, *arguments):
    """What a call returns, made in a process that ends with it and leaves nothing behind."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


if __name__ == "__main__":
    jobs, setting = json.loads(sys.argv[1])
    print(json.dumps([forked(peak_of_training, kind, Setting(**setting), *rest) for kind, *rest in jobs]))
