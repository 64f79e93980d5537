"""The command `sensitivity`: how small a mark a trained run sees, on its test families or on photographs."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from dcal_core.audit.gate import open_picture
from dcal_core.commands.explain import label_of_given, look_at_lists
from dcal_core.commands.maps import (
    Faces,
    faces_of_test,
    gate_of,
    sensitivity_figure,
    sensitivity_of,
    trained_model,
    write_result,
)
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.data.images import open_images
from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.data.people_folders import list_people
from dcal_core.data.splits import SYNTHETIC
from dcal_core.data.twins import DataError, name_some
from dcal_core.environment import scratch_root
from dcal_core.explain.pair_figures import write_figure
from dcal_core.explain.sensitivity import FEWEST
from dcal_core.explain.sensitivity_figures import sensitivity_table

TITLE = "How small a difference does the verifier see?"
NAME = "sensitivity"


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
    print("", sensitivity_table(result), *result["sentences"], sep="\n\n")
    files = write_result(folder, NAME, result), write_figure(figures / f"{NAME}.png", sensitivity_figure(result, faces))
    print("Files:", *files, sep="\n  ")
    return 0
