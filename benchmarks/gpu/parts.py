"""The parts by name, the cheap and the important ones first."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu.job import Job
from benchmarks.gpu.switches import channels_last_rows, checkpointing_rows, compile_rows
from benchmarks.gpu.training import drawing_rows, fp16_rows, preset_rows, rehearsal_rows, resume_rows
from benchmarks.speed.memory import peaks_here
from benchmarks.speed.parts import loader_row, rollout_rows, write_jpegs
from benchmarks.speed.speed import comparing_row, memory_rows, speed_rows
from benchmarks.speed.timing import Row
from dcal_core.data.images import open_images


def step_rows(job: Job) -> Iterator[Row]:
    """Training step and encoding beside a plain ViT's, images/s, share of the matrix speed."""
    yield from speed_rows(job.setting, job.setting.size, job.setting.batch)


def large_step_rows(job: Job) -> Iterator[Row]:
    """The same at twice the size."""
    yield from speed_rows(job.setting, *job.setting.memory[-1])


def training_memory_rows(job: Job) -> Iterator[Row]:
    """GiB of training, and beside the naive DCAL and a plain ViT."""
    yield from memory_rows(job.setting, peaks_here)


def part_rows(job: Job) -> Iterator[Row]:
    """Rollout as a row beside the whole product, and pairs compared in a second."""
    setting = job.setting
    yield from rollout_rows(setting, setting.size, setting.batch)
    yield from rollout_rows(setting, 2 * setting.size, setting.batch // 4)
    yield comparing_row(setting)


def loader_rows(job: Job) -> Iterator[Row]:
    """Training steps on batches from the loader beside steps on one batch that lies on the device."""
    setting = replace(job.setting, repeats=min(3, job.setting.repeats), warmups=min(1, job.setting.warmups))
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        files = write_jpegs(Path(folder), setting.size)
        yield loader_row(setting, open_images(files, setting.size, Path(folder), max_lost_share=0.0))


@dataclass(frozen=True)
class Part:
    """Rows as they are measured, and the seconds that this may take on one data-centre GPU."""

    rows: Callable[[Job], Iterator[Row]]
    seconds: int


PARTS = {
    "step": Part(step_rows, 50),
    "large_step": Part(large_step_rows, 45),
    "memory": Part(training_memory_rows, 40),
    "rollout": Part(part_rows, 20),
    "drawing": Part(drawing_rows, 25),
    "kaggle_t4x2": Part(preset_rows, 50),
    "rehearsal": Part(rehearsal_rows, 35),
    "resume": Part(resume_rows, 35),
    "fp16": Part(fp16_rows, 35),
    "checkpointing": Part(checkpointing_rows, 20),
    "channels_last": Part(channels_last_rows, 20),
    "loader": Part(loader_rows, 25),
    "compile": Part(compile_rows, 70),
}
