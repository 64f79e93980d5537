import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dcal_core.data.decoding import Unreadable, read_file
from dcal_core.data.locate import INDEX_FILES, find_indexes, folders_below, resolve_paths
from dcal_core.data.splits import split_families
from dcal_core.data.twins import DataError, TwinIndex, check_disjoint, read_index

REAL = Path(__file__).parents[2].parent / "shared" / "nd_twin"
needs_real_index = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=f"the ND-TWINS index files are not in {REAL}: their counts and layouts go untested",
)

IMAGES = {
    "10": ["/old/set/10/10d1.jpg", "/old/set/10/10d2.jpg"],
    "11": ["/old/set/11/11d1.jpg", "/old/set/11/11d2.jpg"],
    "12": ["/old/set/12/12d1.jpg"],
    "13": ["/old/set/13/13d1.jpg", "/old/set/13/13d2.jpg", "/old/set/13/13d3.jpg"],
    "20": ["/old/set/20/20d1.jpg"],
    "21": ["/old/set/21/21d1.jpg"],
    "30": ["/old/set/30/30d1.jpg"],
}
PAIRS = [["10", "11"], ["13", "20"], ["20", "12"], ["12", "13"]]  # twins, triplets; 21 and 30 are in no pair


def real_index(name: str) -> TwinIndex:
    return read_index(REAL / f"{name}_dataset_infor.json", REAL / f"{name}_twin_pairs.json", name)


def written(folder: Path, images: object = IMAGES, pairs: object = PAIRS) -> tuple[Path, Path]:
    files = folder / "train_dataset_infor.json", folder / "train_twin_pairs.json"
    for file, content in zip(files, (images, pairs), strict=True):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content))
    return files


def small_index(folder: Path) -> TwinIndex:
    return read_index(*written(folder), "train")


def lay_out(base: Path, paths) -> None:
    """Empty files as <base>/<person folder>/<file name>."""
    for path in map(Path, paths):
        place = base / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def assert_consistent(index: TwinIndex) -> None:
    assert list(index.people) == sorted(index.people)
    assert sorted(person for family in index.families for person in family) == list(index.people)
    for person, name in enumerate(index.people):
        assert name in index.families[index.family_of[person]]
        assert len(index.images_of(person)) > 0
        assert all(Path(index.paths[image]).parent.name == name for image in index.images_of(person))
    assert sum(len(index.images_of(person)) for person in range(len(index.people))) == len(index.paths)


@needs_real_index
def test_real_index_has_the_known_people_families_and_images():
    train, test = real_index("train"), real_index("test")
    assert (len(train.people), len(train.families), len(train.paths)) == (353, 176, 6182)
    assert (len(test.people), len(test.families), len(test.paths)) == (62, 31, 907)
    assert [family for family in train.families if len(family) != 2] == [("90360", "90361", "90362")]
    assert all(len(family) == 2 for family in test.families)
    assert_consistent(train)
    assert_consistent(test)
    check_disjoint(train, test)


@needs_real_index
@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize(
    "tree",
    [
        "nd-twin/ND_TWIN_Dataset_224",  # the old flat mount
        "nd-twin/ND_TWIN_Dataset_224/ND_TWIN_Dataset_224",  # with its doubled folder
        "datasets/owner/nd-twin/ND_TWIN_Dataset_224",  # the nested mount
        "datasets/owner/nd-twin/ND_TWIN_Dataset_224/ND_TWIN_Dataset_224",
        "faces",  # a local folder
        ".",
    ],
)
def test_images_are_found_in_every_layout(tmp_path, name, tree):
    index = real_index(name).select_families(range(8))
    lay_out(tmp_path / tree, index.paths)
    resolved = resolve_paths(index, tmp_path, max_lost_share=0.0)
    for entry, place in zip(index.paths, resolved.paths, strict=True):
        assert place == tmp_path / tree / Path(entry).parent.name / Path(entry).name


