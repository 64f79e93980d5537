"""Which images make a batch, as a pure function of (seed, step): of families x two siblings x images.

Nothing is remembered between batches, so going on after an interruption means asking for the next step. A batch is cut
into parts, worked through one after the other, and a part is shared out over processes; no family is ever cut.
"""

import math

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dcal_core.data.groups import members
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError, TwinIndex

SIBLINGS = 2  # of each family in a batch; of larger families two are drawn
FAMILIES, IMAGES, PARTNERS, DONORS, BLEND, TRIPLETS = range(6)  # what a generator is for: the first number of its key


class Batches(Dataset):
    """Training batches by step: item s is a list of parts, each a dict of what one process (rank) needs of it.

    This is all that the training loop knows of them. A batch has batch_size images over all processes, in
    groups_per_batch groups (families, triplets), between which alone it is cut.
    """

    one_group: str  # what a group is called in messages, and several in parameters
    groups: str
    images_at_once: str  # in a part of a single group
    save_memory: str  # what to do where that does not fit

    def __init__(
        self,
        store: ImageStore,
        *,
        groups_per_batch: int,
        images_per_group: int,
        steps_per_epoch: int,
        seed: int,
        parts: int,
        rank: int,
        world: int,
    ):
        if groups_per_batch % (parts * world):
            raise DataError(
                f"{self.groups}_per_batch={groups_per_batch} cannot be cut into {parts} parts x {world} processes with "
                f"equally many whole {self.groups}: take a multiple of {parts * world}, or change accumulation or "
                "nproc."
            )
        self.store, self.seed, self.steps_per_epoch = store, seed, steps_per_epoch
        self.groups_per_batch, self.batch_size = groups_per_batch, groups_per_batch * images_per_group
        self.parts, self.rank, self.world = parts, rank, world

    def cut(self, parts: int) -> None:
        """From the next loader on, cut batches into so many parts, or the next larger number that divides evenly, but
        never further than to one group per process and part."""
        groups = self.groups_per_batch // self.world
        self.parts = next(n for n in range(min(parts, groups), groups + 1) if groups % n == 0)

    def halve(self) -> None:
        """Cut batches into at least twice as many parts; DataError where a part is down to one group per process."""
        if self.parts * self.world == self.groups_per_batch:
            raise DataError(
                f"one {self.one_group} per process is the least that a part can hold, and {self.groups}_per_batch="
                f"{self.groups_per_batch} is cut that far ({self.images_at_once} images at once): {self.save_memory}."
            )
        self.cut(2 * self.parts)

    def random(self, *key: int) -> np.random.Generator:
        """A generator that depends on the seed and the key alone."""
        return np.random.default_rng([self.seed, *key])

    def own(self, images: np.ndarray) -> np.ndarray:
        """This rank's share of a batch's images, given group by group in any shape; by part, [parts, b]."""
        return images.reshape(self.parts, self.world, -1)[:, self.rank]  # [parts, b]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a recipe's `refresh` has decided for this epoch by looking at the model; empty where nothing is."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state_dict` gave."""

    def loader(self, start: int, stop: int, workers: int, pin: bool) -> DataLoader:
        """Batches of the steps start to stop - 1, made ahead by worker processes and pinned for copying to a GPU."""
        return DataLoader(self, batch_size=None, sampler=range(start, stop), num_workers=workers, pin_memory=pin)


