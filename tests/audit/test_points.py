"""Faces set by hand: the file of points that alignment reads, and the clicks that write it."""

import json

import numpy as np
import pytest
from PIL import Image

from dcal_core.audit.facts import list_entries
from dcal_core.audit.points import HEADER, LANDMARKS, POINTS, Pointer, read_points, write_points
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.data.roots import read_indexes
from dcal_core.data.twins import DataError

NAMES = ("1/a.png", "1/b.png", "2/a.png")


@pytest.fixture
def entries(tmp_path):
    """Photographs of 140 x 120 px, and one file that is none."""
    for split, people in (("train", ("1", "2")), ("test", ("3", "4"))):
        (tmp_path / f"{split}_twin_pairs.json").write_text(json.dumps([people]))
        listed = {person: [f"{person}/a.png", f"{person}/b.png"] for person in people}
        (tmp_path / f"{split}_dataset_infor.json").write_text(json.dumps(listed))
        for file in sum(listed.values(), []):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (140, 120), "grey").save(tmp_path / file)
    (tmp_path / "4/b.png").write_bytes(b"no image")
    return list_entries(read_indexes(tmp_path), tmp_path)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "out" / LANDMARKS


def line(name: str, points=TEMPLATE) -> str:
    return ",".join([name, *map(str, np.ravel(points))])


def written(file, *lines: str):
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join([",".join(HEADER), *lines, ""]))
    return file


def test_what_is_written_is_read_under_the_names_of_the_data(entries, file):
    points = {"2/a.png": TEMPLATE.round(1), "1/b.png": (TEMPLATE + 3.25).round(1)}
    write_points(file, points)
    assert [row.split(",")[0] for row in file.read_text().splitlines()] == ["image", "1/b.png", "2/a.png"]
    read = read_points(file, entries)
    assert read.keys() == points.keys()
    for name in points:
        np.testing.assert_allclose(read[name], points[name])


def test_an_image_that_cannot_be_read_is_left_to_the_audit(entries, file):
    assert list(read_points(written(file, line("4/b.png")), entries)) == ["4/b.png"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([line("9/a.png")], ("'9/a.png'", "index lacks", "delete")),
        ([line("1/a.png"), line("1/a.png")], ("line 3", "'1/a.png'", "twice")),
        (["1/a.png,1,2,3"], ("line 2", "10 numbers")),
        ([line("1/a.png").replace("38.", "x")], ("line 2", "10 numbers")),
        ([line("1/a.png", TEMPLATE + 60)], ("line 2", "140 x 120 px")),
        ([line("1/a.png", np.full((5, 2), np.nan))], ("line 2", "140 x 120 px")),
        ([line("1/a.png", np.full((5, 2), 30.0))], ("line 2", "no face", *POINTS)),
        ([line("1/a.png", TEMPLATE[[1, 0, 2, 4, 3]])], ("line 2", "no face")),
        ([line("1/a.png", TEMPLATE[[0, 1, 2, 4, 3]])], ("line 2", "no face")),
    ],
)
def test_other_points_are_refused(entries, file, refused, lines, words):
    with refused(DataError, file, *words):
        read_points(written(file, *lines), entries)


def test_another_header_is_refused(entries, file, refused):
    file.parent.mkdir()
    file.write_text("image,x,y\n")
    with refused(DataError, file, "image,x,y", "image,left_eye_x"):
        read_points(file, entries)


def click(pointer: Pointer, points: np.ndarray, time: int = 0) -> None:
    """What the page tells of clicks at px of the photograph."""
    for number, (x, y) in enumerate(points):
        pointer.field.value = f"{(x + 0.5) / 140},{(y + 0.5) / 120},{time}{number}"


def test_five_clicks_are_kept_and_the_next_photograph_is_shown(entries, file):
    pointer = Pointer(entries[:3], entries, file)
    assert "1 of 3: 1/a.png: click the left eye" in pointer.status.value and "onclick" in pointer.picture.value
    click(pointer, TEMPLATE[:4])
    assert "click the right mouth corner" in pointer.status.value and not file.exists()
    back, skip = pointer.box.children[2].children
    back.click()
    assert "click the left mouth corner" in pointer.status.value
    click(pointer, TEMPLATE[3:], time=1)
    np.testing.assert_allclose(read_points(file, entries)["1/a.png"], TEMPLATE, atol=0.05 + 1e-6)
    assert "2 of 3: 1/b.png" in pointer.status.value
    skip.click()
    click(pointer, TEMPLATE[[1, 0, 2, 4, 3]])
    assert "Not kept: 2/a.png: the points lie as those of no face do" in pointer.status.value
    click(pointer, TEMPLATE + 2, time=2)
    assert sorted(read_points(file, entries)) == ["1/a.png", "2/a.png"]
    assert "Done: 2 faces set by hand" in pointer.status.value and pointer.picture.value == ""


def test_it_goes_on_with_what_is_not_set_yet(entries, file):
    write_points(file, {"1/a.png": TEMPLATE})
    assert "1 of 2: 1/b.png" in Pointer(entries[:3], entries, file).status.value
    assert "Done: 1 face" in Pointer(entries[:1], entries, file).status.value
