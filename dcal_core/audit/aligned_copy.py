"""A split's photographs as aligned faces, in a folder that is a data root itself.

    train_aligned_images/<person>/<file>.png    test_aligned_images/...     the faces
    train_aligned_images/alignment.json         test_aligned_images/...     what became of each photograph
    id_to_train_aligned_images.json             id_to_test_...              person to faces
    train_dataset_infor.json, train_twin_pairs.json, test_...               the index files that training reads

Only photographs that are new or have changed are looked at again; an interruption costs those of the last chunk.
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

VERSION = 1  # raise it when faces are found or cut otherwise: what was aligned before is then made anew
RECORDS = "alignment.json"
CHUNK = 256  # photographs between two writings of the records
WORTH_A_WORKER = 64  # photographs; a process takes seconds to start
ALIGNED, KEPT, DROPPED = "aligned", "kept", "dropped"


@dataclass(frozen=True)
class Record:
    """What became of one photograph; px of the upright photograph, (0, 0) the centre of the first."""

    image: str  # as an exclusion list names it
    person: str
    photograph: str  # its file; empty where there is none
    photograph_digest: str  # SHA-256; empty where it cannot be read
    file: str  # the face, below the data root; empty where the photograph is dropped
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
    """Align the photographs of a split, "train" or "test", which lie under `root`, into the data root `target`; returns
    the records in the order of the index.

    Faces are `size` x `size` px. A photograph without a face is left out where `missing` is "drop" and resized whole
    where it is "keep". `workers`: processes, None for as many as pay, which change no pixel (a script that uses several
    needs the usual `__main__` guard). ConfigError where a package is missing, DataError where two faces would get one
    name or a person is left without any, StorageError where the disk is full.
    """
    faces = target / f"{index.name}_aligned_images"
    parameters = {"version": VERSION, "size": size, "missing": missing, **versions()}
    face_weights()  # here, where damage ends in a sentence, and not in a worker
    with disk_errors(target):
        faces.mkdir(parents=True, exist_ok=True)
    for unfinished in faces.rglob(f"*.png{UNFINISHED}"):  # an interruption's
        unfinished.unlink()
    tasks, (made_with, before) = _tasks(index, root), _read_records(faces / RECORDS)
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
        (target / file).unlink(missing_ok=True)  # of people or photographs that are no longer listed
    return records


@dataclass(frozen=True)
class _Task:
    """A photograph to be aligned: files that fit its entry, one where all is well, and the face's file."""

    image: str
    person: str
    places: tuple[str, ...]
    file: str


def _tasks(index: TwinIndex, root: Path) -> list[_Task]:
    found, tasks, owner = find_images(index, root), [], {}
    for number, name in enumerate(image_names(index.paths)):
        person, path = index.people[index.person_of[number]], index.paths[number]
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
    """The records of the tasks, in order, by several processes where that pays."""
    workers = workers or min(os.cpu_count() or 1, math.ceil(len(tasks) / WORTH_A_WORKER))
    work = functools.partial(_align, target=target, size=parameters["size"], missing=parameters["missing"])
    known = [before.get(task.image) for task in tasks]
    if workers == 1:
        yield from map(work, tasks, known)
        return
    # Spawn: a child forked from a process that holds CUDA or threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        yield from pool.map(work, tasks, known, chunksize=4)


def _begin_worker() -> None:
    end_with_parent()
    opencv().setNumThreads(1)  # the processes share the cores out


@functools.cache
def _aligner() -> FaceAligner:
    return FaceAligner()


def _align(task: _Task, before: Record | None, target: Path, size: int, missing: str) -> Record:
    """Align one photograph, unless its record and its face are of the very same file. Top level: workers import it."""
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
    """Whether the face of a record lies where it should, byte for byte, or is rightly not there."""
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
    """The parameters and the records, by image, of an earlier alignment; none of either where it is not to be used."""
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
        print(f"{file} is damaged ({error}): all its photographs are aligned anew.")
        return {}, {}


def _is_below(file: Path, folder: Path) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _write_records(file: Path, parameters: dict, records: Sequence[Record]) -> None:
    lines = ",\n".join(json.dumps(asdict(record)) for record in records)
    write_text(file, f'{{"parameters": {json.dumps(parameters)},\n"records": [\n{lines}\n]}}\n')


def _write_index(index: TwinIndex, target: Path, records: Sequence[Record]) -> None:
    """Write person to faces twice, as alignment and as training call it, and the pairs; DataError for a person without
    a face."""
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
