"""`python -m benchmarks.scaling`: what an image and a pair cost one core, by processor time, and in bytes; for
`docs/scaling.md`. Weights are random, and faces are drawn: neither changes what they cost."""

import argparse
import io
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.report import device_name
from benchmarks.speed.verifying import RULE
from dcal_core.config.dcal import DCALConfig
from dcal_core.data.drawn.drawing import draw
from dcal_core.data.drawn.genomes import family, nuisance
from dcal_core.deploy.cache import Described, FeatureCache, restored, stored
from dcal_core.deploy.engine import ABOUT_FILE, FORMAT
from dcal_core.deploy.faces import FaceReader
from dcal_core.deploy.inputs import source_of
from dcal_core.deploy.pair_job import compare_all, table_of
from dcal_core.deploy.pair_sources import PairSource, listed_pairs
from dcal_core.deploy.predictor import Predictor
from dcal_core.models.files import save_tensors
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import digest

MODELS = {
    "demo (hybrid_tiny, 64 px)": {"backbone": "hybrid_tiny", "image_size": 64, "readout": "local_tokens"},
    "ViT-S/16, 224 px": {"backbone": "vit_small_patch16_224", "image_size": 224},
}
PHOTOGRAPHS = {"aligned face, JPEG of 112 px": 112, "photograph, JPEG of 600 px": 600}
LANDMARKS = [[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]]
MEASURES = {"sharpness": 0.5, "light": 120.0, "contrast": 40.0, "confidence": 0.9, "face_px": 90.0, "turn_deg": 2.0}
BATCH = 32
IN_TASK = 256  # images, as in deploy/ray_job.py
IN_JOB = 450  # images, whose pairs are all compared
IMAGES = 2000


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor seconds of a call, after one that is not counted."""
    work()
    took = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return float(np.median(took))


def packed(folder: Path, values: dict) -> Path:
    """A packed folder with random weights."""
    config = DCALConfig(allow_random_init=True, **values)
    model = new_model(config, [])
    save_tensors(folder / "model.safetensors", model.state_dict())
    about = {"format": FORMAT, "image_size": config.image_size, "fit": "stretch", "landmarks": None, "range": None}
    about |= {"architecture": model.architecture, "decision": RULE, "label": "SYNTHETIC"}
    about |= {"provenance": {"weights": digest(folder / "model.safetensors")}}
    (folder / ABOUT_FILE).write_text(json.dumps(about))
    return folder


def reading_rows() -> Iterator[tuple[str, str]]:
    """A file to the pixels that the network takes, without and with looking for the face."""
    genome = family(0, "test", 0, 0.5)[0]
    for name, side in PHOTOGRAPHS.items():
        pixels = draw(genome, nuisance(0, "test", 0, 0, 0), side)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=92)
        data = file.getvalue()
        for find in (False, True):
            reader = FaceReader(112, "stretch", LANDMARKS, find)
            took = seconds(lambda reader=reader, data=data: reader.read(source_of(data)), 30)
            how = "face found and aligned" if find else "taken as aligned"
            yield f"reading: {name}, {len(data):,} bytes, {how}", f"{1000 * took:.1f} ms"


def model_rows(name: str, predictor: Predictor) -> Iterator[tuple[str, str]]:
    """An image and a pair of one model."""
    side = predictor.reader.size
    faces = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    took = seconds(lambda: predictor.engine.encode(faces), 5) / BATCH
    yield f"{name}: encoding an image", f"{1000 * took:.1f} ms"
    width = predictor.engine.encode(faces).shape[1]
    yield f"{name}: descriptor", f"{4 * width:,} bytes"
    random = np.random.default_rng(0)
    names = [f"people/{number:06d}/{number:02d}.jpg" for number in range(IN_JOB)]
    rows = random.standard_normal((IN_JOB, width)).astype(np.float32)

    def known(*_) -> Iterator[tuple[int, Described]]:
        for place, row in enumerate(rows):
            yield place, Described(row, f"{place:064x}", dict(MEASURES))

    count = IN_JOB * (IN_JOB - 1) // 2
    source = PairSource(names, Path(), count, "", "", IN_JOB)
    out = io.StringIO(newline="")

    def written() -> None:
        out.seek(0)
        compare_all(predictor, source, out, 0, count, known)

    took = seconds(written, 3) / count
    yield f"{name}: a pair, from listing it to its row", f"{1e6 * took:.1f} µs, {1 / took:,.0f} a second"
    yield f"{name}: row of a result", f"{out.tell() / count:.0f} bytes"


def job_rows(predictor: Predictor, folder: Path) -> Iterator[tuple[str, str]]:
    """What a job keeps of an image beside its descriptor, and what a list of pairs costs before any is compared."""
    names = [f"people/{number:06d}/{number:02d}.jpg" for number in range(20_000)]
    row = np.zeros(1, np.float32)
    tracemalloc.start()
    source = PairSource([str(Path(name)) for name in names], Path(), 1, "", "", len(names))
    known = ((place, Described(row, f"{place:064x}", dict(MEASURES))) for place in range(len(names)))
    table = table_of(predictor, source, np.arange(len(names)), lambda *_: known)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    yield "memory of a job beside the descriptor, an image", f"{used / len(table.described):,.0f} bytes"
    cache = FeatureCache(file=folder / "cache")
    one = Described(np.zeros(256, np.float32), f"{0:064x}", MEASURES)
    for start in range(0, IMAGES, BATCH):
        cache.put({f"{0:064x}/32/{place:064x}": one for place in range(start, start + BATCH)})
    cache.close()
    beside = (folder / "cache").stat().st_size / IMAGES - 1024
    yield "cache file beside the descriptor, an image", f"{beside:,.0f} bytes"
    key = f"{0:064x}/32/{0:064x}"
    yield "message of a Ray worker beside the descriptor, an image", f"{len(stored(one)[1]) + len(key):,} bytes"
    sent = [stored(one)] * IN_TASK
    cache = FeatureCache(file=folder / "taken")
    took = seconds(lambda: cache.put({f"{key}{n}": restored(*row) for n, row in enumerate(sent)}), 10) / IN_TASK
    cache.close()
    yield "taking what a Ray worker sends, an image", f"{1e6 * took:.0f} µs"
    random = np.random.default_rng(0)
    text = "".join(f"{names[a]},{names[b]}\n" for a, b in random.integers(0, len(names), (200_000, 2)))
    took = seconds(lambda: listed_pairs(text.encode(), "list", Path()), 3) / 200_000
    yield f"reading a list, a pair of {len(text) / 200_000:.0f} bytes", f"{1e6 * took:.2f} µs"
    listed = listed_pairs(text.encode(), "list", Path())
    took = seconds(lambda: sum(1 for _ in listed.places(0, 200_000)), 3) / 200_000
    yield "passing over a pair of a list", f"{1e6 * took:.2f} µs"
    took = seconds(lambda: sum(1 for _ in islice(source.places(0, 10**6), 10**6)), 3) / 1e6
    yield "passing over a pair of a folder", f"{1e6 * took:.3f} µs"


def main() -> None:
    argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__).parse_args()
    torch.set_num_threads(1)
    print(f"{device_name()}, one thread, load {os.getloadavg()[0]:.1f}; by processor time\n")
    print("| what | measured |\n|---|---|")
    for name, measured in reading_rows():
        print(f"| {name} | {measured} |", flush=True)
    for name, values in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            predictor = Predictor.load(packed(Path(folder), values), find_faces=False)
            for row in model_rows(name, predictor):
                print(f"| {row[0]} | {row[1]} |", flush=True)
            if name == next(iter(MODELS)):
                for row in job_rows(predictor, Path(folder)):
                    print(f"| {row[0]} | {row[1]} |", flush=True)


if __name__ == "__main__":
    main()