class FamilyBatches(Batches):
    """Batches of families x two siblings x images, for losses on all pairs of a batch.

    A part has W = world x b images, of which b = families_per_batch / (parts x world) x 2 x images_per_person are this
    rank's. Every family is drawn equally often, and which images a batch has does not depend on how it is cut.

    images: uint8 [b, 3, S, S], this rank's. person, family: [W], among those of the index, of all ranks in their order.
    partner: [b], which of these images distracts each one in PWCA, never the same person's; missing in steps without.
    With mixup or cutmix: donor [b], which of these images is blended into each one, never the same person's; other [W],
    the donors' people, of all ranks; blend [1, 1, S, S], the weight of the donor's pixels, and share, its mean.
    """

    one_group, groups = "family", "families"
    save_memory = "lower images_per_person or image_size, or set gradient_checkpointing=true"

    def __init__(
        self,
        index: TwinIndex,
        store: ImageStore,
        *,
        families_per_batch: int,
        images_per_person: int,
        steps_per_epoch: int,
        seed: int,
        pwca_prob: float = 0.0,
        pwca_partner: str = "random",
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        self.families = [people for people in members(index.family_of) if len(people) >= SIBLINGS]
        if len(self.families) < families_per_batch:
            raise DataError(
                f"{len(self.families)} families with twins in the {index.name} split are too few for "
                f"families_per_batch={families_per_batch}: lower it, or lower validation_share."
            )
        images_per_group = SIBLINGS * images_per_person
        super().__init__(
            store,
            groups_per_batch=families_per_batch,
            images_per_group=images_per_group,
            steps_per_epoch=steps_per_epoch or max(1, len(index.paths) // (families_per_batch * images_per_group)),
            seed=seed,
            parts=parts,
            rank=rank,
            world=world,
        )
        self.images_of = members(index.person_of)
        self.family_of, self.images_per_person = index.family_of, images_per_person
        self.images_at_once = f"{SIBLINGS} x images_per_person={images_per_person}"
        self.pwca_prob, self.pwca_partner = pwca_prob, pwca_partner
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha

    def drawn_families(self, step: int) -> list[np.ndarray]:
        """The families of a step: all families in a shuffled order, then all again in another."""
        steps_per_round = len(self.families) // self.groups_per_batch
        turn, place = divmod(step, steps_per_round)
        order = self.random(FAMILIES, turn).permutation(len(self.families))
        return [self.families[f] for f in order[place * self.groups_per_batch :][: self.groups_per_batch]]

    def __getitem__(self, step: int) -> list[dict[str, torch.Tensor]]:
        random = self.random(IMAGES, step)
        people = np.concatenate([random.choice(f, SIBLINGS, replace=False) for f in self.drawn_families(step)])
        k = self.images_per_person
        images = [random.choice(own := self.images_of[p], k, replace=len(own) < k) for p in people]
        distracted = random.random() < self.pwca_prob
        images = self.own(np.concatenate(images))  # [parts, b]
        person = np.repeat(people, k).reshape(self.parts, -1)  # [parts, W]
        return [self.part(step, j, images[j], person[j], distracted) for j in range(self.parts)]

    def part(
        self, step: int, number: int, images: np.ndarray, person: np.ndarray, distracted: bool
    ) -> dict[str, torch.Tensor]:
        """One part of a batch, of this rank's images [b] and all ranks' people [W]."""
        part = {"images": self.store.batch(images), "person": person, "family": self.family_of[person]}
        if distracted:
            part["partner"] = self.partners(self.pwca_partner, PARTNERS, step, number, self.rank)
        if self.mixup_alpha or self.cutmix_alpha:
            donors = [self.partners("random", DONORS, step, number, rank) for rank in range(self.world)]
            part["donor"] = donors[self.rank]
            part["other"] = np.take_along_axis(person.reshape(self.world, -1), np.stack(donors), axis=1).ravel()
            # One blend for all ranks, since its share weighs the losses of all their images together.
            random = self.random(BLEND, step, number)
            blend = draw_blend(part["images"].shape[-1], self.mixup_alpha, self.cutmix_alpha, random)
            part |= {"blend": blend[None, None], "share": blend.mean()}
        return {name: torch.as_tensor(value) for name, value in part.items()}

    def partners(self, policy: str, *key: int) -> np.ndarray:
        """Another person's image for each image of one rank's share of a part, [b]."""
        families = self.groups_per_batch // (self.parts * self.world)
        return draw_partners(families, self.images_per_person, policy, self.random(*key))


def draw_partners(families: int, images: int, policy: str, random: np.random.Generator) -> np.ndarray:
    """A permutation [B] that gives each image one of another person: the `twin`, a `random` person, or either (`mix`).

    The images of one person get partners drawn independently of each other: a distractor common to them all would tell
    who they are, and the network would learn to recognise it instead of the face.
    """
    rows = np.arange(families * SIBLINGS * images).reshape(-1, images)  # [people, images]
    rows = random.permuted(rows, axis=1)
    columns = [rows[draw_donors(families, policy, random), j] for j in range(images)]
    return np.stack(columns, axis=1).ravel()


def draw_donors(families: int, policy: str, random: np.random.Generator) -> np.ndarray:
    """A permutation of the people of a batch that leaves nobody in place: whose image each one is given.

    With `mix`, a coin per family decides: siblings exchange, or go round with the people of the other such families.
    """
    share = {"twin": 1.0, "random": 0.0, "mix": 0.5}[policy]
    people = np.arange(families * SIBLINGS).reshape(families, SIBLINGS)
    exchange = random.random(families) < share
    donors = np.empty(people.size, int)
    donors[people[exchange]] = people[exchange][:, ::-1]
    around = random.permutation(people[~exchange].ravel())
    donors[around] = np.roll(around, 1)
    return donors


def draw_blend(size: int, mixup_alpha: float, cutmix_alpha: float, random: np.random.Generator) -> np.ndarray:
    """Weight [size, size] of a donor's pixels: the same everywhere (mixup, arXiv 1710.09412), or 1 in a rectangle and
    0 around it (cutmix, arXiv 1905.04899). A coin decides where both alphas are above 0."""
    cutmix = not mixup_alpha or (cutmix_alpha > 0 and random.random() < 0.5)
    alpha = cutmix_alpha if cutmix else mixup_alpha
    share = 1 - random.beta(alpha, alpha)
    if not cutmix:
        return np.full((size, size), share, np.float32)
    half = size * math.sqrt(share) / 2
    centre = random.uniform(0, size, (2, 1))
    (top, bottom), (left, right) = np.rint(centre + [-half, half]).clip(0, size).astype(int)
    blend = np.zeros((size, size), np.float32)
    blend[top:bottom, left:right] = 1
    return blend
