"""Drawn photographs under the names of given index files: a rehearsal before the real images are there.

They vary more than the small faces of `synthetic`, as photographs of several sessions do: a session of siblings has
its light, background, camera and distance, each of them clothes, and every image its pose, expression and focus. A
detector leaves them about as far from aligned as photographs, 3 px of 112 at each landmark.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dcal_core.data.drawn.genomes import SPLITS, Nuisance, family, nuisance
from dcal_core.data.drawn.synthetic import BLOCK, draw_families, manifest_file, manifests, write_drawing
from dcal_core.data.locate import INDEX_FILES
from dcal_core.data.twins import DataError, TwinIndex, path_parts
from dcal_core.storage import check_room, disk_errors, write_text

VERSION = 1  # raise it when the photographs change
SESSION = 6  # images of a person
TURN = 15.0  # degrees, the most that a head is turned or bent
DEPTH = 0.35  # of the middle of a face in front of its outline, face coordinates
FRAMED = (0.8, 1.0)  # scale of a face in its photograph
QUALITY = (70, 96)  # of a JPEG
BYTES_A_PIXEL = 0.5  # at most


def photograph(
    seed: int, split: str, k: int, sibling: int, image: int, sizes: tuple[int, int]
) -> tuple[Nuisance, int, int]:
    """The pose, light, expression, clothes and focus of an image; its size in px; its quality as a JPEG."""
    place = [seed, SPLITS.index(split), k]
    rng = np.random.default_rng([*place, 1 + sibling, image, 1])
    # Siblings come together: a session has one room and one camera, so that neither tells them apart.
    session = np.random.default_rng([*place, 0, image // SESSION, 2])
    room = nuisance(seed, split, k, 0, image // SESSION)
    worn = nuisance(seed, split, k, sibling, image // SESSION)
    turned, bent = np.radians(np.clip(rng.normal(0, TURN / 2, 2), -TURN, TURN))
    pose = replace(
        nuisance(seed, split, k, sibling, image),
        yaw=DEPTH * math.sin(turned),
        pitch=DEPTH * math.sin(bent),
        narrowing=(math.cos(turned), math.cos(bent)),
        scale=float(session.uniform(*FRAMED) * rng.uniform(0.97, 1.03)),
        blur=float(rng.choice([0.001, 0.003, 0.008], p=[0.6, 0.3, 0.1])),
        light=room.light,
        brightness=room.brightness,
        contrast=room.contrast,
        background=room.background,
        shirt=worn.shirt,
    )
    return pose, int(session.integers(sizes[0], sizes[1] + 1)), int(session.integers(*QUALITY))


def places_below(indexes: Sequence[TwinIndex]) -> list[list[str]]:
    """Where each image lies below a data root: its path without the folders that all share, but with its person's."""
    parts = [[path_parts(path) for path in index.paths] for index in indexes]
    shared = len(os.path.commonprefix([entry[:-2] for split in parts for entry in split]))
    return [["/".join(entry[shared:]) for entry in split] for split in parts]


def _draw_family(root: Path, index: TwinIndex, places: list[str], parameters: dict, k: int) -> None:
    """Draw the images of a family. Top level, because workers import it."""
    seed = parameters["seed"]
    people = np.flatnonzero(index.family_of == k)
    siblings = family(seed, index.name, k, parameters["difficulty"], len(people))
    for sibling, (person, genome) in enumerate(zip(people, siblings, strict=True)):
        for number, image in enumerate(np.flatnonzero(index.person_of == person)):
            pose, size, quality = photograph(seed, index.name, k, sibling, number, parameters["sizes"])
            write_drawing(root, places[image], genome, siblings, pose, size, quality=quality)


def draw_like(
    indexes: Sequence[TwinIndex],
    source: Path,
    root: Path,
    *,
    sizes: tuple[int, int],
    difficulty: float,
    seed: int,
    workers: int | None = None,
) -> None:
    """Draw the people, families and images that index files name into the folder `root`, with a mask for each image as
    in `synthetic`, and copy the index files of the folder `source`; does nothing if that is done.

    sizes: px, the least and the most of a side. difficulty: 0 to 1. DataError if `root` holds anything else than the
    same drawing, whole or interrupted; StorageError if the disk has no room.
    """
    parameters = {"sizes": list(sizes), "difficulty": difficulty, "seed": seed, "photographs_version": VERSION}
    parameters["people"] = [index.fingerprint() for index in indexes]
    if root.is_dir() and any(root.iterdir()) and parameters not in manifests(root):
        raise DataError(f"{root} holds something else: give a new folder, or delete what is in it.")
    if all((root / name).is_file() for name in INDEX_FILES):
        return
    count = sum(len(index.paths) for index in indexes)
    needed = count * (sizes[1] ** 2 * BYTES_A_PIXEL + 2 * BLOCK)
    check_room(root, needed, f"{count:,} photographs of {sizes[1]} px take up to", "give smaller --sizes")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for index in indexes:  # first, so that a drawing that is interrupted can be gone on with
            write_text(manifest_file(root, index.name), json.dumps(parameters, indent=1))
    for index, places in zip(indexes, places_below(indexes), strict=True):
        work = partial(_draw_family, root, index, places, parameters)
        draw_families(root, work, len(index.families), workers, f"drawing {index.name} photographs")
    with disk_errors(root):
        for name in INDEX_FILES:  # last: now the drawing is whole
            shutil.copyfile(source / name, root / name)
