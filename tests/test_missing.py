"""Why a path names nothing."""

import os
import unicodedata

import pytest

from dcal_core.missing import cause, same_looking

NFC = unicodedata.normalize("NFC", "é1.png")
NFD = unicodedata.normalize("NFD", "é1.png")


@pytest.fixture
def folder(tmp_path):
    for name in ("Faces/Anna 1.JPG", f"Faces/{NFD}", "Faces/a/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "there", "words"),
    [
        ("Faces/Anna 1.jpg", "Faces/Anna 1.JPG", "capital letters"),
        ("faces/a/b.png", "Faces/a/b.png", "capital letters"),
        ("FACES/A/B.PNG", "Faces/a/b.png", "capital letters"),
        (f"Faces/{NFC}", f"Faces/{NFD}", "the Unicode form of its letters"),
        ("Faces\\a\\b.png", "Faces/a/b.png", "\\ in place of /"),
        ("Faces/a/b.png ", "Faces/a/b.png", "blanks"),
        ("Faces/'a'/b.png", "Faces/a/b.png", "quotation marks"),
        ("Faces/\ufeffa/b.png", "Faces/a/b.png", "look alike"),
        ("Faces/Anna\u00a01.JPG", "Faces/Anna 1.JPG", "look alike"),
    ],
)
def test_a_same_looking_name_is_named_with_the_difference(folder, given, there, words):
    assert same_looking(folder / given) == folder / there
    assert cause(folder / given).startswith(f"there is {folder / there}, which differs in ")
    assert words in cause(folder / given)


def test_a_link_that_leads_nowhere_is_named(folder):
    (folder / "gone").symlink_to(folder / "moved away")
    for path in (folder / "gone", folder / "gone" / "a" / "b.png"):
        assert cause(path) == f"{folder / 'gone'} is a link to {folder / 'moved away'}, which is not there"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('"c.png"', "the quotation marks are part of the name"),
        ("c\u200b.png", "U+200B, which cannot be seen"),
        ("\ufeffc.png", "U+FEFF, which cannot be seen"),
        ("Facets/a/b.png", "holds 'Faces'"),
        ("Faces/a/xyz/1.png", "Faces/a holds no 'xyz'"),
    ],
)
def test_what_else_can_be_wrong_with_a_name(folder, monkeypatch, given, words):
    monkeypatch.chdir(folder)
    assert words in cause(given)


def test_two_same_looking_names_decide_nothing(folder):
    (folder / "x.PNG").touch()
    (folder / "X.png").touch()
    if len(os.listdir(folder)) == 3:  # the file system tells capitals apart
        assert same_looking(folder / "x.png") is None


def test_where_nothing_is_seen_no_cause_is_made_up(folder):
    assert cause("/nowhere/at/all.png") == cause(folder / "Faces/a/5.jpeg") == ""


def test_what_is_there_has_no_cause(folder, monkeypatch):
    there = next(path for path in folder.rglob("*") if path.is_file())
    monkeypatch.chdir(there.parent)
    for path in (there, there.parent, str(there), there.name, ".", f"../{there.parent.name}/{there.name}"):
        assert cause(path) == "", path


def test_a_name_too_long_for_a_file_has_no_cause(tmp_path):
    assert cause(tmp_path / ("a" * 1000) / "b") == f"{tmp_path} holds no {'a' * 1000!r}"
