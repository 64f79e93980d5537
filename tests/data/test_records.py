"""Images in RecordIO as InsightFace packs them: what is read is what a byte by byte account of the format says."""

import io
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from record_writer import MAGIC, headed, write_contents, write_records
from torch.utils.data import DataLoader

from dcal_core.data import images as module
from dcal_core.data.decoding import decode
from dcal_core.data.images import open_images
from dcal_core.data.records import Records, image_in_record
from dcal_core.data.twins import DataError

SIZE = 16


def jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


JPEGS = [jpeg(seed) for seed in range(6)]
PEOPLE = [0, 0, 1, 1, 1, 2]


def names(file, people=PEOPLE) -> tuple[str, ...]:
    return tuple(f"{file}/{person}/{number}" for number, person in enumerate(people, 1))


def test_a_file_written_out_byte_by_byte(tmp_path):
    magic = "0a23d7ce"
    written = [
        magic, "20000000", "02000000 00000000", "0000000000000000 0000000000000000", "00000040 00004040",  # 2.0, 3.0
        magic, "1d000000", "00000000 0000e040", "0100000000000000 0000000000000000", "6661636531 000000",  # 7.0, face1
        magic, "20000000", "02000000 00000000", "0200000000000000 0000000000000000", "0000803f 00000040",  # 1.0, 2.0
    ]  # fmt: skip
    (tmp_path / "train.rec").write_bytes(bytes.fromhex("".join(written)))
    (tmp_path / "train.idx").write_text("0\t0\n1\t40\n2\t80\n")
    records = Records(tmp_path / "train.rec")
    assert records.labels.tolist() == [7] and records.image(1) == b"face1"
    assert write_records(tmp_path / "again", [7], [b"face1"]).read_bytes() == (tmp_path / "train.rec").read_bytes()


def test_records_in_several_parts_and_with_several_labels(tmp_path):
    contents = [b"abcd" + MAGIC + b"efg", b"ab" + MAGIC + b"cd", MAGIC, MAGIC + MAGIC, b"", b"abcd" + MAGIC, b"x" * 99]
    people = [3, (4, 9, 9), 5.0, (6,), 7, (8, 0.5), 9]
    file = write_contents(
        tmp_path,
        [headed((8, 9), 0), *map(headed, people, [*range(6), 0xCED7230A], contents), headed((1, 8), 0)],
        classes=10,
    )
    records = Records(file)
    assert records.labels.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert [records.image(number) for number in range(1, 8)] == contents
    assert file.read_bytes().count(MAGIC) == 9 + 5 + 1 + 1  # 5 cuts, the header's own and the one that is not aligned


def test_a_magic_number_before_the_labels_is_joined_first(tmp_path):
    contents = [headed((3, 4), 0), headed(5, 1, b"abc" * 9), headed((6, 1), 0xCED7230A, b"xyz"), headed((1, 3), 3)]
    records = Records(write_contents(tmp_path, contents))
    assert records.labels.tolist() == [5, 6] and records.image(2) == b"xyz"


def test_images_are_decoded_when_they_are_asked_for(tmp_path, monkeypatch):
    file = write_records(tmp_path, PEOPLE, JPEGS)
    with monkeypatch.context() as closed:
        closed.setattr(module, "decode", lambda *_: pytest.fail("decoded"))
        store = open_images(names(file), SIZE, tmp_path / "cache", max_lost_share=0.0)
    assert (store.size, store.kept.tolist(), list(store.rejected)) == (SIZE, [*range(6)], [])
    expected = torch.from_numpy(np.stack([decode(JPEGS[image], SIZE) for image in (5, 0, 0, 3)]))
    for indices in ([5, 0, 0, 3], np.array([5, 0, 0, 3]), torch.tensor([5, 0, 0, 3])):
        assert torch.equal(store.batch(indices), expected)
    assert store.batch([]).shape == (0, 3, SIZE, SIZE) and not (tmp_path / "cache").exists()


def test_workers_map_the_file_themselves(tmp_path):
    file = write_records(tmp_path, PEOPLE, JPEGS)
    store = pickle.loads(pickle.dumps(open_images(names(file), SIZE, tmp_path, max_lost_share=0.0)))
    records = Records(file)
    copied = pickle.dumps(records)
    assert len(copied) < 300 and pickle.loads(copied).image(4) == records.image(4) == JPEGS[3]
    loaded = DataLoader(range(6), batch_size=3, num_workers=2, collate_fn=store.batch, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loaded)), store.batch(range(6)))


