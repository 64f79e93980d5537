from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import adaface_config, dcal_config, model_of
from toys import Toy, toy_index, toy_store

from dcal_core.data.twins import read_index
from dcal_core.models.verifier import Features
from dcal_core.verification import protocol
from dcal_core.verification.comparisons import rounded
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import Pairs, score_pairs, some_of_each_family, twin_pairs, unrelated_scores

REAL = Path(__file__).parents[2].parent / "shared" / "nd_twin"


def naive_pairs(index):
    family = index.family_of[index.person_of]
    images = combinations(range(len(index.paths)), 2)
    return {(a, b, index.person_of[a] == index.person_of[b], family[a]) for a, b in images if family[a] == family[b]}


@pytest.mark.parametrize(
    ("families", "images_each"),
    [
        ([2], [1, 1]),
        ([2, 2], [3, 1, 2, 4]),
        ([3], [2, 3, 1]),
        ([1, 3, 1, 2], [1, 2, 2, 3, 4, 1, 2]),
    ],
)
def test_pairs_equal_a_naive_loop(families, images_each):
    index = toy_index(families, images_each)
    pairs = twin_pairs(index)
    found = set(zip(pairs.a, pairs.b, pairs.genuine, pairs.family, strict=True))
    assert len(found) == len(pairs) and found == naive_pairs(index)
    assert (pairs.a < pairs.b).all()


def test_real_index_counts():
    if not REAL.is_dir():
        pytest.skip(f"the real index files are missing: {REAL}")
    index = read_index(REAL / "test_dataset_infor.json", REAL / "test_twin_pairs.json", "test")
    pairs = twin_pairs(index)
    assert pairs.genuine.sum() == 9_485 and (~pairs.genuine).sum() == 9_849
    assert len(np.unique(pairs.family)) == 31


@pytest.mark.parametrize("block", [1, 2, 3, 64])
def test_scores_equal_pair_by_pair(block):
    index = toy_index([1, 3, 2], [2, 2, 3, 4, 1, 2])
    model, pairs = Toy(), twin_pairs(index)
    order = np.random.default_rng(0).permutation(len(pairs))[:-3]  # any pairs in any order, not only all of them
    pairs = Pairs(pairs.a[order], pairs.b[order], pairs.genuine[order], pairs.family[order])
    features = encode_images(model, toy_store(len(index.paths)), 4, progress=False)
    scores = score_pairs(model, features, pairs, block=block)
    with torch.inference_mode():
        naive = [
            float(model.eval().compare(features[[a]], features[[b]])) for a, b in zip(pairs.a, pairs.b, strict=True)
        ]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, naive, rtol=1e-6)


def test_blocks_bound_the_memory_and_skip_what_is_not_asked_for():
    index = toy_index([2, 2], [20, 20, 1, 1])
    pairs = twin_pairs(index)
    features = Features({"mean": torch.randn(len(index.paths), 3)})
    whole, blocked, single = Toy(), Toy(), Toy()
    score_pairs(whole, features, pairs)
    assert whole.compared == 39 * 39 + 1  # no image of one family against another
    score_pairs(blocked, features, pairs, block=5)
    assert blocked.largest == 5 and len(pairs) < blocked.compared < 0.7 * whole.compared
    score_pairs(single, features, pairs, block=1)
    assert single.compared == len(pairs)


def test_bad_calls_are_refused():
    pairs = twin_pairs(toy_index([2], [2, 2]))
    features = Features({"mean": torch.randn(3, 3)})
    with pytest.raises(ValueError, match="name image 3, but only 3 images"):
        score_pairs(Toy(), features, pairs)
    with pytest.raises(ValueError, match="block must be at least 1"):
        score_pairs(Toy(), Features({"mean": torch.randn(4, 3)}), pairs, block=0)


@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_unrelated_scores_equal_a_naive_double_loop(block):
    index = toy_index([1, 3, 2], [2, 2, 3, 4, 1, 2])
    model = Toy()
    features = encode_images(model, toy_store(len(index.paths)), 4, progress=False)
    found = unrelated_scores(model, features, index, block=block)
    family, expected = index.family_of[index.person_of], []
    with torch.inference_mode():
        for a, b in combinations(range(len(family)), 2):
            if family[a] != family[b]:  # so the triplets are never compared with one another
                score = float(model.eval().compare(features[[a]], features[[b]]))
                expected.append((round(score, 3), family[a], family[b]))
    scores = np.round(found.scores, 3)
    assert found.scores.dtype == np.float64 and model.largest <= block
    assert sorted(zip(scores, found.family_a, found.family_b, strict=True)) == sorted(expected)


def test_unrelated_images_are_drawn_evenly_over_people():
    index = toy_index([2, 2, 1], [40, 2, 3, 9, 1])
    drawn = protocol._even_draw(index.person_of, 13, seed=0)
    assert len(np.unique(drawn)) == 13 and (np.diff(drawn) > 0).all()
    assert np.bincount(index.person_of[drawn]).tolist() in ([4, 2, 3, 3, 1], [3, 2, 3, 4, 1])
    np.testing.assert_array_equal(drawn, protocol._even_draw(index.person_of, 13, seed=0))
    others = [protocol._even_draw(index.person_of, 5, seed) for seed in range(400)]
    assert all(np.bincount(index.person_of[other]).tolist() == [1] * 5 for other in others)
    assert {other[0] for other in others} == set(range(40))  # any image of a person may be drawn
    few = [index.person_of[protocol._even_draw(index.person_of, 2, seed)] for seed in range(200)]
    assert set(np.concatenate(few)) == set(range(5))  # and any person, where not all can be
    np.testing.assert_array_equal(protocol._even_draw(index.person_of, 99, seed=0), np.arange(55))


