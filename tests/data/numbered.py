"""An index of numbered people and a store of images that show their own number, for the tests of batches."""

import numpy as np
import torch

from dcal_core.data.twins import TwinIndex

SIZE = 8


def make_index(families, images_each):
    """An index of families of the given sizes; `images_each`: how many images each person has, or one number."""
    people = sum(families)
    images_each = [images_each] * people if isinstance(images_each, int) else images_each
    names = iter(f"{person:03d}" for person in range(people))
    person_of = np.repeat(np.arange(people), images_each)
    return TwinIndex(
        name="train",
        people=tuple(f"{person:03d}" for person in range(people)),
        families=tuple(tuple(next(names) for _ in range(size)) for size in families),
        paths=tuple(f"{image}.png" for image in range(len(person_of))),
        person_of=person_of,
        family_of=np.repeat(np.arange(len(families)), families),
    )


class NumberedStore:
    """Images that show their own number everywhere."""

    def batch(self, indices):
        return torch.as_tensor(np.asarray(indices))[:, None, None, None].repeat(1, 3, SIZE, SIZE)


def numbers(part):
    """Which images a part shows."""
    return part["images"][:, 0, 0, 0].tolist()


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name
