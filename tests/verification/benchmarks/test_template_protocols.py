"""Templates pooled, compared 1:1 and searched 1:N: against loops, and on small sets with results known by hand."""

from dataclasses import replace
from math import cos, radians, sin

import numpy as np
import pytest
import torch
from face_sets import Colours, write_ijb, write_tinyface
from PIL import Image

from dcal_core.data.benchmarks.low_quality import read_tinyface
from dcal_core.data.benchmarks.template_sets import Search, TemplateSet, read_ijb
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.data.twins import DataError
from dcal_core.models.verifier import Features
from dcal_core.verification.benchmarks import protocols, rates
from dcal_core.verification.benchmarks.pooling import FaceFiles, pool
from dcal_core.verification.benchmarks.protocols import identify, look_up, people_of, score_templates, verify
from dcal_core.verification.benchmarks.rates import Tail, drawn_people, tail_estimates
from dcal_core.verification.encoding import encode_images

# ---- images and templates


def test_faces_are_moved_onto_the_template_by_their_landmarks(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((130, 140), Image.Resampling.BICUBIC).save(tmp_path / "face.png")
    (tmp_path / "damaged.jpg").write_bytes(b"none")
    shifted = TEMPLATE + (10, 20)  # the aligned face begins at column 10 and row 20
    store = FaceFiles((tmp_path / "face.png", tmp_path / "damaged.jpg"), 112, landmarks=np.stack([shifted, shifted]))
    expected = np.asarray(Image.open(tmp_path / "face.png"))[20:132, 10:122].transpose(2, 0, 1)
    assert abs(store.batch([0, 0])[1].numpy().astype(int) - expected).max() <= 4
    with pytest.raises(DataError, match=r"damaged\.jpg: not an image.*read whole"):
        store.batch([1])


def template_set(template, medium, weight, **rest) -> TemplateSet:
    each = np.arange(len(template))
    return TemplateSet(
        "toy", [], max(template) + 1, np.array(template), np.array(medium), each, np.array(weight), **rest
    )


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("detections", [False, True])
def test_a_template_is_the_mean_of_its_media(monkeypatch, norms, detections):
    random = np.random.default_rng(0)
    template = [0, 1, 1, 1, 1, 2, 2, 0, 2]
    medium = [5, 5, 5, 6, 6, 7, 7, 5, 8]
    made = template_set(template, medium, random.uniform(0.2, 1, 9))
    embedding = random.normal(size=(9, 3)).astype(np.float32)
    places = torch.nn.functional.normalize(torch.randn(9, 4, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    features = Features({"colour": torch.from_numpy(embedding), "places": places})
    monkeypatch.setattr("dcal_core.verification.benchmarks.pooling.BLOCK", 4)
    found = pool(Colours(), features, made, norms, detections)
    scaled = embedding if norms else embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    scaled = scaled * made.weight[:, None] if detections else scaled
    for number in range(3):  # as other projects do it: the sum over media of the mean of each
        rows = [i for i in range(9) if template[i] == number]
        media = {medium[i] for i in rows}
        total = sum(np.mean([scaled[i] for i in rows if medium[i] == one], axis=0) for one in media)
        pooled = found.parts["colour"][number].numpy()
        assert pooled @ total / np.linalg.norm(pooled) / np.linalg.norm(total) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.parts["places"].norm(dim=1), np.ones((3, 2)), rtol=1e-5)


# ---- rates


def by_loops(scores, genuine, people, counts, limit):
    """TAR at the lowest of all thresholds that keeps to the limit, comparison by comparison."""
    for threshold in sorted({-9.0, 9.0, *((a + b) / 2 for a in scores for b in scores)}):
        matched, total = np.zeros((2, 2))
        for score, own, (a, b) in zip(scores, genuine, people, strict=True):
            held = counts[a] if own else counts[a] * counts[b]
            total[int(own)] += held
            matched[int(own)] += held * (score > threshold)
        if matched[0] / total[0] <= limit + 1e-12:
            return matched[1] / total[1]


def test_tar_at_far_is_that_of_loops_for_any_weights_of_people():
    random = np.random.default_rng(0)
    genuine = np.arange(40) < 12
    people = np.where(genuine[:, None], random.integers(0, 6, (40, 1)), random.integers(0, 6, (40, 2)))
    scores = np.round(np.where(genuine, 0.5, 0.2) + 0.2 * random.normal(size=40), 1)  # with ties
    limits = (0.05, 0.1, 0.3, 1.0)
    tail = Tail(scores, genuine, people, limits)
    for counts in drawn_people(6, 5, seed=0):
        expected = [by_loops(scores.tolist(), genuine, people, counts, limit) for limit in limits]
        np.testing.assert_allclose(tail.rates(counts), expected)


def test_impostors_that_stand_for_several_change_no_figure_and_hardly_an_interval(monkeypatch):
    random = np.random.default_rng(0)
    genuine = np.arange(81_000) < 1000
    people = np.where(genuine[:, None], random.integers(0, 50, (81_000, 1)), random.integers(0, 50, (81_000, 2)))
    scores = np.where(genuine, 2, 0) + random.normal(size=81_000)
    limits = (1e-4, 1e-3, 1e-2)
    all_of_them = Tail(scores, genuine, people, limits)
    monkeypatch.setattr(rates, "HIGHEST", 2000)
    monkeypatch.setattr(rates, "OTHERS", 10_000)
    some = Tail(scores, genuine, people, limits)
    assert len(some.impostors) < 12_500 and some.stands_for.sum() == 80_000
    sample, *draws = drawn_people(50, 20, seed=0)
    assert some.rates(sample).tolist() == all_of_them.rates(sample).tolist()
    differences = [some.rates(counts) - all_of_them.rates(counts) for counts in draws]
    spread = np.std([all_of_them.rates(counts) for counts in draws], axis=0)
    assert (np.std(differences, axis=0) < 0.5 * spread).all()


def test_verification_by_hand():
    scores = np.concatenate([[0.995, 0.905, 0.895, 0.5], np.arange(100) / 100])
    pairs = np.zeros((104, 3), int)
    pairs[:, 1] = np.arange(104) + 1
    pairs[:4, 2] = 1
    found = verify(scores, pairs, people_of(105, pairs), draws=100)
    assert found["tar_at_far_0.1"]["value"] == 0.75  # above 0.89, the eleventh impostor
    assert found["tar_at_far_0.01"]["value"] == 0.25 and found["tar_at_far_0.01"]["false_matches"] == 1
    assert found["tar_at_far_0.001"] == {"value": None, "reason": "not resolvable with 100 impostors"}
    assert found["counts"] == {"genuine": 4, "impostor": 100, "people": 101}


def test_intervals_are_over_people_and_not_over_comparisons():
    """Ten people of 50 comparisons each, of whom one always fails: about as uncertain as ten comparisons."""
    people = np.repeat(np.arange(10), 50)
    scores = np.concatenate([np.where(people == 0, -1.0, 1.0), np.linspace(-0.5, 0.5, 1000)])
    pairs = np.stack([np.concatenate([people, np.tile([10, 11], 500)])] * 2, axis=1)
    tail = Tail(scores, np.arange(1500) < 500, pairs, (0.1,))
    drawn = np.array([tail.rates(counts) for counts in drawn_people(12, 400, seed=0)])
    estimate = tail_estimates("tar", [tail], drawn)["tar_0.1"]
    assert estimate["value"] == 0.9 and estimate["low"] < 0.75 and estimate["high"] > 0.95


# ---- scores and searches


def test_pairs_of_templates_are_scored_the_same_in_any_tiles(monkeypatch):
    random = np.random.default_rng(0)
    features = Features({"colour": torch.rand(23, 3, generator=torch.Generator().manual_seed(0))})
    a, b = random.integers(0, 23, (2, 60)).astype(np.int32)
    expected = Colours().compare(features, features, "distance").numpy()[a, b]
    for tile, at_once, dense in ((100, 100, 2), (7, 3, 2), (1, 1, 2), (100, 10, 0), (7, 3, 0), (7, 1, 0.9)):
        for name, value in (("TILE", tile), ("AT_ONCE", at_once), ("ROWS", at_once), ("DENSE", dense)):
            monkeypatch.setattr(protocols, name, value)
        np.testing.assert_allclose(score_templates(Colours(), features, a, b, reading="distance"), expected, atol=1e-6)


def angles(*degrees: float) -> Features:
    rows = [[cos(radians(one)), sin(radians(one)), 0.0] for one in degrees]
    return Features({"colour": torch.tensor(rows)})


FEATURES = angles(0, 90, 5, 85, 50, 60, 45, 10, 200, 280)
GALLERY = np.array([[0, 1], [1, 2]])
PROBES = np.array([[2, 1], [3, 2], [4, 2], [5, 1], [6, 3], [7, 4], [8, 5], [9, 6]])
HERE = np.ones(10, bool)


def test_identification_by_hand(monkeypatch):
    search = Search(PROBES, (GALLERY,), ranks=(1, 2), fpir=(0.01, 0.25, 0.5))
    monkeypatch.setattr(protocols, "ROWS", 3)
    monkeypatch.setattr(protocols, "AT_ONCE", 1)
    found = identify(Colours(), FEATURES, search, HERE, draws=100)
    assert found["rank_1"]["value"] == 0.75 and found["rank_2"]["value"] == 1  # the probe at 60 degrees comes second
    assert found["tpir_at_fpir_0.25"]["value"] == 0.75  # above cos 45: of strangers only that at 10 degrees matches
    assert found["tpir_at_fpir_0.5"]["value"] == 0.75  # a threshold helps no probe that comes second
    assert found["tpir_at_fpir_0.01"] == {"value": None, "reason": "not resolvable with 4 impostors"}
    assert found["counts"] == {"probes": 8, "with_mate": 4, "people": 6}


def test_two_galleries_are_searched_apart_and_ranked_apart_or_together():
    apart = Search(PROBES, (GALLERY[:1], GALLERY[1:]), ranks=(1,), fpir=(0.2,))
    found = identify(Colours(), FEATURES, apart, HERE, draws=100)
    assert found["rank_1"]["value"] == 1  # nobody else is in a gallery of one
    # Of six strangers to person 1, of scores cos 10, 45, 50, 80, 85, 160, one may match: its probe at 5 degrees passes
    # cos 45, that at 60 does not. To person 2: sines of 60, 45, 10, 5 and less; its probes at 85 and 50 pass 0.71.
    assert found["tpir_at_fpir_0.2"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert identify(Colours(), FEATURES, replace(apart, joined=True), HERE, draws=100)["rank_1"]["value"] == 0.75


def test_ties_count_against_a_probe_and_templates_without_images_are_never_found():
    features = angles(0, 0, 0, 90)
    found = look_up(Colours(), features, np.array([[0, 1], [3, 9]]), np.array([[1, 1], [2, 2]]), np.ones(4, bool))
    assert found.rank.tolist() == [2, np.inf] and found.mate[1] == -np.inf
    present = np.array([True, False, True, False])
    found = look_up(Colours(), features, np.array([[0, 1], [3, 2]]), np.array([[1, 1], [2, 2]]), present)
    assert found.rank.tolist() == [np.inf, np.inf] and found.other.tolist() == [1, -np.inf]
    with pytest.raises(DataError, match="No template of a gallery has an image"):
        look_up(Colours(), features, np.array([[0, 1]]), np.array([[1, 1]]), present)


def features_of(templates: TemplateSet) -> Features:
    model = Colours()
    encoded = encode_images(model, FaceFiles(tuple(templates.files), 8, landmarks=templates.landmarks), 2)
    return pool(model, encoded, templates, norms=True, detections=True)


def test_the_small_tinyface_by_hand(tmp_path):
    templates = read_tinyface(write_tinyface(tmp_path))
    found = identify(Colours(), features_of(templates), templates.searches["1:N"], templates.present, draws=100)
    assert {k: one["value"] for k, one in found.items() if k != "counts"} == {"rank_1": 0.5, "rank_5": 1, "rank_20": 1}


def test_the_small_ijbc_by_hand(tmp_path):
    templates = read_ijb(write_ijb(tmp_path))
    features = features_of(templates)
    red, pink = np.array([200, 0, 0]) / 255, np.array([200, 40, 40]) / 255
    third = ((0.5 * red + pink) / 2 + 0.5 * pink) / 2  # a medium of two images, and one of one
    direction = third / np.linalg.norm(third)
    np.testing.assert_allclose(torch.nn.functional.normalize(features.parts["colour"], dim=-1)[2], direction, atol=0.01)
    pairs = templates.pairs
    scores = score_templates(Colours(), features, pairs[:, 0], pairs[:, 1])
    assert people_of(5, pairs).tolist() == [0, 0, 0, 1, 2]
    np.testing.assert_allclose(scores, [0.962, direction[0], 0, 0.192, direction[1]], atol=0.01)
