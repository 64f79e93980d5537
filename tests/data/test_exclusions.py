"""The exclusion list: what is written is read, what is no such list is refused in one sentence, and it is obeyed."""

import numpy as np
import pytest

from dcal_core.data.exclusions import (
    FILE,
    find_lists,
    image_names,
    leave_out,
    match_exclusions,
    read_exclusions,
    write_exclusions,
)
from dcal_core.data.twins import DataError, TwinIndex

EXCLUDED = {"10/10d1.jpg": "unreadable: 'cut', short", "a/11/11d2.jpg": "", 'x/"12".jpg': "two\nlines, ünïcode"}


def index(name: str, people: tuple[str, ...], folder: str = "/old/set") -> TwinIndex:
    """Two people, three images each."""
    return TwinIndex(
        name=name,
        people=people,
        families=(people,),
        paths=tuple(f"{folder}/{person}/{person}d{number}.jpg" for person in people for number in range(3)),
        person_of=np.repeat([0, 1], 3),
        family_of=np.array([0, 0]),
    )


@pytest.fixture
def indexes():
    return index("train", ("10", "11")), index("test", ("50", "51"))


def listed(folder, *images, name=FILE):
    folder.mkdir(parents=True, exist_ok=True)
    write_exclusions(folder / name, dict.fromkeys(images, "why"))
    return folder / name


# ---- the file


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "new" / "folder" / FILE
    write_exclusions(file, EXCLUDED)
    assert read_exclusions(file) == EXCLUDED
    assert list(file.parent.iterdir()) == [file]
    before = file.read_bytes()
    write_exclusions(file, dict(reversed(EXCLUDED.items())))
    assert file.read_bytes() == before and before.startswith(b"image,reason\n10/10d1.jpg,")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffimage,reason\r\n10/10d1.jpg,why\r\n",  # as a spreadsheet saves it
        'image,reason\n"10/10d1.jpg","why"',
        "image,reason\n\n10/10d1.jpg,why\n\n",
    ],
)
def test_lists_of_other_programs_are_read(tmp_path, content):
    (tmp_path / FILE).write_text(content, encoding="utf-8", newline="")
    assert read_exclusions(tmp_path / FILE) == {"10/10d1.jpg": "why"}


def test_a_list_may_be_empty(tmp_path):
    write_exclusions(tmp_path / FILE, {})
    assert read_exclusions(tmp_path / FILE) == {}


