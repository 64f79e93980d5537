"""A loosely aligned copy of an aligned copy: what a worse detector would leave.

    python -m benchmarks.rehearsal.loosen ALIGNED OUT --px 3

Every face is cut anew from its photograph, moved, turned and scaled at random, independently of all others.
"""

import argparse
import math
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.audit.alignment import cut
from dcal_core.data.decoding import open_upright, read_file
from dcal_core.data.drawn.synthetic import manifest_file
from dcal_core.data.locate import PARTS
from dcal_core.data.splits import ALIGNMENT
from dcal_core.errors import UserError
from dcal_core.progress import progress_line
from dcal_core.storage import read_json

SHIFT = 0.011  # largest, share of the side, in each direction, for 1 px of a face of 112
DEGREES = 1.25  # largest turn, for the same
SCALE = 0.0125  # largest change of scale, for the same


def nudge(random: np.random.Generator, side: int, px: float) -> np.ndarray:
    """A random similarity transform about the middle of a face of `side` px, [3, 3], which moves its landmarks by about
    `px` on average, px of 112."""
    middle = (side - 1) / 2
    angle = math.radians(px * random.uniform(-DEGREES, DEGREES))
    scale = 1 + px * random.uniform(-SCALE, SCALE)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = middle + px * side * random.uniform(-SHIFT, SHIFT, 2)
    found = np.eye(3)
    found[:2, :2] = turn
    found[:2, 2] = moved - turn @ (middle, middle)
    return found


def loosen(aligned: Path, target: Path, px: float, seed: int = 0) -> float:
    """Write the copy, a data root itself, and return the mean distance by which landmarks are moved, px; raises
    DamagedError, OSError."""
    random = np.random.default_rng(seed)
    distances = []
    for split in ("train", "test"):
        found = read_json(aligned / f"{split}_aligned_images" / ALIGNMENT)
        side = found["parameters"]["size"]
        for record in progress_line(found["records"], desc=f"loosening {split}", unit="image"):
            if not record["transform"]:
                continue
            transform = np.vstack([record["transform"], (0, 0, 1)])
            change = nudge(random, side, px)
            points = np.column_stack([record["landmarks"], np.ones(5)]) @ transform.T
            distances.append(np.linalg.norm((points @ change.T - points)[:, :2], axis=1).mean())
            photograph = np.asarray(open_upright(read_file(Path(record["photograph"]))))
            file = target / record["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cut(photograph, change @ transform, side)).save(file)
        for file in (*(f"{split}_{part}.json" for part in PARTS), manifest_file(aligned, split).name):
            shutil.copy(aligned / file, target)
    return float(np.mean(distances))


def main() -> int:
    """Loosen the copy that is given; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal.loosen", description=__doc__.split("\n")[0])
    parser.add_argument("aligned", type=Path, help="what `twins prepare --align` has made of drawn photographs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--px", type=float, default=3.0, help="how far landmarks move on average, px of 112")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        distance = loosen(options.aligned, options.out, options.px, options.seed)
    except (UserError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"Landmarks lie {distance:.1f} px from where they were, on average: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
