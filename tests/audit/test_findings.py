"""The data audit: each fault that is put into drawn twins is found as what it is, and clean twins raise no alarm."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from tiny import drawn_twins

from dcal_core.audit import findings as module
from dcal_core.audit.duplicates import (
    ALIKE,
    RADIUS,
    SIDE,
    fine_structure,
    perceptual_hashes,
    same_shots,
    thumbnail,
)
from dcal_core.audit.facts import read_facts
from dcal_core.audit.findings import audit_images
from dcal_core.audit.kinds import KINDS
from dcal_core.data.decoding import Unreadable, decode
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.roots import read_indexes
from dcal_core.data.twins import DataError, read_index

SIZE = 64
REAL = Path(__file__).parents[2].parent / "shared" / "nd_twin"
needs_real_index = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the ND-TWINS index files are not in {REAL}: their people and families go unaudited"
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Drawn twins: people 10001 to 10012 with four images each, and 50001 to 50004 to test on."""
    return drawn_twins(tmp_path_factory.mktemp("clean"), train=6, images=4, size=SIZE)


def place(root: Path, name: str) -> Path:
    return root / ("test" if name.startswith("5") else "train") / name[:5] / f"{name}.png"


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def edit_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def spoilt(clean, tmp_path_factory):
    """The same twins with one fault of each kind, in the files and in the index."""
    root = shutil.copytree(clean, tmp_path_factory.mktemp("spoilt") / "twins")

    def original(name):
        return Image.open(io.BytesIO(place(clean, name).read_bytes())).convert("RGB")

    files = {
        "10001d00": place(clean, "10001d00").read_bytes()[:300],
        "10002d00": encoded(original("10002d00").convert("L")),
        "10003d00": encoded(original("10003d00").resize((20, 20))),
        "10003d01": encoded(original("10003d01").resize((40, 31))),
        "10003d02": encoded(original("10003d02").resize((32, 32))),
        "10004d01": place(clean, "10004d00").read_bytes(),
        "10004d03": encoded(original("10004d02"), compress_level=9),
        "10005d01": encoded(original("10005d00"), "JPEG", quality=70),
        "10006d03": encoded(ImageEnhance.Brightness(original("10005d03")).enhance(0.8)),
        "10009d00": encoded(original("10007d00").resize((32, 32), Image.Resampling.LANCZOS)),
        "50001d00": encoded(original("10011d00"), "JPEG", quality=80),
        "10010d02": place(clean, "10010d02").read_bytes(),
    }
    for name, content in files.items():
        place(root, name).write_bytes(content)
    place(root, "10001d01").unlink()
    shutil.move(place(root, "10008d03"), place(root, "10008d03").with_name("10007d09.png"))
    shutil.copytree(root / "train/10010", root / "copy/10010", ignore=lambda _, names: set(names) - {"10010d02.png"})

    def images(index):
        index["10008"][3] = "train/10008/10007d09.png"
        index["10010"][2] = "10010/10010d02.png"  # in train/ and in copy/ alike
        index["10012"] = index["10012"][:1]

    edit_json(root / "train_dataset_infor.json", images)
    edit_json(root / "train_twin_pairs.json", lambda pairs: (pairs.append(["10002", "10003"]), pairs.remove(pairs[5])))
    edit_json(root / "test_dataset_infor.json", lambda index: index.update({"10010": ["train/10010/10010d03.png"]}))
    return root


@pytest.fixture(scope="module")
def found(spoilt):
    return audit_images(read_indexes(spoilt), spoilt, SIZE, "SYNTHETIC")


def short(images) -> tuple[str, ...]:
    """'10001/10001d00.png' as '10001d00'."""
    return tuple(Path(image).stem for image in images)


