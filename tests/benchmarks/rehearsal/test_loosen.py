"""The loosely aligned copy: other crops of the same photographs under the same names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import drawn_twins

from benchmarks.rehearsal.loosen import loosen, nudge
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import label_of

SIDE = 32


@pytest.mark.parametrize("px", [0.0, 3.0])
def test_a_nudge_moves_landmarks_so_far(px):
    random = np.random.default_rng(0)
    points = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])  # of 112 px
    whole = np.column_stack([points, np.ones(5)])
    moved = [np.linalg.norm(whole @ nudge(random, 112, px).T - whole, axis=1).mean() for _ in range(500)]
    assert np.mean(moved) == pytest.approx(px, rel=0.1)


@pytest.fixture
def aligned(tmp_path):
    """A drawn data set as an aligned copy, whose transform is that of a face which fills its photograph."""
    root = drawn_twins(tmp_path / "drawn", train=2, test=2, size=SIDE)
    for split in ("train", "test"):
        listed = json.loads((root / f"{split}_dataset_infor.json").read_text())
        records = [
            {
                "photograph": str(root / path),
                "file": path,
                "transform": [[1, 0, 0], [0, 1, 0]],
                "landmarks": [[10, 12], [22, 12], [16, 18], [12, 24], [20, 24]],
            }
            for paths in listed.values()
            for path in paths
        ]
        records.append({"photograph": "lost.jpg", "file": "", "transform": None, "landmarks": None})
        folder = root / f"{split}_aligned_images"
        folder.mkdir()
        (folder / "alignment.json").write_text(json.dumps({"parameters": {"size": SIDE}, "records": records}))
    return root


def pictures(root: Path) -> list[np.ndarray]:
    index, _ = read_indexes(root)
    return [np.asarray(Image.open(root / path)) for path in index.paths]


def test_every_face_is_cut_anew_under_its_name(aligned, tmp_path):
    assert loosen(aligned, tmp_path / "same", px=0.0) == pytest.approx(0, abs=1e-9)
    for before, after in zip(pictures(aligned), pictures(tmp_path / "same"), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loosen(aligned, tmp_path / "loose", px=3.0) > 0
    assert [index.people for index in read_indexes(tmp_path / "loose")] == [i.people for i in read_indexes(aligned)]
    assert all((a != b).any() for a, b in zip(pictures(aligned), pictures(tmp_path / "loose"), strict=True))
    assert label_of(tmp_path / "loose") == "SYNTHETIC"


def test_what_is_no_aligned_copy_is_named(tmp_path):
    command = [sys.executable, "-m", "benchmarks.rehearsal.loosen", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 1 and "alignment.json" in done.stderr and "Traceback" not in done.stderr
