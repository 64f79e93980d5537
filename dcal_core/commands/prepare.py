"""`python -m dcal_core prepare`: audit a data set and, if asked, make an aligned copy; shared with prepare.ipynb."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dcal_core.audit.detector import opencv
from dcal_core.audit.findings import Audit, audit_images
from dcal_core.audit.kinds import KINDS
from dcal_core.audit.quality import draw_quality
from dcal_core.audit.refusals import Limits
from dcal_core.audit.review import draw_findings, excluded_before, write_list
from dcal_core.commands.chosen import data_to_check, run_folder, title_of
from dcal_core.commands.faces import (
    align_data,
    alignment_table,
    draw_alignment,
    embedder,
    exclusion_list,
    judge_faces,
    not_aligned,
)
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, scratch_size
from dcal_core.config.shared import Config
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import NO_CO_TWINS, label_of, open_root, without_excluded
from dcal_core.data.twins import name_number
from dcal_core.environment import banner
from dcal_core.errors import ConfigError
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.missing import because
from dcal_core.palette import BLUE, VERMILION
from dcal_core.storage import write_text

TITLE = "Check the twin data"
LISTED = 3  # printed findings of each kind


def begin_audit(given: dict, params_dir: Path) -> Session:
    """Describe the machine and read the parameters of an audit."""
    preset, config = data_to_check(given, params_dir)
    print(banner(title_of(TITLE, given, preset)))
    if config.align:  # what is lacking is said before the audit, which takes minutes
        opencv()
    if config.clean_by:
        embedder(config.clean_by)
    if config.landmarks and not Path(config.landmarks).is_file():
        raise ConfigError(
            f"landmarks={config.landmarks}: there is no such file{because(config.landmarks)}: correct it."
        )
    print(f"Preset {Path(preset).name}, image_size {config.image_size} px")
    return Session(config, run_folder(config.run_dir, "prepare"))


def audit_data(config: Config) -> Audit:
    """Audit the data that training would use, even data that it would refuse; DataError for malformed index files."""
    root = open_root(config)
    excluded = partial(without_excluded, config=config)
    indexes = read_indexes(root)
    if not indexes[1].co_twins:
        print(NO_CO_TWINS)
    return audit_images(indexes, root, config.image_size, label_of(root), config.fit, Limits.of(config), excluded)


def exclude_suggested(audit: Audit, file: Path) -> str:
    """Add the images that the audit suggests to drop to an exclusion list; returns a message for the user."""
    return write_list(audit, file, audit.suggested() | excluded_before(audit, file))


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write audit.json into a folder; returns its path."""
    file = folder / "audit.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(audit.as_dict(), indent=1, allow_nan=False) + "\n")
    return file


def splits_table(audit: Audit) -> str:
    """Counts of people, families and images in each split, as a Markdown table."""
    splits = audit.splits.values()
    rows = []
    everybody_alone = all(one["families"] == one["people"] for one in splits)
    families = () if everybody_alone else ("families",)
    for key in ("people", *families, "images", "images_found", "images_readable"):
        rows.append([key.replace("_", " "), *(f"{split[key]:,}" for split in splits)])
    rows.append(["images per person: least, median, most", *(_spread(s["images_per_person"]) for s in splits)])
    rows.append(["shorter side, px: least, median, most", *(_spread(split["shorter_side_px"]) for split in splits)])
    return table([audit.data, *audit.splits], rows)


def findings_table(audit: Audit) -> str:
    """Counts of cases, people and images for each kind of finding, as a Markdown table."""
    rows = []
    for kind in KINDS:
        if findings := audit.of_kind(kind):
            people = {person for finding in findings for person in finding.people}
            images = {image for finding in findings for image in finding.images}
            drop = {image for finding in findings for image in finding.drop}
            meaning = f"{KINDS[kind].meaning}{': training refuses it' if KINDS[kind].refused else ''}"
            rows.append([KINDS[kind].name, *(f"{len(group):,}" for group in (findings, people, images, drop)), meaning])
    head = ["finding", "cases", "people", "images", "drop?", "what it is"]
    return table(head, rows) if rows else "Nothing was found that is worth knowing."


def refused(audit: Audit) -> str:
    """Whether training takes the data, in a sentence."""
    kinds = [kind.name for key, kind in KINDS.items() if kind.refused and audit.of_kind(key)]
    if kinds:
        return f"Training or evaluation refuses this data ({', '.join(kinds)}): the first findings say what to do."
    return "Training with this preset and these parameters takes this data."