@needs_real_index
def test_whole_real_index_is_found(tmp_path, capsys):
    index = real_index("train")
    lay_out(tmp_path / "datasets" / "owner" / "nd-twin" / "ND_TWIN_Dataset_224", index.paths)
    assert len(set(resolve_paths(index, tmp_path, max_lost_share=0.0).paths)) == 6182
    assert "train: 6,182 of 6,182 images found under" in capsys.readouterr().out


def test_families_are_connected_components(tmp_path):
    index = small_index(tmp_path)
    assert index.families == (("10", "11"), ("12", "13", "20"), ("21",), ("30",))
    assert index.person_of.tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4, 5, 6]
    assert index.family_of.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert index.images_of(3).tolist() == [5, 6, 7]
    assert_consistent(index)


def test_take_keeps_people_and_refuses_to_empty_one(tmp_path):
    index = small_index(tmp_path)
    taken = index.take([0, 2, 4, 7, 8, 9, 10])
    assert taken.people == index.people
    assert taken.paths == tuple(index.paths[image] for image in [0, 2, 4, 7, 8, 9, 10])
    assert_consistent(taken)
    with pytest.raises(DataError, match="train: no image is left of 2 people: '12', '21'.*restore"):
        index.take([0, 2, 7, 8, 10])


def test_select_families_renumbers_everything(tmp_path):
    index = small_index(tmp_path).select_families([3, 1])
    assert index.people == ("12", "13", "20", "30")
    assert index.families == (("12", "13", "20"), ("30",))
    assert index.person_of.tolist() == [0, 1, 1, 1, 2, 3]
    assert index.family_of.tolist() == [0, 0, 0, 1]
    assert_consistent(index)


BAD_INDEXES = {
    "not JSON": (b'{"10": [', PAIRS, r"dataset_infor\.json: not JSON, .*line 1.*download"),
    "not UTF-8": (b'{"10": ["\xff"]}', PAIRS, r"dataset_infor\.json: byte 9 is not UTF-8.*download"),
    "empty file": (b" \n", PAIRS, r"dataset_infor\.json: the file is empty.*download"),
    "huge number": (b'{"10": ' + b"1" * 5000 + b"}", PAIRS, r"dataset_infor\.json: not JSON"),
    "deep nesting": (b"[" * 100_000, PAIRS, r"dataset_infor\.json: not JSON"),
    "empty index": ({}, PAIRS, r"dataset_infor\.json: not a map.*or empty: write one"),
    "list for dict": ([["10"]], PAIRS, r"dataset_infor\.json: not a map of person ids"),
    "duplicate key": (
        b'{"10": ["10/a"], "10": ["10/b"]}',
        PAIRS,
        r"infor\.json: key '10' occurs 2 times: join",
    ),
    "person without list": (
        {"10": "10/a.jpg"},
        PAIRS,
        r"person '10' has '10/a.jpg' where a list.*write a list",
    ),
    "person without images": ({"10": []}, PAIRS, r"infor\.json: person '10' has no images: add"),
    "path not a string": ({"10": [7]}, PAIRS, r"infor\.json: person '10' has 7 among.*write a string"),
    "path with ..": (
        {"10": ["a/../10/b.jpg"]},
        PAIRS,
        r"person '10': image 'a/../10/b.jpg' has a part '\.\.'",
    ),
    "Windows path with ..": ({"10": ["a\\..\\10\\b.jpg"]}, PAIRS, r"person '10': image .* has a part '\.\.'"),
    "path without folder": ({"10": ["/b.jpg"]}, PAIRS, r"person '10': image '/b.jpg' has no folder: write"),
    "image twice": (
        {"10": ["10/a.jpg", "10/./a.jpg"]},
        PAIRS,
        r"person '10': image '10/./a.jpg' is listed twice",
    ),
    "image of two": (
        {"10": ["x/a"], "11": ["x/a"]},
        PAIRS,
        r"'11': image 'x/a' is listed under person '10' too",
    ),
    "pairs not a list": (IMAGES, {"10": "11"}, r"twin_pairs\.json: not a list of pairs.*write"),
    "no pairs": (IMAGES, [], r"twin_pairs\.json: not a list of pairs.*or empty"),
    "pair of three": (
        IMAGES,
        [["10", "11"], ["12", "13", "20"]],
        r"pairs\.json: pair 1 is .*, not a list of two",
    ),
    "pair a string": (
        IMAGES,
        ["10"],
        r"twin_pairs\.json: pair 0 is '10', not a list of two person ids: write",
    ),
    "pair of numbers": (IMAGES, [[10, 11]], r"twin_pairs\.json: pair 0 is \[10, 11\], not .*two strings"),
    "unknown id": (
        IMAGES,
        [["10", "99"]],
        r"pairs\.json: pair 0 .*dataset_infor\.json lacks '99': add the person",
    ),
    "paired with self": (IMAGES, [["10", "10"]], r"twin_pairs\.json: pair 0 .*paired with themself: write"),
}


