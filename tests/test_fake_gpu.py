"""What trains and compares on a GPU mixes no devices and no types; without a GPU, on one that is not there."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from fake_gpu import autocast, fake_gpu
from tiny import twins
from torch._subclasses.fake_tensor import DataDependentOutputException

from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import load, presets, read_config
from dcal_core.config.shared import Config
from dcal_core.data.augmentation import Augmentation
from dcal_core.models import adaface, backbones, dcal, readouts
from dcal_core.models.attention import rollout_row
from dcal_core.models.iresnet import IResNet
from dcal_core.models.verifier import square
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.training.checkpoints import Progress
from dcal_core.training.loop import Trainer
from dcal_core.training.objectives import DCALObjective
from dcal_core.training.task import Task
from dcal_core.verification.encoding import encode_images, evaluating
from dcal_core.verification.protocol import score_pairs, twin_pairs, unrelated_scores

PARAMS = Path(__file__).parents[1] / "params"
PEOPLE = 353  # of the ND-TWINS training split
GPU_PRESETS = [preset for preset in presets(PARAMS) if load(preset, PARAMS, {}).gpu == "needed"]
SMALL = {"backbone": "test_vit", "image_size": 64}
CHOICES = {
    name: get_args(DCALConfig.model_fields[name].annotation)
    for name in ("readout", "twin_loss", "similarity", "neck", "loss_weighting", "margin_softmax")
}
MIXED = {"twin_weight": 0, "pwca_prob": 0}
UNMOVED = {"rotation_deg": 0, "shift": 0, "scale": 0}
VARIANTS = [  # each choice once, and what else runs other code
    *({name: found[turn % len(found)] for name, found in CHOICES.items()} for turn in range(4)),
    {"gradient_checkpointing": True, "readout": "tokens"},
    {"glca_blocks": 0, "pwca_first": 0, "dropout": 0.1, "attention_dropout": 0.1},
    {"glca_blocks": 2, "pwca_first": 2, "pwca_last": 2, "pwca_prob": 0.5, "erase_prob": 0.5},
    {"mixup_alpha": 0.4, **MIXED, **UNMOVED},
    {"cutmix_alpha": 0.4, **MIXED, **UNMOVED, "brightness": 0, "contrast": 0, "flip_prob": 0.5},
    {"backbone": "hybrid_tiny"},
    {"backbone": "vit_small_patch16_dinov3", "readout": "tokens"},  # rotary positions and registers
    {"backbone": "vit_small_patch14_reg4_dinov2", "image_size": 56},  # registers and layer scale
    {"recipe": "adaface", "backbone": "ir_18", "softmax_weight": 0.1, "triplet_distance": "euclidean"},
    {"recipe": "adaface", "backbone": "ir_18", "softmax_weight": 0.1, "margin_softmax": "adaface"}
    | dict.fromkeys(("crop_prob", "low_resolution_prob", "photometric_prob"), 0.5),
    {"recipe": "oaml", "backbone": "ir_18", "width": 8, "class_share": 0.5, "class_memory": True, "joint": True},
]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Backbones of few blocks, since all blocks are alike."""
    monkeypatch.setattr(backbones, "timm_backbone", partial(backbones.timm_backbone, depth=2))
    monkeypatch.setattr(adaface, "IResNet", lambda depth, **sizes: IResNet(18, **sizes))


class Subject:
    """A config's model and objective on the GPU that is not there, and a batch of what it trains on."""

    def __init__(self, config: Config):
        if hasattr(config, "pairs_per_batch"):  # more take longer, and show nothing else
            config = config.replace(pairs_per_batch=4)
        self.recipe = recipe_of(config)
        with torch.device("meta"):  # what is no parameter and no buffer stays there, which no operation forgives
            self.model = self.recipe.new_model([], pretrained=False)
            self.objective = self.recipe.objective(self.model, PEOPLE)
        self.split = twins(4, 4, config.image_size)
        self.batches = self.recipe.batches(self.split)
        self.task = Task(self.model, self.objective)

    def train(self) -> None:
        """Augment batches and find their losses; two of them where some are without partners."""
        for step in range(2 if self.recipe.skips_layers else 1):
            part = {name: value.to("cuda", non_blocking=True) for name, value in self.batches[step][0].items()}
            loss, logs = self.task(self.recipe.augment(part, seed=0))
            assert loss.requires_grad
            for value in (loss, *logs.values()):
                assert value.device.type == "cuda" and value.dtype == torch.float32

    def compare(self) -> None:
        """Encode images, with and without what maps are made from, and score pairs of them."""
        index = self.split.index
        features = encode_images(self.model, self.split.images, 64, "cuda", progress=False)
        for reading in self.model.readings:
            assert len(score_pairs(self.model, features, twin_pairs(index), device="cuda", reading=reading))
        unrelated_scores(self.model, features, index, device="cuda")
        with evaluating(self.model):
            images = torch.zeros(2, 3, 50, 40, dtype=torch.uint8, device="cuda")
            traced = self.model.encode(images, trace=True)
            assert all(tensor.is_cuda for tensor in traced.trace.values())
            for reading in self.model.readings:
                assert self.model.compare_pairs(traced, traced, reading).shape == (2,)


