"""Some families of a split, and how well a model tells them apart.

Letters: N images, P pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from dcal_core.data.groups import members
from dcal_core.data.images import ImageStore
from dcal_core.data.splits import Split
from dcal_core.data.twins import TwinIndex
from dcal_core.diagnosis.separation import Separation, groups_of, mean_of, ranks_of_families, within_families
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification.encoding import encode_images, evaluating
from dcal_core.verification.protocol import Pairs, pairs_of, score_pairs

FAMILIES = 60  # of a split, that are looked at
IMAGES = 8  # of each of their people
STRANGERS = 3000  # comparisons of unrelated people
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Sample:
    """Some families of a split: their index, images, pairs by which they are verified, and pairs of strangers."""

    index: TwinIndex
    images: ImageStore
    pairs: Pairs
    strangers: Pairs

    @property
    def pixels(self) -> np.ndarray:
        """[N, 3, S, S] uint8."""
        return self.images.images


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the pairs [P], which are genuine [P] or of co-twins, and of strangers; and what they tell apart: one
    person from co-twins (`twins`), and from strangers (`people`)."""

    scores: np.ndarray
    genuine: np.ndarray
    strangers: np.ndarray
    twins: Separation
    people: Separation


def sample_of(split: Split, seed: int) -> Sample:
    """Some families of a split, drawn, those with co-twins first."""
    random = np.random.default_rng(seed)
    index = split.index
    order = random.permutation(len(index.families))
    alone = np.bincount(index.family_of)[order] == 1
    chosen = np.sort(order[np.argsort(alone, kind="stable")][:FAMILIES])
    places = np.flatnonzero(np.isin(index.family_of[index.person_of], chosen))
    index = index.select_families(chosen)
    kept = np.sort(np.concatenate([random.permutation(images)[:IMAGES] for images in members(index.person_of)]))
    index = index.take(kept)
    pixels = split.images.batch(places[kept]).numpy()
    return Sample(index, ImageStore(pixels, np.arange(len(pixels)), []), pairs_of(index), stranger_pairs(index, random))


def stranger_pairs(index: TwinIndex, random: np.random.Generator) -> Pairs:
    """Pairs of images of people of different families, drawn."""
    images = random.integers(len(index.person_of), size=(2, STRANGERS))
    family = index.family_of[index.person_of[images]]
    images, family = images[:, family[0] != family[1]], family[:, family[0] != family[1]]
    return Pairs(*images, np.zeros(len(family.T), bool), family.T)


def encode_changed(model: Verifier, sample: Sample, batch: int, device: str, change: Change) -> Features:
    """Features of the sample's images after a change of their values in [0, 1]."""
    with evaluating(model):
        parts = torch.from_numpy(sample.pixels).split(batch)
        return Features.cat(model.encode(change(part.to(device).float() / 255)).to("cpu") for part in parts)


def judged(scores: np.ndarray, strangers: np.ndarray, sample: Sample) -> Scores:
    """Scores with what they tell apart."""
    pairs = sample.pairs
    same = pairs.genuine
    people = mean_of(ranks_of_families(scores[same], groups_of(pairs)[same], strangers))
    return Scores(scores, same, strangers, within_families(scores, pairs), people)


def score(model: Verifier, features: Features, sample: Sample, device: str, reading: str | None = None) -> Scores:
    """The scores of a reading, of a model that is on `device`."""
    pairs = (sample.pairs, sample.strangers)
    return judged(*(score_pairs(model, features, some, device=device, reading=reading) for some in pairs), sample)


def cosines(rows: np.ndarray, sample: Sample) -> Scores:
    """The scores of embeddings [N, D] by their cosine."""
    unit = F.normalize(torch.as_tensor(rows).float(), dim=-1).numpy()
    return judged(*((unit[some.a] * unit[some.b]).sum(1) for some in (sample.pairs, sample.strangers)), sample)


def embeddings_of(model: Verifier, features: Features) -> dict[str, np.ndarray]:
    """The embeddings [N, D] of each branch that is there outside training."""
    return {branch: features.parts[branch].float().numpy() for branch in model.widths if branch in features.parts}


def encode_sample(model: Verifier, sample: Sample, batch: int, device: str) -> Features:
    """Features of the sample's images, of a model that is on `device`."""
    return encode_images(model, sample.images, batch, device, progress=False)