@pytest.mark.parametrize("images, pairs, message", BAD_INDEXES.values(), ids=BAD_INDEXES.keys())
def test_bad_index_is_refused_by_file_entry_and_cure(tmp_path, images, pairs, message):
    files = written(tmp_path, images, pairs)
    with pytest.raises(DataError, match=message) as raised:
        read_index(*files, "train")
    assert "\n" not in str(raised.value)


def test_missing_index_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: No such file.*give the folder"):
        read_index(tmp_path / "nowhere.json", tmp_path / "nowhere.json", "train")


def test_byte_order_mark_is_no_fault(tmp_path):
    files = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(IMAGES).encode())
    assert len(read_index(*files, "train").people) == len(IMAGES)


def test_missing_images_are_listed_and_left_out(tmp_path, capsys):
    index = small_index(tmp_path)
    lay_out(tmp_path / "faces", [path for path in index.paths if not path.endswith(("10d1.jpg", "13d3.jpg"))])
    resolved = resolve_paths(index, tmp_path, max_lost_share=0.2)
    assert len(resolved.paths) == 9
    assert_consistent(resolved)
    printed = capsys.readouterr().out
    assert "train: 9 of 11 images found" in printed
    assert "not found: 2 images: '/old/set/10/10d1.jpg', '/old/set/13/13d3.jpg'" in printed
    with pytest.raises(DataError, match="train: 2 of 11 images not under .*max_lost_share=0.1.*10d1.jpg.*attach"):
        resolve_paths(index, tmp_path, max_lost_share=0.1)


@needs_real_index
def test_five_missing_of_the_real_index_are_named(tmp_path, capsys):
    index = real_index("test")
    lost = list(index.paths[:50:10])
    lay_out(tmp_path, [path for path in index.paths if path not in lost])
    assert len(resolve_paths(index, tmp_path, max_lost_share=0.01).paths) == 902
    assert f"5 images: {', '.join(map(repr, lost))}\n" in capsys.readouterr().out


def test_only_the_first_missing_images_are_named(tmp_path, capsys):
    index = small_index(tmp_path)
    lay_out(tmp_path / "faces", index.paths[:1])
    with pytest.raises(DataError):
        resolve_paths(index, tmp_path, max_lost_share=0.5)
    assert "10 images: " in (printed := capsys.readouterr().out)
    assert printed.endswith("and 5 more\n")


def test_person_left_without_images_is_named(tmp_path):
    index = small_index(tmp_path)
    lay_out(tmp_path / "faces", index.paths[1:-1])
    with pytest.raises(DataError, match="no image is left of 1 person: '30': restore"):
        resolve_paths(index, tmp_path, max_lost_share=0.5)


def test_one_name_in_two_places_is_refused_with_both(tmp_path):
    index = small_index(tmp_path)
    lay_out(tmp_path / "a", index.paths)
    lay_out(tmp_path / "b", index.paths[:1])
    with pytest.raises(DataError, match=r"10d1\.jpg' matches .*/a/10/10d1.*/b/10/10d1.* equally well: remove"):
        resolve_paths(index, tmp_path, max_lost_share=0.5)


