"""Rows on single parts of the pipeline: rollout, batches from the memory map, the loader, and scoring all pairs."""

import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.speed.naive import rollout
from benchmarks.speed.subjects import Setting, Subject, batches_of, random_store, to_device, twin_index
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.data.decoding import decode
from dcal_core.data.images import ImageStore, LazyImages, open_images
from dcal_core.data.records import HEADER, MAGIC, Records
from dcal_core.models.attention import attention_map, rollout_row
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.protocol import score_pairs, twin_pairs

OFTEN = 5  # times as many rounds for what takes milliseconds
IN_A_ROW = 20  # calls that are timed together
JPEGS = 64  # on disk
JPEG_QUALITY = 90
CAMERA_PX = 600  # side of a face crop as it comes from a camera
DECODED = 32  # images in a batch that is read or decoded
FACE_PX = 112  # of the faces that InsightFace packs
FAMILIES, IMAGES_EACH = 2, 15  # of the test set that is scored; ND-TWINS has about as many images of a person
SAMPLED_PAIRS = 12  # that go through the model one by one


@torch.inference_mode()
def rollout_rows(setting: Setting, size: int, images: int, layers: int = 12) -> Iterator[Row]:
    """Rollout of random attention as a row that goes down the layers, beside the product of whole matrices.

    The row reads each map once and does little else, so at 224 px it waits for the memory.
    """
    vit = Subject("DCAL", setting, size).model.vit
    heads = vit.blocks[0].attn.num_heads
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    torch.manual_seed(0)
    shape = (2, layers, images, heads, tokens, vit.embed_dim // heads)
    queries, keys = torch.randn(shape, device=setting.device)
    maps = list(map(attention_map, queries, keys))
    torch.testing.assert_close(rollout_row(maps), rollout(maps)[:, 0])
    works = {"row": lambda: rollout_row(maps), "whole": lambda: rollout(maps)}
    # Some calls in a row, which find the caches as the same work left them, and not the other's.
    several = {name: lambda work=work: [work() for _ in range(IN_A_ROW)] for name, work in works.items()}
    seconds = {name: s / IN_A_ROW for name, s in alternate(several, OFTEN * setting.repeats, setting.wait).items()}
    goal = 0.05 if size == setting.size else None
    yield ratio(f"rollout, {size} px: row / whole product", seconds, "row", "whole", goal=goal, note="the same numbers")


def write_jpegs(folder: Path, size: int) -> list[Path]:
    """Smooth random images as JPEG files."""
    random = np.random.default_rng(0)
    files = []
    for number in range(JPEGS):
        coarse = Image.fromarray(random.integers(0, 256, (size // 16, size // 16, 3), np.uint8))
        files.append(folder / f"{size}_{number}.jpg")
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(files[-1], quality=JPEG_QUALITY)
    return files


def decoded(files: list[Path], size: int) -> Tensor:
    """A batch as data sets without a memory map make it: every file opened, decoded and resized."""
    images = []
    for file in files:
        image = Image.open(file).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images)


def batch_rows(setting: Setting, store: ImageStore, files: dict[int, list[Path]]) -> Iterator[Row]:
    """A batch of random images from the memory map, beside decoding it from JPEG files; one thread each."""
    random = np.random.default_rng(0)

    def draw() -> np.ndarray:
        return random.choice(JPEGS, DECODED, replace=False)

    works = {"memory map": lambda: store.batch(draw())}
    for pixels, paths in files.items():
        works[f"{pixels} px JPEG"] = lambda paths=paths: decoded([paths[i] for i in draw()], setting.size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = alternate(works, OFTEN * setting.repeats)
    torch.set_num_threads(threads)
    for pixels in files:
        name = f"batch of {DECODED}, {setting.size} px: {pixels} px JPEGs / memory map"
        goal = 15 if pixels == setting.size else None
        yield ratio(name, seconds, f"{pixels} px JPEG", "memory map", goal=goal, at_least=True)


def loader_row(setting: Setting, store: ImageStore) -> Row:
    """Training steps on batches from the loader, beside steps on one batch that lies on the device already."""
    on_gpu = setting.device == "cuda"
    steps = 20 if on_gpu else 1  # in a row, more than the loader makes ahead while the other is timed
    subject = Subject("DCAL", setting, setting.size)
    batches = batches_of(twin_index(JPEGS // 4, 2), store, setting.batch)
    workers = subject.config.loader_workers if on_gpu else 0
    loader = iter(batches.loader(0, steps * (setting.warmups + setting.repeats), workers, pin=on_gpu))
    constant = to_device(batches[0], setting.device)

    def load() -> None:
        for _ in range(steps):
            subject.train(to_device(next(loader), setting.device))

    def repeat() -> None:
        for _ in range(steps):
            subject.train(constant)

    seconds = alternate({"loader": load, "constant": repeat}, setting.repeats, setting.wait, setting.warmups)
    name = f"training step, {setting.size} px: loader / constant batch"
    return ratio(name, seconds, "loader", "constant", goal=1.05, note=f"{workers} worker processes")


def input_rows(setting: Setting) -> Iterator[Row]:
    """The rows on images on disk, made in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        files = {pixels: write_jpegs(Path(folder), pixels) for pixels in (setting.size, CAMERA_PX)}
        store = open_images(files[setting.size], setting.size, Path(folder), max_lost_share=0.0)
        yield from batch_rows(setting, store, files)
        yield loader_row(setting, store)


def write_records(file: Path, images: list[bytes], count: int) -> None:
    """A `.rec` of so many records, which repeat the images, and its index."""
    with file.open("wb") as out, file.with_suffix(".idx").open("w") as index:
        for number in range(count + 1):
            content = HEADER.pack(0, number % 1000, number, 0) + images[number % len(images)]
            if number == 0:
                content = HEADER.pack(2, 0, 0, 0) + struct.pack("<ff", count + 1, count + 1)
            index.write(f"{number}\t{out.tell()}\n")
            out.write(struct.pack("<II", MAGIC, len(content)) + content + bytes(-len(content) % 4))


def record_rows(setting: Setting) -> Iterator[Row]:
    """Opening a large `.rec`, and batches of its images beside decoding the same files from memory; one thread each."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images = [file.read_bytes() for file in write_jpegs(Path(folder), FACE_PX)]
        file = Path(folder) / "train.rec"
        write_records(file, images, setting.records)
        began = time.perf_counter()
        records = Records(file)
        seconds = time.perf_counter() - began
        yield Row(f"opening {len(records):,} records", Spread.of(seconds), "s", goal=1)
        store = LazyImages(
            tuple(f"{file}/{number % 1000}/{number}" for number in range(1, setting.records + 1)), FACE_PX
        )

        def from_memory(drawn: np.ndarray) -> np.ndarray:
            batch = np.empty((len(drawn), 3, FACE_PX, FACE_PX), np.uint8)
            for row, image in zip(batch, drawn, strict=True):
                row[:] = decode(images[(image + 1) % len(images)], FACE_PX)
            return batch

        some = random.integers(0, setting.records, DECODED)
        np.testing.assert_array_equal(store.batch(some), from_memory(some))
        works = {
            "records": lambda: store.batch(random.integers(0, setting.records, DECODED)),
            "memory": lambda: from_memory(random.integers(0, setting.records, DECODED)),
        }
        times = alternate(works, 10 * OFTEN * setting.repeats)
        yield ratio(f"batch of {DECODED} from records / from memory, decoded", times, "records", "memory", goal=1.05)


def scoring_rows(setting: Setting) -> Iterator[Row]:
    """All pairs of a small test set: each image encoded once, beside each pair through the model by itself."""
    index = twin_index(FAMILIES, IMAGES_EACH)
    store = random_store(len(index.paths), setting.size)
    pairs = twin_pairs(index)
    model = Subject("DCAL", setting, setting.size).model.eval()
    sample = np.linspace(0, len(pairs) - 1, SAMPLED_PAIRS).astype(int)

    def encode():
        return encode_images(model, store, setting.batch, setting.device, progress=False)

    def score(features) -> np.ndarray:
        return score_pairs(model, features, pairs, device=setting.device)

    @torch.inference_mode()
    def one_by_one() -> list[float]:
        a_and_b = ([store.batch([i]).to(setting.device) for i in (pairs.a[p], pairs.b[p])] for p in sample)
        return [model.compare(*map(model.encode, two)).item() for two in a_and_b]

    features = encode()
    np.testing.assert_allclose(one_by_one(), score(features)[sample], atol=1e-4)
    works = {"by images": lambda: score(encode()), "by pairs": one_by_one}
    seconds = alternate(works, max(1, setting.repeats // 2), setting.wait, warmups=0)  # warm from the comparison
    seconds["by pairs"] *= len(pairs) / SAMPLED_PAIRS
    name = f"{len(pairs)} pairs of {len(store.images)} images: by pairs / by images"
    note = f"by pairs: {SAMPLED_PAIRS} timed, scaled to all"
    yield ratio(name, seconds, "by pairs", "by images", goal=20, at_least=True, note=note)
    seconds = alternate({"pairs": lambda: score(features)}, OFTEN * setting.repeats, setting.wait)["pairs"]
    yield Row(f"{len(pairs)} pairs scored, their images encoded", Spread.of(len(pairs) / seconds), "pairs/s")
