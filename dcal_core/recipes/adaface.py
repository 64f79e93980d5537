"""AdaFace fine-tuned on triplets of twins: a person, the same person, the co-twin."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.data.splits import Split
from dcal_core.data.triplets import TripletBatches
from dcal_core.errors import ConfigError, quoted
from dcal_core.models.adaface import ARCHITECTURE, AdaFace, rebuild
from dcal_core.models.face_weights import read_face_weights, write_face_weights
from dcal_core.models.files import load_model
from dcal_core.recipes.adamw_cosine import AdamWCosineRecipe
from dcal_core.storage import disk_errors, read_json
from dcal_core.training.checkpoints import Run, bytes_of
from dcal_core.training.curves import Line, Panel
from dcal_core.training.recipe import Cure
from dcal_core.training.triplet_objective import TripletObjective
from dcal_core.verification.encoding import encode_images

FORMS = {"adaface": "ckpt", "cvlface": "pt"}  # whose loader reads the file, and its ending


def fill(model: AdaFace, config: AdaFaceConfig) -> None:
    """Give the whole backbone the weights of another project's file, and their colour order."""
    file = Path(config.weights)
    found = read_face_weights(file, config.trust_weights)
    theirs = {"backbone": f"ir_{found.depth}", "width": found.width, "image_size": found.image_size}
    if differ := [f"{name}={value}" for name, value in theirs.items() if value != getattr(config, name)]:
        raise ConfigError(f"weights={file} holds a network of other sizes: give {', '.join(differ)}.")
    if found.embedding != model.widths["embedding"]:
        raise ConfigError(
            f"weights={file} gives embeddings of {found.embedding} numbers, not of {model.widths['embedding']}: give "
            "another file."
        )
    order = found.colour_order if config.colour_order == "auto" else config.colour_order
    if not order:
        raise ConfigError(
            f"weights={file} does not tell which colours it takes: give colour_order=bgr for AdaFace's, rgb for "
            "CVLFace's or InsightFace's."
        )
    model.take_backbone(found.state, order)
    ignored = f"; not used: {quoted(found.ignored)}" if found.ignored else ""
    print(f"Pretrained weights of {config.backbone}: {file}, {found.origin}, {order.upper()}{ignored}")


class AdaFaceRecipe(AdamWCosineRecipe):
    """Fine-tunes a face network, whole or with the backbone frozen."""

    config: AdaFaceConfig
    curves = (
        Panel("Identity loss", "loss", (Line("embedding/identity", "identity", 3),)),
        Panel(
            "Triplets",
            "distance, share, loss",
            (
                Line("d_ap", "distance to the same person", 0),
                Line("d_an", "distance to the co-twin", 1),
                Line("active", "share of triplets with a loss", 2),
                Line("embedding/twin", "mean loss of all triplets", 3),
            ),
        ),
    )

    cures = (
        Cure("weights", "a face network's file", lambda config: not config.weights),
        Cure("frozen_backbone", "false", lambda config: config.frozen_backbone),
        Cure("lr", "5e-4", lambda config: config.lr < 2e-4),
        Cure("lr", "1e-3", lambda config: config.lr > 5e-3),
        Cure("softmax_weight", "0.1", lambda config: config.softmax_weight == 0),
    )

    def new_model(self, input_roots: list[Path], pretrained: bool = True) -> AdaFace:
        """The face network, with the weights of a file or random ones."""
        config = self.config
        if pretrained and not config.weights and (config.frozen_backbone or not config.allow_random_init):
            without = (
                "a frozen backbone needs them" if config.frozen_backbone else "allow_random_init=true does without"
            )
            raise ConfigError(
                f"the pretrained weights of {config.backbone} cannot be fetched: give weights=<file>, such as "
                f"AdaFace's .ckpt or CVLFace's model.pt; {without}."
            )
        architecture = {name: getattr(config, name) for name in ARCHITECTURE}
        model = rebuild(architecture, dropout=config.embedding_dropout, frozen=config.frozen_backbone)
        model.bgr.fill_(config.colour_order == "bgr")
        if pretrained and config.weights:
            fill(model, config)
        elif pretrained:
            print(f"{config.backbone} starts from random weights (allow_random_init=true).")
        return model

    def batches(self, split: Split) -> TripletBatches:
        """Triplets of two images of a person and one of the co-twin, a share of all that each family has."""
        return self.batches_of(
            TripletBatches,
            split,
            triplets_per_batch=self.config.triplets_per_batch,
            train_percentage=self.config.train_percentage,
        )

    def objective(self, model: nn.Module, people: int) -> TripletObjective:
        """The triplet loss on the model's embedding, plus an identity margin softmax where it has a weight."""
        config = self.config
        return TripletObjective(
            width=model.widths["embedding"],
            people=people,
            twin_margin=config.twin_margin,
            triplet_distance=config.triplet_distance,
            margin_softmax=config.margin_softmax_options(),
            softmax_weight=config.softmax_weight,
        )

    def start(self, model: nn.Module, objective: TripletObjective, split: Split) -> None:
        """Put each person's class centre at the mean of their unit embeddings, if there are centres: random ones
        would at first undo what the model has learnt."""
        if objective.identity is None:
            return
        device = next(model.parameters()).device
        features = encode_images(model, split.images, self.config.encode_batch, device)
        embeddings = F.normalize(features.parts["embedding"], dim=-1)
        means = torch.zeros_like(objective.identity.centres, device="cpu")
        objective.identity.start_from(means.index_add(0, torch.as_tensor(split.index.person_of), embeddings))

    def export(self, run: Run) -> list[Path]:
        """The best model as AdaFace's own loader (.ckpt) and CVLFace's (.pt) take it, under a name that tells how it
        was trained; raises StorageError."""
        config = self.config
        best = run.folder.best
        model = load_model(best)
        mode = "frozen" if config.frozen_backbone else "full"
        epoch = read_json(best / "facts.json")["epoch"]
        about = f"{mode}_{config.train_percentage:g}pct_margin{config.twin_margin:g}_epoch{epoch}"
        name = f"twin_tuned_{config.backbone.replace('_', '')}_{about}"
        state = model.face_weights()
        with disk_errors(run.folder.exports):
            run.folder.exports.mkdir(exist_ok=True)
        files = []
        for form, ending in FORMS.items():
            run.make_room(bytes_of(state))
            files.append(run.folder.exports / f"{name}.{ending}")
            write_face_weights(files[-1], state, form, model.colour_order)
        return files
