"""The faces of a data set, as `twins prepare` and prepare.ipynb align and judge them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dcal_core.audit.aligned_copy import (
    ALIGNED,
    ALIGNMENT,
    BY_HAND,
    DROPPED,
    KEPT,
    RELAXED,
    Record,
    align_masks,
    align_split,
    write_pairs,
)
from dcal_core.audit.facts import Entry
from dcal_core.audit.findings import Audit
from dcal_core.audit.kinds import Finding
from dcal_core.audit.points import LANDMARKS, read_points
from dcal_core.audit.quality import quality_findings
from dcal_core.commands.chosen import trained_config
from dcal_core.commands.session import Session
from dcal_core.data.decoding import open_upright
from dcal_core.data.drawn.synthetic import is_photographed
from dcal_core.data.exclusions import FILE
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import SYNTHETIC, open_split, reviewed_indexes
from dcal_core.data.twins import DataError, TwinIndex
from dcal_core.environment import fit_device
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.models.files import load_model
from dcal_core.models.verifier import Features, Verifier
from dcal_core.palette import GREEN, VERMILION
from dcal_core.runs import RunFolder, find_trained
from dcal_core.verification.baseline import DETECTED, SFace
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.misplaced import find_misplaced, join, scores_with_people

LISTED_PHOTOGRAPHS = 20  # printed photographs that were not aligned
BASELINE = "sface"  # as `clean_by`


def exclusion_list(session: Session) -> Path:
    """The exclusion list that prepare reads and writes: the given one, else the one in the run's folder."""
    return Path(session.config.exclusions) if session.config.exclusions else session.folder.path / FILE


def reviewed(session: Session, root: Path) -> list[TwinIndex]:
    """Both indexes of a folder without the images that the exclusion list leaves out."""
    listing = exclusion_list(session)
    config = session.config
    return reviewed_indexes(root, config.replace(exclusions=str(listing)) if listing.exists() else config)


def align_data(session: Session, audit: Audit) -> tuple[Path, dict[str, list[Record]]]:
    """Align both splits, without the excluded images, into `<data>_aligned_<size>` in the run's folder; returns that
    folder and the records by split. DataError for drawn twins."""
    if audit.data == SYNTHETIC and not is_photographed(audit.root):
        raise DataError("drawn twins are drawn aligned: attach photographs, give data_root, or set align=false.")
    config = session.config
    target = session.folder.path / f"{audit.data}_aligned_{config.align_size}"
    options = {"size": config.align_size, "missing": config.align_missing, "fit": config.fit}
    by_hand = points_file(session)
    if by_hand.exists():
        options["points"] = read_points(by_hand, audit.entries)
    records = {}
    indexes = reviewed(session, audit.root)
    for index in indexes:
        records[index.name] = align_split(index, audit.root, target, relaxed=config.align_relaxed, **options)
    write_pairs(indexes, records, target)
    if audit.data == SYNTHETIC:
        align_masks(records, audit.root, target, config.align_size)
    return target, records


def alignment_table(records: dict[str, list[Record]]) -> str:
    """Counts of photographs by what was done with them, for each split, as a Markdown table."""
    rows = []
    for status in (ALIGNED, KEPT, DROPPED):
        rows.append([status, *(f"{sum(r.status == status for r in split):,}" for split in records.values())])
    for name, is_so in (
        ("of them with several faces", lambda record: record.faces > 1),
        ("of them with relaxed settings", lambda record: record.status == ALIGNED and record.how == RELAXED),
        ("of them by hand", lambda record: record.how == BY_HAND),
    ):
        rows.append([name, *(f"{sum(map(is_so, split)):,}" for split in records.values())])
    return table(["photographs", *records], rows)


def not_aligned(records: dict[str, list[Record]]) -> Iterator[str]:
    """A line of text for each of the first photographs that were not aligned."""
    missing = [record for split in records.values() for record in split if record.status != ALIGNED]
    yield from (f"{record.status}: {record.image}: {record.reason}" for record in missing[:LISTED_PHOTOGRAPHS])
    if len(missing) > LISTED_PHOTOGRAPHS:
        yield f"{len(missing) - LISTED_PHOTOGRAPHS:,} more in {ALIGNMENT}"


