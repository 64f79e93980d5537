"""What test_distributed.py has two processes do together, and one alone for comparison.

torchrun two_processes.py <folder>: leaves a run for each case in the folder, and rank0.pt and rank1.pt beside them
with what either process saw.
"""

import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny import DATA, SIZE, dcal_config, oaml_config, twins
from torch import nn

from dcal_core.config.shared import Config
from dcal_core.data.batches import Batches
from dcal_core.data.images import ImageStore
from dcal_core.distributed import broadcast, gather, join, leave, leave_outcome, main_first, main_only, rank, world_size
from dcal_core.models.dcal import architecture_of, assemble
from dcal_core.models.margins import MarginSoftmax
from dcal_core.recipes.catalogue import new_model, recipe_of
from dcal_core.runs import RunFolder
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.loop import Trainer
from dcal_core.training.resume import open_run
from dcal_core.training.task import start_accelerator
from dcal_core.training.transfer import shapes_of
from dcal_core.verification import encoding
from dcal_core.verification.encoding import encode_images

FAMILIES = 8
ENCODED = 47  # images to encode: an odd number
PEOPLE = (1, 2, 5)  # whose class centres are shared out: also one, of which the other process has none
CONFIG = dcal_config(
    families_per_batch=4,
    steps_per_epoch=5,
    epochs=1,
    lr=1e-4,
    warmup_share=0.0,
    drop_path=0.0,
    twin_loss="supcon",
    **dict.fromkeys(("rotation_deg", "shift", "scale", "brightness", "contrast"), 0.0),
)
OAML = oaml_config(
    pairs_per_batch=4,
    steps_per_epoch=3,
    epochs=2,
    lr=0.01,
    milestones="1",
    class_memory=True,
    local_margin=16.0,
    rotation_deg=0.0,
    shift=0.0,
    scale=0.0,
    brightness=0.0,
    contrast=0.0,
)
MIXED = {"positive_ratio": 0.4, "hard_negative_ratio": 0.4, "soft_negative_ratio": 0.2}
CASES = {
    "whole": {},
    "parts": {"accumulation": 2},
    "rarely": {"pwca_prob": 0.5, "similarity": "learned", "twin_loss": "verification", "ema_decay": 0.5, **MIXED},
    "never": {"pwca_prob": 0.0, "twin_weight": 0.0, "mixup_alpha": 1.0, "accumulation": 2},
}
LONG = {"steps_per_epoch": 12}  # beyond the tenth batch, at which processes agree on whether time is up


class Budget:
    """A time budget that is used up, or not, in this process."""

    def __init__(self, used_up: bool = False):
        self.used_up, self.need = lambda: used_up, lambda seconds: None


class Validator:
    """Gives a constant EER and keeps the weights that it was given."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"eer": 0.25}


class Joined:
    """The batches of two processes as one process would be given them: no image has a partner in the other half."""

    def __init__(self, config: Config):
        self.halves = [batches_of(config) for _ in range(2)]
        for number, half in enumerate(self.halves):
            half.rank, half.world = number, 2
        self.steps_per_epoch, self.parts = config.steps_per_epoch, config.accumulation

    def __getattr__(self, name: str):
        """What OAML's recipe asks of its batches to find who is alike."""
        return getattr(self.halves[0], name)

    def cut(self, parts: int) -> None:
        assert parts == self.parts

    def state_dict(self) -> dict:
        return {"neighbours": self.neighbours} if "neighbours" in vars(self) else {}

    def loader(self, start: int, stop: int, *_, **__):
        for half in self.halves:
            if self.state_dict():
                half.load_state_dict(self.state_dict())
        for step in range(start, stop):
            yield [self.join(*parts) for parts in zip(*(half[step] for half in self.halves), strict=True)]

    def join(self, first: dict, second: dict) -> dict[str, torch.Tensor]:
        assert first.keys() == second.keys() and len(first["images"]) == len(second["images"])
        joined = {name: torch.cat([first[name], second[name]]) for name in first.keys() & {"images", "visible"}}
        for name in first.keys() & {"partner", "donor"}:
            joined[name] = torch.cat([first[name], second[name] + len(first["images"])])
        for name in first.keys() - joined.keys():  # of the images of both
            assert torch.equal(first[name], second[name]), name
        return first | joined


def batches_of(config: Config) -> Batches:
    return recipe_of(config).batches(twins(FAMILIES))


def oaml_model() -> nn.Module:
    """A small OAML without the batch norms that a process would have to itself on a CPU, and without training what
    other batch norms take out again."""
    torch.manual_seed(OAML.seed)
    model = new_model(OAML, [])
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    for module in (model.qaconv.bn, model.backbone.embedding_layer, model.qaconv.fc):
        module.bias.requires_grad_(False)
    model.qaconv.bn.weight.requires_grad_(False)
    return model


