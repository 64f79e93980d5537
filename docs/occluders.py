"""Draws docs/occluders.jpg: every kind of occluder on drawn twins, each face beside what of it stays visible.

python docs/occluders.py            writes the picture
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.data.drawn.drawing import draw
from dcal_core.data.drawn.genomes import family, nuisance
from dcal_core.data.landmarks import DRAWN
from dcal_core.data.occlusion import KINDS, occlude

PICTURE = Path(__file__).parent / "occluders.jpg"
SIZE, FAMILIES = 112, 3


def row(number: int, kind: str) -> np.ndarray:
    """Both twins of some families behind a kind of occluder, each beside its visibility, [S, 12 S, 3]."""
    tiles = []
    for k in range(FAMILIES * number, FAMILIES * (number + 1)):
        for sibling, genome in enumerate(family(0, "test", k, 0.5)):
            face = draw(genome, nuisance(0, "test", k, sibling, 0), SIZE).transpose(2, 0, 1)
            image, visible = occlude(face, kind, np.random.default_rng((k, sibling)), DRAWN)
            tiles += [image, np.repeat(visible[None] * np.uint8(255), 3, axis=0)]
    return np.concatenate(tiles, axis=2).transpose(1, 2, 0)


if __name__ == "__main__":
    Image.fromarray(np.concatenate([row(*one) for one in enumerate(KINDS)])).save(PICTURE, quality=80)