def draw_alignment(target: Path, records: dict[str, list[Record]], label: str) -> Figure:
    """Evenly chosen photographs with the detected box and landmarks, each above its aligned face."""
    aligned = [record for split in records.values() for record in split if record.status == ALIGNED]
    shown = [aligned[number] for number in np.linspace(0, len(aligned) - 1, min(len(aligned), 8)).astype(int)]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    figure.suptitle(f"{len(shown)} of {len(aligned):,} photographs, and the faces they became ({label})", fontsize=11)
    grid = figure.subplots(2, max(len(shown), 1), squeeze=False)
    for above, below, record in zip(*grid, shown, strict=False):
        above.imshow(open_upright(Path(record.photograph).read_bytes()))
        above.add_patch(Rectangle(record.box[:2], *record.box[2:], fill=False, color=VERMILION))
        above.scatter(*zip(*record.landmarks, strict=True), s=4, color=GREEN)
        above.set_title(record.image, fontsize=6)
        below.imshow(open_upright((target / record.file).read_bytes()))
    for axes in grid.flat:
        axes.set_axis_off()
    return as_written(figure)


def points_file(session: Session) -> Path:
    """The file of faces set by hand that alignment reads: the given one, else the one in the run's folder."""
    return Path(session.config.landmarks) if session.config.landmarks else session.folder.path / LANDMARKS


def without_face(audit: Audit, records: dict[str, list[Record]]) -> list[Entry]:
    """The photographs that were decoded and have no face."""
    missing = {record.image for split in records.values() for record in split if record.status != ALIGNED}
    return [entry for entry in audit.entries if entry.name in missing and entry.facts]


def judge_faces(session: Session, audit: Audit, target: Path | None, records: dict[str, list[Record]]) -> Audit:
    """An audit with the findings on faces alone: the quality of aligned ones and, with `clean_by`, a model's scores.

    target, records: as from `align_data`; without alignment None and {}, and then the data itself is scored.
    """
    found = [*quality_findings(records, session.config)]
    if session.config.clean_by:
        try:
            found += misplaced(session, audit, target, records)
        except DataError as error:
            print(f"clean_by={session.config.clean_by}: {error}")
    return audit.with_findings(found)


def misplaced(session: Session, audit: Audit, target: Path | None, records: dict[str, list[Record]]) -> list[Finding]:
    """Images unlike their own person and people like one another, by the model that `clean_by` names."""
    config = session.config
    model, decoded_as = embedder(config.clean_by)
    device = fit_device()
    model.to(device)
    if target:
        indexes = read_indexes(target)
        named = {target / record.file: record.image for split in records.values() for record in split if record.file}
    else:
        indexes = reviewed(session, audit.root)
        named = {place: entry.name for entry in audit.entries for place in entry.places}
    splits = [open_split(index, target or audit.root, config.model_copy(update=decoded_as)) for index in indexes]
    named = {os.path.abspath(place): name for place, name in named.items()}
    names = [named[os.path.abspath(path)] for split in splits for path in split.index.paths]
    encoded = [encode_images(model, split.images, config.encode_batch, device) for split in splits]
    people, person_of, family_of = join([split.index for split in splits])
    scores = scores_with_people(model, Features.cat(encoded), person_of, device)
    return find_misplaced(scores, names, people, person_of, family_of)


def embedder(name: str) -> tuple[Verifier, dict]:
    """The model that `clean_by` names, and the parameters by which its images are decoded."""
    if name == BASELINE:
        return SFace(), {"image_size": DETECTED}
    trained = find_trained(RunFolder(Path(name).expanduser().resolve()), [], f"clean_by={name}: ")
    config = trained_config(trained, {})
    return load_model(trained), {"image_size": config.image_size, "fit": config.fit}