def test_unrelated_comparisons_are_bounded():
    index = toy_index([2] * 10, [5] * 20)
    features, model = Features({"mean": torch.randn(100, 3)}), Toy()
    found = unrelated_scores(model, features, index, most_images=40, block=8)
    assert len(found.scores) == 40 * 36 // 2  # two images each of 20 people: four of every family
    assert model.largest == 8 and model.compared == 15 * 8 * 8  # half of the 5 x 5 squares, and the diagonal
    assert (found.family_a != found.family_b).all()


def test_bad_calls_of_unrelated_scores_are_refused():
    index, features = toy_index([2, 1], [2, 2, 1]), Features({"mean": torch.randn(5, 3)})
    with pytest.raises(ValueError, match="the index has 5 images, but 4 were encoded"):
        unrelated_scores(Toy(), features[:4], index)
    for wrong in ({"block": 0}, {"most_images": 1}):
        with pytest.raises(ValueError, match="block of at least 1 image and most_images of 2"):
            unrelated_scores(Toy(), features, index, **wrong)
    with pytest.raises(ValueError, match="at least 2 families"):
        unrelated_scores(Toy(), features[:4], toy_index([2], [2, 2]))


def test_some_pairs_of_each_family_are_drawn_evenly():
    index = toy_index([2, 2, 2], [3, 1, 2, 4, 1, 1])
    pairs = twin_pairs(index)
    for genuine in (True, False):
        there = np.bincount(pairs.family[pairs.genuine == genuine], minlength=3)
        for most in (1, 2, 100):
            some = some_of_each_family(pairs, genuine, most, seed=0)
            assert (pairs.genuine[some] == genuine).all() and len(np.unique(some)) == len(some)
            assert (np.bincount(pairs.family[some], minlength=3) == there.clip(max=most)).all()
    drawn = [tuple(some_of_each_family(pairs, False, 2, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_each_pair_of_a_family_is_as_likely_to_be_drawn():
    pairs = twin_pairs(toy_index([2, 2], [2, 3, 1, 1]))
    counts = np.zeros(len(pairs))
    for seed in range(600):
        counts[some_of_each_family(pairs, False, 1, seed)] += 1
    assert (abs(counts[(pairs.family == 0) & ~pairs.genuine] - 100) < 40).all()  # 6 pairs, four standard deviations


def test_a_list_with_few_pairs_of_many_images_is_compared_pair_by_pair():
    count = 40
    everything = twin_pairs(toy_index([2], [count, count]))
    few = Pairs(*(column[::37] for column in (everything.a, everything.b, everything.genuine, everything.family)))
    features = Features({"mean": torch.randn(2 * count, 3)})
    sparse, full = Toy(), Toy()
    scores = score_pairs(sparse, features, few, block=16)
    assert sparse.compared < 1.1 * len(few) and sparse.largest <= 16
    np.testing.assert_allclose(scores, score_pairs(full, features, everything)[::37], rtol=1e-6)
    assert full.compared == 64 * 64 + 64 * 15 + 15 * 15


@pytest.mark.parametrize("step", [1, 9])  # in squares, and pair by pair
def test_each_reading_has_its_own_scores(step):
    index = toy_index([2, 2], [20, 20, 3, 3])
    everything = twin_pairs(index)
    pairs = everything.take(np.arange(0, len(everything), step))
    features = Features({"mean": torch.randn(46, 3)})
    own = score_pairs(Toy(), features, pairs)
    assert np.array_equal(score_pairs(Toy(), features, pairs, reading="straight"), own)
    assert np.array_equal(score_pairs(Toy(), features, pairs, reading="reversed"), -own)
    with pytest.raises(ValueError, match="reading='sideways': Toy offers straight, reversed"):
        score_pairs(Toy(), features, pairs, reading="sideways")
    unrelated = unrelated_scores(Toy(), features, index)
    assert np.array_equal(unrelated_scores(Toy(), features, index, reading="reversed").scores, -unrelated.scores)


@pytest.mark.parametrize("config", [dcal_config(), dcal_config(similarity="learned"), adaface_config()])
@pytest.mark.parametrize("encode_batch, block", [(64, 64), (7, 64), (3, 2)])
def test_what_differs_by_rounding_alone_is_a_tie(config, encode_batch, block):
    """One picture for all: whatever the batches, no ranking, and an EER of 50 %."""
    index = toy_index([2] * 6, [3] * 12)
    model, pairs = model_of(config), twin_pairs(index)
    store = toy_store(len(index.paths), config.image_size)
    store.images[:] = store.images[0]
    features = encode_images(model, store, encode_batch, progress=False)
    scores = score_pairs(model, features, pairs, block=block)
    assert len(np.unique(scores)) == 1 and equal_error_rate(scores, pairs.genuine)[0] == 0.5
    strangers = unrelated_scores(model, features, index, block=block).scores
    assert np.unique(strangers) == np.unique(scores)


def test_rounding_keeps_what_float32_can_tell():
    scores = np.float32([0.123456, 0.123457, -0.5, 1.0])
    np.testing.assert_array_equal(rounded(scores), [0.123456, 0.123457, -0.5, 1])
    np.testing.assert_array_equal(rounded(scores + np.float32(6e-8)), rounded(scores))
