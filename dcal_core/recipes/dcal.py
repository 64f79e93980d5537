"""Dual Cross-Attention Learning: families in a batch, and per branch an identity loss and a loss on twins."""

from pathlib import Path

from torch import nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.data.augmentation import blend_people
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.splits import Split
from dcal_core.models.backbones import create_backbone
from dcal_core.models.dcal import DCAL, architecture_of, assemble
from dcal_core.models.pretrained import pretrained_backbone
from dcal_core.recipes.adamw_cosine import AdamWCosineRecipe
from dcal_core.training.curves import Line, Panel
from dcal_core.training.objectives import DCALObjective
from dcal_core.training.recipe import Cure, Part

BRANCHES = {"sa": "SA", "glca": "GLCA", "pwca": "PWCA"}


def lines_of(loss: str) -> tuple[Line, ...]:
    """A loss of each branch."""
    return tuple(Line(f"{branch}/{loss}", label, colour) for colour, (branch, label) in enumerate(BRANCHES.items()))


class DCALRecipe(AdamWCosineRecipe):
    """Trains the three branches of DCAL together."""

    config: DCALConfig
    curves = (
        Panel("Identity losses", "loss", lines_of("identity")),
        Panel("Twin losses", "loss", (*lines_of("twin"), Line("similarity/verification", "learned similarity", 3))),
    )

    cures = (  # docs/rehearsal.md has the trials behind them; their order is a judgement
        Cure("twin_weight", "1", lambda config: config.twin_weight == 0),
        Cure("readout", "tokens for aligned faces", lambda config: config.readout != "tokens"),
        Cure("softmax_weight", "0.1", lambda config: config.softmax_weight > 0.2),
        Cure("lr", "5e-5", lambda config: not config.allow_random_init and not 1e-5 <= config.lr <= 2e-4),
        Cure("lr", "1e-3", lambda config: config.allow_random_init and not 2e-4 <= config.lr <= 5e-3),
        Cure("twin_loss", "supcon", lambda config: config.twin_loss != "supcon"),
        Cure("pwca_prob", "0.3", lambda config: config.pwca_first and config.pwca_prob > 0.5),
    )

    @property
    def skips_layers(self) -> bool:
        """Without a partner in some of the steps, PWCA's neck and losses get no gradient there."""
        return 0 < self.config.pwca_prob < 1

    def new_model(self, input_roots: list[Path], pretrained: bool = True) -> DCAL:
        """DCAL around a backbone with pretrained or random weights."""
        config = self.config
        vit = pretrained_backbone(config, input_roots) if pretrained else create_backbone(config)
        return assemble(architecture_of(config, vit), vit, config.gradient_checkpointing)

    def batches(self, split: Split) -> FamilyBatches:
        """Families x two siblings x images, with partners for the pair-wise branch."""
        config = self.config
        return self.batches_of(
            FamilyBatches,
            split,
            families_per_batch=config.families_per_batch,
            images_per_person=config.images_per_person,
            pwca_prob=config.pwca_prob if config.pwca_first else 0.0,
            pwca_partner=config.pwca_partner,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
        )

    def augment(self, part: Part, seed: int) -> Part:
        """Augmented images, with another person blended in where mixup or cutmix asks for it."""
        part = super().augment(part, seed)
        if "blend" in part:
            part["images"] = blend_people(part["images"], part["donor"], part["blend"])
        return part

    def objective(self, model: nn.Module, people: int) -> DCALObjective:
        """Identity margin softmax and twin loss on each branch, weighted against one another."""
        config = self.config
        return DCALObjective(
            widths=model.widths,
            people=people,
            margin_softmax=config.margin_softmax_options(),
            softmax_weight=config.softmax_weight,
            twin_loss=config.twin_loss,
            twin_margin=config.twin_margin,
            twin_temperature=config.twin_temperature,
            twin_weight=config.twin_weight,
            positive_ratio=config.positive_ratio,
            hard_negative_ratio=config.hard_negative_ratio,
            soft_negative_ratio=config.soft_negative_ratio,
            loss_weighting=config.loss_weighting,
            learned_similarity=config.similarity == "learned",
        )
