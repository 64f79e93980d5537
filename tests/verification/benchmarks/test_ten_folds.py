"""Accuracy in ten folds: against loops as other projects have them, and on .bin files with results known by hand."""

import numpy as np
import pytest
from face_sets import Colours, picture, write_bin

from dcal_core.data import images as images_module
from dcal_core.data.twins import DataError
from dcal_core.verification.benchmarks.ten_folds import DISTANCES, accuracies, fold_pairs, open_pair_sets, ten_folds
from dcal_core.verification.encoding import encode_images


def by_loops(scores, same, thresholds):
    """The accuracy of each fold, pair by pair and threshold by threshold."""
    accuracies = []
    for own in np.array_split(np.arange(len(scores)), 10):
        best, chosen = -1, None
        for threshold in thresholds:
            right = sum((scores[i] > threshold) == same[i] for i in range(len(scores)) if i not in own)
            if right > best:
                best, chosen = right, threshold
        accuracies.append(np.mean([(scores[i] > chosen) == same[i] for i in own]))
    return accuracies


def drawn(pairs: int, seed: int = 0):
    random = np.random.default_rng(seed)
    same = random.random(pairs) < 0.5
    return np.where(same, 0.4, 0.2) + 0.2 * random.normal(size=pairs), same


@pytest.mark.parametrize("pairs", [30, 27])  # 27: seven folds of three pairs, three of two
def test_folds_are_those_of_loops(pairs):
    scores, same = drawn(pairs)
    found = ten_folds(scores, same, 1 - DISTANCES[::10] / 2)
    np.testing.assert_allclose(found.accuracies, by_loops(scores, same, 1 - DISTANCES[::10] / 2))
    middles = np.concatenate([[-9], (np.sort(scores)[1:] + np.sort(scores)[:-1]) / 2, [9]])
    exact = ten_folds(scores, same)
    assert exact.accuracies.shape == (10,) and abs(exact.accuracies - by_loops(scores, same, middles)).mean() < 0.05
    assert found.fold.tolist() == np.repeat(range(10), [len(part) for part in np.array_split(scores, 10)]).tolist()


def test_a_fold_is_judged_by_the_nine_others():
    scores = np.tile([0.9, 0.8, 0.2, 0.1], 10)
    same = np.tile([True, True, False, False], 10)
    same[:4] = ~same[:4]  # the first fold contradicts the others
    found = ten_folds(scores, same)
    assert found.accuracies.tolist() == [0, *[1] * 9] and found.right.mean() == 0.9
    assert ((found.thresholds > 0.2) & (found.thresholds < 0.8)).all()


RED, ORANGE, GREEN = (
    (200, 0, 0),
    (200, 100, 0),
    (0, 200, 0),
)  # cosines: red-orange 0.894, orange-green 0.447, red-green 0


def colour_sets(folder):
    """LFW: same is red-red, different red-green; of the last two pairs one is red-orange and the same, and one is
    red-red and not. CFP-FP: every tenth is orange-green and the same."""
    lfw = [(RED, RED, True), (RED, GREEN, False)] * 9 + [(RED, ORANGE, True), (RED, RED, False)]
    cfp = ([(RED, RED, True)] * 8 + [(RED, GREEN, False), (ORANGE, GREEN, True)]) * 2
    files = {}
    for title, pairs in (("LFW", lfw), ("CFP-FP", cfp)):
        images = [picture(*colour) for pair in pairs for colour in pair[:2]]
        files[title] = write_bin(folder / f"{title}.bin", images, [pair[2] for pair in pairs])
    return files


def test_sets_are_decoded_once_into_one_map_and_scored_in_one_pass(tmp_path, monkeypatch):
    files, model = colour_sets(tmp_path), Colours()
    sets = open_pair_sets(files, 8, tmp_path / "cache")
    assert sets.images.images.shape == (80, 3, 8, 8) and list(sets.same) == ["LFW", "CFP-FP"]
    monkeypatch.setattr(images_module, "decode", None)  # the map is there
    again = open_pair_sets(files, 8, tmp_path / "cache")
    assert again.images.images.filename == sets.images.images.filename
    found = accuracies(model, again, batch=7, device="cpu")
    # LFW without its last fold is right at a distance of 0.01 already, the first that is, and there both pairs of that
    # fold are wrong. In CFP-FP every fold sees orange-green outside itself.
    assert found == pytest.approx({"benchmarks/LFW": 0.9, "benchmarks/CFP-FP": 1.0, "benchmarks": 0.95})


def test_a_reading_that_is_no_cosine_is_judged_by_all_its_thresholds(tmp_path):
    sets, model = open_pair_sets(colour_sets(tmp_path), 8, tmp_path / "cache"), Colours()
    features = encode_images(model, sets.images, 16, progress=False)
    assert fold_pairs(model, features, sets)[1] == "squared L2, 0 to 4 by 0.01"
    found, by = fold_pairs(model, features, sets, reading="distance")
    assert by == "score, every threshold"  # LFW's last fold at the middle between red-red and red-green: one is right
    assert found["LFW"].accuracies.tolist() == [1] * 9 + [0.5] and found["CFP-FP"].right.all()


def test_too_few_pairs_and_images_that_cannot_be_decoded_are_refused(tmp_path, refused):
    file = write_bin(tmp_path / "lfw.bin", [picture(1, 2, 3)] * 18, [True] * 9)
    with refused(DataError, file, "9 pairs"):
        open_pair_sets({"LFW": file}, 8, tmp_path / "cache")
    write_bin(file, [picture(1, 2, 3)] * 19 + [b"no image"], [True] * 10)
    with pytest.raises(DataError, match=f"1 of 20 images cannot be decoded.* image 19 of {file}"):
        open_pair_sets({"LFW": file}, 8, tmp_path / "cache")
