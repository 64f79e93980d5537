"""What is measured: training steps and encodings of a plain ViT, of DCAL and of the naive DCAL, and their data."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.naive import NaiveDCAL
from dcal_core.config.dcal import DCALConfig
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import TwinIndex
from dcal_core.models.backbones import create_backbone
from dcal_core.recipes.catalogue import new_model
from dcal_core.recipes.dcal import DCALRecipe

PEOPLE = 353  # of the ND-TWINS training split
IMAGES_PER_PERSON = 2  # in a batch, so that any multiple of four images is a batch
KINDS = ("plain", "DCAL", "naive")  # a plain ViT, ours, and ours as it is written down first
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """Where and on what all rows are measured: one backbone on one device."""

    backbone: str
    device: str  # cpu or cuda
    precision: str  # fp32, bf16, fp16
    repeats: int
    warmups: int
    size: int  # px, of the timed rows
    batch: int  # images, of the timed rows
    memory: tuple[tuple[int, int], ...]  # px and images of the memory rows
    simulations: int  # of the coverage rows
    draws: int  # bootstrap draws of the evaluation row
    gallery: int  # images of the memory row on comparing
    matched: int  # faces that QAConv matches with as many others
    templates: int  # of the memory row on a face benchmark
    records: int  # of the rows on a `.rec`
    absolute: bool  # also images/s, the share of the matrix speed and GiB, which only a GPU's are of use

    def config(self, size: int) -> DCALConfig:
        """The project's defaults with this backbone, without stochastic depth, which would skip work."""
        return DCALConfig(backbone=self.backbone, image_size=size, drop_path=0.0, encode_batch=self.batch)

    def autocast(self) -> torch.autocast:
        """Mixed precision as in training."""
        return torch.autocast(self.device, PRECISIONS[self.precision], enabled=self.precision != "fp32")

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def usual(gpu: bool, precision: str) -> Setting:
    """What is measured where a GPU works, or else on a CPU."""
    return Setting(
        backbone="vit_base_patch16_224" if gpu else "vit_small_patch16_224",
        device="cuda" if gpu else "cpu",
        precision=precision,
        repeats=20 if gpu else 7,
        warmups=3 if gpu else 1,
        size=224,
        batch=32 if gpu else 8,
        memory=((224, 12), (448, 12)) if gpu else ((224, 8), (448, 4)),
        simulations=500,
        draws=1000,
        gallery=100_000,
        matched=1000,
        templates=1_000_000,
        records=100_000,
        absolute=gpu,
    )


def quick(setting: Setting) -> Setting:
    """A tiny model and one round, which show only that everything runs."""
    return replace(
        setting,
        backbone="test_vit",
        repeats=1,
        warmups=0,
        size=64,
        batch=4,
        memory=((64, 4), (96, 4)),
        simulations=3,
        draws=20,
        gallery=8_000,
        matched=16,
        templates=2_000,
        records=500,
    )


def twin_index(families: int, images_per_person: int) -> TwinIndex:
    """An index of families of two, all with the same number of images."""
    people = tuple(f"{person:04d}" for person in range(2 * families))
    person_of = np.repeat(np.arange(len(people)), images_per_person)
    return TwinIndex(
        name="bench",
        people=people,
        families=tuple(zip(people[::2], people[1::2], strict=True)),
        paths=tuple(f"{image}.jpg" for image in range(len(person_of))),
        person_of=person_of,
        family_of=np.repeat(np.arange(families), 2),
    )


def random_store(images: int, size: int) -> ImageStore:
    """A store of random pixels in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, size, size), np.uint8)
    return ImageStore(pixels, np.arange(images), [])


def batches_of(index: TwinIndex, store: ImageStore, batch: int) -> FamilyBatches:
    """Training batches of `batch` images, a multiple of four, every one with PWCA partners."""
    return FamilyBatches(
        index,
        store,
        families_per_batch=batch // (2 * IMAGES_PER_PERSON),
        images_per_person=IMAGES_PER_PERSON,
        steps_per_epoch=1,
        seed=0,
        pwca_prob=1.0,
        pwca_partner="random",
    )


def to_device(parts: list[dict[str, Tensor]], device: str) -> dict[str, Tensor]:
    """A batch of one part on the device, its images as floats in [0, 1]."""
    part = {name: tensor.to(device, non_blocking=True) for name, tensor in parts[0].items()}
    return part | {"images": part["images"].float() / 255}


def constant_batch(batch: int, size: int, device: str) -> dict[str, Tensor]:
    """One batch of random images, with everything that an objective asks for."""
    index = twin_index(batch // (2 * IMAGES_PER_PERSON), IMAGES_PER_PERSON)
    return to_device(batches_of(index, random_store(batch, size), batch)[0], device)


def classify(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the plain ViT: cross-entropy of a linear classifier over the people, on CLS."""
    return F.cross_entropy(model(batch["images"]), batch["person"]), {}


def plain_vit(setting: Setting, size: int) -> nn.Module:
    """The backbone as timm runs it, with a linear classifier over the people."""
    vit = create_backbone(setting.config(size))
    vit.reset_classifier(PEOPLE)
    return vit


class Subject:
    """A model with its objective and optimiser on the device, by kind: one of KINDS."""

    def __init__(self, kind: str, setting: Setting, size: int):
        torch.manual_seed(0)
        self.setting = setting
        self.config = setting.config(size)
        if kind == "plain":
            self.model = plain_vit(setting, size)
            self.objective = classify
            self.encode = self.model.forward_features
            heads = []
        else:
            self.model = new_model(self.config, [], pretrained=False)
            self.objective = DCALRecipe(self.config).objective(self.model, people=PEOPLE).to(setting.device)
            heads = list(self.objective.parameters())
            if kind == "naive":
                self.model = NaiveDCAL(self.model)
            self.encode = self.model.encode
        self.model.to(setting.device)
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), *heads], lr=1e-5)
        self.scaler = torch.amp.GradScaler(setting.device, enabled=setting.precision == "fp16")

    def train(self, batch: dict[str, Tensor]) -> None:
        """One training step: forward, loss, backward, optimiser."""
        with self.setting.autocast():
            loss, _ = self.objective(self.model, batch)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def make_state(self) -> None:
        """The optimiser's state, as the first training step makes it, without the step's work."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        self.optimizer.step()
        self.optimizer.zero_grad()

    def encoding(self, images: Tensor):
        """A callable that encodes the images without gradients."""
        return partial(self._encode, images)

    @torch.inference_mode()
    def _encode(self, images: Tensor) -> None:
        with self.setting.autocast():
            self.encode(images)
