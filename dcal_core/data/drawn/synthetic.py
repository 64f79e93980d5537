"""Drawn faces of identical twins, in the folder and JSON format of ND-TWINS: the data when none is attached.

Each image has a mask in the same pose. 255: every pixel that a mark of this person touches. 128: pixels of the
co-twin's marks. 0: everything else; the differences in shape are spread over the whole face and not part of the mask.
So `mask == 255` answers "does the hottest patch touch a mark of this sibling", `mask > 0` "do the two differ by a mark
here". Results on these images are about synthetic twins; they are never accuracy on twins.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.data.drawn.drawing import difference_mask, draw
from dcal_core.data.drawn.genomes import SPLITS, Genome, Nuisance, family, nuisance
from dcal_core.data.processes import in_processes
from dcal_core.progress import progress_line
from dcal_core.storage import check_room, disk_errors, read_json, write_text

VERSION = 1  # raise it when the drawings change, so that cached folders are drawn again
FIRST_PERSON = {"train": 10001, "test": 50001}
BLOCK = 4096  # bytes of a disk that the smallest file takes
MAX_FAMILIES = 19_999  # keeps the ids of the splits apart and below those of ND-TWINS


def _person(split: str, k: int, sibling: int) -> str:
    return str(FIRST_PERSON[split] + 2 * k + sibling)


def mask_file(root: Path, image: str | Path) -> Path:
    """The file of a drawn image's mask, with a name that a search for the image does not find. image: an absolute path,
    or one from `root` on."""
    place = Path(os.path.relpath(Path(root, image), root))
    return Path(root, "masks", place.parent, f"{place.stem}_mask.png")


def manifest_file(root: Path, split: str) -> Path:
    """The file that says how a split was drawn."""
    return root / f"{split}_synthetic.json"


def _write_family(root: Path, parameters: dict, k: int) -> None:
    """Write the images and masks of a family. Top level, because workers import it."""
    split = parameters["split"]
    seed = parameters["seed"]
    size = parameters["size"]
    twins = family(seed, split, k, parameters["difficulty"])
    for sibling, genome in enumerate(twins):
        person = _person(split, k, sibling)
        for i in range(parameters["images_per_person"]):
            pose = nuisance(seed, split, k, sibling, i)
            write_drawing(root, f"{split}/{person}/{person}d{i:02d}.png", genome, twins, pose, size, compress_level=1)


def write_drawing(
    root: Path, image: str, genome: Genome, siblings: Sequence[Genome], pose: Nuisance, size: int, **how
) -> None:
    """Write an image of one of the siblings below `root`, and its mask. how: options of Pillow for the image."""
    mask = mask_file(root, image)
    for file in (root / image, mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    others = [sibling for sibling in siblings if sibling is not genome]
    Image.fromarray(draw(genome, pose, size)).save(root / image, **how)
    Image.fromarray(difference_mask(genome, others, pose, size)).save(mask, compress_level=1)


def _clear(root: Path, split: str) -> None:
    """Remove an earlier or interrupted drawing of a split; FileExistsError if it is not a drawing."""
    ours = range(FIRST_PERSON[split], FIRST_PERSON[split] + 2 * MAX_FAMILIES)
    folder = root / split
    index = root / f"{split}_dataset_infor.json"
    people = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    people += json.loads(index.read_text()) if index.exists() else []
    if others := [person for person in people if not (person.isdecimal() and int(person) in ours)]:
        raise FileExistsError(f"{root} holds a {split} split with {others[0]!r}, not drawn here: choose another folder")
    manifest_file(root, split).unlink(missing_ok=True)  # first: what follows may be interrupted
    for drawn in (folder, root / "masks" / split):
        if drawn.exists():
            shutil.rmtree(drawn)


def generate(
    root: Path,
    *,
    split: str,
    families: int,
    images_per_person: int,
    size: int,
    difficulty: float,
    seed: int,
    workers: int | None = None,
) -> None:
    """Draw a split, "train" or "test", into `root`; does nothing if it has been drawn with the same parameters.

    Writes `<split>/<person>/<person>d<NN>.png`, `masks/<split>/<person>/<person>d<NN>_mask.png`, the two index files
    with paths relative to `root`, and last the manifest `<split>_synthetic.json`. size: px. difficulty: 0 to 1.
    workers: processes, None for one per processor; their number changes no pixel, and a script that uses several needs
    a `__main__` guard. ValueError for a value out of range, FileExistsError if `root` holds real data.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed={seed}: give 0 or more")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty={difficulty}: give 0 (large marks) to 1 (tiny marks); 0.5 is the default")
    for name, value, low, high in (
        ("families", families, 1, MAX_FAMILIES),
        ("images_per_person", images_per_person, 1, 999),
        ("size", size, 16, 2048),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}={value}: give {low} to {high}")
    root = Path(root)
    parameters = dict(split=split, families=families, images_per_person=images_per_person, size=size)
    parameters |= dict(difficulty=float(difficulty), seed=seed, generator_version=VERSION)
    manifest = manifest_file(root, split)
    if manifest.exists() and json.loads(manifest.read_text()) == parameters:
        return
    _clear(root, split)
    count = 2 * families * images_per_person
    needed = count * (3 * size * size + 2 * BLOCK)
    check_room(root, needed, f"{count:,} drawn images of {size} px with their masks take up to", "draw fewer families")
    draw_families(root, partial(_write_family, root, parameters), families, workers, f"drawing {split} twins")
    pairs = [[_person(split, k, 0), _person(split, k, 1)] for k in range(families)]
    names = [f"d{i:02d}.png" for i in range(images_per_person)]
    images = {person: [f"{split}/{person}/{person}{name}" for name in names] for pair in pairs for person in pair}
    write_text(root / f"{split}_dataset_infor.json", json.dumps(images, indent=1))
    write_text(root / f"{split}_twin_pairs.json", json.dumps(pairs, indent=1))
    write_text(manifest, json.dumps(parameters, indent=1))  # last: now the drawing is complete


def draw_families(root: Path, work: Callable[[int], None], count: int, workers: int | None, title: str) -> None:
    """Let `work` draw families 0 to count - 1 into `root`. workers: processes, None for one per processor."""
    workers = min(workers or os.cpu_count() or 1, math.ceil(count / 4))
    drawn = in_processes(work, range(count), workers=workers)
    with disk_errors(root):
        for _ in progress_line(drawn, total=count, desc=title, unit="family"):
            pass


def manifests(root: Path) -> list[dict]:
    """How the splits of a folder were drawn; empty for a folder of other data."""
    files = [manifest_file(Path(root), split) for split in SPLITS]
    return [read_json(file) for file in files if file.is_file()]


def is_drawn(root: Path) -> bool:
    """Whether a folder holds drawn twins."""
    return bool(manifests(root))


def is_photographed(root: Path) -> bool:
    """Whether a folder holds drawn photographs, or the faces that alignment has made of them."""
    return any("photographs_version" in manifest for manifest in manifests(root))


def masks_of(root: Path, images: Sequence[str | Path], size: int) -> np.ndarray:
    """The masks of drawn images, uint8 [images, size, size] of 0, 128 and 255 (see the top of this file)."""
    masks = [Image.open(mask_file(root, image)).resize((size, size), Image.NEAREST) for image in images]
    return np.stack(list(map(np.asarray, masks)))


def marks_of(root: Path, images: Sequence[str | Path], size: int) -> np.ndarray:
    """The pixels of drawn images that a mark of their person touches, bool [images, size, size]."""
    return masks_of(root, images, size) == 255
