"""The .bin files of image pairs: what Python 2, Python 3 and numpy have written is read, and nothing in them is run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
from face_sets import picture, write_bin, write_old_bin

from dcal_core.data.benchmarks.packed_pairs import pair_files, read_pairs
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError

IMAGES = [picture(10 * n, 20, 30) for n in range(4)]
SAME = [True, False]


def assert_read(file: Path) -> None:
    images, same = read_pairs(file)
    assert images == IMAGES and same.dtype == bool and same.tolist() == SAME


@pytest.mark.parametrize("protocol", range(2, 6))
def test_files_of_python_3_are_read(tmp_path, protocol):
    assert_read(write_bin(tmp_path / "lfw.bin", IMAGES, SAME, protocol))
    assert_read(write_bin(tmp_path / "lfw.bin", IMAGES, [1, 0], protocol))


def test_files_of_python_2_are_read(tmp_path):
    assert_read(write_old_bin(tmp_path / "lfw.bin", IMAGES, SAME))


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("same", [np.array(SAME), list(np.array(SAME)), np.array(SAME, np.uint8)])
def test_what_numpy_has_pickled_is_read_without_numpy(tmp_path, protocol, same):
    images = [np.frombuffer(image, np.uint8).copy() for image in IMAGES]
    assert_read(write_bin(tmp_path / "lfw.bin", images, same, protocol))


def test_numpy_before_version_2_had_other_names(tmp_path):
    content = pickle.dumps((IMAGES, np.array(SAME)), 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "lfw.bin").write_bytes(content)
    assert_read(tmp_path / "lfw.bin")


class Attack:
    """Its unpickling calls something."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def test_nothing_in_a_file_is_run(tmp_path, refused):
    file, touched = tmp_path / "lfw.bin", tmp_path / "touched"
    attacks = [
        Attack(os.system, f"touch {touched}"),
        Attack(Path.touch, touched),
        Attack(eval, f"open({str(touched)!r}, 'w')"),
        Attack(bytearray, 10**15),
        Attack(np.fromfile, str(file)),
    ]
    for attack in attacks:
        for protocol in range(2, 6):
            for images, same in (([*IMAGES[1:], attack], SAME), (IMAGES, attack)):
                write_bin(file, images, same, protocol)
                with refused(DataError, file, "it asks to run ", "source you trust"):
                    read_pairs(file)
    assert not touched.exists()
    with refused(DataError, file, "it asks to run"):  # a name alone, which nothing calls
        file.write_bytes(b"\x80\x02cposix\nsystem\n.")
        read_pairs(file)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_cut_anywhere_is_refused(tmp_path, protocol):
    file = write_bin(tmp_path / "lfw.bin", IMAGES, SAME, protocol)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"lfw\.bin is not read as image pairs"):
            read_pairs(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ((IMAGES[:3], SAME), "holds 3 images for 2 pairs of two"),
        ((IMAGES, [True]), "holds 4 images for 1 pairs of two"),
        (([], []), "holds 0 images for 0 pairs"),
        ((IMAGES, [True, 2]), "something else than images and truth values"),
        (([*IMAGES[:3], "text"], SAME), "something else than images and truth values"),
        (([*IMAGES[:3], 7], SAME), "something else than images and truth values"),
        (([*IMAGES[:3], np.zeros(3)], SAME), "not of bytes or truth values"),
        ((IMAGES, np.array([1.0, 0.0])), "not of bytes or truth values"),
        (IMAGES[0], "not read as image pairs"),
        (7, "not read as image pairs"),
    ],
)
def test_other_contents_are_refused(tmp_path, refused, content, words):
    file = tmp_path / "lfw.bin"
    file.write_bytes(pickle.dumps(content))
    with refused(DataError, file, words):
        read_pairs(file)


def test_what_is_no_file_is_refused(tmp_path, refused):
    with refused(DataError, tmp_path, "cannot be read"):
        read_pairs(tmp_path)


# ---- which files there are


def test_files_are_found_by_their_names_anywhere_below_the_folder(tmp_path, elsewhere):
    for name in ("b/cfp_fp.bin", "a/b/lfw.bin", "a/other.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = {"LFW": tmp_path / "a/b/lfw.bin", "CFP-FP": tmp_path / "b/cfp_fp.bin"}
    assert pair_files(tiny.dcal_config(benchmarks_root=str(tmp_path))) == expected
    assert pair_files(tiny.dcal_config(data_root=str(tmp_path))) == expected
    assert pair_files(tiny.dcal_config(benchmarks_root=str(tmp_path / "a"), data_root=str(tmp_path))).keys() == {"LFW"}
    assert pair_files(tiny.dcal_config()) == {}


def test_files_that_cannot_be_meant_are_refused(tmp_path, elsewhere, refused):
    with refused(ConfigError, f"benchmarks_root={tmp_path / 'no'}", "no such folder"):
        pair_files(tiny.dcal_config(benchmarks_root=str(tmp_path / "no")))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lfw.bin").write_text(name)
    with refused(DataError, tmp_path / "a/lfw.bin", tmp_path / "b/lfw.bin", "benchmarks_root"):
        pair_files(tiny.dcal_config(benchmarks_root=str(tmp_path)))