def test_an_image_that_cannot_be_decoded_is_named_when_it_is_asked_for(tmp_path):
    file = write_records(tmp_path, PEOPLE, [*JPEGS[:5], JPEGS[5][:40]])
    store = open_images(names(file), SIZE, tmp_path, max_lost_share=0.0)
    assert len(store.batch(range(5))) == 5
    with pytest.raises(DataError, match=re.escape(f"{file}/2/6: ") + ".*cannot be.*exclusions"):
        store.batch([5])


def test_paths_that_name_no_record_are_files(tmp_path):
    file = write_records(tmp_path, PEOPLE, JPEGS)
    assert image_in_record(f"{file}/1/3") == JPEGS[2]
    for path in (file, f"{file}/1/0", f"{file}/1/7", f"{file}/1/x", tmp_path / "b.rec/1/1", tmp_path / "1/3"):
        assert image_in_record(path) is None
    (tmp_path / "folder.rec").mkdir()
    assert image_in_record(tmp_path / "folder.rec" / "1.jpg") is None


def spoilt(folder, how: str):
    """A file of records with one fault."""
    good = {"people": PEOPLE, "images": JPEGS, "classes": 3}
    changes = {
        "label above the classes": {"people": [0, 0, 1, 1, 1, 3]},
        "negative label": {"people": [-1, 0, 1, 1, 1, 2]},
        "label between": {"people": [0, 0, 1, 1, 1.5, 2]},
        "no label": {"people": [0, 0, 1, float("nan"), 1, 2]},
    }
    file = write_records(folder, **good | changes.get(how, {}))
    index = file.with_suffix(".idx")
    lines = index.read_text().splitlines()
    content = file.read_bytes()
    if how == "cut short":
        file.write_bytes(content[: int(lines[6].split()[1]) + 50])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "another magic":
        place = int(lines[4].split()[1])
        file.write_bytes(content[:place] + b"RIFF" + content[place + 4 :])
    elif how == "no index":
        index.unlink()
    elif how == "no records":
        file.unlink()
    elif how == "offset beyond":
        index.write_text("\n".join([*lines[:3], f"3\t{len(content) + 8}", *lines[4:]]))
    elif how == "number missing":
        index.write_text("\n".join(lines[:3] + lines[4:]))
    elif how == "no record 0":
        index.write_text("\n".join(lines[1:]))
    elif how == "no header":
        write_contents(folder, [headed(0, 0, JPEGS[0]), *(headed(0, n, JPEGS[n]) for n in range(1, 6))])
    elif how == "header of more":
        write_contents(folder, [headed((99, 100), 0), headed(0, 1, JPEGS[1])])
    elif how == "index of words":
        index.write_text("0\tzero\n")
    elif how == "half a line":
        index.write_text("0\t0\n1")
    elif how == "part missing":
        write_contents(folder, [headed((2, 3), 0), headed(0, 1, b"abcd" + MAGIC + b"efgh")])
        file.write_bytes(file.read_bytes()[:-4])
    elif how == "odd property":
        (folder / "property").write_text("many,112,112")
    return file


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut short", "train.rec: record 6 is cut short at the file's [0-9,]+ bytes"),
        ("empty", "train.rec or its .idx holds nothing to read .*empty"),
        ("another magic", "train.rec: record 4 does not begin at the byte that the index gives"),
        ("no index", "train.idx: No such file"),
        ("no records", "train.rec: No such file"),
        ("offset beyond", "train.rec: record 3 begins after the end of the file"),
        ("number missing", "train.rec: record 3 is not in the index"),
        ("no record 0", "train.rec: record 0 is not in the index"),
        ("no header", "train.rec: record 0 is no header"),
        ("header of more", "train.rec: record 0 is no header .*of the 2 records"),
        ("index of words", "train.rec or its .idx holds nothing to read"),
        ("half a line", "train.rec or its .idx holds nothing to read"),
        ("label above the classes", "train.rec: record 6 has the label 3, no whole number from 0 to 2"),
        ("negative label", "record 1 has the label -1, "),
        ("label between", "record 5 has the label 1.5, "),
        ("no label", "record 4 has the label nan, "),
        ("odd property", "property: does not begin with a number of classes"),
    ],
)
def test_what_is_not_whole_is_refused_in_a_sentence(tmp_path, how, words):
    with pytest.raises(DataError, match=words) as refusal:
        Records(spoilt(tmp_path, how))
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_part_that_is_missing_is_refused_when_the_record_is_read(tmp_path):
    file = spoilt(tmp_path, "part missing")
    with pytest.raises(DataError, match="train.rec: record 1 lacks a part"):
        Records(file)