def test_the_longest_common_tail_wins(tmp_path):
    index = small_index(tmp_path)
    lay_out(tmp_path / "set", index.paths)
    lay_out(tmp_path / "copy", index.paths)
    lay_out(tmp_path / "old" / "set", index.paths)
    resolved = resolve_paths(index, tmp_path, max_lost_share=0.0)
    assert {path.parent.parent for path in resolved.paths} == {tmp_path / "old" / "set"}


def test_two_entries_that_lead_to_one_file_are_refused(tmp_path):
    index = read_index(*written(tmp_path, {"10": ["a/x/1.jpg"], "11": ["b/x/1.jpg"]}, [["10", "11"]]), "train")
    lay_out(tmp_path, ["x/1.jpg"])
    with pytest.raises(DataError, match=r"several entries .* lead to 1 file: '.*x/1\.jpg': keep one"):
        resolve_paths(index, tmp_path, max_lost_share=0.0)


def test_relative_paths_are_found_under_their_root(tmp_path):
    images = {"10": ["train/10/10d0.png", "test/10/10d0.png"], "11": ["train/11/11d0.png"]}
    index = read_index(*written(tmp_path, images, [["10", "11"]]), "train")
    for path in index.paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert resolve_paths(index, tmp_path, 0.0).paths == tuple(tmp_path / path for path in index.paths)


def test_windows_paths_are_found(tmp_path):
    index = read_index(*written(tmp_path, {"10": ["C:\\set\\10\\a.jpg"], "11": ["C:\\11\\a.jpg"]}, [["10", "11"]]), "t")
    lay_out(tmp_path, ["10/a.jpg", "11/a.jpg"])
    assert len(resolve_paths(index, tmp_path, 0.0).paths) == 2


@pytest.mark.parametrize("linked", ["", "faces", "faces/10", "faces/10/10d1.jpg"])
def test_links_are_followed_out_of_the_root(tmp_path, linked):
    index = small_index(tmp_path)
    away = tmp_path / "away"
    root = tmp_path / "root"
    lay_out(root / "faces", index.paths)
    shutil.move(root / linked, away)
    (root / linked).symlink_to(away)
    assert len(resolve_paths(index, root, max_lost_share=0.0).paths) == len(index.paths)


def test_a_person_folder_that_is_a_link_within_the_data_is_found(tmp_path):
    index = small_index(tmp_path)
    lay_out(tmp_path / "root", index.paths)
    (tmp_path / "root" / "10").rename(tmp_path / "root" / "0-store")  # comes first
    (tmp_path / "root" / "10").symlink_to("0-store")
    assert len(resolve_paths(index, tmp_path / "root", max_lost_share=0.0).paths) == len(index.paths)


def test_one_file_by_two_ways_is_not_ambiguous(tmp_path):
    index = small_index(tmp_path)
    lay_out(tmp_path / "root", index.paths)
    (tmp_path / "root" / "again").symlink_to(tmp_path / "root" / "10")
    (tmp_path / "root" / "old").mkdir()
    (tmp_path / "root" / "old" / "10").symlink_to(tmp_path / "root" / "10")
    (tmp_path / "root" / "old" / "11").symlink_to(tmp_path / "root" / "11")
    assert len(resolve_paths(index, tmp_path / "root", max_lost_share=0.0).paths) == len(index.paths)


def test_links_in_a_circle_end(tmp_path):
    root = tmp_path / "root"
    names = [f"folder{number}" for number in range(8)]
    for name in names:
        (root / name).mkdir(parents=True)
        for other in names:
            (root / name / f"to_{other}").symlink_to(root / other)
        (root / name / "up").symlink_to(root)
        (root / name / "top").symlink_to(tmp_path)
    found = [folder.relative_to(root).as_posix() for folder, _ in folders_below([root])]
    assert len(found) == 1 + 2 * len(names) and set(names) <= set(found)


