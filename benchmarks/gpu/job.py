"""With what the parts measure: the sizes of a GPU, or small ones, which show on a CPU that every part runs."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.speed.subjects import Setting, quick, usual
from dcal_core.config.recipes import load
from dcal_core.config.shared import Config
from dcal_core.installation import presets_folder

DRAWN = {  # parameters of every training: drawn twins, and no network
    "tracker": "none",
    "allow_random_init": True,
    "synthetic_test_families": 4,
    "checkpoint_every": 10_000,
}
FULL = {
    "kaggle_t4x2": {"synthetic_families": 300, "synthetic_images": 4},
    "adaface_full": {},
}
SMALL = {
    "kaggle_t4x2": {
        "backbone": "test_vit",
        "image_size": 64,
        "families_per_batch": 2,
        "images_per_person": 2,
        "loader_workers": 0,
        "validation_share": 0.3,
        "synthetic_families": 12,
        "synthetic_images": 2,
    },
    "adaface_full": {"backbone": "ir_18", "width": 8, "image_size": 32, "triplets_per_batch": 4},
}


class Stopped(Exception):
    """A part has not measured all of its rows: how it has ended, "cut short" or "left out", and why, in a sentence."""

    def __init__(self, how: str, why: str):
        super().__init__(how, why)


@dataclass(frozen=True)
class Job:
    """Sizes, by default those of a GPU, and where and until when a part may work.

    presets: parameters over those of a preset, by its name. half: the precision of GPUs without bf16. compiler: of
    torch.compile. steps, few, epoch: steps of a long training, of a short one, and of an epoch. backbone, weights: of
    the rehearsal; None: not given.
    """

    setting: Setting
    weights: Path | None
    folder: Path
    presets: dict[str, dict] = field(default_factory=lambda: FULL, repr=False)
    half: str = "fp16"
    compiler: str = "inductor"
    steps: int = 300
    few: int = 30
    epoch: int = 100
    backbone: str = "vit_small_patch14_dinov2"
    end: float = 0.0  # by time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the part is ended."""
        return max(0.0, self.end - time.monotonic())

    def config(self, preset: str, steps: int, **changes) -> Config:
        """The parameters of a preset for so many steps."""
        epoch = min(self.epoch, steps)
        lengths = {"steps_per_epoch": epoch, "epochs": steps // epoch}
        return load(preset, presets_folder(), DRAWN | self.presets[preset] | lengths | changes)


def full_job(precision: str, weights: Path | None, folder: Path) -> Job:
    """What is measured on a GPU."""
    return Job(usual(True, precision), weights, folder)


def small_job(weights: Path | None, folder: Path) -> Job:
    """What shows on a CPU, in seconds, that every part runs; training in fp16 is a GPU's."""
    sizes = {"presets": SMALL, "half": "bf16", "compiler": "eager", "steps": 4, "few": 4, "epoch": 2}
    return Job(replace(quick(usual(False, "fp32")), absolute=True), weights, folder, backbone="test_vit", **sizes)
