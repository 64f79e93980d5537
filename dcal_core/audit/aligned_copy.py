"""An aligned copy of a data set: the faces of its photographs, in a folder that is a data root itself.

    train_aligned_images/<person>/<file>.png    test_aligned_images/...     the faces
    train_aligned_images/alignment.json         test_aligned_images/...     a record of each photograph
    id_to_train_aligned_images.json             id_to_test_...              person to faces
    train_dataset_infor.json, train_twin_pairs.json, test_...               the index files that training reads

A rerun aligns only new and changed photographs; an interruption loses the last chunk at most.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.audit.alignment import FaceAligner, NoFace
from dcal_core.audit.detector import face_weights, opencv, versions
from dcal_core.data.drawn.synthetic import end_with_parent
from dcal_core.data.exclusions import image_names
from dcal_core.data.images import Unreadable, decode, open_upright
from dcal_core.data.locate import PARTS, find_images
from dcal_core.data.twins import DataError, TwinIndex, name_some, path_parts
from dcal_core.progress import progress_line
from dcal_core.storage import UNFINISHED, DamagedError, digest, disk_errors, read_json, whole_file, write_text

VERSION = 1  # raise it when alignment changes, so that all faces are aligned again
RECORDS = "alignment.json"
CHUNK = 256  # photographs after which the records are written
WORTH_A_WORKER = 64  # photographs per worker process, which takes seconds to start
ALIGNED = "aligned"
KEPT = "kept"
DROPPED = "dropped"


@dataclass(frozen=True)
class Record:
    """The result for one photograph; px of the upright photograph, with (0, 0) at the centre of the first one."""

    image: str  # as an exclusion list names it
    person: str
    photograph: str  # its file; empty if there is none
    photograph_digest: str  # SHA-256; empty if it cannot be read
    file: str  # the face, below the data root; empty if the photograph is dropped
    file_digest: str
    status: str  # ALIGNED, KEPT (resized whole) or DROPPED
    reason: str = ""  # why it is not aligned
    score: float | None = None  # of the detector, 0 to 1
    box: list | None = None  # x, y, width, height
    landmarks: list | None = None  # [5][2]
    faces: int = 0  # in the photograph
    transform: list | None = None  # [2][3], from the photograph to the face


def align_split(
    index: TwinIndex, root: Path, target: Path, *, size: int, missing: str, workers: int | None = None
) -> list[Record]:
    """Align the photographs of a split, "train" or "test", below `root` into the data root `target`; returns the
    records in index order.

    size: px, the side of a face. missing: "drop" leaves photographs without a face out, "keep" resizes them whole.
    workers: processes, None for as many as pay off; their number changes no pixel, and a script that uses several needs
    a `__main__` guard. DataError if two faces would get the same name or a person has no face.
    """
    faces = target / f"{index.name}_aligned_images"
    parameters = {"version": VERSION, "size": size, "missing": missing, **versions()}
    face_weights()  # so that a missing package or damaged weights end here and not in a worker
    with disk_errors(target):
        faces.mkdir(parents=True, exist_ok=True)
    for unfinished in faces.rglob(f"*.png{UNFINISHED}"):  # left by an interruption
        unfinished.unlink()
    tasks = _tasks(index, root)
    made_with, before = _read_records(faces / RECORDS)
    current = before if made_with == parameters else {}
    done = dict(current)
    with disk_errors(target), progress_line(total=len(tasks), desc=f"aligning {index.name}", unit="image") as progress:
        for number, record in enumerate(_aligned(tasks, current, target, parameters, workers), start=1):
            done[record.image] = record
            progress.update()
            if number % CHUNK == 0:
                _write_records(faces / RECORDS, parameters, done.values())
    records = [done[task.image] for task in tasks]
    _write_records(faces / RECORDS, parameters, records)
    _write_index(index, target, records)
    for file in {record.file for record in before.values()} - {record.file for record in records} - {""}:
        (target / file).unlink(missing_ok=True)  # faces of people or photographs that are no longer listed
    return records


@dataclass(frozen=True)
class _Task:
    """A photograph to align: the files that fit its entry, normally one, and the file of the face."""

    image: str
    person: str
    places: tuple[str, ...]
    file: str


def _tasks(index: TwinIndex, root: Path) -> list[_Task]:
    found = find_images(index, root)
    tasks = []
    owner = {}
    for number, name in enumerate(image_names(index.paths)):
        person = index.people[index.person_of[number]]
        path = index.paths[number]
        if path_parts(person) != (person,) or person == "..":
            raise DataError(f"{index.name}: person {person!r:.60} cannot be a folder's name: write another id.")
        file = f"{index.name}_aligned_images/{person}/{Path(path_parts(path)[-1]).stem}.png"
        if (other := owner.setdefault(file.casefold(), name)) != name:
            raise DataError(f"{index.name}: {other!r} and {name!r} would both become {file}: rename one of them.")
        tasks.append(_Task(name, person, tuple(found.get(number, ())), file))
    return tasks


def _aligned(
    tasks: Sequence[_Task], before: dict[str, Record], target: Path, parameters: dict, workers: int | None
) -> Iterator[Record]:
    """The records of the tasks, in order; several processes align them if that pays off."""
    workers = workers or min(os.cpu_count() or 1, math.ceil(len(tasks) / WORTH_A_WORKER))
    work = functools.partial(_align, target=target, size=parameters["size"], missing=parameters["missing"])
    known = [before.get(task.image) for task in tasks]
    if workers == 1:
        yield from map(work, tasks, known)
        return
    # Spawn, because a child forked from a process with CUDA or threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        yield from pool.map(work, tasks, known, chunksize=4)


def _begin_worker() -> None:
    end_with_parent()
    opencv().setNumThreads(1)  # the processes share the cores


@functools.cache
def _aligner() -> FaceAligner:
    return FaceAligner()


def _align(task: _Task, before: Record | None, target: Path, size: int, missing: str) -> Record:
    """Align one photograph, unless its record is of the same file. Top level, because workers import it."""
    record = Record(task.image, task.person, "", "", "", "", DROPPED)
    if len(task.places) != 1:
        several = f"several files fit: {' and '.join(task.places[:2])}"
        return replace(record, reason=several if task.places else "no such file")
    record = replace(record, photograph=task.places[0])
    try:
        data = Path(record.photograph).read_bytes()
    except OSError as error:
        return replace(record, reason=f"cannot be read: {error.strerror}")
    record = replace(record, photograph_digest=hashlib.sha256(data).hexdigest())
    if before and before.photograph_digest == record.photograph_digest and _is_whole(before, task, target):
        return replace(before, photograph=record.photograph)
    try:
        image = np.asarray(open_upright(data))
        face, found = _aligner().align(image, size)
    except Unreadable as reason:
        return replace(record, reason=str(reason))
    except NoFace as reason:
        record = replace(record, reason=str(reason), status=KEPT if missing == "keep" else DROPPED)
        if record.status == DROPPED:
            return record
        face = decode(data, size).transpose(1, 2, 0)  # [S, S, 3]
    else:
        values = {"box": found.box, "landmarks": found.landmarks, "transform": found.transform(size)[:2]}
        values = {name: np.round(value, 4).tolist() for name, value in values.items()}
        record = replace(record, status=ALIGNED, score=round(found.score, 4), faces=found.faces, **values)
    return replace(record, file=task.file, file_digest=_write_face(face, target / task.file))


def _is_whole(record: Record, task: _Task, target: Path) -> bool:
    """Whether the face of a record is unchanged, or the record rightly has none."""
    if record.status == DROPPED:
        return True
    face = target / task.file
    return record.file == task.file and face.is_file() and digest(face) == record.file_digest


def _write_face(face: np.ndarray, file: Path) -> str:
    """Write a face as PNG, whole or not at all; returns the file's SHA-256."""
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as new:
        Image.fromarray(face).save(new, "PNG", compress_level=1)
    return digest(file)