def first_findings(audit: Audit) -> Iterator[str]:
    """A line of text for each of the first findings of each kind."""
    for kind in KINDS:
        findings = audit.of_kind(kind)
        for finding in findings[:LISTED]:
            what = finding.images or finding.people
            named = f"{', '.join(what[:4])}{' ...' if len(what) > 4 else ''}: " if what else ""
            yield f"{finding.name}: {named}{finding.reason}"
        if len(findings) > LISTED:
            yield f"{KINDS[kind].name}: {len(findings) - LISTED:,} more in audit.json"


def draw_audit(audit: Audit) -> Iterator[tuple[str, Figure]]:
    """All figures of an audit with their names: the images per person, then a sheet for each kind with images."""
    yield "images_per_person", draw_counts(audit)
    for kind in kinds_with_images(audit):
        yield kind, draw_findings(audit, kind)


def kinds_with_images(audit: Audit) -> list[str]:
    """The kinds of findings that have pictures."""
    return [kind for kind in KINDS if any(finding.images for finding in audit.of_kind(kind))]


def draw_counts(audit: Audit) -> Figure:
    """A histogram of the readable images per person, for each split."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    grid = figure.subplots(1, len(audit.splits), squeeze=False)[0]
    for axes, (name, split) in zip(grid, audit.splits.items(), strict=True):
        counts = list(split["images_of"].values())
        axes.hist(counts, bins=range(max(counts) + 2), align="left", color=BLUE, rwidth=0.9)
        axes.axvline(1.5, color=VERMILION, linestyle="--")
        axes.set(title=f"{name}: {len(counts)} people ({audit.data})", ylabel="people")
        axes.set_xlabel("readable images of a person; left of the line: no genuine pair")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    return as_written(figure)


def report_audit(session: Session, audit: Audit) -> None:
    """Print an audit, save it and its figures in the run's folder, and write the exclusion list if asked for."""
    print(f"\n{splits_table(audit)}\n\n{findings_table(audit)}\n", *first_findings(audit), sep="\n")
    for name, figure in draw_audit(audit):
        session.keep(figure, name)
    print(f"\nReport: {write_audit(audit, session.folder.path)}\nPictures: {session.folder.figures}")
    print(refused(audit))
    if session.config.drop_suggested:
        print(exclude_suggested(audit, exclusion_list(session)))
    elif audit.suggested():
        print(f"{len(audit.suggested()):,} images suggested to be dropped: review them, or give drop_suggested=true.")


def report_faces(session: Session, audit: Audit) -> None:
    """Align the data if that is asked for, judge the faces, print the result and save its pictures and findings in the
    run's folder; with drop_suggested, what is suggested leaves the aligned copy again."""
    config = session.config
    target, records = align_data(session, audit) if config.align else (None, {})
    if config.align:
        print(f"\n{alignment_table(records)}\n", *not_aligned(records), sep="\n")
        print(f"Sheet: {session.keep(draw_alignment(target, records, audit.data), 'alignment')}")
        print(f"Quality: {session.keep(draw_quality(target, records, config, audit.data), 'quality')}")
    faces = judge_faces(session, audit, target, records)
    print(f"\n{findings_table(faces)}\n", *first_findings(faces), sep="\n")
    for kind in kinds_with_images(faces):
        session.keep(draw_findings(faces, kind), kind)
    write_audit(audit.with_findings([*audit.findings, *faces.findings]), session.folder.path)
    if config.drop_suggested and faces.suggested():
        print(exclude_suggested(faces, exclusion_list(session)))
        if config.align:
            align_data(session, audit)
    elif faces.suggested():
        suggested = name_number(len(faces.suggested()), "face", "faces")
        print(f"{suggested} suggested to be dropped: review them, or give drop_suggested=true.")
    if config.align:
        print(f"Aligned faces: {target}: give it as data_root to train on it.")


def main(arguments: list[str]) -> int:
    """What prepare.ipynb does, without its reviewer; the exit status is 0 also if something was found."""
    given, params_dir = given_parameters(read_options("prepare", arguments))
    session = begin_audit(given, params_dir)
    audit = audit_data(session.config)
    report_audit(session, audit)
    if session.config.align or session.config.clean_by:
        report_faces(session, audit)
    print(scratch_size())
    return 0


def _spread(values: dict) -> str:
    return ", ".join("-" if value is None else f"{value:g}" for value in values.values())
