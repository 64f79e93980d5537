"""Which images make a batch: families x two siblings x images, as a pure function of (seed, epoch, step).

Nothing is remembered between batches, so going on after an interruption means asking for the next step.
"""

import itertools

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError, TwinIndex

SIBLINGS = 2  # of each family in a batch; of larger families two are drawn


class FamilyBatches(Dataset):
    """Training batches by step: item s is a dict of images, person, triplets and partner.

    images: uint8 [B, 3, S, S] with B = families x 2 x images_per_person; every family is drawn equally often, whatever
    number of images it has. person: index [B] among the people. triplets: rows (anchor, same person, co-twin), [3, T].
    partner: [B], which image distracts each one in PWCA, never one of the same person; missing in steps without PWCA.
    """

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
    ):
        families = [np.flatnonzero(index.family_of == f) for f in range(len(index.families))]
        self.families = [people for people in families if len(people) >= SIBLINGS]
        if len(self.families) < families_per_batch:
            raise DataError(
                f"{len(self.families)} families with twins in the {index.name} split are too few for "
                f"families_per_batch={families_per_batch}: lower it, or lower validation_share."
            )
        self.images_of = [np.flatnonzero(index.person_of == p) for p in range(len(index.people))]
        self.store, self.seed = store, seed
        self.families_per_batch, self.images_per_person = families_per_batch, images_per_person
        self.pwca_prob, self.pwca_partner = pwca_prob, pwca_partner
        self.batch_size = families_per_batch * SIBLINGS * images_per_person
        self.steps_per_epoch = steps_per_epoch or max(1, len(index.paths) // self.batch_size)
        self.triplets = torch.from_numpy(twin_triplets(families_per_batch, images_per_person))

    def random(self, *key: int) -> np.random.Generator:
        """A generator that depends on the seed and the key alone."""
        return np.random.default_rng([self.seed, *key])

    def drawn_families(self, step: int) -> list[np.ndarray]:
        """The families of a step: all families in a shuffled order, then all again in another."""
        steps_per_round = len(self.families) // self.families_per_batch
        turn, place = divmod(step, steps_per_round)
        order = self.random(0, turn).permutation(len(self.families))
        return [self.families[f] for f in order[place * self.families_per_batch :][: self.families_per_batch]]

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        random = self.random(1, step)
        people = np.concatenate([random.choice(f, SIBLINGS, replace=False) for f in self.drawn_families(step)])
        k = self.images_per_person
        images = [random.choice(own := self.images_of[p], k, replace=len(own) < k) for p in people]
        batch = {
            "images": self.store.batch(np.concatenate(images)),
            "person": torch.from_numpy(np.repeat(people, k)),
            "triplets": self.triplets,
        }
        if random.random() < self.pwca_prob:
            batch["partner"] = torch.from_numpy(draw_partners(self.families_per_batch, k, self.pwca_partner, random))
        return batch

    def loader(self, start: int, stop: int, workers: int, pin: bool) -> DataLoader:
        """Batches of the steps start to stop - 1, made ahead by worker processes and pinned for copying to a GPU."""
        return DataLoader(self, batch_size=None, sampler=range(start, stop), num_workers=workers, pin_memory=pin)


def twin_triplets(families: int, images: int) -> np.ndarray:
    """All (anchor, same person, co-twin) rows of a batch of families x 2 x images, [3, T]."""
    rows = np.arange(families * SIBLINGS * images).reshape(families, SIBLINGS, images)
    triplets = [
        (anchor, positive, negative)
        for family in rows
        for own, other in (family, family[::-1])
        for anchor, positive in itertools.permutations(own, 2)
        for negative in other
    ]
    return np.array(triplets).T


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
