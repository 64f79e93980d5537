"""An aligned copy of a data set: the faces of its photographs, in a folder that is a data root itself.

    train_aligned_images/<person>/<file>.png    test_aligned_images/...     the faces
    train_aligned_images/alignment.json         test_aligned_images/...     a record of each photograph
    id_to_train_aligned_images.json             id_to_test_...              person to faces
    train_dataset_infor.json, train_twin_pairs.json, test_...               the index files that training reads

Of folders of people it is such a data set again: train/<person>/<file>.png with train/alignment.json, test/...,
twin_pairs.json. A person without a face is then left out.

A rerun aligns only new and changed photographs; an interruption loses the last chunk at most.
"""

import functools
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from multiprocessing import parent_process
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from dcal_core.audit.alignment import Face, FaceAligner, NoFace, cut
from dcal_core.audit.detector import face_weights, opencv, versions
from dcal_core.audit.facts import Entry, list_entries
from dcal_core.audit.measures import sharpness
from dcal_core.data.decoding import Unreadable, decode, open_upright, read_file
from dcal_core.data.drawn.synthetic import manifest_file, mask_file
from dcal_core.data.landmarks import TEMPLATE_SIDE
from dcal_core.data.locate import PARTS
from dcal_core.data.people_folders import PAIRS
from dcal_core.data.processes import in_processes
from dcal_core.data.splits import ALIGNMENT
from dcal_core.data.twins import DataError, TwinIndex, name_some, path_parts
from dcal_core.progress import progress_line
from dcal_core.storage import UNFINISHED, DamagedError, digest, disk_errors, read_json, whole_file, write_text

VERSION = 2  # raise it when alignment changes, so that all faces are aligned again
CHUNK = 256  # photographs after which the records are written
WORTH_A_WORKER = 64  # photographs per worker process, which takes seconds to start
ALIGNED = "aligned"
KEPT = "kept"
DROPPED = "dropped"
DETECTED, RELAXED, BY_HAND = "detected", "relaxed", "by hand"  # how a face was found, or at least looked for


@dataclass(frozen=True)
class Record:
    """The result for one photograph; px of the upright photograph, with (0, 0) at the centre of the first one."""

    image: str  # as an exclusion list names it
    person: str
    photograph: str  # its file; empty if there is none
    photograph_digest: str  # SHA-256; empty if it cannot be read
    file: str  # the face, below the data root; empty if the photograph is dropped
    file_digest: str
    status: str  # ALIGNED, KEPT (made square by `fit`) or DROPPED
    reason: str = ""  # why it is not aligned
    how: str = DETECTED
    score: float | None = None  # of the detector, 0 to 1; None by hand
    sharpness: float | None = None
    box: list | None = None  # x, y, width, height
    landmarks: list | None = None  # [5][2]
    faces: int = 0  # in the photograph
    transform: list | None = None  # [2][3], from the photograph to the face


def align_split(
    index: TwinIndex,
    root: Path,
    target: Path,
    *,
    size: int,
    missing: str,
    fit: str,
    relaxed: bool = False,
    points: Mapping[str, np.ndarray] = MappingProxyType({}),
    workers: int | None = None,
) -> list[Record]:
    """Align the photographs of a split, "train" or "test", below `root` into the data root `target`; returns the
    records in index order.

    size: px, the side of a face. missing: "drop" leaves photographs without a face out, "keep" makes them square
    by `fit`, as in `decode`. relaxed: try these again with the detector's relaxed settings. points: landmarks [5, 2]
    by image, in place of the detector's. workers: processes, None for as many as pay off; their number changes no
    pixel, and a script that uses several needs a `__main__` guard. DataError if two faces would get the same name, if a
    person has no face, or if the folder holds a copy of the other kind.
    """
    faces = target / _faces_folder(index)
    if (other := target / _faces_folder(replace(index, in_place=not index.in_place))).exists():
        raise DataError(f"{other} is a part of an aligned copy of another kind of data set: move {target} elsewhere.")
    parameters = {"version": VERSION, "size": size, "missing": missing, "fit": fit, **versions()}
    face_weights()  # so that a missing package or damaged weights end here and not in a worker
    with disk_errors(target):
        faces.mkdir(parents=True, exist_ok=True)
    for unfinished in faces.rglob(f"*.png{UNFINISHED}"):  # left by an interruption
        unfinished.unlink()
    entries = list_entries([index], root)
    files = _face_files(index, entries)
    made_with, before = _read_records(faces / ALIGNMENT)
    done = dict(before) if made_with == parameters else {}
    known = [done.get(entry.name) for entry in entries]
    by_hand = [points.get(entry.name) for entry in entries]
    align = functools.partial(_align, target=target, size=size, missing=missing, fit=fit, relaxed=relaxed)
    workers = workers or min(os.cpu_count() or 1, math.ceil(len(entries) / WORTH_A_WORKER))
    aligned = in_processes(align, entries, files, known, by_hand, workers=workers)
    progress = progress_line(aligned, total=len(entries), desc=f"aligning {index.name}", unit="image")
    with disk_errors(target), progress:
        for number, record in enumerate(progress, start=1):
            done[record.image] = record
            if number % CHUNK == 0:
                _write_records(faces / ALIGNMENT, parameters, done.values())
    records = [done[entry.name] for entry in entries]
    _write_records(faces / ALIGNMENT, parameters, records)
    _write_people(index, target, records)
    for file in {record.file for record in before.values()} - {record.file for record in records} - {""}:
        (target / file).unlink(missing_ok=True)  # faces of people or photographs that are no longer listed
    return records


