"""Rows on whole models: a training step and an encoding of DCAL beside those of a plain ViT and of the naive DCAL."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.speed.costs import Shape
from benchmarks.speed.memory import peaks
from benchmarks.speed.subjects import KINDS, PRECISIONS, Setting, Subject, constant_batch
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.models.verifier import Features

WIDE = 768  # channels of ViT-B; in narrower backbones attention, and so rollout, weighs more
MATMUL_SIDE = {"cuda": 8192, "cpu": 256}  # of the matrices whose product shows what the device can reach
SHARE_GOAL = 40  # % of the matrix speed
MEMORY_GOALS = (0.9, 0.6)  # of naive DCAL's memory, at the smaller and at the larger size
SMALL_BATCH = 12  # images, which are to fit in GIB_GOAL
GIB_GOAL = 4
COMPARED = 1000  # encoded images compared with as many others


def speed_rows(setting: Setting, size: int, images: int) -> Iterator[Row]:
    """Training steps and encodings at one size and batch; the goals hold at the setting's own size."""
    batch = constant_batch(images, size, setting.device)
    subjects = {kind: Subject(kind, setting, size) for kind in KINDS}
    shape = Shape.of(subjects["plain"].model, subjects["DCAL"].config.local_ratio)
    goals = size == setting.size

    steps = {kind: lambda subject=subject: subject.train(batch) for kind, subject in subjects.items()}
    seconds = alternate(steps, setting.repeats, setting.wait, setting.warmups)
    limit = shape.training() / (3 * shape.plain())
    name = f"training step, {size} px: DCAL / "
    yield ratio(
        f"{name}plain ViT", seconds, "DCAL", "plain", goal=2.15 if goals else None, note=f"arithmetic: {limit:.3f}"
    )
    yield ratio(f"{name}naive DCAL", seconds, "DCAL", "naive")
    if setting.absolute:
        yield from throughput_rows(setting, size, shape, images / seconds["DCAL"])

    for subject in subjects.values():
        subject.model.eval()
    encodings = {kind: subject.encoding(batch["images"]) for kind, subject in subjects.items()}
    seconds = alternate(encodings, 4 * setting.repeats, setting.wait, setting.warmups)
    limit = shape.encoding() / shape.plain()
    name = f"encoding, {size} px: DCAL / "
    goal = 1.08 if shape.width >= WIDE else 1.12
    yield ratio(
        f"{name}plain ViT", seconds, "DCAL", "plain", goal=goal if goals else None, note=f"arithmetic: {limit:.3f}"
    )
    yield ratio(f"{name}naive DCAL", seconds, "DCAL", "naive")


def throughput_rows(setting: Setting, size: int, shape: Shape, speed: np.ndarray) -> Iterator[Row]:
    """The images that DCAL trains on in a second, and the share of the device's matrix speed that this makes use of."""
    yield Row(f"training, {size} px: DCAL", Spread.of(speed), "images/s")
    peak = matmul_peak(setting)
    share = 100 * 2 * shape.training() * speed / peak  # a multiplication and an addition each
    note = f"of {peak / 1e12:.3g} TFLOP/s in a product of side {MATMUL_SIDE[setting.device]}"
    name = f"training, {size} px: DCAL, share of matrix speed"
    yield Row(name, Spread.of(share), "%", goal=SHARE_GOAL, at_least=True, note=note)


def matmul_peak(setting: Setting) -> float:
    """The best measured speed of one large matrix product in the precision of training, FLOP/s."""
    side = MATMUL_SIDE[setting.device]
    a = torch.randn(side, side, device=setting.device, dtype=PRECISIONS[setting.precision])
    seconds = alternate({"product": lambda: a @ a}, 20, setting.wait, warmups=3)["product"]
    return 2 * side**3 / seconds.min()


def memory_rows(setting: Setting, measure: Callable = peaks) -> Iterator[Row]:
    """Peak memory of DCAL's training beside the naive DCAL's and the plain ViT's; measure: as `peaks`."""
    jobs = [(kind, size, batch) for size, batch in setting.memory for kind in KINDS]
    found = dict(zip(jobs, np.array(measure(jobs, setting)) / 2**20, strict=True))  # MiB
    for (size, batch), goal in zip(setting.memory, MEMORY_GOALS, strict=True):
        of_kind = {kind: found[kind, size, batch] for kind in KINDS}
        name = f"memory of training, {size} px, batch {batch}: DCAL / "
        yield ratio(f"{name}naive DCAL", of_kind, "DCAL", "naive", goal=goal, parts_unit="MiB")
        yield ratio(f"{name}plain ViT", of_kind, "DCAL", "plain", parts_unit="MiB")
        if setting.absolute:
            goal = GIB_GOAL if (size, batch) == (setting.size, SMALL_BATCH) else None
            yield Row(name.removesuffix(" / "), Spread.of(of_kind["DCAL"] / 1024), "GiB", goal=goal)


def comparing_row(setting: Setting) -> Row:
    """How many pairs of encoded images are scored in a second, all of some with all of others."""
    model = Subject("DCAL", setting, setting.size).model.eval()
    random = torch.Generator().manual_seed(0)
    a, b = (
        {branch: torch.randn(COMPARED, width, generator=random) for branch, width in model.widths.items()}
        for _ in range(2)
    )
    a, b = (Features({k: t for k, t in parts.items() if k != "pwca"}).to(setting.device) for parts in (a, b))
    with torch.inference_mode():
        seconds = alternate({"pairs": lambda: model.compare(a, b)}, 10 * setting.repeats, setting.wait)["pairs"]
    return Row(f"pairs compared, {COMPARED} x {COMPARED}", Spread.of(COMPARED**2 / seconds), "pairs/s")