def model_of(config: Config) -> nn.Module:
    """A small model without batch norm but in its necks, and without weights whose gradient is rounding alone, which
    Adam would make as large as any other: what the softmax of the attention or a neck takes out again."""
    if config.recipe == "oaml":
        return oaml_model()
    torch.manual_seed(config.seed)
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    vit = VisionTransformer(**sizes, qkv_bias=False)
    vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    vit.norm.requires_grad_(False)
    return assemble(architecture_of(config, vit), vit)


def run_case(
    folder: Path, batches=None, used_up: bool = False, config: Config = CONFIG, **changes
) -> tuple[Run, Progress, dict]:
    """Train in a folder; returns the run, its progress and the weights that were validated."""
    config = config.replace(**changes)
    recipe = recipe_of(config)
    accelerator = start_accelerator(recipe)
    model = model_of(config)
    validate = Validator()
    objective = recipe.objective(model, people=2 * FAMILIES)
    run = broadcast(None if rank() else open_run(RunFolder(folder), config, DATA, [], shapes_of(model)))
    batches = batches or batches_of(config)
    trainer = Trainer(recipe, accelerator, model, objective, batches, validate, run, Budget(used_up))
    return run, trainer.train(), getattr(validate, "kept", {})


def encode() -> dict[str, torch.Tensor]:
    """The features of an odd number of images by a new model."""
    store = ImageStore(twins(FAMILIES).images.images[:ENCODED], np.arange(ENCODED), [])
    return encode_images(model_of(CONFIG), store, 5, progress=False).parts


def encode_into_a_file() -> dict[str, torch.Tensor]:
    """The same, kept in a file that the processes share."""
    with patch.object(encoding, "IN_MEMORY", 0):
        return {name: part.clone() for name, part in encode().items()}


def gather_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all processes, and the gradient of a loss that every process computes of all of them."""
    own = (torch.arange(6.0).view(2, 3) + 10 * rank()).requires_grad_()
    rows = gather(own.T.contiguous().T)  # of any layout
    (rows * torch.arange(3.0 * len(rows)).view(-1, 3)).sum().backward()
    return rows.detach(), own.grad


def margin_softmax(people: int, share: float = 1.0) -> dict[str, torch.Tensor]:
    """The loss of all embeddings that every process computes, and its gradients as training takes them."""
    torch.manual_seed(0)
    head = MarginSoftmax(4, people, "adaface", 0.4, 8.0, 0.1, sample_share=share)
    random = torch.Generator().manual_seed(1)
    own = (20 * torch.randn(6, 4, generator=random)).chunk(world_size())[rank()].requires_grad_()
    loss = head(gather(own), torch.arange(6) % people)
    loss.backward()
    gradients = torch.cat([gather(own.grad), gather(head.centres.grad[None]).sum(0)]) / world_size()
    return {"loss": loss.detach(), "gradients": gradients}


def take_turns(folder: Path) -> list[str]:
    """What this process finds where process 0 writes first."""
    with main_first():
        if rank() == 0:
            time.sleep(0.3)
            (folder / "first").write_text("")
        return sorted(path.name for path in folder.glob("first"))


def watch_writing(folder: Path) -> list[str]:
    """The files and folders below a folder that this process opens to write, makes or renames from now on."""
    written = []

    def watch(event: str, arguments: tuple) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
        writes |= event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(folder)):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    return written


def main(folder: Path) -> None:
    join()
    print(f"Printed by process {rank()} of {world_size()}.")
    seen = {"gathered": gather_rows(), "encoded": encode(), "turns": take_turns(folder)}
    seen["softmax"] = {people: margin_softmax(people) for people in PEOPLE}
    seen["sampled"] = margin_softmax(5, share=0.5)
    seen["encoded_into_a_file"] = encode_into_a_file()
    seen["broadcast"] = broadcast({"rank": rank()})["rank"]
    seen["main_only"] = main_only(lambda: "done")()
    seen["written"] = watch_writing(folder / "runs")
    runs = folder / "runs"
    seen["kept"], seen["failed"] = {}, {}
    for name, changes in CASES.items():
        try:
            _, _, seen["kept"][name] = run_case(runs / name, **changes)
        except RuntimeError as error:
            seen["failed"][name] = str(error)
    _, _, seen["kept"]["oaml"] = run_case(runs / "oaml", config=OAML)
    # Whose time is up does not matter but in process 0, which lets both stop at the same batch.
    progress = [run_case(runs / "unhurried", used_up=rank() == 1, **LONG)[1]]
    progress += [run_case(runs / "stopped", used_up=used_up, **LONG)[1] for used_up in (rank() == 0, False)]
    seen["batches"] = [(p.batch, p.finished) for p in progress]
    torch.save(seen, folder / f"rank{rank()}.pt")
    leave()
    leave_outcome()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