@pytest.mark.parametrize(
    ("listed", "on_disk", "words"),
    [
        ("\u00e910/a.jpg", "e\u030110/a.jpg", "NFC and NFD"),
        ("10/e\u0301.jpg", "10/\u00e9.jpg", "NFC and NFD"),
        ("10/a.jpg", "10/a.JPG", "capital letters"),
        ("10/a.JPEG", "10/A.jpeg", "capital letters"),
        ("p10/a.jpg", "P10/a.jpg", "capital letters"),
        ("10/a.jpg", "10/a.jpg ", "blanks"),
        ("\ufeff10/a.jpg", "10/a.jpg", "look alike"),
        ("x\\p10\\a.jpg", "P10/a.jpg", "capital letters"),
    ],
)
def test_same_looking_names_are_found_and_told(tmp_path, capsys, listed, on_disk, words):
    index = read_index(*written(tmp_path, {"10": [listed], "11": ["11/b.jpg"]}, [["10", "11"]]), "train")
    lay_out(tmp_path / "root", [on_disk, "11/b.jpg"])
    resolved = resolve_paths(index, tmp_path / "root", max_lost_share=0.0)
    assert resolved.paths[0] == tmp_path / "root" / on_disk
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "differ" in line]
    assert said.startswith("train: 1 image found under names that differ") and words in said


def test_an_exact_name_goes_before_one_that_looks_the_same(tmp_path, capsys):
    images = {"10": ["10/a.jpg", "10/A.jpg"], "11": ["11/b.jpg"]}
    index = read_index(*written(tmp_path, images, [["10", "11"]]), "train")
    lay_out(tmp_path, ["10/a.jpg", "10/A.jpg", "11/b.jpg", "11/B.jpg"])
    assert resolve_paths(index, tmp_path, 0.0).paths == tuple(tmp_path / path for path in index.paths)
    assert "differ" not in capsys.readouterr().out
    (tmp_path / "10" / "A.jpg").unlink()
    with pytest.raises(DataError, match="1 of 3 images not under"):  # and not a.jpg for both
        resolve_paths(index, tmp_path, 0.0)


def test_several_same_looking_files_are_refused_with_both(tmp_path):
    index = read_index(*written(tmp_path, {"10": ["10/a.jpg"], "11": ["11/b.jpg"]}, [["10", "11"]]), "train")
    lay_out(tmp_path, ["10/A.jpg", "10/a.JPG", "11/b.jpg"])
    with pytest.raises(DataError, match=r"10/A\.jpg' and '.*10/a\.JPG' equally well"):
        resolve_paths(index, tmp_path, 0.0)


def test_files_of_an_archive_from_windows_are_found(tmp_path):
    index = read_index(*written(tmp_path, {"10": ["s/10/a.jpg"], "11": ["s/11/b.jpg"]}, [["10", "11"]]), "train")
    files = [tmp_path / "set\\10\\a.jpg", tmp_path / "set\\11\\b.jpg"]
    for file in files:
        file.touch()
    assert resolve_paths(index, tmp_path, 0.0).paths == tuple(files)


@pytest.mark.parametrize(
    ("on_disk", "cause"),
    [
        ("10/a.png", "10 holds 'a.png'"),
        ("person10/a.jpg", "no folder there is named '10'"),
        ("10/-> nowhere", "is a link to nowhere, which is not there"),
    ],
)
def test_the_cause_of_a_missing_image_is_named(tmp_path, on_disk, cause):
    index = read_index(*written(tmp_path, {"10": ["10/a.jpg"], "11": ["11/b.jpg"]}, [["10", "11"]]), "train")
    lay_out(tmp_path / "root", [on_disk.replace("-> nowhere", "c.jpg"), "11/b.jpg"])
    if "->" in on_disk:
        (tmp_path / "root" / "10" / "a.jpg").symlink_to("nowhere")
        files = resolve_paths(index, tmp_path / "root", 0.0).paths
        with pytest.raises(Unreadable, match=cause):
            read_file(files[0])
        return
    with pytest.raises(DataError, match=cause):
        resolve_paths(index, tmp_path / "root", 0.0)