def align_masks(records: Mapping[str, Sequence[Record]], root: Path, target: Path, size: int) -> None:
    """Align the masks of drawn photographs as their faces are, and label the copy as drawn. records: by split."""
    cv2 = opencv()
    for split, entries in records.items():
        for record in entries:
            if record.transform:
                mask = np.asarray(Image.open(mask_file(root, record.photograph)))
                aligned = cv2.warpAffine(mask, np.array(record.transform), (size, size), flags=cv2.INTER_NEAREST)
                file = mask_file(target, record.file)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(aligned).save(file, compress_level=1)
        write_text(manifest_file(target, split), manifest_file(root, split).read_text())


def write_pairs(indexes: Sequence[TwinIndex], records: Mapping[str, Sequence[Record]], target: Path) -> None:
    """Write the co-twins who have aligned faces beside the folders of people, where such data knows any."""
    if not indexes[0].in_place:
        return
    there = {record.person for split in records.values() for record in split if record.file}
    families = [sorted(there.intersection(family)) for index in indexes for family in index.families]
    if pairs := [pair for family in families for pair in combinations(family, 2)]:
        write_text(target / PAIRS, json.dumps(pairs, indent=1))
    else:
        (target / PAIRS).unlink(missing_ok=True)


def _faces_folder(index: TwinIndex) -> str:
    """The folder of a split's faces, below the data root; that of a data set of people's folders is such a one."""
    return index.name if index.in_place else f"{index.name}_aligned_images"


def _face_files(index: TwinIndex, entries: Sequence[Entry]) -> list[str]:
    """The file of each entry's face, below the data root."""
    files = []
    owner = {}
    for entry in entries:
        if path_parts(entry.person) != (entry.person,) or entry.person == "..":
            raise DataError(f"{index.name}: person {entry.person!r:.60} cannot be a folder's name: write another id.")
        file = f"{_faces_folder(index)}/{entry.person}/{Path(path_parts(entry.path)[-1]).stem}.png"
        if (other := owner.setdefault(file.casefold(), entry.name)) != entry.name:
            raise DataError(f"{index.name}: {other!r} and {entry.name!r} would both become {file}: rename one of them.")
        files.append(file)
    return files


@functools.cache
def _aligner(relaxed: bool = False) -> FaceAligner:
    if parent_process():  # the workers share the cores
        opencv().setNumThreads(1)
    return FaceAligner(relaxed)


def _find(photograph: np.ndarray, points: np.ndarray | None, size: int, relaxed: bool) -> tuple[np.ndarray, Face, str]:
    """The aligned face of a photograph, its place, and how it was found; raises NoFace."""
    if points is not None:
        found = Face(None, np.concatenate([points.min(0), np.ptp(points, 0)]), points, 1)
        return cut(photograph, found.transform(size), size), found, BY_HAND
    try:
        return *_aligner().align(photograph, size), DETECTED
    except NoFace:
        if not relaxed:
            raise
        return *_aligner(relaxed=True).align(photograph, size), RELAXED


