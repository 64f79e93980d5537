"""`twins export` refuses what it cannot write before it loads a model."""

import numpy as np
import pytest
from PIL import Image

from dcal_core.commands.export import FACES, drawn_faces, faces_in, main
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["model", "out.pt"], "--format onnx is written to a file whose name ends in .onnx"),
        (["model", "out.pt2", "--format", "torch_export", "--int8"], "only ONNX is written in 8 bits"),
        (["model", "nowhere/out.onnx"], "there is no such folder"),
        (["model", "out.onnx", "--int8"], "give --faces"),
        (["model", "out.onnx"], "there is no such file or folder"),
    ],
)
def test_what_cannot_be_written_is_refused(given, words, refused, elsewhere):
    with refused(ConfigError, words):
        main(given)


def test_faces_of_a_folder_are_read_evenly_over_it(tmp_path, refused):
    for number in range(2 * FACES + 1):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(tmp_path / f"{number:03d}.png")
    faces = faces_in(tmp_path, 8, "stretch")
    assert faces.shape == (FACES, 8, 8, 3) and faces.dtype == np.uint8
    assert faces[0, 0, 0, 0] == 0 and faces[-1, 0, 0, 0] == 2 * FACES
    (tmp_path / "000.png").write_bytes(b"no image")
    with refused(DataError, tmp_path, "take it out"):
        faces_in(tmp_path, 8, "stretch")
    with refused(DataError, "two face images at least"):
        faces_in(tmp_path / "none", 8, "stretch")


def test_drawn_faces_differ():
    faces = drawn_faces(16)
    assert faces.shape == (FACES, 16, 16, 3) and len(np.unique(faces.reshape(FACES, -1), axis=0)) == FACES