def test_ids_of_another_unicode_form_in_the_pairs_are_the_same_people(tmp_path, capsys):
    images = {"\u00e910": ["10/a.jpg"], "e\u030111": ["11/b.jpg"], "12": ["12/c.jpg"], "13": ["13/c.jpg"]}
    pairs = [["e\u030110", "e\u030111"], ["12", "13"]]
    index = read_index(*written(tmp_path, images, pairs), "train")
    assert index.families == (("12", "13"), ("\u00e910", "\u00e911"))
    assert (
        "1 id: 'e\u030110': these differ from train_dataset_infor.json in the Unicode form" in capsys.readouterr().out
    )
    other = read_index(
        *written(tmp_path, {"e\u030110": ["x/a.jpg"], "14": ["14/a.jpg"]}, [["14", "e\u030110"]]), "test"
    )
    with pytest.raises(DataError, match="share 1 person"):  # one form in either split
        check_disjoint(index, other)


def test_two_people_whose_ids_look_the_same_are_refused(tmp_path):
    images = {"\u00e910": ["10/a.jpg"], "e\u030110": ["11/b.jpg"]}
    with pytest.raises(DataError, match=r"infor\.json: '\\xe910' and 'e\\u030110' differ in the Unicode form"):
        read_index(*written(tmp_path, images, [["\u00e910", "e\u030110"]]), "train")


def test_an_id_that_the_people_write_with_a_capital_is_named(tmp_path):
    images = {"P10": ["10/a.jpg"], "11": ["11/b.jpg"]}
    with pytest.raises(DataError, match="lacks 'p10'; it has 'P10', which differs in capital letters"):
        read_index(*written(tmp_path, images, [["p10", "11"]]), "train")


def test_an_index_in_utf_16_is_named(tmp_path):
    with pytest.raises(DataError, match="it is UTF-16, by its byte order mark: save it as UTF-8"):
        read_index(*written(tmp_path, json.dumps(IMAGES).encode("utf-16")), "train")


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder: give"):
        resolve_paths(small_index(tmp_path), tmp_path / "nowhere", 0.0)


