import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import GRID, SIZE, Brightness, make_images, make_model, make_oaml

from dcal_core.data.landmarks import DRAWN
from dcal_core.explain.catalogue import PairView
from dcal_core.explain.pair_figures import stem_of, write_pair
from dcal_core.explain.regions import face_regions, view_statistics
from dcal_core.storage import StorageError

REGIONS = face_regions(DRAWN, SIZE)
FACES = (make_images(2) * 255).to(torch.uint8)
NAMES = ("90004/90004d13.jpg", "90005/90005d01.jpg")
STEM = "90004_90004d13_90005_90005d01"


def test_all_that_is_shown_of_a_pair_is_written(tmp_path):
    view, folder = PairView(make_model(), FACES, NAMES), tmp_path / "new/pair"
    folder.mkdir(parents=True)
    (folder / f"{STEM}_attention_rollout.png").write_bytes(b"of another run")
    files = write_pair(folder, view, "SYNTHETIC", REGIONS, "two people")
    endings = ["pair_attention.png", "attention_rollout.png", "glca_attention.png", "discriminative_regions.png"]
    names = [*(f"{STEM}_{ending}" for ending in endings), f"{STEM}.html", f"{STEM}_attention_stats.json"]
    assert files == [folder / name for name in names]
    assert sorted(files) == sorted(folder.iterdir())  # and nothing half written
    for file in files[:-2]:
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) > 400
            assert len(np.unique(np.asarray(picture))) > 50
    found = json.loads(files[-1].read_text())
    assert found["maps"] == json.loads(json.dumps(view_statistics(view, REGIONS)))
    del found["maps"]
    assert found == {"data": "SYNTHETIC", "images": list(NAMES), "score": view.score, "answer": "two people"}


def test_a_model_without_attention_is_told_by_its_score(tmp_path):
    model = Brightness()
    model.grid, model.anything = GRID, torch.nn.Parameter(torch.zeros(1))
    files = write_pair(tmp_path, PairView(model, FACES, ("a.png", "b.png")), "mine", REGIONS, "two people")
    assert [file.name for file in files] == [
        "a_b_pair_attention.png", "a_b_discriminative_regions.png", "a_b.html", "a_b_attention_stats.json",
    ]  # fmt: skip
    assert json.loads(files[-1].read_text())["answer"] == "two people"


def test_a_model_that_matches_places_is_told_by_its_matches_too(tmp_path):
    files = write_pair(tmp_path, PairView(make_oaml(), FACES, ("a.png", "b.png")), "mine", REGIONS, "two people")
    assert tmp_path / "a_b_local_matches.png" in files
    assert {"local", "visible"} <= json.loads(files[-1].read_text())["maps"].keys()


def test_a_picture_on_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def full(figure, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = tmp_path / f"{STEM}_pair_attention.png"
    before.write_bytes(b"whole")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(StorageError, match="no room on the disk"):
        write_pair(tmp_path, PairView(make_model(), FACES, NAMES), "SYNTHETIC", REGIONS, "two people")
    assert [*tmp_path.iterdir()] == [before] and before.read_bytes() == b"whole"


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "taken").write_text("")
    view = PairView(make_model(), FACES, NAMES)
    with pytest.raises(StorageError, match="taken cannot be written"):
        write_pair(tmp_path / "taken", view, "SYNTHETIC", REGIONS, "two people")


@pytest.mark.parametrize(
    "names, stem",
    [
        (NAMES, STEM),
        (("/data/twins/90004/a b.jpg", "../c:d?.png"), "90004_a_b_c_d"),
        (("...", "Zoë/été.v2.png"), "image_Zoë_été_v2"),
        (("x" * 300 + ".png", "é" * 300 + ".png"), "x" * 100 + "_" + "é" * 50),
    ],
)
def test_stems_are_safe_for_file_systems(names, stem):
    assert stem_of(names) == stem