def _read_records(file: Path) -> tuple[dict, dict[str, Record]]:
    """The parameters and the records by image of an earlier alignment; empty if there is none or it is damaged."""
    if not file.exists():
        return {}, {}
    try:
        found = read_json(file)
        records = [Record(**record) for record in found["records"]]
        files = [record.file for record in records if record.file]
        if outside := [name for name in files if not _is_below(file.parents[1] / name, file.parent)]:
            raise DamagedError(f"{outside[0]!r:.60} lies elsewhere")
        return found["parameters"], {record.image: record for record in records}
    except (DamagedError, KeyError, TypeError) as error:
        print(f"{file} is damaged ({error}): all its photographs are aligned again.")
        return {}, {}


def _is_below(file: Path, folder: Path) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _write_records(file: Path, parameters: dict, records: Sequence[Record]) -> None:
    lines = ",\n".join(json.dumps(asdict(record)) for record in records)
    write_text(file, f'{{"parameters": {json.dumps(parameters)},\n"records": [\n{lines}\n]}}\n')


def _write_index(index: TwinIndex, target: Path, records: Sequence[Record]) -> None:
    """Write the faces of each person under the names that alignment and training use, and the pairs; DataError for a
    person without a face."""
    faces = {person: [r.file for r in records if r.person == person and r.file] for person in index.people}
    if emptied := [person for person, files in faces.items() if not files]:
        raise DataError(
            f"{index.name}: no aligned face of {name_some(emptied, 'person', 'people')} is left, see {RECORDS}: keep "
            "photographs without a face (align_missing=keep), add some, or unlist the person."
        )
    pairs = [pair for family in index.families for pair in combinations(family, 2)]
    images_json, pairs_json = (f"{index.name}_{part}.json" for part in PARTS)
    write_text(target / f"id_to_{index.name}_aligned_images.json", json.dumps(faces, indent=1))
    write_text(target / pairs_json, json.dumps(pairs, indent=1))
    write_text(target / images_json, json.dumps(faces, indent=1))
