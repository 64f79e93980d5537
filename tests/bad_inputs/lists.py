"""Lists of excluded images in CSV, with a judge that reads RFC 4180 letter by letter."""

from pathlib import Path

from hypothesis import strategies as st

from bad_inputs.indexes import IMAGES, parts, write_data
from bad_inputs.mutations import EVIL_PATHS, can_be_written, damaged
from bad_inputs.trial import Kind
from dcal_core.data.exclusions import leave_out
from dcal_core.data.roots import read_indexes

LIST = 'image,reason\n10/10a.jpg,blurred\nset/11/11b.jpg,"not him, but a stranger"\n20/20a.jpg,"says ""no"""\n'
HEADER = "image,reason\n"


def rows_of(text: str) -> list[list[str]]:
    """The rows of a CSV text; ValueError on a quote left open or one that text follows."""
    text = text.replace("\r\n", "\n").replace("\r", "\n") + "\n"
    rows, row, cell, state, blank = [], [], "", "start", True
    for letter in text:
        blank = blank and letter == "\n"
        if state == "quoted":
            state, cell = ("closing", cell) if letter == '"' else (state, cell + letter)
        elif letter == '"' and state in ("start", "closing"):
            cell, state = cell + '"' * (state == "closing"), "quoted"
        elif letter in ",\n":
            row, cell, state = [*row, cell], "", "start"
            if letter == "\n":
                rows, row, blank = rows if blank else [*rows, row], [], True
        elif state == "closing":
            raise ValueError
        else:
            cell, state = cell + letter, "plain"
    if state == "quoted":
        raise ValueError
    return rows


def is_name(image: str) -> bool:
    """Whether a cell is the end of a path, person and file at least."""
    steps = image.split("/")
    rooted = image[1:2] == ":" and image[:1].isascii() and image[:1].isalpha()
    return len(steps) > 1 and not {"", ".", ".."} & set(steps) and "\\" not in image and not rooted


def malformed(folder: Path, content: bytes | str) -> bool:
    """The judge of exclusion lists: of the format, each name that of one image, somebody left of each person."""
    try:
        text = (folder / "excluded_images.csv").read_bytes().decode("utf-8-sig")
        header, *rows = rows_of(text)
    except (OSError, ValueError):
        return True
    if header != ["image", "reason"] or any(len(row) != 2 for row in rows) or not can_be_written(text):
        return True
    images = [image for image, _ in rows]
    if not all(map(is_name, images)) or len(images) != len(set(images)):
        return True
    paths = [path for split in IMAGES.values() for paths in split.values() for path in paths]
    taken = set()
    for image in images:
        fits = [path for path in paths if parts(path)[-len(parts(image)) :] == parts(image)]
        if len(fits) != 1:
            return True
        taken.update(fits)
    return any(set(split[person]) <= taken for split in IMAGES.values() for person in split)


def write(folder: Path, content: bytes | str) -> None:
    write_data(folder, {})
    file = folder / "excluded_images.csv"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "folder":
        file.mkdir()
    elif content == "link":
        file.symlink_to(file)


def use(folder: Path, content: bytes | str) -> None:
    """What training and preparing do with the list that they are given."""
    indexes = read_indexes(folder / "data")
    left = leave_out(indexes, str(folder / "excluded_images.csv"), [])
    assert sum(len(index.paths) for index in left) <= sum(len(index.paths) for index in indexes)


def text(rows: str) -> bytes:
    return (HEADER + rows).encode("utf-8", "surrogatepass")


BY_HAND = {
    "empty file": b"",
    "no such file": "missing",
    "a folder in its place": "folder",
    "a link to itself": "link",
    "no header": b"10/10a.jpg,blurred\n",
    "other header": b"file,why\n10/10a.jpg,blurred\n",
    "semicolons": b"image;reason\n10/10a.jpg;blurred\n",
    "tabs": b"image\treason\n10/10a.jpg\tblurred\n",
    "UTF-16": LIST.encode("utf-16"),
    "Latin-1": text("10/10a.jpg,") + b"\xe9\n",
    "NUL": text("10/10a.jpg,a\0b\n"),
    "half a surrogate pair": text("10/10a.jpg,\ud800\n"),
    "one column": text("10/10a.jpg\n"),
    "three columns": text("10/10a.jpg,too dark,blurred\n"),
    "quote left open": text('10/10a.jpg,"blurred\n'),
    "text after a quote": text('10/10a.jpg,"blurred" much\n'),
    "an image of 200,000 letters": text("10/" + "a" * 100_000 + ",x\n"),
    "image twice": text("10/10a.jpg,a\n10/10a.jpg,b\n"),
    "image by two names": text("10/10a.jpg,a\nset/10/10a.jpg,b\n11/11z.jpg,c\n"),
    "image without a name": text(",blurred\n"),
    "image without a person": text("10a.jpg,blurred\n"),
    "image unknown": text("10/10z.jpg,blurred\n"),
    "all images of a person": text("10/10a.jpg,a\n10/10b.jpg,b\n"),
    "JSON": b'{"image": "reason"}',
    "a workbook": b"PK\x03\x04" + bytes(range(256)),
    **{f"image {path[:24]!r}": text(f'"{path}",blurred\n') for path in EVIL_PATHS},
}
cells = st.sampled_from(["10/10a.jpg", "11/11a.jpg", "x/1.jpg", "", '"', '"a', "a,b", "\r", "\n", "\t", "\ufeff", " "])
LISTS = Kind(
    name="exclusion lists, CSV",
    by_hand=BY_HAND,
    generated=st.one_of(
        damaged(LIST.encode()),
        st.lists(cells | st.text(max_size=5), min_size=1, max_size=5).map(lambda row: text(",".join(row))),
        st.binary(max_size=20),
    ),
    count=80,
    lay_out=write,
    malformed=malformed,
    use=use,
    names=lambda content: ("excluded_images.csv",),
    example="image twice",
)
