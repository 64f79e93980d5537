"""Rows on the 1:1 protocol of face benchmarks, from features: how long it takes, and what a set takes that does not fit
into the memory."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.speed.galleries import EncodedAlready
from benchmarks.speed.memory import peak_above
from benchmarks.speed.timing import Row, Spread
from dcal_core.data.benchmarks.template_sets import TemplateSet
from dcal_core.models.verifier import Features
from dcal_core.verification.benchmarks.pooling import pool
from dcal_core.verification.benchmarks.protocols import people_of, score_templates, verify

WIDTH = 512
EACH = 5  # images, or templates, of a person
IMAGES = 10_000
PAIRS_OF_IMAGES = 8_000_000  # as many as IJB-B has
PAIRS_OF_TEMPLATES = 10_000_000
AT_ONCE = 10_000  # rows that are made, or written, at once
LIMIT_S = 60
LIMIT_MB = 1000


class FeatureFile:
    """Features in a .npy file, of which a slice at a time is in memory: no page of the file stays mapped."""

    def __init__(self, file: Path):
        self.file = file

    def __len__(self) -> int:
        return len(np.load(self.file, mmap_mode="r"))

    def __getitem__(self, rows: slice) -> Features:
        return Features({"embedding": torch.from_numpy(np.array(np.load(self.file, mmap_mode="r")[rows]))})


def made_up(count: int) -> Iterator[np.ndarray]:
    """Unit features of people with EACH rows in a row, AT_ONCE rows at a time."""
    random = torch.Generator().manual_seed(0)
    for start in range(0, count, AT_ONCE):
        people = torch.randn(-(-min(AT_ONCE, count - start) // EACH), WIDTH, generator=random)
        rows = people.repeat_interleave(EACH, 0)[: count - start]
        yield F.normalize(rows + 3 * torch.randn(rows.shape, generator=random), dim=-1).numpy()


def some_pairs(count: int, pairs: int) -> np.ndarray:
    """All pairs of one person and so many others, [P, 3] as a benchmark lists them."""
    random = np.random.default_rng(0)
    within = np.stack(np.triu_indices(EACH, k=1), axis=1)
    genuine = (EACH * np.arange(count // EACH)[:, None, None] + within).reshape(-1, 2)[
        : pairs // 100
    ]  # [people, 10, 2]
    a = random.integers(0, count, pairs - len(genuine), dtype=np.int32)
    b = (a + EACH + random.integers(0, count - 2 * EACH, len(a), dtype=np.int32)) % count
    both = np.concatenate([genuine.astype(np.int32), np.stack([a, b], axis=1)])
    return np.concatenate([both, (np.arange(len(both)) < len(genuine))[:, None].astype(np.int32)], axis=1)


def evaluated(features, pairs: np.ndarray, draws: int) -> dict:
    """TAR at FAR with its intervals, from the features of templates."""
    scores = score_templates(EncodedAlready(), features, pairs[:, 0], pairs[:, 1])
    return verify(scores, pairs, people_of(len(features), pairs), draws)


def time_row(draws: int, images: int) -> Row:
    """Seconds from the features of images, each in a template of its own, to TAR at FAR with intervals."""
    features = Features({"embedding": torch.from_numpy(np.concatenate(list(made_up(images))))})
    pairs = some_pairs(images, PAIRS_OF_IMAGES * images**2 // IMAGES**2)
    each = np.arange(images)
    templates = TemplateSet("", [], images, each, each, each, np.ones(images))
    model = EncodedAlready()
    model.widths = {"embedding": WIDTH}
    began = time.perf_counter()
    found = evaluated(pool(model, features, templates, norms=True, detections=True), pairs, draws)
    seconds = time.perf_counter() - began
    tar = found["tar_at_far_0.0001"]
    note = f"{len(pairs):,} pairs, {draws:,} draws, TAR at FAR 1e-4 {tar['value']:.4f}"
    return Row(f"1:1 protocol, {images:,} images", Spread.of(seconds), "s", goal=LIMIT_S, note=note)


def memory_row(draws: int, templates: int) -> Row:
    """Memory that the 1:1 protocol takes with features that are read from the disk in slices, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        with file.open("wb") as out:
            form = {"descr": "<f4", "fortran_order": False, "shape": (templates, WIDTH)}
            np.lib.format.write_array_header_1_0(out, form)
            for rows in made_up(templates):
                out.write(rows)
        pairs = some_pairs(templates, PAIRS_OF_TEMPLATES * templates // 1_000_000)
        began = time.perf_counter()
        found = {}
        peak = peak_above("cpu", lambda: found.update(evaluated(FeatureFile(file), pairs, draws)))
        seconds = time.perf_counter() - began
    tar = found["tar_at_far_0.0001"]
    note = f"{len(pairs):,} pairs, {seconds:.0f} s, TAR at FAR 1e-4 {tar['value']:.4f}"
    return Row(f"1:1 protocol, {templates:,} templates: memory", Spread.of(peak / 1e6), "MB", goal=LIMIT_MB, note=note)


def template_rows(draws: int, templates: int) -> Iterator[Row]:
    """Both rows."""
    yield time_row(draws, min(IMAGES, templates))
    yield memory_row(draws, templates)