def exercise(config: Config, *dtypes: torch.dtype) -> None:
    """Train and compare in types of mixed precision, as a GPU would."""
    subject = Subject(config)
    with fake_gpu():
        subject.task.to_empty(device="cuda")
        for dtype in dtypes:
            with autocast(dtype):
                subject.train()
                subject.compare()


@pytest.mark.parametrize("preset", GPU_PRESETS)
def test_presets_for_a_gpu(preset):
    exercise(load(preset, PARAMS, {}), torch.float16, torch.bfloat16)


@pytest.mark.parametrize("turn", range(len(VARIANTS)), ids=lambda turn: str(VARIANTS[turn]))
def test_variants(turn):
    dtype = (torch.float16, torch.bfloat16)[turn % 2]  # both run the same code
    exercise(read_config(SMALL | VARIANTS[turn], "this test"), dtype)


def fake_accelerator(dtype: torch.dtype) -> SimpleNamespace:
    """What the training loop asks of Accelerate; a backward pass leaves gradients of zeros."""
    prepared = []

    def prepare(task, optimizer):
        optimizer.optimizer = optimizer  # Accelerate wraps it
        prepared.append(task)
        return task, optimizer

    def backward(loss):
        assert loss.is_cuda
        for parameter in prepared[0].parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    return SimpleNamespace(
        device=torch.device("cuda"),
        scaler=None,
        prepare=prepare,
        no_sync=nullcontext,
        autocast=partial(autocast, dtype),
        backward=backward,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )


@pytest.mark.parametrize("preset", ["kaggle_t4x2", "adaface_full", "oaml_twins"])
def test_a_training_step_in_two_parts(preset):
    subject = Subject(load(preset, PARAMS, {"accumulation": 2}))
    with fake_gpu():
        subject.task.to_empty(device="cuda")
        accelerator = fake_accelerator(torch.float16)
        made = (subject.recipe, accelerator, subject.model, subject.objective, subject.batches)
        trainer = Trainer(*made, validate=None, run=None, budget=None)
        trainer.progress = Progress()
        trainer.recent = []
        assert trainer.find_gradients(subject.batches[0])
        trainer.step()
        assert trainer.progress.batch == 1 and trainer.recent[-1]["skipped"].is_cuda


# The test of the test: what a GPU would refuse is refused here

of_losses = DCALObjective.parts
FAULTS = {
    "draws that stay on the CPU": (
        Augmentation,
        "draw_for",
        lambda self, images, seed: self.draw(len(images), seed),
        "device",
    ),
    "a row that goes to the CPU": (dcal, "rollout_row", lambda maps: rollout_row(maps).cpu(), "device"),
    "a constant on the CPU": (
        dcal,
        "square",
        lambda images, side: square(images, side) * torch.ones(3, 1, 1),
        "device",
    ),
    "a value that is waited for": (
        dcal,
        "rollout_row",
        lambda maps: rollout_row(maps) * maps[0].sum().item(),
        "_local_scalar_dense",
    ),
    "fp16 times fp32": (
        DCALObjective,
        "parts",
        lambda self, branch, embedding, batch: of_losses(self, branch, embedding.half(), batch),
        "aten.mm",
    ),
    "fp16 put into fp32": (
        readouts,
        "second_look",
        lambda chosen, places, patches: patches.float().scatter(1, places[..., None].expand_as(chosen), chosen.half()),
        "dtype",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, monkeypatch):
    *faulty, message = FAULTS[fault]
    monkeypatch.setattr(*faulty)
    with pytest.raises((RuntimeError, AssertionError, DataDependentOutputException), match=message):
        exercise(read_config({**SMALL, "readout": "local_tokens"}, "this test"), torch.float16)
