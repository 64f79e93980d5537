"""The toy system's side of training: SGD with one milestone, masks that turn with the images, batches that look at the
model."""

import torch
from dcal_core.models.toy import ARCHITECTURE, rebuild
from torch import nn

from dcal_core.data.batches import FamilyBatches
from dcal_core.training.curves import Line, Panel
from dcal_core.training.objectives import DCALObjective
from dcal_core.training.recipe import Recipe


class ToyBatches(FamilyBatches):
    """Family batches whose family order follows what the recipe has decided."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.shift = torch.zeros(1, dtype=torch.int64)

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]

    def drawn_families(self, step):
        return super().drawn_families(step + int(self.shift))

    def part(self, *arguments):
        part = super().part(*arguments)
        return part | {"marks": part["images"][:, :1] > 127}


class ToyRecipe(Recipe):
    """Trains the toy."""

    curves = (Panel("Training losses", "loss", (Line("embedding/twin", "twin", 0),)),)

    def new_model(self, input_roots, pretrained=True):
        return rebuild({name: getattr(self.config, name) for name in ARCHITECTURE})

    def batches(self, split):
        return self.batches_of(ToyBatches, split, families_per_batch=self.config.toy_batch, images_per_person=2)

    def augment(self, part, seed):
        marks = part["marks"]
        part = super().augment(part, seed)
        if seed % 2:
            part |= {"images": part["images"].flip(-1), "marks": marks.flip(-1)}
        return part

    def refresh(self, model, batches, epoch):
        batches.shift = (model.layer.weight.detach().abs().sum() * 1e4).long().reshape(1) % 97
        return True

    def objective(self, model: nn.Module, people: int):
        return ToyObjective(model, people)

    def optimizer(self, task):
        group = {"params": list(task.parameters()), "lr": 0.0, "factor": 1.0}
        return torch.optim.SGD([group], lr=0.0, momentum=self.config.momentum, fused=True)

    def lr_at(self, step, steps):
        return self.config.lr * (0.1 if step >= self.config.milestone * steps else 1.0)

    def export(self, run):
        run.folder.exports.mkdir(exist_ok=True)
        file = run.folder.exports / "toy.txt"
        file.write_text("exported\n")
        return [file]


class ToyObjective(DCALObjective):
    """The triplet loss on the embedding."""

    def __init__(self, model, people):
        super().__init__(
            widths=model.widths,
            people=people,
            margin_softmax={},
            softmax_weight=0.0,
            twin_loss="triplet",
            twin_margin=0.2,
            twin_temperature=0.1,
            twin_weight=1.0,
            positive_ratio=0.5,
            hard_negative_ratio=0.5,
            soft_negative_ratio=0.0,
            loss_weighting="fixed",
        )

    def forward(self, model, batch):
        assert batch["marks"].shape == batch["images"][:, :1].shape
        batch = {name: value for name, value in batch.items() if name != "partner"}
        return super().forward(lambda images, partner: model(images), batch)
