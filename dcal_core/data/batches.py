"""Which images make a batch, as a pure function of (seed, step): families x two siblings x images.

Nothing is remembered between batches, so a resumed run just asks for the next step. A batch is cut into parts, which
are processed one after the other, and each part is shared among processes; a family is never cut.
"""

import math

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dcal_core.data.groups import members
from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError, TwinIndex, name_number

SIBLINGS = 2  # of each family in a batch; of larger families two are drawn
Part = dict[str, torch.Tensor]  # what one process works through at once
# First number of a generator's key: what it is for.
FAMILIES, IMAGES, PARTNERS, DONORS, BLEND, TRIPLETS, PEOPLE, SHOWN, OCCLUDERS = range(9)


class Batches(Dataset):
    """Training batches by step: item s is a list of parts, each a dict of the tensors that one process (rank) needs.

    The training loop knows no more than this class. A recipe's own batches inherit from it and keep to the following.

    - `batches[step]` is a pure function of the seed, the step and `state_dict()`. Chance comes from `random` alone,
      with a key that starts with a number of its own. Worker processes hold copies of the batches, so an item leaves
      nothing behind for the next one.
    - A batch has batch_size images over all processes, in groups_per_batch groups (families, triplets) of
      images_per_group. It is cut between groups only, by `own`. Which images it has does not depend on the cut.
    - An item has `parts` parts. "images", uint8 [b, 3, S, S] with b = batch_size / (parts x world), are this rank's;
      all else in a part is for the recipe's `augment` and objective.
    - What the recipe's `refresh` decides by looking at the model is kept in `state_dict()`. It is saved with every
      checkpoint and put back before the first batch of a resumed run. While it is not empty, a loader ends with its
      epoch, since workers know the state at the time when their loader was opened. steps_per_epoch stays the same.
    """

    one_group: str  # the name of a group in messages
    groups: str  # the name of several, in messages and in the parameter <groups>_per_batch
    images_at_once: str  # in a part of a single group
    save_memory: str  # what to do if that does not fit

    def __init__(
        self,
        store: ImageStore,
        *,
        groups_per_batch: int,
        images_per_group: int,
        steps_per_epoch: int,
        seed: int,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        if groups_per_batch % (parts * world):
            raise DataError(
                f"{self.groups}_per_batch={groups_per_batch} cannot be cut into {parts} parts x {world} processes with "
                f"equally many whole {self.groups}: take a multiple of {parts * world}, or change accumulation or "
                "nproc."
            )
        self.store = store
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.groups_per_batch = groups_per_batch
        self.batch_size = groups_per_batch * images_per_group
        self.parts = parts
        self.rank = rank
        self.world = world

    def cut(self, parts: int) -> None:
        """Cut batches into `parts` parts or the next number that divides them evenly, at most one group per process and
        part; holds from the next loader on."""
        groups = self.groups_per_batch // self.world
        self.parts = next(n for n in range(min(parts, groups), groups + 1) if groups % n == 0)

    def halve(self) -> None:
        """Cut batches into at least twice as many parts; DataError if a part is down to one group per process."""
        if self.parts * self.world == self.groups_per_batch:
            raise DataError(
                f"one {self.one_group} per process is the least that a part can hold, and {self.groups}_per_batch="
                f"{self.groups_per_batch} is cut that far ({self.images_at_once} images at once): {self.save_memory}."
            )
        self.cut(2 * self.parts)

    def random(self, *key: int) -> np.random.Generator:
        """A generator that depends only on the seed and the key."""
        return np.random.default_rng([self.seed, *key])

    def own(self, images: np.ndarray) -> np.ndarray:
        """This rank's share of a batch's images, which are given group by group in any shape: [parts, b]."""
        return images.reshape(self.parts, self.world, -1)[:, self.rank]  # [parts, b]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What the recipe's `refresh` decided for this epoch by looking at the model; empty if it decides nothing."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state_dict` returned."""

    def loader(self, start: int, stop: int, workers: int, pin: bool) -> DataLoader:
        """Batches of the steps start to stop - 1, made ahead by worker processes."""
        return DataLoader(self, batch_size=None, sampler=range(start, stop), num_workers=workers, pin_memory=pin)


class FamilyBatches(Batches):
    """Batches of families x two siblings x images, for losses on all pairs of a batch.

    A part has W = world x b images; b = families_per_batch / (parts x world) x 2 x images_per_person are this rank's.
    All families are drawn equally often.

    images: uint8 [b, 3, S, S], this rank's. person, family: [W], indices into the index, of all ranks in their order.
    partner: [b], the image of another person that distracts each image in PWCA; missing in steps without PWCA.
    With mixup or cutmix: donor [b], the image of another person that is blended into each image; other [W], the donors'
    people, of all ranks; blend [1, 1, S, S], the weight of the donor's pixels; share, its mean.
    """

    one_group = "family"
    groups = "families"
    save_memory = "lower images_per_person or image_size, or set gradient_checkpointing=true"

    def __init__(
        self,
        index: TwinIndex,
        store: ImageStore,
        *,
        families_per_batch: int,
        images_per_person: int,
        steps_per_epoch: int,
        pwca_prob: float = 0.0,
        pwca_partner: str = "random",
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        **shared: int,  # seed, parts, rank and world
    ):
        self.families = families_to_draw(index, families_per_batch)
        images_per_group = SIBLINGS * images_per_person
        super().__init__(
            store,
            groups_per_batch=families_per_batch,
            images_per_group=images_per_group,
            steps_per_epoch=steps_per_epoch or max(1, len(index.paths) // (families_per_batch * images_per_group)),
            **shared,
        )
        self.images_of = members(index.person_of)
        self.family_of = index.family_of
        self.images_per_person = images_per_person
        self.images_at_once = f"{SIBLINGS} x images_per_person={images_per_person}"
        self.pwca_prob = pwca_prob
        self.pwca_partner = pwca_partner
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha

    def drawn_families(self, step: int) -> list[np.ndarray]:
        """The families of a step: all come once in a shuffled order, then again in another order."""
        steps_per_round = len(self.families) // self.groups_per_batch
        turn, place = divmod(step, steps_per_round)
        order = self.random(FAMILIES, turn).permutation(len(self.families))
        return [self.families[f] for f in order[place * self.groups_per_batch :][: self.groups_per_batch]]

    def __getitem__(self, step: int) -> list[Part]:
        random = self.random(IMAGES, step)
        people = np.concatenate([random.choice(f, SIBLINGS, replace=False) for f in self.drawn_families(step)])
        k = self.images_per_person
        images = draw_images(self.images_of, people, k, random)
        distracted = random.random() < self.pwca_prob
        images = self.own(images)  # [parts, b]
        person = np.repeat(people, k).reshape(self.parts, -1)  # [parts, W]
        return [self.part(step, j, images[j], person[j], distracted) for j in range(self.parts)]

    def part(self, step: int, number: int, images: np.ndarray, person: np.ndarray, distracted: bool) -> Part:
        """One part of a batch from this rank's images [b] and all ranks' people [W]."""
        part = {"images": self.store.batch(images), "person": person, "family": self.family_of[person]}
        if distracted:
            part["partner"] = self.partners(self.pwca_partner, PARTNERS, step, number, self.rank)
        if self.mixup_alpha or self.cutmix_alpha:
            donors = [self.partners("random", DONORS, step, number, rank) for rank in range(self.world)]
            part["donor"] = donors[self.rank]
            part["other"] = np.take_along_axis(person.reshape(self.world, -1), np.stack(donors), axis=1).ravel()
            # One blend for all ranks, because its share weighs the losses of all their images together.
            random = self.random(BLEND, step, number)
            blend = draw_blend(part["images"].shape[-1], self.mixup_alpha, self.cutmix_alpha, random)
            part |= {"blend": blend[None, None], "share": blend.mean()}
        return {name: torch.as_tensor(value) for name, value in part.items()}

    def partners(self, policy: str, *key: int) -> np.ndarray:
        """Another person's image for each image of one rank's share of a part, [b]."""
        families = self.groups_per_batch // (self.parts * self.world)
        return draw_partners(families, self.images_per_person, policy, self.random(*key))


def draw_images(images_of: list[np.ndarray], people: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
    """So many images of each person, [people x each]; one twice only where the person has fewer."""
    drawn = [random.choice(images_of[p], each, replace=len(images_of[p]) < each) for p in people]
    return np.concatenate(drawn)


def families_to_draw(index: TwinIndex, families_per_batch: int) -> list[np.ndarray]:
    """The people of each family with co-twins; DataError if they are too few for a batch."""
    families = [people for people in members(index.family_of) if len(people) >= SIBLINGS]
    if len(families) < families_per_batch:
        raise DataError(
            f"families_per_batch={families_per_batch}: the {index.name} split has "
            f"{name_number(len(families), 'family', 'families')} with co-twins: lower it, or add families."
        )
    return families


def draw_partners(families: int, images: int, policy: str, random: np.random.Generator) -> np.ndarray:
    """A permutation [B] that gives each image one of another person: the `twin`, a `random` person, or either (`mix`).

    The images of one person get partners independently of each other: a distractor that they all share would reveal who
    they are, and the network would learn to recognise the distractor instead of the face.
    """
    rows = np.arange(families * SIBLINGS * images).reshape(-1, images)  # [people, images]
    rows = random.permuted(rows, axis=1)
    columns = [rows[draw_donors(families, policy, random), j] for j in range(images)]
    return np.stack(columns, axis=1).ravel()


def draw_donors(families: int, policy: str, random: np.random.Generator) -> np.ndarray:
    """A permutation of the people of a batch without a fixed point: each person gets an image of another one.

    `mix` tosses a coin per family: its siblings exchange, or are permuted with the people of the other such families.
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
    0 around it (cutmix, arXiv 1905.04899). A coin decides if both alphas are above 0."""
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
