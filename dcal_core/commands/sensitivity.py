"""The command `sensitivity`: how small a mark a trained run sees, on its test families or on photographs."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dcal_core.audit.gate import open_picture
from dcal_core.commands.explain import label_of_given, look_at_lists
from dcal_core.commands.maps import gate_of, trained_model, write_result
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.data.images import ImageStore, open_images
from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.data.occlusion import OccludedImages
from dcal_core.data.people_folders import list_people
from dcal_core.data.splits import SYNTHETIC, TwinData
from dcal_core.data.twins import DataError, name_some
from dcal_core.environment import scratch_root
from dcal_core.explain.pair_figures import write_figure
from dcal_core.explain.sensitivity import FEWEST, measure_sensitivity
from dcal_core.explain.sensitivity_figures import draw_sensitivity, example, limits, sensitivity_table
from dcal_core.verification.decision import read_rule

TITLE = "How small a difference does the verifier see?"
NAME = "sensitivity"


@dataclass(frozen=True, eq=False)
class Faces:
    """N images of people to plant marks into; family_of: of each image; landmarks: of all of them; notes: what is known
    against them."""

    label: str
    images: ImageStore | OccludedImages
    person_of: np.ndarray
    family_of: np.ndarray
    landmarks: np.ndarray
    notes: tuple[str, ...] = ()


def faces_of_test(data: TwinData) -> Faces:
    """The test families."""
    split = data["test"]
    person_of = split.index.person_of
    return Faces(data.label, split.images, person_of, split.index.family_of[person_of], split.landmarks)


def given_faces(session: Session, folder: Path) -> Faces:
    """Aligned faces in one folder for each person, looked at first; DataError with the reason if they cannot be used.

    Without knowing who is related, each person is a family.
    """
    left_out: dict[str, list[str]] = defaultdict(list)  # why -> what
    listed = list_people(folder, {}, left_out)
    people = {name: files for name, files in listed.items() if len(files) > 1}
    left_out["people with a single image"] = [name for name in listed if name not in people]
    for why, what in left_out.items():
        if what:
            print(f"{folder}: left out, {why}: {name_some(what, 'entry', 'entries')}")
    if len(people) < FEWEST:
        raise DataError(
            f"--images {folder}: {len(people)} folders with two images or more: give one folder for each person, "
            f"{FEWEST} people or more."
        )
    config = session.config
    label = label_of_given(session)
    drawn = SYNTHETIC in label
    pictures = [[open_picture(file, config.image_size, config.fit) for file in files] for files in people.values()]
    notes = look_at_lists(gate_of(session, drawn), [(own[0], one) for own in pictures for one in own[1:]])
    files = [str(file) for own in people.values() for file in own]
    images = open_images(files, config.image_size, scratch_root() / "decoded", max_lost_share=0.0, fit=config.fit)
    person_of = np.repeat(np.arange(len(people)), [len(own) for own in people.values()])
    return Faces(label, images, person_of, person_of, DRAWN if drawn else ARCFACE, tuple(notes))


def sensitivity_of(session: Session, model: torch.nn.Module, faces: Faces) -> dict:
    """The limit of detection of the session's model, with its verdict's where it was evaluated."""
    rule = read_rule(session.trained)
    people = (faces.person_of, faces.family_of, faces.landmarks)
    threshold = rule.threshold if rule else None
    found = measure_sensitivity(model, faces.images, *people, threshold, session.config.seed)
    return {"data": faces.label, "notes": list(faces.notes)} | found


def figure_of(result: dict, faces: Faces):
    """The figure of a limit of detection; the marks by size are shown on the first image."""
    (face,) = faces.images.batch([0]).numpy()
    title = (
        f"How small a mark is seen ({result['data']}): {result['people']:,} people of {result['families']:,} families"
    )
    return draw_sensitivity(result, example(face, faces.landmarks, result["diameters"]), title)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = read_options(NAME, arguments)
    given, params_dir = given_parameters(options)
    session = begin_with_trained(TITLE, given, params_dir)
    if options.images:
        faces = given_faces(session, options.images)
        folder = session.folder.explained / "images"
        figures = folder
    else:
        faces = faces_of_test(session.open_data(("test",)))
        folder = session.folder.path
        figures = session.folder.figures
    result = sensitivity_of(session, trained_model(session), faces)
    print("", sensitivity_table(result), *limits(result), sep="\n\n")
    files = write_result(folder, NAME, result), write_figure(figures / f"{NAME}.png", figure_of(result, faces))
    print("Files:", *files, sep="\n  ")
    return 0
