"""A predictor without a network, and pictures for it."""

import io
import json
import threading
import time

import numpy as np
from PIL import Image

from dcal_core.deploy.engine import ABOUT_FILE, FORMAT
from dcal_core.deploy.predictor import Predictor
from dcal_core.models.files import save_tensors
from dcal_core.storage import digest

SIZE = 16
RULE = {
    "data": "TWINS",
    "co_twins": True,
    "weights": "0" * 64,
    "families": 20,
    "threshold": {"value": -20.0},
    "verdict": {"different_below": -40.0, "same_from": -10.0, "error": 0.05},
    "calibration": {"kind": "logistic", "slope": 0.1, "intercept": 2.0, "families": 20},
    "strangers": {"kind": "logistic", "slope": 0.2, "intercept": 6.0, "families": 20},
}
ABOUT = {
    "format": FORMAT,
    "image_size": SIZE,
    "fit": "stretch",
    "landmarks": [[0.3, 0.45], [0.7, 0.45], [0.5, 0.65], [0.35, 0.8], [0.65, 0.8]],
    "architecture": {},
    "decision": RULE,
    "range": None,
    "label": "TWINS",
    "provenance": {"weights": "0" * 64},
}


class ColourEngine:
    """Describes a face by the mean colours of its quarters, and compares by their distance; counts what it encodes.

    shared: the digits of a row depend on all others, as far as a network's may.
    """

    def __init__(self, **changes):
        self.about = ABOUT | changes
        self.encoded = 0
        self.batches = set()
        self.lock = threading.Lock()

    def encode(self, faces):
        assert faces.dtype == np.uint8 and faces.shape[1:] == (SIZE, SIZE, 3)
        with self.lock:
            self.encoded += len(faces)
            self.batches.add(len(faces))
        time.sleep(0)  # lets another thread in
        half = SIZE // 2
        quarters = faces.reshape(len(faces), 2, half, 2, half, 3).mean((2, 4)).reshape(len(faces), 12)
        return (quarters + len(faces) * 1e-3).astype(np.float32)

    def compare_pairs(self, a, b):
        return -np.abs(a.astype(np.float64) - b).mean(1)


def predictor(find_faces=False, cache=None, **changes) -> Predictor:
    """A predictor with a ColourEngine."""
    return Predictor(ColourEngine(**changes), find_faces, cache)


def packed(folder, model, **changes):
    """A packed folder as small as it can be."""
    weights = folder / "model.safetensors"
    save_tensors(weights, model.state_dict())
    about = {
        "format": FORMAT,
        "image_size": model.image_size,
        "fit": "stretch",
        "landmarks": None,
        "architecture": model.architecture,
        "decision": {},
        "range": None,
        "label": "SYNTHETIC",
        "provenance": {"weights": digest(weights)},
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about | changes))
    return folder


def picture(seed: int, side: int = 24) -> Image.Image:
    """A smooth picture, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def written(folder, count: int, ending: str = "png") -> list:
    """So many pictures as files."""
    files = [folder / f"{number:03d}.{ending}" for number in range(count)]
    for number, file in enumerate(files):
        picture(number).save(file)
    return files


def data_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
