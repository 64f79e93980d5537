"""A folder for each person: whose image is whose, what is left out and said, who is tested on, and what is refused."""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from record_writer import write_records

from dcal_core.data import splits
from dcal_core.data.enough import Needs, too_little
from dcal_core.data.locate import find_images
from dcal_core.data.people_folders import looks_like_people, read_people
from dcal_core.data.roots import find_data, find_root, knows_co_twins, read_indexes
from dcal_core.data.splits import NO_CO_TWINS, open_data, open_root
from dcal_core.data.twins import DataError

NAMES = [f"p{number:02d}" for number in range(20)]


def people(folder: Path, names=NAMES, images: int = 2) -> Path:
    """A folder with a folder of so many empty files for each name; returns it."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(images):
            (folder / name / f"{number}.jpg").touch()
    return folder


def pair_up(folder: Path, names=NAMES) -> list[list[str]]:
    """Write that each two names are co-twins."""
    pairs = [list(pair) for pair in zip(names[::2], names[1::2], strict=True)]
    (folder / "twin_pairs.json").write_text(json.dumps(pairs))
    return pairs


def listed(*indexes) -> dict[str, list[str]]:
    """The files of each person."""
    return {
        person: [index.paths[image].name for image in index.images_of(number)]
        for index in indexes
        for number, person in enumerate(index.people)
    }


def test_everybody_stands_alone_and_the_fifth_with_the_least_hashes_is_tested_on(tmp_path, capsys):
    train, test = read_people(people(tmp_path / "faces"))
    by_hash = sorted(NAMES, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert list(test.people) == sorted(by_hash[:4]) and (train.name, test.name) == ("train", "test")
    assert sorted(train.people + test.people) == NAMES and listed(train, test) == dict.fromkeys(
        NAMES, ["0.jpg", "1.jpg"]
    )
    for index in (train, test):
        assert index.families == tuple((person,) for person in index.people)
        assert not index.co_twins and index.in_place and all(path.is_file() for path in index.paths)
    assert capsys.readouterr().out == ""


def test_with_pairs_the_families_of_co_twins_are_shared_and_others_are_trained_on(tmp_path):
    root = people(tmp_path / "faces", [*NAMES, "single"])
    pairs = pair_up(root)
    train, test = read_people(root)
    by_hash = sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    assert sorted(map(list, test.families)) == sorted(by_hash[:2])
    assert ("single",) in train.families and len(train.families) == 9 and train.co_twins and test.co_twins
    (root / "twin_pairs.json").write_text(json.dumps([*pairs, [NAMES[1], NAMES[2]]]))
    assert tuple(NAMES[:4]) in sum((index.families for index in read_people(root)), ())


def test_folders_train_and_test_are_the_splits(tmp_path, capsys):
    people(tmp_path / "Train", NAMES[:6])
    people(tmp_path / "test", NAMES[6:10])
    people(tmp_path / "val", ["other"])
    pair_up(tmp_path, NAMES[:10])
    train, test = read_people(tmp_path)
    assert list(train.people) == NAMES[:6] and list(test.people) == NAMES[6:10] and len(train.families) == 3
    assert "left out, beside train and test: 1 entry: 'val'" in capsys.readouterr().out
    (tmp_path / "twin_pairs.json").write_text(json.dumps([[NAMES[0], NAMES[9]]]))
    with pytest.raises(DataError, match="'p00' and 'p09' one is in train and one in test: put both"):
        read_people(tmp_path)


@pytest.mark.parametrize("one", ["train", "test"])
def test_one_of_both_splits_is_no_person(tmp_path, one):
    people(tmp_path / one)
    people(tmp_path / "val")
    with pytest.raises(DataError, match=f"has a folder {one} and none named t.*: add it, or give .*{one} as data_root"):
        read_people(tmp_path)


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    root = people(tmp_path / "faces")
    people(root, ["alone", "sorry"], images=1)
    people(root, [".hidden", "__MACOSX"])
    (root / "empty").mkdir()
    (root / "group.jpg").touch()
    (root / "README.md").touch()
    (root / "pairs.csv").touch()
    for name in (".DS_Store", "._0.jpg", "notes.txt", "photo.heic"):
        (root / "p00" / name).touch()
    (root / "p01" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "p02" / "again.jpg").symlink_to(root / "p02" / "0.jpg")
    (root / "p03" / "around").symlink_to(root)
    train, test = read_people(root)
    assert listed(train, test) == dict.fromkeys(NAMES, ["0.jpg", "1.jpg"])
    said = capsys.readouterr().out
    for words in (
        "people with a single image: 2 entries: 'alone', 'sorry'",
        "folders without an image: 1 entry: 'empty'",
        "images in faces itself, which are nobody's: 1 entry: 'group.jpg'",
        "co-twins are read from twin_pairs.json alone: 1 entry: 'pairs.csv'",
        f"files that are no images by their names: 2 entries: '{root}/p00/notes.txt', '{root}/p00/photo.heic'",
        f"links that lead nowhere: 1 entry: '{root}/p01/gone.jpg'",
        "files that come twice, through links: 1 entry: ",
    ):
        assert f"{root}: left out, {words}" in said
    assert len(said.splitlines()) == 7
    read_people(root, quiet=True)
    assert capsys.readouterr().out == ""


def test_a_single_image_counts_where_a_co_twin_is_known(tmp_path):
    root = people(tmp_path / "faces")
    (root / "p00/1.jpg").unlink()
    pair_up(root)
    assert listed(*read_people(root))["p00"] == ["0.jpg"]


def test_images_below_a_persons_folder_are_the_persons(tmp_path):
    root = people(tmp_path / "faces")
    people(root / "p00", ["more"])
    (root / "p01" / "0.jpg").rename(root / "p01" / "2.JPEG")
    people(root / "deep" / "er", ["inside"])
    far = people(tmp_path / "far", ["p99"])
    (root / "linked").symlink_to(far / "p99")
    files = listed(*read_people(root))
    assert sorted(files["p00"]) == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"] and files["p01"] == ["1.jpg", "2.JPEG"]
    assert files["deep"] == files["linked"] == ["0.jpg", "1.jpg"]


def test_folders_of_one_person_or_of_people_are_not_guessed(tmp_path):
    root = people(tmp_path / "faces")
    people(root / "group", ["a", "b", "c"])
    with pytest.raises(DataError, match="group holds no image itself but 3 folders: 'a', 'b', 'c' .*give .*group as"):
        read_people(root)


def test_one_file_is_of_one_person(tmp_path):
    root = people(tmp_path / "faces")
    (root / "p20").symlink_to(root / "p03")
    with pytest.raises(DataError, match="p03/0.jpg and .*p20/0.jpg are one file, under two people"):
        read_people(root)


def test_names_of_any_script_count_in_one_form(tmp_path):
    names = ["张伟", "김민수", "👩 a", "Zoë", "محمد"]
    root = people(tmp_path / "faces", [unicodedata.normalize("NFD", name) for name in names])
    (root / "twin_pairs.json").write_text(json.dumps([names[:2], names[2:4], names[2:5:2]]))
    with pytest.raises(DataError, match="2 families of co-twins .*too few"):
        read_people(root)
    people(root, NAMES)
    (root / "twin_pairs.json").unlink()
    assert set(names) <= set(listed(*read_people(root)))
    people(root, [unicodedata.normalize("NFC", "Zoë")])
    with pytest.raises(DataError, match=r"'Zo\\xeb' .*NFC and NFD\) alone: join"):
        read_people(root)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere such names do not exist")
def test_a_name_that_is_no_text_is_refused(tmp_path):
    root = people(tmp_path / "faces")
    os.mkdir(os.fsencode(root) + b"/\xff")
    with pytest.raises(DataError, match="cannot be written: rename it"):
        read_people(root)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([["p00", "p01"], ["p02", "nobody"]], "pair 1 is .*lacks 'nobody'"),
        ([["p00", "p00"]], "paired with themself"),
        ([], "or empty"),
        ({"p00": "p01"}, "not a list of pairs"),
    ],
)
def test_pairs_of_others_are_refused(tmp_path, pairs, words):
    root = people(tmp_path / "faces")
    (root / "twin_pairs.json").write_text(json.dumps(pairs))
    with pytest.raises(DataError, match=f"twin_pairs.json.*{words}"):
        read_people(root)


def test_a_file_of_pairs_under_another_name_is_not_passed_over(tmp_path):
    root = people(tmp_path / "faces")
    (root / "Twin_Pairs.json").write_text("[]")
    with pytest.raises(DataError, match="holds 'Twin_Pairs.json': if it lists co-twins, name it twin_pairs.json"):
        read_people(root)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_people_to_split_are_refused(tmp_path, count):
    root = people(tmp_path / "faces", ["one image"], images=1)
    people(root, NAMES[:count])
    with pytest.raises(DataError, match="nobody to train with has two images" if not count else "too few to train"):
        read_people(root)


# ---- which folder it is


@pytest.mark.parametrize("above", ["", "casia/CASIA-WebFace"])
def test_the_folder_is_found_where_it_is_given_and_not_guessed_among_the_inputs(
    tmp_path, elsewhere, capsys, monkeypatch, above
):
    root = people(tmp_path / "data" / above)
    assert find_data(str(tmp_path / "data")) == root and find_data("") is None
    assert not knows_co_twins(root)
    assert read_indexes(root)[1].co_twins is False
    monkeypatch.setattr(splits, "draw_twins", lambda config: tmp_path)
    open_root(tiny.oaml_config())
    assert (
        f"{root} holds 10 folders of images or more: if they are people, give it as data_root"
        in capsys.readouterr().out
    )
    assert looks_like_people([people(tmp_path / "few", NAMES[:9])]) is None


def test_index_files_come_before_folders(tmp_path):
    root = tiny.drawn_twins(tmp_path / "drawn", train=4, test=2)
    assert find_data(str(root)) == root and read_indexes(root)[0].co_twins
    for file in root.glob("*.json"):
        file.unlink()
    train, test = read_indexes(find_data(str(root)))
    assert (len(train.people), len(test.people), test.co_twins) == (8, 4, False)


@pytest.mark.parametrize("held", ["images alone", "nothing"])
def test_a_folder_that_is_neither_is_refused_by_what_was_looked_for(tmp_path, held):
    for number in range(3 if held == "images alone" else 0):
        (tmp_path / f"{number}.jpg").touch()
    words = (
        "no train_dataset_infor.json or records in it or below, and no folder of a person with images inside; it holds "
    )
    with pytest.raises(DataError, match=f"{words}{3 if held == 'images alone' else 0} files"):
        find_root(tiny.oaml_config(data_root=str(tmp_path)))


# ---- splits


@pytest.fixture
def faces(tmp_path, elsewhere):
    """Pictures of 20 people, two each."""
    root = people(tmp_path / "faces")
    random = np.random.default_rng(0)
    for file in sorted(root.rglob("*.jpg")):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    return root


def test_splits_go_by_person_and_say_that_nobodys_co_twin_is_known(faces, capsys):
    config = tiny.oaml_config(data_root=str(faces), validation_share=0.25)
    data = open_data(config)
    assert {name: len(split.index.people) for name, split in data.splits.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert (
        data.label == "faces" and not data.aligned and not any(split.index.co_twins for split in data.splits.values())
    )
    assert NO_CO_TWINS in capsys.readouterr().out
    held_out = open_data(config.replace(seed=1), ["validation", "test"])
    assert held_out["test"].index.people == data["test"].index.people
    assert held_out["validation"].index.people != data["validation"].index.people
    assert data["test"].index.counted() == "test: 4 people, no co-twins known, 8 images"


def test_more_pixels_than_a_map_may_hold_are_decoded_when_they_are_asked_for(faces, monkeypatch):
    config = tiny.oaml_config(data_root=str(faces), validation_share=0.25)
    mapped = open_data(config, ["train"])["train"].images.batch([3, 1])
    monkeypatch.setattr("dcal_core.data.images.LARGEST_MAP", 3 * 32 * 32 * 10)
    asked_for = open_data(config, ["train"])["train"].images
    assert not hasattr(asked_for.images, "filename") and asked_for.batch([3, 1]).equal(mapped)


@pytest.mark.parametrize(
    ("name", "needs", "images", "words"),
    [
        (
            "validation",
            Needs(),
            1,
            "0 people with two images.* takes 3 to set .*: give validation_share=0.19, or add people",
        ),
        ("train", Needs(people=30), 2, "train: 12 people with two images.* takes 30 to fill a batch"),
        ("train", Needs(co_twins=True), 2, "learns from families of co-twins.*recipe adaface or oaml"),
        ("test", Needs(), 1, "test: 0 people with two images, where no co-twins are known; it takes 2 to measure"),
        ("validation", Needs(people=30, co_twins=True), 2, ""),
    ],
)
def test_too_few_people_are_told_in_numbers_with_the_cure(tmp_path, name, needs, images, words):
    index, _ = read_people(people(tmp_path / "faces", NAMES[:15]))
    reason = too_little(replace(index, name=name), 16, needs, np.full(12, images))
    assert re.search(words, reason) and bool(reason) == bool(words)


# ---- records


@pytest.fixture
def records(tmp_path):
    """Ten people with two images each in one file of records, and one with a single image."""
    picture = BytesIO()
    Image.new("RGB", (40, 40), "grey").save(picture, "PNG")
    labels = [*np.repeat(range(10), 2).tolist(), 10]
    root = tmp_path / "faces" / "ms1m"
    root.mkdir(parents=True)
    write_records(root, labels, [picture.getvalue()] * len(labels))
    return root


def test_labels_of_records_are_people(records, elsewhere, capsys):
    assert find_data(str(records.parent)) == records
    data = open_data(tiny.oaml_config(data_root=str(records), validation_share=0.4))
    found = [person for split in data.splits.values() for person in split.index.people]
    assert sorted(found) == list("0123456789") and len(data["test"].index.people) == 2
    for split in data.splits.values():
        for number, path in enumerate(split.index.paths):
            label = split.index.people[split.index.person_of[number]]
            assert path in (f"{records}/train.rec/{label}/{2 * int(label) + which}" for which in (1, 2))
        assert split.images.batch([0]).shape == (1, 3, tiny.SIZE, tiny.SIZE)
    assert "people with a single image: 1 entry: '10'" in capsys.readouterr().out
    assert find_images(data["test"].index, records) == [[path] for path in data["test"].index.paths]


def test_several_files_of_records_are_refused(records):
    for ending in (".rec", ".idx"):
        (records / f"other{ending}").touch()
    with pytest.raises(DataError, match="2 files: .* of records: keep one there"):
        find_data(str(records))
