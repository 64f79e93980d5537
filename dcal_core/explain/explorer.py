"""A trained verifier on a test split: any two images as a view, with the verdict and the truth in words; and two files
of one's own, looked at before they are scored."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcal_core.audit.gate import Gate, open_picture
from dcal_core.data.drawn.synthetic import marks_of
from dcal_core.data.splits import TwinData
from dcal_core.data.twins import DataError
from dcal_core.explain.catalogue import PairView
from dcal_core.verification.decision import DecisionRule
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.protocol import Scored, pairs_to_look_at, score_pairs

VIEWS = 16  # encoded pairs that are kept: with all their tokens 40 MB each for ViT-B at 224 px, 1 MB in the demo


def confusing_first(scored: Scored) -> np.ndarray:
    """Indices of all pairs, [P], the most confusing first.

    Co-twins with high scores and images of one person with low scores alternate; the worst pair of each family comes
    first, then the second worst of each, and so on.
    """
    pairs = scored.pairs
    turn = np.empty(len(scored.pairs), dtype=np.int64)
    for genuine in (True, False):
        kind = np.flatnonzero(pairs.genuine == genuine)
        worst = kind[np.argsort(scored.scores[kind] if genuine else -scored.scores[kind], kind="stable")]
        rounds = np.empty(len(worst), dtype=np.int64)  # 0 for the worst pair of its family
        for family in np.unique(pairs.family[worst]):
            members = np.flatnonzero(pairs.family[worst] == family)
            rounds[members] = np.arange(len(members))
        turn[worst[np.argsort(rounds, kind="stable")]] = np.arange(len(worst))
    return np.lexsort((pairs.genuine, turn))


def given_pair(
    model: nn.Module, rule: DecisionRule | None, gate: Gate, files: Sequence[Path]
) -> tuple[PairView, str, list[str]]:
    """Two image files as a view, what their score means, and what must be said before it; raises DataError with the
    reason if they cannot be compared."""
    pictures = [open_picture(file, model.image_size, gate.fit) for file in files]
    found = gate.look([pictures])
    if found.stops:
        raise DataError(f"No verdict: {' '.join(found.stops)}")
    faces = torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])
    view = PairView(model, faces, tuple(picture.name for picture in pictures))
    answer = rule.sentence(view.score) if rule else f"score {view.score:.2f}"
    return view, answer, [*found.doubts, *found.unchecked]


class Explorer:
    """All pairs of the test families with a model's scores, and views of any of them; where no co-twins are known, two
    people, drawn, stand in for a family.

    model: on its device; rule: what a score means, None before an evaluation; gate: makes the gate that checks one's
    own files. ValueError if there is no pair.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TwinData,
        rule: DecisionRule | None = None,
        encode_batch: int = 64,
        gate: Callable[[], Gate] | None = None,
    ):
        self.model = model
        self.data = data
        self.rule = rule
        self.images = data["test"].images
        self.label = data.label
        self.index, pairs = pairs_to_look_at(data["test"].index)
        device = next(model.parameters()).device
        if not len(pairs):
            raise ValueError("there is no pair to look at: give an index with two images of a person or of co-twins")
        features = encode_images(model, self.images, encode_batch, device)
        self.scored = Scored(self.index, pairs, score_pairs(model, features, pairs, device=device))
        self.order = confusing_first(self.scored)
        self.view = lru_cache(maxsize=VIEWS)(self._view)
        self.gate = cache(gate or partial(Gate, data.landmarks, set(), None))

    def _view(self, a: int, b: int) -> PairView:
        """Two images; for drawn co-twins with the marks in which they truly differ."""
        marks = None
        if self.data.synthetic and self.index.co_twins and self.index.person_of[a] != self.index.person_of[b]:
            marks = marks_of(self.data.root, [self.index.paths[image] for image in (a, b)], self.images.size)
        return PairView(self.model, self.images.batch([a, b]), (self.name(a), self.name(b)), marks)

    def given(self, files: Sequence[Path]) -> tuple[PairView, str, list[str]]:
        """Two files as `given_pair`."""
        return given_pair(self.model, self.rule, self.gate(), files)

    def name(self, image: int) -> str:
        """Person and file of an image."""
        return f"{self.index.people[self.index.person_of[image]]}/{Path(self.index.paths[image]).name}"

    def confusing(self, turn: int) -> tuple[int, int]:
        """The two images of the most confusing pair (turn 0), the next one, and so on."""
        place = self.order[turn]
        return int(self.scored.pairs.a[place]), int(self.scored.pairs.b[place])

    def judged(self, a: int, b: int) -> str:
        """The score of two images in words, and the truth on a second line."""
        score = self.view(a, b).score
        first, second = self.index.person_of[[a, b]]
        two = f"two people, {'co-twins' if self.index.co_twins else 'unrelated'}"
        truth = f"In truth: {'the same person' if first == second else two}."
        if self.rule is None:
            return f"Score {score:.2f}; what it means is not known before an evaluation\n{truth}"
        right = {"same": first == second, "different": first != second}.get(self.rule.verdict(score))
        verdict = "" if right is None else f" The verdict is {'right' if right else 'wrong'}."
        return f"{self.rule.sentence(score).capitalize()}\n{truth}{verdict}"
