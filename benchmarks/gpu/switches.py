"""Rows on what a run can switch on: each as a ratio of training steps with it and without it."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.stepper import Stepper
from benchmarks.speed.memory import peak_above
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.config.shared import Config

CHECKPOINTING_GOAL = 1.4  # times as long: "about a third more time"
LOSS_GOAL = 1  # %, before the first step


def step_seconds(job: Job, steppers: dict[str, Stepper]) -> dict[str, np.ndarray]:
    """Seconds of a step of each stepper, by turns."""
    works = {name: stepper.train for name, stepper in steppers.items()}
    return alternate(works, job.setting.repeats, job.setting.wait, job.setting.warmups)


def peak_mib(job: Job, config: Config) -> np.ndarray:
    """MiB that two training steps take at most, as one figure, [1]."""

    def build_and_train() -> None:
        stepper = Stepper(config, job.setting.device)
        for _ in range(2):  # the first leaves the optimiser's state behind for the second
            stepper.train()

    return np.array([peak_above(job.setting.device, build_and_train) / 2**20])


def checkpointing_rows(job: Job) -> Iterator[Row]:
    """Time and memory of training with gradient checkpointing."""
    configs = {
        name: job.config("kaggle_t4x2", job.few, gradient_checkpointing=given)
        for name, given in (("with", True), ("without", False))
    }
    seconds = step_seconds(job, {name: Stepper(config, job.setting.device) for name, config in configs.items()})
    name = "gradient checkpointing: with / without, "
    yield ratio(f"{name}training step", seconds, "with", "without", goal=CHECKPOINTING_GOAL)
    mib = {name: peak_mib(job, config) for name, config in configs.items()}  # now that all kernels are loaded
    yield ratio(f"{name}memory of training", mib, "with", "without", goal=1, parts_unit="MiB")


def compile_rows(job: Job) -> Iterator[Row]:
    """What torch.compile takes at first, and gains then."""
    config = job.config("kaggle_t4x2", job.few)
    compiled = Stepper(config, job.setting.device, job.compiler)
    began = time.perf_counter()
    compiled.train()
    job.setting.wait()
    yield Row("compile: first step", Spread.of(time.perf_counter() - began), "s", note=f"compiler: {job.compiler}")
    seconds = step_seconds(job, {"compiled": compiled, "eager": Stepper(config, job.setting.device)})
    yield ratio("compile: training step, compiled / eager", seconds, "compiled", "eager", goal=1)


def channels_last_rows(job: Job) -> Iterator[Row]:
    """What the memory layout of convolutions gains for the face network, and the images that it trains on."""
    configs = {
        name: job.config("adaface_full", job.few, channels_last=given)
        for name, given in (("last", True), ("first", False))
    }
    steppers = {name: Stepper(config, job.setting.device) for name, config in configs.items()}
    seconds = step_seconds(job, steppers)
    yield ratio("adaface_full, training step: channels last / first", seconds, "last", "first", goal=1)
    yield Row("adaface_full, training", Spread.of(steppers["first"].images / seconds["first"]), "images/s")


def half_rows(job: Job) -> Iterator[Row]:
    """Steps in the precision of GPUs without bf16, with its gradient scaler, and their loss, beside those in fp32."""
    precisions = {"half": job.half, "fp32": "fp32"}
    configs = {name: job.config("kaggle_t4x2", job.few, precision=given) for name, given in precisions.items()}
    steppers = {name: Stepper(config, job.setting.device) for name, config in configs.items()}
    losses = {name: np.array([stepper.loss().item()]) for name, stepper in steppers.items()}
    apart = 100 * abs(losses["half"] - losses["fp32"]) / abs(losses["fp32"])
    yield Row(f"{job.half} and fp32, how far their losses are apart", Spread.of(apart), "%", goal=LOSS_GOAL)
    yield ratio(f"training step: {job.half} / fp32", step_seconds(job, steppers), "half", "fp32", goal=1)