def indexes_in(folder: Path, names=INDEX_FILES) -> Path:
    """A folder with empty files of the index's names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("nesting", ["", "nd-twin", "datasets/owner/nd-twin/ND_TWIN_Dataset_224/inner", "a/" * 20])
def test_index_files_are_found_in_nested_inputs(tmp_path, nesting):
    folder = indexes_in(tmp_path / nesting)
    assert find_indexes([tmp_path / "missing", tmp_path, folder]) == folder


def test_index_files_behind_links_are_found_once(tmp_path):
    away = indexes_in(tmp_path / "away" / "nd-twin")
    data = tmp_path / "data"
    data.mkdir()
    (data / "nd-twin").symlink_to(away)
    assert find_indexes([data]) == data / "nd-twin"
    (data / "the-same").symlink_to(away)
    assert find_indexes([data]) == data / "nd-twin"
    (tmp_path / "linked").symlink_to(data)
    assert find_indexes([tmp_path / "linked"]) == tmp_path / "linked" / "nd-twin"


def test_no_index_files_are_none(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("dataset_info.json", "twins.json", "train_twin_pairs.txt", "photos/weights.zip"):
        (tmp_path / name).touch()
    assert find_indexes([tmp_path]) is None
    assert find_indexes([]) is None


def test_several_or_partial_index_folders_are_refused(tmp_path):
    indexes_in(tmp_path / "one")
    indexes_in(tmp_path / "two")
    with pytest.raises(DataError, match=r"2 folders: '.*one', '.*two': give the one to use"):
        find_indexes([tmp_path])
    os.remove(tmp_path / "two" / INDEX_FILES[3])
    assert find_indexes([tmp_path]) == tmp_path / "one"
    with pytest.raises(DataError, match="two lacks 1 file: 'test_twin_pairs.json': put"):
        find_indexes([tmp_path / "two"])


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ("Train_Twin_Pairs.json", "there is .*Train_Twin_Pairs.json, which differs in capital letters"),
        ("train_twin_pairs.JSON", "which differs in capital letters"),
        ("train_twin_pairs (1).json", "holds 'train_twin_pairs \\(1\\).json'"),
        ("train-twin-pairs.json", "holds 'train-twin-pairs.json'"),
        ("train_twin_pair.json", "holds 'train_twin_pair.json'"),
    ],
)
@pytest.mark.parametrize("others", [True, False])
def test_index_files_of_nearly_these_names_are_refused(tmp_path, instead, words, others):
    indexes_in(tmp_path, [name for name in INDEX_FILES if others and name != "train_twin_pairs.json"])
    (tmp_path / instead).touch()
    with pytest.raises(DataError, match=f"lacks {1 if others else 4} file.*'train_twin_pairs.json'.*{words}"):
        find_indexes([tmp_path])


def test_what_may_hide_the_data_is_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "nd-twin").symlink_to(tmp_path / "unmounted")
    with pytest.raises(
        DataError, match=r"nd-twin is a link to .*unmounted, which is not there, and it may be the data"
    ):
        find_indexes([data])
    (data / "nd-twin").unlink()
    with zipfile.ZipFile(data / "nd-twin.zip", "w") as archive:
        archive.writestr("nd-twin/train_twin_pairs.json", "[]")
    with pytest.raises(DataError, match=r"nd-twin\.zip is an archive with index files in it: unpack it"):
        find_indexes([data])
    (tmp_path / "linked").symlink_to("nowhere")
    with pytest.raises(DataError, match="linked is a link to nowhere"):
        find_indexes([tmp_path / "linked"])


@needs_real_index
def test_split_is_by_family_and_depends_on_the_seed_alone():
    index = real_index("train")
    training, validation = split_families(index, 0.15, seed=0)
    check_disjoint(training, validation)
    assert_consistent(training)
    assert_consistent(validation)
    assert (training.name, validation.name) == ("train", "validation")
    assert (len(training.families), len(validation.families)) == (150, 26)
    assert set(training.families) | set(validation.families) == set(index.families)
    assert len(training.paths) + len(validation.paths) == 6182
    assert split_families(index, 0.15, seed=0)[1].people == validation.people
    assert split_families(index, 0.15, seed=1)[1].people != validation.people


@pytest.mark.parametrize("share", [1e-6, 0.5, 1 - 1e-6])
def test_split_leaves_a_twin_family_to_validate_on_and_one_to_train_on(tmp_path, share):
    for seed in range(5):
        training, validation = split_families(small_index(tmp_path), share, seed)
        assert len(training.families) >= 1 and len(validation.families) >= 1
        assert {"21", "30"} <= set(training.people)


def test_impossible_splits_are_refused(tmp_path):
    index = small_index(tmp_path)
    for families in ([0], [2, 3]):
        with pytest.raises(DataError, match="train: . famil.*, . with co-twins: too few to split: add"):
            split_families(index.select_families(families), 0.5, seed=0)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="validation_share"):
            split_families(index, share, seed=0)


def test_people_and_images_in_two_splits_are_refused(tmp_path):
    index = small_index(tmp_path)
    other = index.select_families([1])
    with pytest.raises(DataError, match="train and train share 3 people: '12', '13', '20': take"):
        check_disjoint(index, other)
    images = {"80": ["80/a.jpg", "/old/./set/30/30d1.jpg"], "81": ["81/a.jpg"]}
    test = read_index(*written(tmp_path, images, [["80", "81"]]), "test")
    with pytest.raises(DataError, match=r"train and test share 1 image: '/old/\./set/30/30d1\.jpg': take"):
        check_disjoint(index, test)
    check_disjoint(index.select_families([0, 1]), test)


def test_index_arrays_are_integers(tmp_path):
    for index in (small_index(tmp_path), small_index(tmp_path).select_families([1])):
        assert np.issubdtype(index.person_of.dtype, np.integer)
        assert np.issubdtype(index.family_of.dtype, np.integer)
