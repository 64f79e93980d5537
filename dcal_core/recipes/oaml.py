"""Occlusion-aware metric learning: a face network whose places are matched too, where an occlusion head sees them."""

import math

import numpy as np
import torch
from torch import nn

from dcal_core.config.oaml import OAMLConfig
from dcal_core.data.batches import Batches, Part
from dcal_core.data.identity_batches import IdentityBatches
from dcal_core.data.splits import Split
from dcal_core.models.oaml import ARCHITECTURE, OAML, rebuild
from dcal_core.models.verifier import Features, Verifier
from dcal_core.recipes.face_network import FaceNetworkRecipe
from dcal_core.recipes.sgd_milestones import SGDMilestonesRecipe
from dcal_core.training.curves import Line, Panel
from dcal_core.training.oaml_objective import ClassMemory, OAMLObjective
from dcal_core.training.recipe import Cure
from dcal_core.verification.encoding import encode_images, evaluating
from dcal_core.verification.fusion import fit_fusion
from dcal_core.verification.metrics import equal_error_rate

BLOCK = 1024  # people compared with as many others at once


class OAMLRecipe(FaceNetworkRecipe, SGDMilestonesRecipe):
    """Trains the embedding, the matcher of places and the occlusion head together."""

    config: OAMLConfig
    curves = (
        Panel(
            "Losses",
            "loss",
            (
                Line("embedding/identity", "identity", 3),
                Line("local/matching", "local matching", 0),
                Line("local/triplet", "local triplets", 1),
                Line("visible/occlusion", "occlusion", 2),
                Line("local/memory", "class memory", 0, "--"),
            ),
        ),
        Panel(
            "Local triplets",
            "logit, share",
            (
                Line("local/positive", "least logit of the same person", 0),
                Line("local/negative", "greatest logit of another", 1),
                Line("local/active", "share with a loss", 2),
            ),
        ),
    )

    cures = (
        Cure("weights", "a face network's file", lambda config: not config.weights),
        Cure("optimizer", "adamw", lambda config: config.optimizer == "sgd" and config.allow_random_init),
        Cure("lr", "0.05", lambda config: config.optimizer == "sgd" and config.lr > 0.1),
        Cure("lr", "0.01", lambda config: config.optimizer == "sgd" and config.lr < 1e-3),
        Cure("sampler", "random", lambda config: config.sampler == "graph" and config.allow_random_init),
        Cure("softmax_scale", "16", lambda config: config.softmax_scale > 30 and config.allow_random_init),
    )

    @property
    def skips_layers(self) -> bool:
        """A loss of weight 0 leaves its layers without a gradient."""
        config = self.config
        return not (config.softmax_weight and config.local_weight and config.occlusion_weight)

    def untrained(self) -> OAML:
        architecture = {name: getattr(self.config, name) for name in ARCHITECTURE}
        return rebuild(architecture, dropout=self.config.embedding_dropout)

    def batches(self, split: Split) -> IdentityBatches:
        """Pairs of people x images, a share of them occluded."""
        config = self.config
        return self.batches_of(
            IdentityBatches,
            split,
            pairs_per_batch=config.pairs_per_batch,
            images_per_person=config.images_per_person,
            occlusion_prob=config.occlusion_prob,
            kinds=config.kinds,
            landmarks=split.landmarks,
        )

    def augment(self, part: Part, seed: int) -> Part:
        """Augmented images, and with them what is visible in them."""
        return super().augment(part, seed) | {"visible": self.augmentation.masks(part["visible"].float(), seed)}

    def objective(self, model: nn.Module, people: int) -> OAMLObjective:
        """Identity margin softmax, local matching and triplets, occlusion, and the class memory, as weighed."""
        config = self.config
        memory = None
        if config.class_memory:
            shape = (people, model.channels, model.grid**2)
            size = f"{4 * math.prod(shape) / 1e9:.2g} GB"
            print(f"Class memory: {' x '.join(map(str, shape))} numbers, {size} on the device and in each checkpoint.")
            memory = ClassMemory(*shape, config.images_per_person)
        return OAMLObjective(
            width=model.widths["embedding"],
            people=people,
            margin_softmax=config.margin_softmax_options() | {"sample_share": config.class_share},
            softmax_weight=config.softmax_weight,
            local_weight=config.local_weight,
            triplet_weight=config.local_triplet_weight,
            local_margin=config.local_margin,
            occlusion_weight=config.occlusion_weight,
            ratios=config.ratios,
            memory=memory,
        )

    def refresh(self, model: nn.Module, batches: Batches, epoch: int) -> bool:
        """Find the people that are most alike, by one image of each."""
        config = self.config
        if config.sampler != "graph":
            return False
        device = next(model.parameters()).device
        shown = batches.one_image_each(epoch)
        features = encode_images(model, batches.store, config.encode_batch, device, progress=False, chosen=shown)
        family = torch.as_tensor(batches.family_of)
        batches.neighbours = nearest(model, features, family, batches.people_per_batch - 1, config.graph_reading)
        return True

    def settle(self, model: Verifier, score, genuine: np.ndarray, family: np.ndarray) -> dict[str, float]:
        """Fit the weights of the global and the local scores in the fused ones; a reading that does not help gets 0,
        and where neither does they stay as they were."""
        parts = model.readings[1:]
        scores = np.stack([score(reading) for reading in parts], axis=1)  # [P, 2]
        figures = {f"eer_{name}": equal_error_rate(scores[:, n], genuine)[0] for n, name in enumerate(parts)}
        try:
            fusion = fit_fusion(scores, genuine, family)
        except ValueError:  # no reading separates them yet
            return figures
        model.take_fusion(fusion.weight, fusion.mean, fusion.scale, fusion.offset)
        return figures | {f"weight_{name}": float(fusion.weight[n]) for n, name in enumerate(parts)}

    def export_name(self, epoch: int) -> str:
        return f"oaml_{self.config.backbone.replace('_', '')}_epoch{epoch}"


def nearest(model: Verifier, features: Features, family: torch.Tensor, count: int, reading: str) -> torch.Tensor:
    """The `count` people most like each, by features of one image each and families [people], co-twins first,
    [people, count] int32."""
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        for rows in torch.arange(len(family)).split(BLOCK):
            blocks = [
                model.compare(features[rows].to(device), features[columns].to(device), reading).float().cpu()
                for columns in torch.arange(len(family)).split(BLOCK)
            ]
            scores = torch.cat(blocks, dim=1)  # [rows, people]
            scores[family[rows, None] == family] = torch.inf
            scores[torch.arange(len(rows)), rows] = -torch.inf
            found.append(scores.topk(count).indices.int())
    return torch.cat(found)
