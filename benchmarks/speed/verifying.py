"""Rows on a packed model of the demo's size: from the start of `twins verify` to its answer, and pairs of a list."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

import dcal_core
from benchmarks.speed.memory import peak_above
from benchmarks.speed.subjects import Setting
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.commands.pack import write_quick
from dcal_core.config.dcal import DCALConfig
from dcal_core.deploy.engine import ABOUT_FILE, FORMAT, ONNX_FILE
from dcal_core.deploy.pair_job import compare_all, table_of
from dcal_core.deploy.pair_sources import PairSource, listed_pairs
from dcal_core.deploy.predictor import Predictor
from dcal_core.models.files import save_tensors
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import WEIGHTS_FILE
from dcal_core.storage import digest

SIDE = 64  # px
PAIRS_OF_AN_IMAGE = 50
RULE = {
    "data": "SYNTHETIC",
    "weights": "",
    "families": 30,
    "threshold": {"value": 0.5},
    "verdict": {"different_below": 0.4, "same_from": 0.6, "error": 0.05},
    "calibration": {"kind": "logistic", "slope": 20.0, "intercept": -10.0, "families": 30},
    "strangers": {"kind": "logistic", "slope": 20.0, "intercept": -9.0, "families": 30},
}


def packed_model(folder: Path) -> Path:
    """A packed folder of the demo's model with random weights, also as ONNX where the packages for that are there."""
    config = DCALConfig(backbone="hybrid_tiny", image_size=SIDE, readout="local_tokens", allow_random_init=True)
    model = new_model(config, [])
    weights = folder / WEIGHTS_FILE
    save_tensors(weights, model.state_dict())
    about = {"format": FORMAT, "image_size": SIDE, "fit": "stretch", "landmarks": None, "range": None}
    about |= {"architecture": model.architecture, "decision": RULE, "label": "SYNTHETIC"}
    about |= {"provenance": {"weights": digest(weights)}}
    (folder / ABOUT_FILE).write_text(json.dumps(about))
    write_quick(folder, np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8))
    return folder


def listed(folder: Path, pairs: int) -> PairSource:
    """A list of random pairs of random pictures, PAIRS_OF_AN_IMAGE times as many as pictures."""
    random = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(max(2, pairs // PAIRS_OF_AN_IMAGE))]
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name)
    places = random.integers(0, len(names), (pairs, 2))
    return listed_pairs("".join(f"{names[a]},{names[b]}\n" for a, b in places).encode(), "list", folder)


def run_python(*arguments: str | Path) -> None:
    """Run a process of Python to its end, which may be a verdict; RuntimeError where it fails."""
    root = Path(dcal_core.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    if done.returncode > 2:
        raise RuntimeError(done.stderr.decode())


def childrens_s() -> float:
    """Processor seconds of all processes that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def starting_rows(model: Path, images: list[Path], repeats: int) -> Iterator[Row]:
    """From the start of `twins verify` to its answer on a packed model, beside `import torch`, by processor time."""
    verify = "-m", "dcal_core", "verify", *images, "--aligned", "--model"
    works = {"import torch": partial(run_python, "-c", "import torch")}
    works["PyTorch"] = partial(run_python, *verify, model / WEIGHTS_FILE)
    if (model / ONNX_FILE).is_file():
        works["onnxruntime"] = partial(run_python, *verify, model)
    figures = alternate(works, repeats, warmups=0, clock=childrens_s)
    for name, goal in (("PyTorch", 2.5), ("onnxruntime", 1.0)):
        if name in works:
            row = f"twins verify A B, start to answer, with {name}"
            yield Row(row, Spread.of(figures[name]), "s", goal=goal, note="by processor time")
            yield ratio(f"{row} / import torch", figures, name, "import torch")


def verifying_rows(setting: Setting) -> Iterator[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = packed_model(folder)
        source = listed(folder, setting.records)
        images = [folder / name for name in islice(source.names, 2)]
        yield from starting_rows(model, images, setting.repeats)
        predictor = Predictor.load(model, find_faces=False)
        chosen = np.arange(len(source.names))
        table_of(predictor, source, chosen)  # encodes
        began = time.process_time()
        table_of(predictor, source, chosen)  # from the cache
        known = time.process_time()
        with open(os.devnull, "w") as nowhere:
            peak = peak_above("cpu", lambda: compare_all(predictor, source, nowhere, 0, source.count))
        speed = source.count / max(time.process_time() - known - (known - began), 1e-9)
        name = f"a list of {source.count:,} pairs of {len(chosen):,} images, after encoding"
        note = "by processor time"
        yield Row(f"{name}: pairs", Spread.of(speed), "/s", goal=50_000, at_least=True, note=note)
        yield Row(f"{name}: memory", Spread.of(peak / 1e6), "MB", goal=200)
