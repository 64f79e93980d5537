"""Every image encoded once, by one process or several, into memory or into a file."""

import numpy as np
import pytest
import torch
from toys import Toy, toy_index, toy_store

from dcal_core.data.images import ImageStore
from dcal_core.models.verifier import Features, Verifier
from dcal_core.storage import StorageError
from dcal_core.verification import encoding
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.protocol import score_pairs, twin_pairs


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_is_encoded_once_in_order(batch_size):
    model, store = Toy(), toy_store(7)
    features = encode_images(model, store, batch_size, progress=False)
    assert len(features) == 7 and sum(model.encoded) == 7 and max(model.encoded) <= batch_size
    whole = torch.from_numpy(store.images).float().mean((2, 3))
    torch.testing.assert_close(features.parts["mean"], whole, rtol=1e-4, atol=1e-4)


def test_some_images_are_encoded_in_their_order_and_some_parts_are_kept():
    store, chosen = toy_store(7), np.array([5, 0, 6])
    features = encode_images(Mixed(), store, 2, progress=False, chosen=chosen)
    assert len(features) == 3 and len(features.parts) > 1
    every = encode_images(Mixed(), store, 2, progress=False)
    for name, part in every.parts.items():
        assert torch.equal(features.parts[name], part[chosen])
        kept = encode_images(Mixed(), store, 2, progress=False, parts=(name,))
        assert kept.parts.keys() == {name} and torch.equal(kept.parts[name], part)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 4), (7, 3), (5, 4), (2, 3)])
def test_each_process_encodes_an_equal_share(monkeypatch, images, processes, batch_size):
    shares = []
    monkeypatch.setattr(encoding, "world_size", lambda: processes)
    monkeypatch.setattr(encoding, "gather", lambda part: shares.append(part) or part)
    store, models = toy_store(images), [Toy() for _ in range(processes)]
    for rank, model in enumerate(models):
        monkeypatch.setattr(encoding, "rank", lambda rank=rank: rank)
        encode_images(model, store, batch_size, progress=False)
    assert {sum(model.encoded) for model in models} == {-(-images // processes)}
    everything = torch.cat(shares)  # what gathering would leave in each process
    monkeypatch.setattr(encoding, "gather", lambda part: everything)
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


def test_flip_fusion_adds_the_mirror_images_embedding_and_nothing_else():
    class Sided(Toy):  # whose embedding is the left half's mean
        widths = {"embedding": 3}

        def encode(self, images, trace=False):
            means = images.float().mean(2)  # [B, 3, S]
            return Features({"embedding": means[..., :2].mean(-1), "left": means[..., 0]})

    store = toy_store(5)
    plain, flipped = (encode_images(Sided(), store, 2, progress=False, flip=flip).parts for flip in (False, True))
    right = torch.from_numpy(store.images[..., 2:]).float().mean((2, 3))
    torch.testing.assert_close(flipped["embedding"], plain["embedding"] + right)
    assert torch.equal(flipped["left"], plain["left"])


def test_an_empty_store_is_refused():
    with pytest.raises(ValueError, match="no images"):
        encode_images(Toy(), toy_store(0), 2)


class Mixed(Toy):
    """Parts of several types and shapes."""

    def encode(self, images, trace=False):
        mean = super().encode(images).parts["mean"]
        return Features(
            {
                "mean": mean,
                "half": mean.to(torch.bfloat16)[:, :, None].expand(-1, 3, 5),  # not contiguous
                "found": mean[:, 0] > 0,
                "number": (10 * mean).long().reshape(-1, 1, 3),
                "nothing": mean[:, :0],
            }
        )


@pytest.fixture
def in_files(monkeypatch, tmp_path):
    """Features of any size go to files below this folder, which is returned."""
    monkeypatch.setattr(encoding, "IN_MEMORY", 0)
    monkeypatch.setattr(encoding, "scratch_root", lambda: tmp_path / "scratch")
    return tmp_path / "scratch"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_features_in_a_file_equal_those_in_memory(monkeypatch, in_files, batch_size):
    found = encode_images(Mixed(), toy_store(7), batch_size, progress=False)
    assert list(in_files.iterdir()) == []  # nothing is left behind, however the process ends
    monkeypatch.setattr(encoding, "IN_MEMORY", 2**30)
    wanted = encode_images(Mixed(), toy_store(7), batch_size, progress=False)
    some = torch.tensor([5, 0, 5])
    assert found.parts.keys() == wanted.parts.keys() and len(found) == 7
    for name, part in wanted.parts.items():
        assert found.parts[name].dtype == part.dtype and torch.equal(found.parts[name], part)
        assert torch.equal(found[some].parts[name], part[some])


@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 4), (5, 4), (2, 3)])
def test_each_process_writes_its_rows_into_one_file(monkeypatch, in_files, images, processes):
    """The processes one after the other, the first keeping the file open until the last has come."""
    monkeypatch.setattr(encoding, "world_size", lambda: processes)
    names, closed = [], []
    monkeypatch.setattr(encoding, "broadcast", lambda name: names.append(name) or next(filter(None, names)))

    class Kept:
        """A file whose closing is put off."""

        def __init__(self, file):
            self.file, self.name, self.close = file, file.name, lambda: closed.append(file)

    new_file = encoding._new_file
    monkeypatch.setattr(encoding, "_new_file", lambda *what: Kept(new_file(*what)))
    store = toy_store(images)
    found = []
    for rank in range(processes):
        monkeypatch.setattr(encoding, "rank", lambda rank=rank: rank)
        found.append(encode_images(Toy(), store, 2, progress=False))
    whole = torch.from_numpy(store.images).float().mean((2, 3))
    assert names.count(None) == processes - 1 and len(closed) == 1
    for features in found:  # each process maps the rows of all
        torch.testing.assert_close(features.parts["mean"], whole, rtol=1e-4, atol=1e-4)
    closed[0].close()


def test_a_full_disk_is_a_sentence(monkeypatch, in_files, refused):
    def full(*what):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding.os, "pwrite", full)
    with refused(StorageError, "no room on the disk"):
        encode_images(Toy(), toy_store(3), 2, progress=False)
    assert list(in_files.iterdir()) == []


class Large(Verifier):
    """Keeps 2 MB of each image, and notes how much memory, files apart, is in use meanwhile."""

    def __init__(self):
        super().__init__()
        self.held = []

    def encode(self, images, trace=False):
        self.note()
        return Features({"map": images.float().mean((1, 2, 3))[:, None].expand(-1, 2**19).clone()})

    def compare(self, a, b, reading=None):
        self.note()
        return a.parts["map"][:, :9] @ b.parts["map"][:, :9].T

    def compare_pairs(self, a, b, reading=None):
        raise NotImplementedError

    def note(self):
        with open("/proc/self/status") as status:
            (line,) = (line for line in status if line.startswith("RssAnon"))
        self.held.append(int(line.split()[1]) / 1024)  # MB

    def rise(self):
        return max(self.held) - self.held[0]


def test_large_features_do_not_fill_the_memory(monkeypatch, in_files):
    index = toy_index([2] * 32, [2, 2] * 32)  # 128 images: 256 MB
    pairs, store = twin_pairs(index), toy_store(128)
    small, large = Large(), Large()
    scores = score_pairs(small, encode_images(small, store, 4, progress=False), pairs)
    monkeypatch.setattr(encoding, "IN_MEMORY", 2**30)
    wanted = score_pairs(large, encode_images(large, store, 4, progress=False), pairs)
    assert np.array_equal(scores, wanted)
    assert small.rise() < 64 and large.rise() > 200
