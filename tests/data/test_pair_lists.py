import pytest

from dcal_core.data.pair_lists import families_of_pairs, read_pairs
from dcal_core.data.twins import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "c/1.png", "d/an image, large.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "a/1.png,b/1.png",
        " a/1.png , b/1.png ",
        "a/1.png\tb/1.png",
        "a/1.png   b/1.png",
        '"a/1.png","b/1.png"',
        '"a/1.png" "b/1.png"',
        "a\\1.png,b\\1.png",
        '"a\\1.png"\tb/1.png',
    ],
)
def test_two_images_a_line_however_they_are_separated(folder, line):
    (folder / "pairs.txt").write_text(f"\n{line}\n\n{folder}/a/2.png,c/1.png\n")
    assert read_pairs(folder / "pairs.txt") == [
        (folder / "a/1.png", folder / "b/1.png"),
        (folder / "a/2.png", folder / "c/1.png"),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a/1.png,b/1.png\na/1.png\n", "line 2: 'a/1.png': give two image files"),
        ("a/1.png,b/1.png,c/1.png", "line 1: .* give two image files"),
        ("a/1.png,", "line 1: .* give two image files"),
        ("a/1.png,b/9.png", "line 1: there is no file .*b/9.png; .*/b holds '1.png': correct the path"),
        (
            "a/1.png,B/1.png",
            "line 1: there is no file .*/B/1.png; there is .*/b/1.png, which differs in capital letters",
        ),
        ("a/1.png,'b/1.png'", "line 1: there is no file .*differs in .*quotation marks"),
        ('"a/1.png,b/1.png', "line 1: .* give two image files"),
        ("first.txt,second.txt", "line 1: there is no file "),
        ("\n \n", "holds no pair"),
    ],
)
def test_a_line_that_is_no_pair_is_refused(folder, text, sentence):
    (folder / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_pairs(folder / "pairs.txt")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("heading", ["", "first,second", "image_a\timage_b", '"A","B"'])
def test_marks_headings_and_names_with_commas_as_other_programs_write_them(folder, capsys, mark, ending, heading):
    lines = [heading, '"d/an image, large.png","a/1.png"', "d/an image, large.png\ta/1.png"]
    (folder / "pairs.csv").write_bytes(mark + ending.join(line.encode() for line in lines if line))
    assert read_pairs(folder / "pairs.csv") == [(folder / "d/an image, large.png", folder / "a/1.png")] * 2
    assert ("is taken for headings" in capsys.readouterr().out) == bool(heading)


def test_a_list_that_is_no_text_is_refused(folder):
    with pytest.raises(DataError, match="No such file"):
        read_pairs(folder / "none.txt")
    (folder / "Pairs.TXT").touch()
    with pytest.raises(DataError, match=r"No such file or directory; there is .*Pairs\.TXT, which differs in capital"):
        read_pairs(folder / "pairs.txt")
    (folder / "pairs.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not UTF-8: save it as UTF-8"):
        read_pairs(folder / "pairs.txt")


def test_people_whom_pairs_join_are_one_family(tmp_path):
    def pair(a, b):
        return tmp_path / a / "1.png", tmp_path / b / "2.png"

    found = families_of_pairs([pair("a", "a"), pair("b", "c"), pair("a", "d"), pair("d", "e"), pair("c", "c")])
    assert found[0] == found[2] == found[3] != found[1] == found[4]