BAD = {
    "empty file": (b"", r"its first line is '': let it be 'image,reason'"),
    "other header": (b"image;reason\n10/a.jpg;why\n", r"its first line is 'image;reason': let it be"),
    "no header": (b"10/a.jpg,why\n", r"its first line is '10/a.jpg,why': let it be"),
    "third column": (b"image,reason\n10/a.jpg,too,many\n", r", line 2: 3 columns, not 2: write image,reason"),
    "one column": (b"image,reason\n10/a.jpg\n", r", line 2: 1 columns, not 2"),
    "no image": (b"image,reason\n,why\n", r", line 2: image '' names no image: name one or delete"),
    "blank image": (b"image,reason\n  ,why\n", r"image '  ' names no image"),
    "absolute path": (b"image,reason\n/data/10/a.jpg,why\n", r"'/data/10/a.jpg' is no name below the data: write"),
    "drive": (b"image,reason\nC:/10/a.jpg,why\n", r"'C:/10/a.jpg' is no name below the data"),
    "backslash": (b"image,reason\n10\\a.jpg,why\n", r"is no name below the data: write person/file, with /"),
    "out of the root": (b"image,reason\n10/../../a.jpg,why\n", r"'10/\.\./\.\./a.jpg' is not person/file"),
    "a dot": (b"image,reason\n./10/a.jpg,why\n", r"'./10/a.jpg' is not person/file"),
    "no folder": (b"image,reason\na.jpg,why\n", r"'a.jpg' is not person/file: write the end"),
    "a folder": (b"image,reason\n10/,why\n", r"'10/' is not person/file"),
    "twice": (b"image,reason\n10/a.jpg,why\n10/a.jpg,too\n", r", line 3: image '10/a.jpg' is listed twice: keep one"),
    "not UTF-8": (b"image,reason\n10/a\xff.jpg,why\n", r"byte 17 is not UTF-8: save the list"),
    "UTF-16": ("image,reason\n".encode("utf-16"), r"byte 0 is not UTF-8"),
    "NUL": (b"image,reason\n10/a\0.jpg,why\n", r"holds a NUL byte, so it is not text"),
    "huge field": (b"image,reason\n10/a.jpg," + b"x" * 200_000, r", line 2: not CSV, field larger than"),
    "open quote": (b'image,reason\n"10/a.jpg,why\n', r"not CSV, unexpected end of data"),
    "a word after quotes": (b'image,reason\n"10/a.jpg"x,why\n', r", line 2: not CSV, ',' expected"),
    "a picture": (b"\x89PNG\r\n\x1a\n", r"byte 0 is not UTF-8"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_is_no_list_is_refused_in_one_sentence(tmp_path, content, sentence):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as raised:
        read_exclusions(tmp_path / FILE)
    message = str(raised.value)
    assert message.startswith(str(tmp_path / FILE)) and "\n" not in message and len(message) < 400


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: No such file or directory: correct the path"):
        read_exclusions(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="Is a directory"):
        read_exclusions(tmp_path)


@pytest.mark.parametrize("image", ["", "a.jpg", "/10/a.jpg", "10/\0.jpg", "10/\ud800.jpg", "..\\a.jpg"])
def test_what_could_not_be_read_again_is_not_written(tmp_path, image):
    write_exclusions(tmp_path / FILE, EXCLUDED)
    with pytest.raises(DataError):
        write_exclusions(tmp_path / FILE, {image: "why"})
    assert read_exclusions(tmp_path / FILE) == EXCLUDED and list(tmp_path.iterdir()) == [tmp_path / FILE]


# ---- names


def test_names_are_as_short_as_tells_images_apart():
    paths = [
        "/old/set/10/a.jpg",
        "C:\\old\\10\\b.jpg",
        "train/10/c.jpg",
        "test/10/c.jpg",
        "x/y/10/d.jpg",
        "z/y/10/d.jpg",
    ]
    assert image_names(paths) == [
        "10/a.jpg",
        "10/b.jpg",
        "train/10/c.jpg",
        "test/10/c.jpg",
        "x/y/10/d.jpg",
        "z/y/10/d.jpg",
    ]
    assert image_names(["10/a.jpg", "x/10/a.jpg"]) == ["10/a.jpg", "x/10/a.jpg"]
    assert image_names(["s/10/a.jpg", "s/10/a.jpg"]) == ["s/10/a.jpg", "s/10/a.jpg"]


def test_each_name_is_matched_to_its_own_image(tmp_path):
    paths = ["10/a.jpg", "x/10/a.jpg", "/old/set/11/b.jpg", "C:\\set\\12\\c.jpg"]
    for number, name in enumerate(image_names(paths)):
        assert match_exclusions([name], paths, tmp_path) == ({name: number}, [])
    assert match_exclusions(["set/11/b.jpg", "old/11/b.jpg"], paths, tmp_path) == (
        {"set/11/b.jpg": 2},
        ["old/11/b.jpg"],
    )


def test_a_name_that_fits_two_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"image '10/a.jpg' fits 'x/10/a.jpg' and 'y/10/a.jpg': write more"):
        match_exclusions(["10/a.jpg"], ["x/10/a.jpg", "y/10/a.jpg"], tmp_path)


# ---- obeyed


def test_excluded_images_leave_both_indexes(tmp_path, indexes, capsys):
    file = listed(tmp_path, "10/10d1.jpg", "set/51/51d0.jpg")
    train, test = leave_out(indexes, "", [tmp_path])
    assert train.paths == tuple(path for path in indexes[0].paths if not path.endswith("10d1.jpg"))
    assert test.paths == tuple(path for path in indexes[1].paths if not path.endswith("51d0.jpg"))
    assert train.person_of.tolist() == [0, 0, 1, 1, 1] and test.people == indexes[1].people
    assert capsys.readouterr().out == f"Left out: 2 of 12 images, by {file}\n"
    assert train.fingerprint() != indexes[0].fingerprint()


def test_without_a_list_all_images_stay(tmp_path, indexes, capsys):
    assert leave_out(indexes, "", [tmp_path, tmp_path / "nowhere"]) == list(indexes)
    assert capsys.readouterr().out == ""


def test_the_list_that_is_given_wins(tmp_path, indexes, capsys):
    listed(tmp_path / "prepare", "10/10d1.jpg")
    file = listed(tmp_path, "11/11d0.jpg", name="mine.csv")
    train, _ = leave_out(indexes, str(file), [tmp_path])
    assert len(train.paths) == 5 and not train.paths[3].endswith("11d0.jpg")
    assert str(file) in capsys.readouterr().out


def test_a_stale_list_is_refused_with_its_entries(tmp_path, indexes):
    file = listed(tmp_path, "10/10d1.jpg", "10/10d9.jpg")
    for given in ("", str(file)):
        with pytest.raises(DataError, match=r"leaves out 1 image: '10/10d9.jpg' that the index lacks: delete"):
            leave_out(indexes, given, [tmp_path])


def test_a_list_for_other_data_is_named_and_not_obeyed_unless_it_is_given(tmp_path, indexes, capsys):
    file = listed(tmp_path, "90004/90004d1.jpg", "90005/90005d1.jpg")
    assert leave_out(indexes, "", [tmp_path]) == list(indexes)
    assert capsys.readouterr().out == f"{file} is ignored: none of the 2 images it names is in this data.\n"
    with pytest.raises(DataError, match="leaves out 2 images: '90004/90004d1.jpg'"):
        leave_out(indexes, str(file), [])


def test_lists_that_differ_are_refused_and_copies_are_not(tmp_path, indexes, capsys):
    for folder in ("one", "two"):
        listed(tmp_path / folder, "10/10d1.jpg")
    assert len(leave_out(indexes, "", [tmp_path])[0].paths) == 5
    assert capsys.readouterr().out.count("Left out") == 1
    listed(tmp_path / "two", "10/10d1.jpg", "10/10d2.jpg")
    with pytest.raises(DataError, match=r"2 lists: '.*one.*', '.*two.*' leave out different images: give the one"):
        leave_out(indexes, "", [tmp_path])


def test_a_person_without_images_is_named_with_the_list(tmp_path, indexes):
    file = listed(tmp_path, *(f"11/11d{number}.jpg" for number in range(3)))
    with pytest.raises(DataError, match=f"{file}: train: no image is left of 1 person: '11': restore one or unlist"):
        leave_out(indexes, "", [tmp_path])


def test_lists_are_found_as_deep_as_inputs_are_nested(tmp_path):
    deep = listed(tmp_path / "input/notebooks/owner/prepare/prepare", "10/10d1.jpg")
    here = listed(tmp_path / "runs/prepare", "10/10d1.jpg")
    assert find_lists([tmp_path / "runs/prepare", tmp_path / "input", tmp_path]) == [deep, here]


def test_a_list_in_another_unicode_form_than_the_index_holds(tmp_path):
    paths = ["x/\u00e9/a.jpg", "x/e\u0301/b.jpg"]
    excluded = ["e\u0301/a.jpg", "\u00e9/b.jpg"]
    assert match_exclusions(excluded, paths, tmp_path) == ({"e\u0301/a.jpg": 0, "\u00e9/b.jpg": 1}, [])
