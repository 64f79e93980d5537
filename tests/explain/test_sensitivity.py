import json

import numpy as np
import pytest
import torch
from scipy.special import expit

from dcal_core.data.landmarks import ARCFACE
from dcal_core.data.twins import DataError
from dcal_core.explain import sensitivity
from dcal_core.explain.planting import cover, eye_distance
from dcal_core.explain.sensitivity import (
    CONTRASTS,
    DIAMETERS,
    LAPSES,
    curve_of,
    fit,
    measure_sensitivity,
    share_seen,
    size_for,
)
from dcal_core.explain.sensitivity_figures import (
    by_part,
    draw_sensitivity,
    example,
    limits,
    sensitivity_table,
    size_text,
)
from dcal_core.models.verifier import Features, Verifier

SIZE = 48
PEOPLE, IMAGES = 12, 4
DARK = 100  # of 255


class CountsDarkPixels(Verifier):
    """Two images are the less alike, the more dark pixels one has over the other: a light mark is never seen."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))  # says which device it is on

    def encode(self, images, trace=False):
        return Features({"dark": (images[:, 0] < DARK).flatten(1).sum(1, keepdim=True).float()})

    def compare(self, a, b, reading=None):
        return -(a.parts["dark"] - b.parts["dark"].T).abs()

    def compare_pairs(self, a, b, reading=None):
        return -(a.parts["dark"] - b.parts["dark"])[:, 0].abs()


class Store:
    """Faces of one colour, image i with `dark[i]` dark pixels in its corner."""

    size = SIZE

    def __init__(self, dark):
        self.images = np.full((len(dark), 3, SIZE, SIZE), 160, dtype=np.uint8)
        for image, count in zip(self.images, dark, strict=True):
            image[:, 0, :count] = 0

    def batch(self, indices):
        return torch.from_numpy(self.images[np.asarray(indices)])


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sensitivity, "DRAWS", 10)
        yield


@pytest.fixture(scope="module")
def measured(few_draws):
    """The limit of detection of a model that sees a mark as soon as it has more than 4 dark pixels, or nearly."""
    dark = np.random.default_rng(0).choice([0, 1, 2, 3, 4], PEOPLE * IMAGES, p=[0.32, 0.32, 0.3, 0.03, 0.03])
    people = np.repeat(np.arange(PEOPLE), IMAGES)
    return measure_sensitivity(CountsDarkPixels(), Store(dark), people, people // 2, ARCFACE, threshold=-20.0)


def test_the_limit_is_where_the_model_begins_to_see(measured):
    size = np.array(measured["diameters"])
    assert np.allclose(size, np.array(DIAMETERS) * eye_distance(ARCFACE, SIZE))
    marks = cover(np.array([20.5, 20.5]), size, SIZE)
    pixels = (160 * (1 - 0.6 * marks) < DARK).sum((1, 2))  # that turn dark
    curve = measured["contrasts"]["-0.6"]
    assert size[pixels <= 2].max() < curve["half"]["value"] < size[pixels > 8].min()
    assert curve["half"]["low"] < curve["half"]["value"] < curve["half"]["high"]
    assert curve["half"]["value"] < curve["most"]["value"]
    assert curve["fall"][-1]["value"] == pytest.approx(pixels[-1], rel=0.15)
    turned = measured["verdict"]["half"]["value"]  # at 20 pixels and more
    assert size[pixels < 15].max() < turned < size[pixels > 25].min()


def test_what_is_never_seen_has_no_limit(measured):
    for contrast in ("-0.3", "+0.3"):  # 160 becomes 112 or 208: not dark
        curve = measured["contrasts"][contrast]
        assert curve["half"]["value"] is None and curve["most"]["value"] is None
        assert {one["value"] for one in curve["seen"]} == {curve["chance"]["value"]}
        assert {one["value"] for one in curve["fall"]} == {0.0}


def test_about_a_twentieth_is_seen_without_a_mark(measured):
    assert 0 < measured["contrasts"]["-0.6"]["chance"]["value"] < 0.12
    assert measured["verdict"]["chance"]["value"] == 0


def test_every_part_of_the_face_has_its_limit(measured):
    assert set(measured["regions"]) >= {"forehead", "nose", "left cheek", "right cheek", "mouth", "jaw"}
    assert not any(measured["left_out"].values())
    for curve in measured["regions"].values():
        assert 1.5 < curve["half"]["value"] < 5


def test_the_result_is_json_and_is_said_and_drawn(measured):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    result = measured | {"data": "SYNTHETIC"}
    first, parts, meaning, verdict = limits(result)
    assert parts.startswith("By part of the face") and "jaw" in parts and "at no diameter" not in parts
    assert f"in 50 % of the cases from {measured['contrasts']['-0.6']['half']['value']:.1f} px" in first
    assert "95 % of such pairs" in meaning and "two people's" in verdict
    rows = sensitivity_table(result).splitlines()[2:]
    assert len(rows) == len(CONTRASTS) + len(measured["regions"]) + 1
    assert "over 9.1 px" in rows[1]
    image = Store([0]).images[0]
    figure = draw_sensitivity(result, example(image, ARCFACE, measured["diameters"]), "SYNTHETIC")
    assert "SYNTHETIC" in figure.get_suptitle()


def test_the_marks_are_the_same_for_a_seed(measured):
    people = np.repeat(np.arange(3), 2)
    options = (CountsDarkPixels(), Store([0, 1, 2, 0, 1, 2]), people, people, ARCFACE)
    assert measure_sensitivity(*options, seed=1) == measure_sensitivity(*options, seed=1)


def test_too_few_families_are_refused():
    people = np.array([0, 0, 1, 1, 2])  # the third person has one image
    with pytest.raises(DataError, match="^2 families .* give 3"):
        measure_sensitivity(CountsDarkPixels(), Store([0] * 5), people, people, ARCFACE)


@pytest.mark.parametrize("lapses", [0.0, 0.03])
def test_a_psychometric_function_is_found_again(lapses):
    size = np.log([1, 1.5, 2, 3, 4, 6, 8, 12.0])
    shares = 0.05 + (0.95 - lapses) * expit(4 * (size - np.log(3)))
    middle, slope, found = fit(size, shares, 0.05)
    assert (middle, slope, found) == pytest.approx((np.log(3), 4, lapses), abs=0.02)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_a_size_gives_its_level(level):
    curve = (1.1, 3.3, 0.06, LAPSES)
    assert share_seen(size_for(level, *curve), *curve) == pytest.approx(level)


def test_intervals_are_over_families():
    """A hundred copies of each family's site change nothing; more families make the interval shorter."""
    random = np.random.default_rng(0)
    size = np.log(np.arange(1, 9))

    def drawn(families):
        seen = random.random((families, 9)) < np.append(0.05, share_seen(size, np.log(3), 4, 0.05, 0.02))
        return seen.astype(float), np.arange(families)

    seen, family = drawn(12)
    once = curve_of(np.exp(size), seen, seen, family, 0)
    often = curve_of(np.exp(size), np.repeat(seen, 5, 0), np.repeat(seen, 5, 0), np.repeat(family, 5), 0)
    assert often["half"] == pytest.approx(once["half"])
    seen, family = drawn(200)
    many = curve_of(np.exp(size), seen, seen, family, 0)
    assert many["half"]["high"] - many["half"]["low"] < once["half"]["high"] - once["half"]["low"]
    assert many["half"]["low"] < 3 * 1.05 and many["half"]["high"] > 3 / 1.05


def test_parts_where_nothing_is_seen_come_last():
    sizes = {"jaw": None, "nose": 4.0, "left cheek": 2.0, "brows": None}
    regions = {name: {"half": {"value": size, "low": size, "high": size}} for name, size in sizes.items()}
    said = by_part({"diameters": [1.0, 8.0], "regions": regions})
    assert "left cheek 2.0 px (2.0 to 2.0); nose 4.0 px" in said
    assert said.endswith("at no diameter up to 8.0 px: jaw, brows.")


def test_sizes_in_words():
    assert size_text({"value": 3.04, "low": 2.0, "high": None}, 8.0) == "3.0 px (2.0 to over 8.0)"
    assert size_text({"value": None, "low": None, "high": None}, 8.0) == "over 8.0 px"
    assert sensitivity.LEVELS["most"] <= 1 - LAPSES  # so that every fitted curve gets there