EXPECTED = {  # kind: images or people of each finding, and those suggested to drop
    "too_little": [],
    "lost": [],
    "list": [],
    "across_splits": [(("10010",), ())],
    "leak": [
        (("10010d03", "10010d03"), ("10010d03",)),
        (("10011d00", "50001d00"), ("10011d00", "50001d00")),
    ],
    "like_co_twin": [(("10005d03", "10006d03"), ("10005d03", "10006d03"))],
    "like_unrelated": [(("10007d00", "10009d00"), ("10007d00", "10009d00"))],
    "misnamed": [(("10007d09",), ("10007d09",))],
    "unreadable": [(("10001d00",), ("10001d00",))],
    "blank": [],
    "missing": [(("10001d01",), ())],
    "ambiguous": [(("10010d02",), ())],
    "duplicate": [(("10004d00", "10004d01"), ("10004d01",)), (("10004d02", "10004d03"), ("10004d03",))],
    "near_duplicate": [(("10005d00", "10005d01"), ())],
    "tiny": [(("10003d00", "10003d01"), ("10003d00", "10003d01"))],
    "not_square": [(("10003d01",), ())],
    "greyscale": [(("10002d00",), ())],
    "few_images": [(("10012",), ()), (("10010",), ())],
    "no_co_twin": [(("10011", "10012"), ()), (("10010",), ())],
    "large_family": [(("10001", "10002", "10003", "10004"), ())],
} | dict.fromkeys(("same_person", "stranger", "unsure", "blurred", "small_face", "turned"), [])  # found on faces


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_is_found_as_what_it_is_and_nothing_else(found, kind):
    findings = [(short(f.images) or f.people, short(f.drop)) for f in found.of_kind(kind)]
    assert sorted(findings) == sorted(EXPECTED[kind])


def test_the_gravest_findings_come_first_and_say_why(found):
    kinds = [finding.kind for finding in found.findings]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    reasons = {finding.kind: finding.reason for finding in reversed(found.findings)}
    assert "cannot be decoded" in reasons["unreadable"]
    assert reasons["duplicate"] == "the same file, 2 times under 10004"
    assert reasons["like_co_twin"].startswith("one shot (correlation ")
    assert reasons["misnamed"] == "listed under 10008, but the file is named after 10007, the co-twin"
    assert reasons["greyscale"] == "1 of 4 images of 10002 are grey, which is not a fault"
    assert reasons["large_family"] == "a family of 4 in train"


def test_the_report_is_strict_json_with_counts_and_thresholds(found):
    report = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert report["data"] == "SYNTHETIC" and report["thresholds"]["tiny_px"] == 32
    assert report["counts"] == {kind: len(findings) for kind, findings in EXPECTED.items()}
    train = report["splits"]["train"]
    assert (train["people"], train["images"], train["images_found"], train["images_readable"]) == (12, 45, 44, 42)
    assert train["images_per_person"] == {"min": 1, "median": 4.0, "max": 4}
    assert train["shorter_side_px"]["min"] == 20 and train["images_of"]["10001"] == 2
    assert len(report["findings"]) == sum(map(len, EXPECTED.values()))


def test_suggestions_name_each_image_once_with_its_gravest_reason(found):
    suggested = found.suggested()
    assert suggested["10005/10005d03.png"].startswith("same shot as co-twin: one shot")
    assert len(suggested) == 13
    assert found.emptied(suggested) == []
    assert found.emptied([*suggested, "10012/10012d00.png"]) == ["10012"]


def test_images_below_half_the_size_wanted_are_told_and_kept(clean):
    coarse = audit_images(read_indexes(clean), clean, 160, "SYNTHETIC")
    assert {finding.kind for finding in coarse.findings} == {"tiny"} and coarse.suggested() == {}
    small = "have a shorter side of 32 to 79 px: a smaller image_size would lose nothing"
    people = [person for split in coarse.splits.values() for person in split["images_of"]]
    assert [f.reason for f in coarse.findings] == [f"4 of 4 images of {person} {small}" for person in people]


@pytest.mark.parametrize("size", [32, SIZE])
def test_clean_twins_raise_no_alarm(clean, size):
    assert audit_images(read_indexes(clean), clean, size, "SYNTHETIC").findings == ()


def test_data_without_any_image_is_audited_too(clean, tmp_path):
    for name in clean.glob("*.json"):
        shutil.copy(name, tmp_path)
    lost = audit_images(read_indexes(tmp_path), tmp_path, SIZE, "nothing")
    assert {finding.kind for finding in lost.findings} == {"too_little", "lost", "missing", "few_images"}
    assert len(lost.of_kind("missing")) == 16 and lost.splits["test"]["shorter_side_px"]["median"] is None
    json.dumps(lost.as_dict(), allow_nan=False)


def test_index_files_that_are_none_are_still_refused(clean, tmp_path):
    for name in clean.glob("*.json"):
        shutil.copy(name, tmp_path)
    (tmp_path / "test_dataset_infor.json").write_text("[]")
    with pytest.raises(DataError, match="not a map of person ids"):
        read_indexes(tmp_path)


