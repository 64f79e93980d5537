"""What a predictor answers, for every kind of picture, from several threads, and for what it cannot read."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from tiny_predictor import RULE, SIZE, ColourEngine, data_of, picture, predictor, written

from dcal_core.deploy.answers import NEVER_CHECKED, SAME_LOOK
from dcal_core.deploy.cache import FeatureCache
from dcal_core.deploy.predictor import Predictor, batch_size
from dcal_core.deploy.ranges import RISES, SEEN
from dcal_core.errors import ConfigError
from dcal_core.verification.decision import rule_from_dict


def naive(a, b):
    """The score of two pictures as the tiny engine has it."""
    rows = []
    for image in (a, b):
        pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float)
        half = SIZE // 2
        rows.append([pixels[y : y + half, x : x + half].mean((0, 1)) for y in (0, half) for x in (0, half)])
    return -np.abs(np.subtract(*rows)).mean()


def test_an_answer_is_what_the_rule_makes_of_the_score():
    rule = rule_from_dict(RULE)
    for a, b in combinations(range(6), 2):
        answer = predictor().verify(picture(a), picture(b))
        assert answer.score == pytest.approx(naive(picture(a), picture(b)), abs=0.01)
        assert answer.verdict == rule.verdict(answer.score) and not answer.error
        assert answer.log10_lr == pytest.approx(rule.llr(answer.score) / np.log(10))
        assert answer.log10_lr_unrelated == pytest.approx(rule.strangers.llr([answer.score])[0] / np.log(10))
        assert answer.label == "TWINS" and set(NEVER_CHECKED) <= set(answer.unchecked)
        assert answer.doubts[-1] == "faces were not looked for"


def test_every_kind_of_picture_gives_the_same_answer(tmp_path):
    files = written(tmp_path, 2)
    expected = predictor().verify(*files)
    assert expected.score is not None and (expected.a, expected.b) == tuple(map(str, files))
    arrays = [np.asarray(Image.open(file)) for file in files]
    kinds = [
        [str(file) for file in files],
        [file.read_bytes() for file in files],
        [Image.open(file) for file in files],
        arrays,
        [array.transpose(2, 0, 1) for array in arrays],
        [array / 255 for array in arrays],
        [array.astype(np.uint16) * 257 for array in arrays],
        [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        [torch.from_numpy(array).permute(2, 0, 1) / 255 for array in arrays],
        [np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]) for array in arrays],
    ]
    for pair in kinds:
        assert predictor().verify(*pair).score == expected.score


def test_a_turned_photograph_is_set_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = picture(0).transpose(Image.Transpose.ROTATE_90)
    data = data_of(sideways, exif=turned)
    upright = predictor().encode([picture(0), data, Image.open(io.BytesIO(data))], progress=False)
    assert upright[0].look == upright[1].look == upright[2].look
    assert predictor().encode([sideways], progress=False)[0].look != upright[0].look


BROKEN = {
    "nothing": b"",
    "text": b"404 not found",
    "half": data_of(picture(0), "JPEG")[:300],
    "no file": "no/such/file.png",
    "a list": [[1, 2], [3, 4]],
    "a number": 3,
    "none": None,
    "whole numbers": np.zeros((8, 8, 3), np.int64),
    "too bright": np.full((8, 8, 3), 7.0),
    "not a number": np.full((8, 8, 3), np.nan),
    "five channels": np.zeros((8, 8, 5), np.uint8),
    "no pixels": np.zeros((0, 8, 3), np.uint8),
    "a batch": torch.zeros(1, 3, 8, 8),
    "brain floats": torch.zeros(3, 8, 8, dtype=torch.bfloat16),
    "objects": np.array([[None]]),
    "one colour": Image.new("RGB", (20, 20), "red"),
    "real numbers": Image.new("F", (20, 20)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_gives_an_answer_with_its_error(name):
    answers = list(predictor().verify_pairs([(picture(0), picture(1)), (BROKEN[name], picture(1))], progress=False))
    assert not answers[0].error and answers[0].verdict
    assert answers[1].error and answers[1].verdict is answers[1].score is answers[1].log10_lr is None
    assert predictor().sentence(answers[1]).startswith("No answer: ")


@pytest.mark.parametrize("orientation, size", [(1, "256 x 271"), (6, "271 x 256")])
def test_a_picture_that_is_not_square_is_told_with_its_own_size(orientation, size):
    held = Image.Exif()
    held[ExifTags.Base.Orientation] = orientation
    large = data_of(picture(0).resize((256, 271)), "JPEG", exif=held)  # decoded at 1/4 for a model of 16 px
    assert predictor().verify(large, picture(1, 32)).doubts[0] == f"picture 1 is not square: {size} px (fit=stretch)"


def test_one_picture_twice_has_no_verdict(tmp_path):
    (file, other) = written(tmp_path, 2)
    flipped = Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for pair in ((file, file), (file, flipped)):
        answer = predictor().verify(*pair)
        assert answer.verdict == "undecided" and answer.inside is None and SAME_LOOK in answer.doubts
        assert predictor().sentence(answer) == f"Undecided (score {answer.score:.2f}): {SAME_LOOK}."
        assert answer.log10_lr is answer.log10_lr_unrelated is None
    assert predictor().verify(file, other).reasons == []


def test_a_face_outside_of_the_validated_range_is_named():
    limits = {
        "contrast": {"low": 30.0, "low_because": RISES},
        "light": {"high": 200.0, "high_because": SEEN, "low": 1.0},
    }
    judge = predictor(range={"limits": limits})
    assert judge.verify(picture(0), picture(1)).inside is True
    pale = Image.eval(picture(1), lambda value: 225 + value // 10)
    answer = judge.verify(picture(0), pale)
    assert answer.inside is False and answer.verdict
    (reason,) = answer.reasons
    assert reason.startswith("picture 2 has little contrast (spread ") and " and is bright (mean grey value " in reason
    assert f"outside the validated range, because {reason}." in judge.sentence(answer)
    twice = judge.verify(pale, pale)
    assert twice.inside is False and "range" not in judge.sentence(twice)
    assert predictor().verify(picture(0), pale).inside is None


@pytest.mark.parametrize("requests", [60, pytest.param(500, marks=pytest.mark.faults)])
def test_eight_threads_get_the_serial_answers(requests, tmp_path):
    files = written(tmp_path, 12)
    random = np.random.default_rng(0)
    asked = [tuple(files[n] for n in random.integers(0, 12, 2)) for _ in range(requests)]
    alone = predictor()
    serial = {pair: alone.verify(*pair) for pair in set(asked)}
    shared = predictor(cache=FeatureCache(most=9000))  # of which most are forgotten again

    def work(turn):
        order = np.random.default_rng(turn).permutation(requests)
        if turn % 2:
            list(shared.verify_pairs([asked[n] for n in order[:20]], progress=False))
        return all(shared.verify(*asked[n]) == serial[asked[n]] for n in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_picture_is_encoded_once_and_batches_have_one_size(tmp_path):
    files = written(tmp_path, 5)
    judge = predictor()
    answers = list(judge.verify_pairs(combinations(files, 2), progress=False))
    assert [(answer.a, answer.b) for answer in answers] == [(str(a), str(b)) for a, b in combinations(files, 2)]
    assert len(judge.engine.batches) == 1
    before = judge.engine.encoded
    list(judge.verify_pairs(combinations(files, 2), progress=False))
    assert judge.engine.encoded == before


def test_encoding_keeps_the_order_and_names_what_is_wrong(tmp_path):
    files = written(tmp_path, 70)
    found = predictor().encode([files[0], "missing.png", *files[1:], files[0]], progress=False)
    assert len(found) == 72 and found[1].error and found[1].row is None
    assert found[0].look == found[-1].look and {one.row.shape for one in found if not one.error} == {(12,)}


def test_a_cache_in_a_file_outlives_its_predictor_and_tells_models_apart(tmp_path):
    files = written(tmp_path, 3)
    first, again = (predictor(cache=FeatureCache(file=tmp_path / "c/cache.sqlite")) for _ in range(2))
    answers = [list(one.verify_pairs(combinations(files, 2), progress=False)) for one in (first, again)]
    assert answers[0] == answers[1] and again.engine.encoded == 0
    other = predictor(cache=FeatureCache(file=tmp_path / "c/cache.sqlite"), provenance={"weights": "1" * 64})
    list(other.verify_pairs([files[:2]], progress=False))
    assert other.engine.encoded > 0


def test_memory_of_the_cache_is_bounded():
    cache = FeatureCache(most=10_000)
    judge = predictor(cache=cache)
    judge.encode([picture(seed) for seed in range(40)], progress=False)
    assert cache.size <= 10_000 and 0 < len(cache.kept) < 40


def test_the_sentence_has_both_likelihood_ratios_and_the_mark():
    judge = predictor(label="SYNTHETIC")
    answer = judge.verify(picture(0), picture(3))
    text = judge.sentence(answer)
    assert "co-twins" in text and "unrelated people" in text and "%" not in text
    assert text.startswith("SYNTHETIC model, which knows drawn faces only: ")
    bare = predictor(decision=RULE | {"calibration": None, "strangers": None})
    assert "no likelihood ratio" in bare.sentence(bare.verify(picture(0), picture(3)))
    far = judge.verify(
        Image.eval(picture(0), lambda value: value // 4), Image.eval(picture(1), lambda value: 192 + value // 4)
    )
    assert 10**-far.log10_lr == pytest.approx(20) and judge.sentence(far).count("at most 20") == 1


def test_batches_are_sized_to_memory(monkeypatch):
    assert batch_size(64) >= batch_size(224) >= batch_size(4096) == 1


def test_predictor_is_had_from_the_package_without_torch():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; import dcal_core\n"
        "from dcal_core import Predictor\n"
        "import dcal_core.deploy.pair_job, dcal_core.commands.verify, dcal_core.commands.options\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('timm', 'matplotlib')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=__file__.rpartition("/tests/")[0])
    with pytest.raises(AttributeError):
        import dcal_core

        dcal_core.Verifier  # noqa: B018


def test_faces_that_cannot_be_looked_for_are_refused_or_said(monkeypatch):
    def missing(*_):
        raise ConfigError("finding faces needs the package cv2")

    monkeypatch.setattr("dcal_core.deploy.faces.FaceAligner", missing)
    assert "packages that find faces are missing" in predictor(find_faces=None).unchecked[0]
    with pytest.raises(ConfigError):
        Predictor(ColourEngine(), find_faces=True)
