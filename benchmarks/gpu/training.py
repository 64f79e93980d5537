"""Rows on whole trainings with the real loop, loader, validation and checkpoints, on drawn twins."""

import math
import time
from collections.abc import Iterator

import torch
from safetensors.torch import load_file

from benchmarks.gpu.job import Job, Stopped
from benchmarks.gpu.switches import half_rows
from benchmarks.speed.memory import peak_above
from benchmarks.speed.timing import Row, Spread
from dcal_core.commands.train import train_run
from dcal_core.config.shared import Config
from dcal_core.data.splits import TwinData, open_data
from dcal_core.environment import TimeBudget
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.runs import RunFolder
from dcal_core.storage import read_json
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.loop import Diverged

RESERVED = 0.2  # share of a part's time that is left for validating, saving and what comes after a training
WEIGHTS = "python -m benchmarks.rehearsal.weights FILE"


class Until(TimeBudget):
    """Used up after so many seconds from now, or so many steps."""

    def __init__(self, seconds: float, steps: float = math.inf):
        super().__init__(seconds / 3600, started=time.monotonic())
        self.steps = steps

    def used_up(self) -> bool:
        self.steps -= 1
        return self.steps <= 0 or super().used_up()


def open_twins(config: Config) -> TwinData:
    """The drawn twins of a config, to train and to validate on."""
    return open_data(config, ("train", "validation"))


def refuse_unfinished(run: Run, progress: Progress, steps: int) -> None:
    """Stop the part where its time has ended a training, or the training has diverged."""
    if run.diverged:
        raise Diverged(run.diverged)
    if progress.batch < steps:
        raise Stopped("cut short", f"{progress.batch} of {steps} steps were trained in its time.")


def drawing_rows(job: Job) -> Iterator[Row]:
    """How long it takes to draw and decode the twins that the trainings share."""
    config = job.config("kaggle_t4x2", job.steps)
    began = time.perf_counter()
    images = len(open_twins(config)["train"].images.images)
    note = f"{images} images of {config.image_size} px to train on; they stay in runs/scratch"
    yield Row("drawing and decoding twins", Spread.of(time.perf_counter() - began), "s", note=note)


def training_rows(job: Job, name: str, config: Config) -> Iterator[Row]:
    """A training: images/s, memory, skipped steps, scale, loss, error on held-out families."""
    data = open_twins(config)
    made = []
    began = time.perf_counter()

    def work() -> None:
        made.append(train_run(config, RunFolder(job.folder / name), data, Until((1 - RESERVED) * job.left)))

    peak = peak_above(job.setting.device, work)
    seconds = time.perf_counter() - began
    ((run, progress),) = made
    images = progress.batch * recipe_of(config).batches(data["train"]).batch_size
    note = f"{progress.batch} steps in {seconds:.0f} s, start, validations and checkpoints included"
    yield Row(f"{name}, training", Spread.of(images / seconds), "images/s", note=note)
    yield Row(f"{name}, memory of training", Spread.of(peak / 2**30), "GiB")
    yield Row(f"{name}, steps without a finite loss or gradient", Spread.of(progress.skipped))
    scale = read_json(run.folder.saved[0] / "scaler.json").get("scale", 1.0)
    yield Row(f"{name}, scale of the gradients at the end", Spread.of(scale))
    steps = config.epochs * config.steps_per_epoch
    losses = [row["loss"] for row in run.history() if "loss" in row]
    if len(losses) > 1:
        parts = {"first": Spread.of(losses[0]), "last": Spread.of(losses[-1])}
        fall = Spread.of(losses[0] - losses[-1])
        goal = {"goal": 0, "at_least": True} if steps == job.steps else {}  # a short training has hardly warmed up
        yield Row(f"{name}, fall of the loss", fall, **goal, parts=parts, parts_unit="at first and last")
    if math.isfinite(progress.best_eer):
        yield Row(f"{name}, EER on drawn validation families", Spread.of(100 * progress.best_eer), "%", note=data.label)
    refuse_unfinished(run, progress, steps)


def preset_rows(job: Job) -> Iterator[Row]:
    """The recipe that Run All starts on Kaggle, from random weights."""
    yield from training_rows(job, "kaggle_t4x2", job.config("kaggle_t4x2", job.steps))


def rehearsal_rows(job: Job) -> Iterator[Row]:
    """The same recipe with the rehearsal's pretrained ViT."""
    if job.weights is None:
        raise Stopped("left out", f"the rehearsal's ViT needs --weights FILE, which {WEIGHTS} writes.")
    given = {"backbone": job.backbone, "weights": str(job.weights), "allow_random_init": False}
    yield from training_rows(job, "rehearsal", job.config("kaggle_t4x2", job.steps, **given))


def fp16_rows(job: Job) -> Iterator[Row]:
    """fp16 with the gradient scaler: single steps beside fp32's, and a training."""
    yield from half_rows(job)
    yield from training_rows(job, job.half, job.config("kaggle_t4x2", job.few, precision=job.half))


def resume_rows(job: Job) -> Iterator[Row]:
    """Two resumed halves beside one whole run, and that beside itself: not all of a GPU's kernels are deterministic."""
    config = job.config("kaggle_t4x2", job.few, precision=job.half)
    data = open_twins(config)
    steps = config.epochs * config.steps_per_epoch
    half = steps // 2
    found = {}
    for name, sessions in {"whole": [steps], "again": [steps], "halves": [half, steps]}.items():
        done = 0
        for until in sessions:
            run, progress = train_run(
                config, RunFolder(job.folder / name), data, Until((1 - RESERVED) * job.left, until - done)
            )
            refuse_unfinished(run, progress, until)
            done = progress.batch
        found[name] = load_file(run.folder.saved[0] / "model.safetensors")
    by_chance = largest_difference(found["whole"], found["again"])
    apart = largest_difference(found["whole"], found["halves"])
    note = f"two whole runs: {by_chance:.2g}; {config.precision}, stopped after {half} of {steps} steps"
    name = "two resumed halves and one whole run: largest difference of a weight"
    yield Row(name, Spread.of(apart), goal=2 * by_chance, note=note)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of a number between two states of one model."""
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())