def test_files_that_are_numbered_are_not_taken_for_misnamed(tmp_path):
    people = [str(number) for number in range(1, 5)]
    images = {person: [f"{person}/{number}.png" for number in range(1, 5)] for person in people}
    for person, paths in images.items():
        (tmp_path / person).mkdir()
        for number, path in enumerate(paths):
            pixels = np.random.default_rng([int(person), number]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / path)
    (tmp_path / "i.json").write_text(json.dumps(images))
    (tmp_path / "p.json").write_text('[["1", "2"], ["3", "4"]]')
    index = read_index(tmp_path / "i.json", tmp_path / "p.json", "train")
    assert audit_images([index], tmp_path, 32, "numbered").findings == ()


@needs_real_index
def test_the_real_index_has_triplets_and_nobody_in_two_splits(tmp_path):
    report = audit_images(read_indexes(REAL), REAL, 224, "ND-TWINS")
    assert [report.splits[name]["people"] for name in ("train", "test")] == [353, 62]
    assert [report.splits[name]["families"] for name in ("train", "test")] == [176, 31]
    (triplets,) = report.of_kind("large_family")
    assert triplets.people == ("90360", "90361", "90362") and "in train" in triplets.reason
    assert not report.of_kind("across_splits") and not report.of_kind("no_co_twin") and not report.of_kind("misnamed")
    assert sum(len(finding.images) for finding in report.of_kind("missing")) == 6182 + 907


# ---- one image


def test_facts_are_those_of_the_file_and_of_what_training_decodes(clean):
    file = place(clean, "10001d00")
    facts = read_facts(file, 48, "stretch")
    assert (facts.shorter_side, facts.grey) == (SIZE, False)
    np.testing.assert_array_equal(facts.thumbnail, thumbnail(decode(file.read_bytes(), 48)))


@pytest.mark.parametrize(("fit", "seen_as"), [("stretch", "stretch"), ("pad", "stretch"), ("crop", "crop")])
def test_facts_are_of_what_training_sees_without_grey_bars(tmp_path, fit, seen_as):
    pixels = np.zeros((48, 96, 3), np.uint8)
    pixels[:, :24] = pixels[:, 72:] = np.random.default_rng(0).integers(0, 256, (48, 24, 3))
    Image.fromarray(pixels).save(tmp_path / "ends.png")
    Image.fromarray(0 * pixels).save(tmp_path / "black.png")
    facts = read_facts(tmp_path / "ends.png", 48, fit)
    seen = decode((tmp_path / "ends.png").read_bytes(), 48, seen_as)
    np.testing.assert_array_equal(facts.thumbnail, thumbnail(seen))
    assert facts.blank == ("is of one colour" if fit == "crop" else "") and facts.elongation == 2
    assert read_facts(tmp_path / "black.png", 48, fit).blank == "is of one colour"


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"no image", "not an image"), (None, "no such file")])
def test_what_cannot_be_read_says_why(tmp_path, content, reason):
    file = tmp_path / "face.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read_facts(file, SIZE, "stretch")


# ---- likeness


