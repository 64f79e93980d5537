"""Batches of P people x K images, as a pure function of (seed, step) and of the people that look alike to the model.

Co-twins come together. Nothing is decoded before a batch is asked for.
"""

import numpy as np
import torch

from dcal_core.data.batches import IMAGES, OCCLUDERS, PEOPLE, SHOWN, SIBLINGS, Batches, Part, draw_images
from dcal_core.data.groups import members
from dcal_core.data.images import ImageStore
from dcal_core.data.occlusion import occlude_some
from dcal_core.data.twins import DataError, TwinIndex, name_number


class IdentityBatches(Batches):
    """Batches of pairs of people x images: two siblings, or two people without any.

    Without `neighbours`, each family, and everyone without siblings, comes once in a shuffled order, then again in
    another. With them, each person comes once in a shuffled order, and with each the people most like them, all with
    their siblings, until the batch is full: the graph sampler (Liao and Shao, CVPR 2022, arXiv 2104.01546, section 4),
    in which a person's co-twin counts as the nearest.

    A part has W = world x b images; b = pairs_per_batch / (parts x world) x 2 x images_per_person are this rank's.

    occlusion_prob: share of the images behind one of the occluders `kinds`, on faces with these `landmarks`.

    images: uint8 [b, 3, S, S], this rank's. person, family: [W], indices into the index, of all ranks in their order.
    visible: uint8 [b, 1, S, S], 1 where no occluder hides the face of this rank's images.
    """

    one_group = "pair of people"
    groups = "pairs"
    save_memory = "lower images_per_person or image_size"

    def __init__(
        self,
        index: TwinIndex,
        store: ImageStore,
        *,
        pairs_per_batch: int,
        images_per_person: int,
        steps_per_epoch: int,
        occlusion_prob: float,
        kinds: tuple[str, ...],
        landmarks: np.ndarray,
        **shared: int,  # seed, parts, rank and world
    ):
        images_per_group = SIBLINGS * images_per_person
        super().__init__(
            store,
            groups_per_batch=pairs_per_batch,
            images_per_group=images_per_group,
            steps_per_epoch=steps_per_epoch or max(1, len(index.paths) // (pairs_per_batch * images_per_group)),
            **shared,
        )
        self.images_of = members(index.person_of)
        self.family_of = index.family_of
        self.families = members(index.family_of)
        sizes = np.bincount(index.family_of)
        self.with_siblings = np.flatnonzero(sizes >= SIBLINGS)  # families
        self.alone = np.flatnonzero(sizes[index.family_of] == 1)  # people
        self.pairs = len(self.with_siblings) + len(self.alone) // SIBLINGS  # in a round
        if self.pairs < pairs_per_batch:
            there = name_number(self.pairs, "pair of people", "pairs of people")
            raise DataError(
                f"pairs_per_batch={pairs_per_batch}: the {index.name} split has {there}: lower it, or add people."
            )
        self.images_per_person = images_per_person
        self.images_at_once = f"{SIBLINGS} x images_per_person={images_per_person}"
        self.occlusion_prob = occlusion_prob
        self.kinds = kinds
        self.landmarks = landmarks
        self.neighbours: torch.Tensor | None = None  # [people, P - 1], the nearest first

    @property
    def people_per_batch(self) -> int:
        return SIBLINGS * self.groups_per_batch

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {} if self.neighbours is None else {"neighbours": self.neighbours}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.neighbours = state["neighbours"]

    def one_image_each(self, epoch: int) -> np.ndarray:
        """An image of each person by which the people of an epoch are compared, [people]."""
        return draw_images(self.images_of, np.arange(len(self.images_of)), 1, self.random(SHOWN, epoch))

    def drawn_people(self, step: int, random: np.random.Generator) -> np.ndarray:
        """The people of a step, pair by pair, [P]; random: for the siblings of larger families."""
        if self.neighbours is not None:
            turn, place = divmod(step, len(self.images_of))
            return self.around(self.random(PEOPLE, turn).permutation(len(self.images_of))[place])
        turn, place = divmod(step, self.pairs // self.groups_per_batch)
        of_round = self.random(PEOPLE, turn)
        alone = of_round.permutation(self.alone)
        drawn = of_round.permutation(self.pairs)[place * self.groups_per_batch :][: self.groups_per_batch]
        return np.concatenate([random.choice(self.pair(one, alone), SIBLINGS, replace=False) for one in drawn])

    def pair(self, number: int, alone: np.ndarray) -> np.ndarray:
        """The people of a round's pair: a family of two or more, or the next two of those without siblings."""
        after = number - len(self.with_siblings)
        return alone[SIBLINGS * after :][:SIBLINGS] if after >= 0 else self.families[self.with_siblings[number]]

    def around(self, person: int) -> np.ndarray:
        """A person and the nearest others, each followed by their siblings, [P]."""
        found = {}
        for one in (person, *self.neighbours[person].tolist()):
            found |= dict.fromkeys([one, *self.families[self.family_of[one]].tolist()])
        return np.array([*found])[: self.people_per_batch]

    def __getitem__(self, step: int) -> list[Part]:
        random = self.random(IMAGES, step)
        people = self.drawn_people(step, random)
        images = self.own(draw_images(self.images_of, people, self.images_per_person, random))
        places = self.own(np.arange(self.batch_size))  # [parts, b], in the whole batch
        person = np.repeat(people, self.images_per_person).reshape(self.parts, -1)  # [parts, W]
        return [self.part(step, images[j], places[j], person[j]) for j in range(self.parts)]

    def part(self, step: int, images: np.ndarray, places: np.ndarray, person: np.ndarray) -> Part:
        """One part of a batch from this rank's images [b], their places in the batch [b] and all ranks' people [W]."""
        shown = self.store.batch(images)
        visible = torch.ones_like(shown[:, :1])  # [b, 1, S, S]
        for row, place in enumerate(places):
            key = (self.seed, OCCLUDERS, step, place)
            seen = occlude_some(shown[row].numpy(), self.occlusion_prob, self.kinds, key, self.landmarks)
            shown[row], visible[row, 0] = map(torch.from_numpy, seen)
        family = torch.as_tensor(self.family_of[person])
        return {"images": shown, "visible": visible, "person": torch.as_tensor(person), "family": family}
