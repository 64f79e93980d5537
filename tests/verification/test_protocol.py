from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import TwinIndex, read_index
from dcal_core.models.features import Features
from dcal_core.verification import protocol
from dcal_core.verification.protocol import Pairs, encode_images, score_pairs, twin_pairs

REAL = Path(__file__).parents[2].parent / "shared" / "nd_twin"


def toy_index(families, images_each):
    """An index of families (sizes) whose people have so many images."""
    names = [[f"{f}{chr(97 + p)}" for p in range(size)] for f, size in enumerate(families)]
    person_of = np.repeat(np.arange(sum(families)), images_each)
    return TwinIndex(
        name="toy",
        people=tuple(name for family in names for name in family),
        families=tuple(map(tuple, names)),
        paths=tuple(f"{image}.png" for image in range(len(person_of))),
        person_of=person_of,
        family_of=np.repeat(np.arange(len(families)), families),
    )


def naive_pairs(index):
    family = index.family_of[index.person_of]
    images = combinations(range(len(index.paths)), 2)
    return {(a, b, index.person_of[a] == index.person_of[b], family[a]) for a, b in images if family[a] == family[b]}


class Toy(nn.Module):
    """Embeds the mean colour; compares with an asymmetric product, so that a swapped pair would show."""

    def __init__(self):
        super().__init__()
        self.part = nn.BatchNorm1d(3, affine=False)
        self.encoded, self.compared, self.largest = [], 0, 0

    def encode(self, images):
        assert images.dtype == torch.uint8 and not self.training and torch.is_inference_mode_enabled()
        self.encoded.append(len(images))
        return Features({"mean": self.part(images.float().mean((2, 3)))})

    def compare(self, a, b):
        assert not self.part.training
        self.compared += len(a) * len(b)
        self.largest = max(self.largest, len(a), len(b))
        return 2 * a.parts["mean"][:, None, 0] - b.parts["mean"][None, :, 1]


def toy_store(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return ImageStore(images=images, kept=np.arange(count), rejected=[])


@pytest.mark.parametrize(
    ("families", "images_each"),
    [
        ([2], [1, 1]),
        ([2, 2], [3, 1, 2, 4]),
        ([3], [2, 3, 1]),
        ([1, 3, 1, 2], [1, 2, 2, 3, 4, 1, 2]),
    ],
)
def test_pairs_equal_a_naive_loop(families, images_each):
    index = toy_index(families, images_each)
    pairs = twin_pairs(index)
    found = set(zip(pairs.a, pairs.b, pairs.genuine, pairs.family, strict=True))
    assert len(found) == len(pairs) and found == naive_pairs(index)
    assert (pairs.a < pairs.b).all()


def test_real_index_counts():
    if not REAL.is_dir():
        pytest.skip(f"the real index files are missing: {REAL}")
    index = read_index(REAL / "test_dataset_infor.json", REAL / "test_twin_pairs.json", "test")
    pairs = twin_pairs(index)
    assert pairs.genuine.sum() == 9_485 and (~pairs.genuine).sum() == 9_849
    assert len(np.unique(pairs.family)) == 31


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_is_encoded_once_in_order(batch_size):
    model, store = Toy(), toy_store(7)
    features = encode_images(model, store, batch_size, progress=False)
    assert len(features) == 7 and sum(model.encoded) == 7 and max(model.encoded) <= batch_size
    whole = torch.from_numpy(store.images).float().mean((2, 3))
    torch.testing.assert_close(features.parts["mean"], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 4), (7, 3), (5, 4), (2, 3)])
def test_each_process_encodes_an_equal_share(monkeypatch, images, processes, batch_size):
    shares = []
    monkeypatch.setattr(protocol, "world_size", lambda: processes)
    monkeypatch.setattr(protocol, "gather", lambda part: shares.append(part) or part)
    store, models = toy_store(images), [Toy() for _ in range(processes)]
    for rank, model in enumerate(models):
        monkeypatch.setattr(protocol, "rank", lambda rank=rank: rank)
        encode_images(model, store, batch_size, progress=False)
    assert {sum(model.encoded) for model in models} == {-(-images // processes)}
    everything = torch.cat(shares)  # what gathering would leave in each process
    monkeypatch.setattr(protocol, "gather", lambda part: everything)
    features = encode_images(Toy(), store, batch_size, progress=False)
    whole = torch.from_numpy(store.images).float().mean((2, 3))
    assert len(features) == images
    torch.testing.assert_close(features.parts["mean"], whole, rtol=1e-4, atol=1e-4)


def test_each_module_gets_its_mode_back():
    model = Toy().train()
    model.part.eval()  # frozen
    encode_images(model, toy_store(2), 2, progress=False)
    assert model.training and not model.part.training
    floats = ImageStore(images=np.zeros((2, 3, 4, 4)), kept=np.arange(2), rejected=[])
    with pytest.raises(AssertionError):  # also after an error
        encode_images(model, floats, 2, progress=False)
    assert model.training and not model.part.training


def test_an_empty_store_is_refused():
    with pytest.raises(ValueError, match="no images"):
        encode_images(Toy(), toy_store(0), 2)


@pytest.mark.parametrize("block", [1, 2, 3, 64])
def test_scores_equal_pair_by_pair(block):
    index = toy_index([1, 3, 2], [2, 2, 3, 4, 1, 2])
    model, pairs = Toy(), twin_pairs(index)
    order = np.random.default_rng(0).permutation(len(pairs))[:-3]  # any pairs in any order, not only all of them
    pairs = Pairs(pairs.a[order], pairs.b[order], pairs.genuine[order], pairs.family[order])
    features = encode_images(model, toy_store(len(index.paths)), 4, progress=False)
    scores = score_pairs(model, features, pairs, block=block)
    with torch.inference_mode():
        naive = [
            float(model.eval().compare(features[[a]], features[[b]])) for a, b in zip(pairs.a, pairs.b, strict=True)
        ]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, naive, rtol=1e-6)


def test_blocks_bound_the_memory_and_skip_what_is_not_asked_for():
    index = toy_index([2, 2], [20, 20, 1, 1])
    pairs = twin_pairs(index)
    features = Features({"mean": torch.randn(len(index.paths), 3)})
    whole, blocked, single = Toy(), Toy(), Toy()
    score_pairs(whole, features, pairs)
    assert whole.compared == 39 * 39 + 1  # no image of one family against another
    score_pairs(blocked, features, pairs, block=5)
    assert blocked.largest == 5 and len(pairs) < blocked.compared < 0.7 * whole.compared
    score_pairs(single, features, pairs, block=1)
    assert single.compared == len(pairs)


def test_bad_calls_are_refused():
    pairs = twin_pairs(toy_index([2], [2, 2]))
    features = Features({"mean": torch.randn(3, 3)})
    with pytest.raises(ValueError, match="name image 3, but only 3 images"):
        score_pairs(Toy(), features, pairs)
    with pytest.raises(ValueError, match="block must be at least 1"):
        score_pairs(Toy(), Features({"mean": torch.randn(4, 3)}), pairs, block=0)