def thumbnails(count: int) -> np.ndarray:
    """Smooth random thumbnails."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 12), dtype=np.uint8)
    images = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in coarse]
    return np.stack([np.asarray(image) for image in images])


def test_the_hash_is_of_the_lowest_frequencies_of_the_cosine_transform():
    images = thumbnails(20)
    waves = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(8)[:, None] / SIDE)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)  # [8, SIDE], of the DCT-II, orthonormal
    coarse = (waves @ images @ waves.T).reshape(20, 64)
    bits = coarse > np.median(coarse[:, 1:], axis=1, keepdims=True)
    np.testing.assert_array_equal(np.unpackbits(perceptual_hashes(images)[:, None].view(np.uint8), axis=1), bits)


def test_fine_structure_is_of_length_one_and_holds_nothing_of_what_the_hash_sees():
    images = thumbnails(5)
    fine = fine_structure(images)
    np.testing.assert_allclose(np.linalg.norm(fine, axis=1), 1, rtol=1e-5)
    lighter = fine_structure((images * 0.5 + 60).astype(np.float32))
    np.testing.assert_allclose(fine, lighter, atol=1e-4)
    assert not fine_structure(np.full((2, SIDE, SIDE), 7, np.uint8)).any()


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_pairs_are_those_of_a_naive_search_however_it_is_cut(monkeypatch, rows):
    images = thumbnails(30)
    images = np.concatenate([images, images[:9] * 0.9, images[20:25] // 8 * 8]).astype(np.uint8)
    hashes, fine = perceptual_hashes(images), fine_structure(images)
    naive = []
    for a in range(len(images)):
        for b in range(a + 1, len(images)):
            bits = bin(int(hashes[a]) ^ int(hashes[b])).count("1")
            if bits <= RADIUS and fine[a] @ fine[b] >= ALIKE:
                naive.append((a, b))
    monkeypatch.setattr("dcal_core.audit.duplicates.ROWS", rows)
    first, second, alike = same_shots(images)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == naive and len(naive) >= 9
    assert (alike >= ALIKE).all()


def test_nothing_is_like_nothing():
    assert [len(part) for part in same_shots(np.empty((0, SIDE, SIDE), np.uint8))] == [0, 0, 0]
    plain = np.zeros((40, SIDE, SIDE), np.uint8)
    assert [len(part) for part in same_shots(plain)] == [0, 0, 0]


@pytest.mark.parametrize("change", ["jpeg", "half", "double", "darker", "lighter", "flatter"])
@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_one_shot_is_recognised_after_each_change(tmp_path, change, difficulty):
    generate(
        tmp_path, split="train", families=3, images_per_person=2, size=SIZE, difficulty=difficulty, seed=1, workers=1
    )
    changes = {
        "jpeg": lambda image: encoded(image, "JPEG", quality=50),
        "half": lambda image: encoded(image.resize((32, 32), Image.Resampling.LANCZOS)),
        "double": lambda image: encoded(image.resize((128, 128))),
        "darker": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.7)),
        "lighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.2)),
        "flatter": lambda image: encoded(ImageEnhance.Contrast(image).enhance(0.7)),
    }
    files = sorted((tmp_path / "train").rglob("*.png"))
    before = [thumbnail(decode(file.read_bytes(), SIZE)) for file in files]
    after = [thumbnail(decode(changes[change](Image.open(file)), SIZE)) for file in files]
    first, second, _ = same_shots(np.stack([*before, *after]))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(n, n + 12) for n in range(12)]


def test_pairs_are_joined_where_they_share_an_image():
    pairs = [(5, 6, None), (0, 3, 0.97), (3, 9, 0.96), (6, 7, None)]
    assert module._groups(pairs, 10) == [[(0, 3, 0.97), (3, 9, 0.96)], [(5, 6, None), (6, 7, None)]]


PLAIN = {
    "black": Image.new("RGB", (SIZE, SIZE)),
    "one colour": Image.new("RGB", (SIZE, SIZE), (200, 30, 90)),
    "nearly white": Image.fromarray(np.random.default_rng(0).integers(250, 256, (SIZE, SIZE, 3), dtype=np.uint8)),
    "a single bright pixel": Image.fromarray(np.eye(SIZE, dtype=np.uint8)[:, :, None].repeat(3, 2) * 9 + 100),
    "transparent": Image.new("RGBA", (SIZE, SIZE), (10, 20, 30, 0)),
}


@pytest.mark.parametrize("image", PLAIN.values(), ids=PLAIN)
def test_an_image_that_shows_nothing_is_suggested_to_be_dropped(clean, tmp_path, image):
    root = shutil.copytree(clean, tmp_path / "twins")
    image.save(place(root, "10001d00"))
    (found,) = audit_images(read_indexes(root), root, SIZE, "SYNTHETIC").of_kind("blank")
    assert found.images == found.drop == ("10001/10001d00.png",)
    assert found.reason.startswith("1 of 4 images of 10001 are of one colour or have almost no contrast")


@pytest.mark.parametrize("size", [(92, 112), (112, 92), (640, 480), (64, 70)])
def test_images_that_are_not_square_are_counted_with_their_shape(clean, tmp_path, size):
    root = shutil.copytree(clean, tmp_path / "twins")
    for number in range(2):
        file = place(root, f"10001d0{number}")
        Image.open(file).resize(size).save(file)
    (found,) = audit_images(read_indexes(root), root, SIZE, "SYNTHETIC").of_kind("not_square")
    assert found.reason.startswith(f"2 of 4 images of 10001 are not square, up to {max(size) / min(size):.2f} : 1")
    assert found.drop == ()
