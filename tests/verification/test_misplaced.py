"""Wrong labels by a model's scores: planted ones are found, and co-twins, who are near by nature, are not."""

import numpy as np
import pytest
import torch

from dcal_core.data.groups import members
from dcal_core.data.twins import DataError, TwinIndex
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification import misplaced
from dcal_core.verification.misplaced import find_misplaced, join, scores_with_people

FAMILIES, IMAGES, WIDTH = 10, 5, 64


class Cosines(Verifier):
    """Compares given unit vectors."""

    def encode(self, images, trace=False):
        raise NotImplementedError

    def compare(self, a, b, reading=None):
        return a.parts["v"] @ b.parts["v"].T

    def compare_pairs(self, a, b, reading=None):
        raise NotImplementedError


class Drawn:
    """Images of pairs of twins as vectors: a family's, a little of the person's own, and of the image's."""

    def __init__(self):
        random = np.random.default_rng(0)
        self.person_of = np.repeat(np.arange(2 * FAMILIES), IMAGES)
        self.family_of = np.repeat(np.arange(FAMILIES), 2)
        of_family = random.normal(size=(FAMILIES, WIDTH))[self.family_of]
        self.people_vectors = of_family + 0.3 * random.normal(size=(2 * FAMILIES, WIDTH))
        self.vectors = self.people_vectors[self.person_of] + 0.3 * random.normal(size=(len(self.person_of), WIDTH))
        self.people = [f"p{number}" for number in range(2 * FAMILIES)]
        self.names = [f"p{person}/{place % IMAGES}" for place, person in enumerate(self.person_of)]

    def features(self) -> Features:
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return Features({"v": torch.tensor(unit, dtype=torch.float32)})

    def findings(self):
        scores = scores_with_people(Cosines(), self.features(), self.person_of)
        return find_misplaced(scores, self.names, self.people, self.person_of, self.family_of)


@pytest.fixture
def drawn():
    return Drawn()


def test_scores_are_medians_over_the_other_images_of_each_person(drawn, monkeypatch):
    monkeypatch.setattr(misplaced, "ROWS", 7)  # blocks that cut people
    drawn.person_of = np.concatenate([drawn.person_of[:-1], [2 * FAMILIES]])  # someone with one image
    square = drawn.features().parts["v"] @ drawn.features().parts["v"].T
    naive = np.full((len(square), 2 * FAMILIES + 1), np.nan)
    for image in range(len(square)):
        for person, images in enumerate(members(drawn.person_of)):
            others = [float(square[image, other]) for other in images if other != image]
            if others:
                naive[image, person] = np.median(others)
    scores = scores_with_people(Cosines(), drawn.features(), drawn.person_of)
    np.testing.assert_allclose(scores, naive, atol=1e-6)
    assert np.isnan(scores).sum() == 1


def test_right_labels_give_no_finding_though_co_twins_are_near(drawn):
    scores = scores_with_people(Cosines(), drawn.features(), drawn.person_of)
    co_twin = scores[drawn.person_of == 0, 1].mean()
    assert co_twin > 0.8 > np.abs(scores[drawn.person_of == 0, 2:]).max()
    assert drawn.findings() == []


def test_an_image_under_a_wrong_name_is_found_with_whom_it_looks_like(drawn):
    drawn.vectors[7] = drawn.vectors[4 * IMAGES] + 0.1  # under p1, of p4
    (found,) = drawn.findings()
    assert found.kind == "stranger" and found.images[0] == "p1/2" and found.drop == ("p1/2",)
    assert found.people[0] == "p1" and found.people[1] in ("p4", "p5")
    assert len(found.images) == 5 and {name.split("/")[0] for name in found.images} == set(found.people)


def test_what_looks_like_nobody_is_found_and_kept(drawn):
    drawn.vectors[7] = np.random.default_rng(5).normal(size=WIDTH)
    (found,) = drawn.findings()
    assert found.kind == "stranger" and found.images[0] == "p1/2" and found.drop == ()


def test_a_person_listed_twice_is_found(drawn):
    for image in range(IMAGES):
        drawn.vectors[12 * IMAGES + image] = drawn.people_vectors[3] + 0.1 * image
    (found,) = [one for one in drawn.findings() if one.kind == "same_person"]
    assert found.people == ("p3", "p12") and found.drop == ()
    assert [name.split("/")[0] for name in found.images] == ["p3"] * 3 + ["p12"] * 3


def test_scores_that_tell_nobody_apart_are_refused(drawn, refused):
    drawn.vectors = np.random.default_rng(1).normal(size=drawn.vectors.shape)
    with refused(DataError, "do not tell unrelated people apart"):
        drawn.findings()
    drawn.person_of, drawn.family_of = np.arange(len(drawn.names)), np.arange(len(drawn.names))
    with refused(DataError, "people with two images"):
        drawn.findings()


def test_more_scores_than_fit_are_refused(drawn, refused, monkeypatch):
    monkeypatch.setattr(misplaced, "MOST", 1999)
    with refused(DataError, "100 images x 20 people", "2,000 scores", "1,999"):
        drawn.findings()


def test_splits_are_joined_with_families_of_their_own():
    index = TwinIndex("train", ("a", "b"), (("a", "b"),), ("a/1", "a/2", "b/1"), np.array([0, 0, 1]), np.array([0, 0]))
    people, person_of, family_of = join([index, index])
    assert people == ["a", "b", "a", "b"]
    assert person_of.tolist() == [0, 0, 1, 2, 2, 3] and family_of.tolist() == [0, 0, 1, 1]
