"""Drawn faces of identical twins, in the folder and JSON format of ND-TWINS: the data when none is attached.

Each image has a mask in the same pose. 255: a mark of this person, every pixel that it touches. 128: a place where the
co-twin has a mark and this person has none. 0: all else; the shape differences are spread over the whole face and are
not in the mask. So `mask == 255` answers "does the hottest patch touch a mark of this sibling" and `mask > 0` "do the
two differ by a mark here". What is measured on these images is about synthetic twins, never accuracy on twins.
"""

import json
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.data.drawn.drawing import difference_mask, draw
from dcal_core.data.drawn.genomes import check, family, nuisance
from dcal_core.progress import progress_line
from dcal_core.storage import disk_errors, write_text

VERSION = 1  # raise it when the drawings change: cached folders are then drawn again
FIRST_PERSON = {"train": 10001, "test": 50001}
MAX_FAMILIES = 19_999  # keeps the ids of the splits apart, and below those of ND-TWINS


def _person(split: str, k: int, sibling: int) -> str:
    return str(FIRST_PERSON[split] + 2 * k + sibling)


def mask_file(file: str) -> str:
    """The name of an image's mask: another one, so that looking for an image by its name never finds a mask."""
    return file.replace(".png", "_mask.png")


def _write_families(root: Path, parameters: dict, families: range) -> int:
    """Write the images and masks of some families; returns how many. Top level: workers import it."""
    split, seed, size = parameters["split"], parameters["seed"], parameters["size"]
    for k in families:
        twins = family(seed, split, k, parameters["difficulty"])
        for sibling, genome in enumerate(twins):
            person = _person(split, k, sibling)
            faces, masks = root / split / person, root / "masks" / split / person
            for folder in (faces, masks):
                folder.mkdir(parents=True, exist_ok=True)
            for i in range(parameters["images_per_person"]):
                pose, file = nuisance(seed, split, k, sibling, i), f"{person}d{i:02d}.png"
                mask = difference_mask(genome, twins[1 - sibling], pose, size)
                Image.fromarray(draw(genome, pose, size)).save(faces / file, compress_level=1)
                Image.fromarray(mask).save(masks / mask_file(file), compress_level=1)
    return len(families)


def end_with_parent() -> None:
    """Let a worker end when the process that started it does, even by a kill: it would wait for work for ever."""
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _clear(root: Path, split: str) -> None:
    """Remove an earlier or interrupted drawing of a split; FileExistsError where it is not a drawing."""
    ours = range(FIRST_PERSON[split], FIRST_PERSON[split] + 2 * MAX_FAMILIES)
    folder, index = root / split, root / f"{split}_dataset_infor.json"
    people = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    people += json.loads(index.read_text()) if index.exists() else []
    for person in people:
        if not (person.isdecimal() and int(person) in ours):
            raise FileExistsError(
                f"{root} holds a {split} split with {person!r}, not drawn here: choose another folder"
            )
    (root / f"{split}_synthetic.json").unlink(missing_ok=True)  # first: what follows may be interrupted
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
    """Draw a split, "train" or "test", into `root`; returns at once where these parameters are drawn already.

    Writes `<split>/<person>/<person>d<NN>.png`, `masks/<split>/<person>/<person>d<NN>_mask.png`, the two index files
    with paths relative to `root`, and last the manifest `<split>_synthetic.json`. `size` in pixels;
    `difficulty` in [0, 1]; `workers` None for one per processor, which changes no pixel (a script that draws
    with several needs the usual `__main__` guard). ValueError on a value out of range, FileExistsError where
    `root` holds real data.
    """
    check(split, seed, difficulty)
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
    manifest = root / f"{split}_synthetic.json"
    if manifest.exists() and json.loads(manifest.read_text()) == parameters:
        return
    _clear(root, split)
    chunks = [range(start, min(start + 4, families)) for start in range(0, families, 4)]
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    write = partial(_write_families, root, parameters)
    # Spawn: a child forked from a process that holds CUDA or threads may hang.
    parallel = workers > 1
    options = {"mp_context": get_context("spawn"), "initializer": end_with_parent}
    pool = ProcessPoolExecutor(workers, **options) if parallel else nullcontext()
    title = f"drawing {split} twins"
    with disk_errors(root), pool, progress_line(total=families, desc=title, unit="family") as progress:
        for written in pool.map(write, chunks) if parallel else map(write, chunks):
            progress.update(written)
    pairs = [[_person(split, k, 0), _person(split, k, 1)] for k in range(families)]
    names = [f"d{i:02d}.png" for i in range(images_per_person)]
    images = {person: [f"{split}/{person}/{person}{name}" for name in names] for pair in pairs for person in pair}
    write_text(root / f"{split}_dataset_infor.json", json.dumps(images, indent=1))
    write_text(root / f"{split}_twin_pairs.json", json.dumps(pairs, indent=1))
    write_text(manifest, json.dumps(parameters, indent=1))  # last


def is_drawn(root: Path) -> bool:
    """Whether a folder holds drawn twins: then every result on them is synthetic, however they were attached."""
    return any(Path(root, f"{split}_synthetic.json").exists() for split in FIRST_PERSON)


def masks_of(root: Path, images: Sequence[Path]) -> np.ndarray:
    """The masks of some drawn images, uint8 [images, size, size] of 0, 128 and 255 (see above)."""
    files = [Path(root, "masks", *image.parts[-3:-1], mask_file(image.name)) for image in map(Path, images)]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def marks_of(root: Path, images: Sequence[Path]) -> np.ndarray:
    """Where the people of some drawn images differ from their co-twins by a mark, bool [images, size, size]."""
    return masks_of(root, images) == 255
