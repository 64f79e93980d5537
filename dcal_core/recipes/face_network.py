"""Training on a face network: the weights that it starts from, the class centres, and what it is exported as; several
recipes share it."""

from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.config.adaface import FaceNetwork
from dcal_core.data.splits import Split
from dcal_core.errors import ConfigError, quoted
from dcal_core.models.adaface import AdaFace
from dcal_core.models.face_weights import read_face_weights, write_face_weights
from dcal_core.models.files import load_model
from dcal_core.storage import disk_errors, read_json
from dcal_core.training.checkpoints import Run, bytes_of
from dcal_core.training.recipe import Recipe
from dcal_core.verification.encoding import encode_images

FORMS = {"adaface": "ckpt", "cvlface": "pt"}  # whose loader reads the file, and its ending


def fill(model: AdaFace, config: FaceNetwork) -> None:
    """Give the whole backbone the weights of another project's file, with their colour order, and the model's other
    parts theirs if they are there."""
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
    try:
        taken = model.take_weights(found, order)
    except ValueError as error:
        raise ConfigError(f"weights={file} {error}: give another file, or the parameters that it is for.") from None
    ignored = [name for name in found.ignored if not name.endswith(tuple(taken))]
    parts = sorted({name.partition(".")[0] for name in taken})
    print(
        f"Pretrained weights of {' and '.join([config.backbone, *parts])}: {file}, {found.origin}, {order.upper()}"
        + (f"; not used: {quoted(ignored)}" if ignored else "")
    )


class FaceNetworkRecipe(Recipe):
    """A recipe whose config has the fields of `FaceNetwork`, and whose objective has an `identity` loss or None."""

    config: FaceNetwork

    @property
    def needs_weights(self) -> str:
        """Why random weights will not do, as the end of a sentence; "" where they will."""
        return "" if self.config.allow_random_init else "allow_random_init=true does without"

    @abstractmethod
    def untrained(self) -> AdaFace:
        """The model with random weights."""

    @abstractmethod
    def export_name(self, epoch: int) -> str:
        """What exported files are called, by how the best model was trained."""

    def new_model(self, input_roots: list[Path], pretrained: bool = True) -> AdaFace:
        """The face network, with the weights of a file or random ones."""
        config = self.config
        if pretrained and not config.weights and self.needs_weights:
            raise ConfigError(
                f"the pretrained weights of {config.backbone} cannot be fetched: give weights=<file>, such as "
                f"AdaFace's .ckpt or CVLFace's model.pt; {self.needs_weights}."
            )
        model = self.untrained()
        model.bgr.fill_(config.colour_order == "bgr")
        if pretrained and config.weights:
            fill(model, config)
        elif pretrained:
            print(f"{config.backbone} starts from random weights (allow_random_init=true).")
        return model

    def start(self, model: nn.Module, objective: nn.Module, split: Split) -> None:
        """Put each person's class centre at the mean of their unit embeddings, if there are centres: random ones
        would at first undo what the model has learnt."""
        if objective.identity is None:
            return
        device = next(model.parameters()).device
        features = encode_images(model, split.images, self.config.encode_batch, device, parts=("embedding",))
        embeddings = F.normalize(features.parts["embedding"], dim=-1)
        means = embeddings.new_zeros(len(split.index.people), embeddings.shape[1])
        objective.identity.start_from(means.index_add(0, torch.as_tensor(split.index.person_of), embeddings))

    def export(self, run: Run) -> list[Path]:
        """The best model as AdaFace's own loader (.ckpt) and CVLFace's (.pt) take it; raises StorageError."""
        best = run.folder.best
        model = load_model(best)
        name = self.export_name(read_json(best / "facts.json")["epoch"])
        state = model.face_weights()
        with disk_errors(run.folder.exports):
            run.folder.exports.mkdir(exist_ok=True)
        files = []
        for form, ending in FORMS.items():
            run.make_room(bytes_of(state))
            files.append(run.folder.exports / f"{name}.{ending}")
            write_face_weights(files[-1], state, form, model.colour_order)
        return files