def _align(
    entry: Entry,
    file: str,
    before: Record | None,
    points: np.ndarray | None,
    target: Path,
    size: int,
    missing: str,
    fit: str,
    relaxed: bool,
) -> Record:
    """Align one photograph, unless its record is of the same file, looked at as now. Top level, because workers import
    it."""
    record = Record(entry.name, entry.person, "", "", "", "", DROPPED, how=RELAXED if relaxed else DETECTED)
    if len(entry.places) != 1:
        several = f"several files fit: {' and '.join(entry.places[:2])}"
        return replace(record, reason=several if entry.places else "no such file")
    record = replace(record, photograph=entry.places[0])
    try:
        data = read_file(Path(record.photograph))
        record = replace(record, photograph_digest=hashlib.sha256(data).hexdigest())
        same = before and before.photograph_digest == record.photograph_digest and _is_whole(before, file, target)
        if same and _is_found_so(before, points, record.how):
            return replace(before, photograph=record.photograph)
        photograph = np.asarray(open_upright(data))
        face, found, how = _find(photograph, points, size, relaxed)
    except Unreadable as reason:
        return replace(record, reason=str(reason))
    except NoFace as reason:
        record = replace(record, reason=str(reason), status=KEPT if missing == "keep" else DROPPED)
        if record.status == DROPPED:
            return record
        face = decode(data, size, fit).transpose(1, 2, 0)  # [S, S, 3]
    else:
        values = {"box": found.box, "landmarks": found.landmarks, "transform": found.transform(size)[:2]}
        small = cut(photograph, found.transform(TEMPLATE_SIDE), TEMPLATE_SIDE)
        values |= {"score": found.score, "sharpness": sharpness(small)}
        values = {name: None if value is None else np.round(value, 4).tolist() for name, value in values.items()}
        record = replace(record, status=ALIGNED, how=how, faces=found.faces, **values)
    return replace(record, file=file, file_digest=_write_face(face, target / file))


def _is_found_so(record: Record, points: np.ndarray | None, how: str) -> bool:
    """Whether a record is of these points or, without any, whether looking `how` would not find more."""
    if points is not None:
        return record.how == BY_HAND and np.array_equal(record.landmarks, np.round(points, 4))
    return record.how == how or (record.how == DETECTED and record.status == ALIGNED)


def _is_whole(record: Record, file: str, target: Path) -> bool:
    """Whether the face of a record is unchanged, or the record rightly has none."""
    if record.status == DROPPED:
        return True
    return record.file == file and (target / file).is_file() and digest(target / file) == record.file_digest


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
        for record in records:
            face = Path(os.path.abspath(file.parents[1] / record.file))
            if record.file and not face.is_relative_to(os.path.abspath(file.parent)):
                raise DamagedError(f"{record.file!r:.60} lies elsewhere")
        return found["parameters"], {record.image: record for record in records}
    except (DamagedError, KeyError, TypeError) as error:
        print(f"{file} is damaged ({error}): all its photographs are aligned again.")
        return {}, {}


def _write_records(file: Path, parameters: dict, records: Sequence[Record]) -> None:
    lines = ",\n".join(json.dumps(asdict(record)) for record in records)
    write_text(file, f'{{"parameters": {json.dumps(parameters)},\n"records": [\n{lines}\n]}}\n')


def _write_people(index: TwinIndex, target: Path, records: Sequence[Record]) -> None:
    """Write the faces of each person under the names that alignment and training use, and the pairs; DataError for a
    person without a face."""
    faces = defaultdict(list)
    for record in records:
        faces[record.person] += [record.file] if record.file else []
    emptied = [person for person, files in faces.items() if not files]
    if index.in_place:
        if emptied:
            print(f"{index.name}: left out, without an aligned face: {name_some(emptied, 'person', 'people')}")
        return
    if emptied:
        raise DataError(
            f"{index.name}: no aligned face of {name_some(emptied, 'person', 'people')} is left, see {ALIGNMENT}: keep "
            "photographs without a face (align_missing=keep), add some, or unlist the person."
        )
    pairs = [pair for family in index.families for pair in combinations(family, 2)]
    images_json, pairs_json = (f"{index.name}_{part}.json" for part in PARTS)
    write_text(target / f"id_to_{index.name}_aligned_images.json", json.dumps(faces, indent=1))
    write_text(target / pairs_json, json.dumps(pairs, indent=1))
    write_text(target / images_json, json.dumps(faces, indent=1))
