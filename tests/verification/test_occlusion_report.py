"""What occluders change, on pairs whose images hide known places, and how well a model's visibility fits the truth."""

from dataclasses import replace

import numpy as np
import pytest
from scored_cases import FAMILIES, system
from toys import toy_store

from dcal_core.data.landmarks import ARCFACE
from dcal_core.data.occlusion import OccludedImages
from dcal_core.verification import statements
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.occlusion import (
    CLEAR,
    COVERED,
    draw_occlusion,
    draw_visibility,
    groups_of_pairs,
    occlusion,
    overlap,
    seen_visibility,
    visible_cells,
)
from dcal_core.verification.report_tables import occlusion_tables
from dcal_core.verification.words import CO_TWINS

SIZE, GRID = 28, 4


@pytest.fixture(scope="module")
def images():
    """Of 12 families, as `scored_cases` has them; half are occluded."""
    return OccludedImages(toy_store(FAMILIES * 10, SIZE), 0.5, ("mask", "scarf"), ARCFACE)


@pytest.fixture(scope="module")
def systems(ours, images):
    """One system that tells what is visible, here the truth, and another one that fails on occluded pairs."""
    worse = system("worse", separation=2.0)
    occluded = images.kind_of != ""
    pairs = worse.test.pairs
    fails = occluded[pairs.a] | occluded[pairs.b]
    scores = np.where(fails, worse.test.scores - 2 * pairs.genuine, worse.test.scores)
    truth = visible_cells(images, GRID).reshape(-1, GRID**2).astype(np.float32)
    return [replace(ours, visible=truth), replace(worse, test=replace(worse.test, scores=scores))]


@pytest.fixture(scope="module")
def found(systems, images):
    return occlusion(systems, images, draws=40)


def test_pairs_are_grouped_by_what_is_hidden_in_either_image(images, ours):
    pairs = ours.test.pairs
    groups = groups_of_pairs(images, pairs.a, pairs.b)
    visible = images.visible(range(len(images.images))).numpy()
    for place in range(0, len(pairs), 7):
        sides = pairs.a[place], pairs.b[place]
        hidden = 1 - np.mean(visible[sides[0]] & visible[sides[1]])  # a cell is a pixel here
        kinds = {images.kind_of[side] for side in sides} - {""}
        of_share = "0 to 25" if hidden <= 0.25 else "25 to 50" if hidden <= 0.5 else "50 to 100"
        expected = {COVERED, f"{of_share} % hidden", *(f"{kind} only" for kind in kinds if len(kinds) == 1)}
        assert {name for name, part in groups.items() if part[place]} == (expected if kinds else {CLEAR})


def test_each_groups_eer_is_that_of_its_pairs_and_differences_are_paired(found, systems, images):
    pairs = systems[0].test.pairs
    groups = groups_of_pairs(images, pairs.a, pairs.b)
    for group in found["groups"]:
        part = groups[group["pairs"]]
        assert sum(group["counts"].values()) == part.sum()
        if "reason" not in group["eer"]["ours"]:
            eers = [equal_error_rate(one.test.scores[part], pairs.genuine[part])[0] for one in systems]
            assert [group["eer"][one.name]["value"] for one in systems] == pytest.approx(eers)
            (difference,) = group["differences"]
            assert difference["value"] == pytest.approx(eers[0] - eers[1])
    clear, covered = found["groups"][:2]
    assert clear["differences"][0]["better"] is None and clear["differences"][0]["value"] == 0
    assert covered["differences"][0]["better"] == "a"  # only where something is hidden
    assert found["images"] == {kind: int((images.kind_of == kind).sum()) for kind in images.kinds}


def test_a_group_without_pairs_of_both_kinds_says_so(systems, images):
    all_covered = replace(images, share=1.0)
    clear, covered, *_ = occlusion(systems, all_covered, draws=20)["groups"]
    assert clear["eer"]["ours"] == {"value": None, "reason": "too few pairs"} and clear["differences"] == []
    assert covered["eer"]["ours"]["value"] > 0


def test_the_overlap_is_intersection_over_union():
    a = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    b = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    assert overlap(a, b).tolist() == [1 / 3, 1, 0]


def test_visibility_is_compared_with_the_truth_over_families(images, found):
    truth = visible_cells(images, GRID).reshape(-1, GRID**2)
    family = np.repeat(np.arange(FAMILIES), 10)
    shares = images.visible(range(120)).numpy().reshape(120, GRID, SIZE // GRID, GRID, SIZE // GRID).mean((2, 4))
    assert np.array_equal(truth, shares.reshape(120, GRID**2) >= 0.5)
    everything, mask, scarf = found["visibility"]  # of the truth itself
    assert everything["visible"]["value"] == mask["hidden"]["value"] == 1
    blind, *_ = seen_visibility(np.ones(truth.shape), images, family, draws=20)
    assert blind["visible"]["value"] == blind["all_visible"]["value"] == everything["all_visible"]["value"] < 1
    assert blind["hidden"]["value"] == 0 and blind["count"] == (images.kind_of != "").sum()
    means = [truth[(images.kind_of == kind)].mean(1) for kind in images.kinds]
    of_families = [family[images.kind_of == kind] for kind in images.kinds]
    for line, values, members in zip((mask, scarf), means, of_families, strict=True):
        expected = np.mean([values[members == one].mean() for one in np.unique(members)])
        assert line["all_visible"]["value"] == pytest.approx(expected)


def test_it_is_told_in_sentences_tables_and_figures(found, systems, images, tmp_path):
    result = {"data": "SYNTHETIC", "terms": CO_TWINS._asdict(), "occlusion": found}
    first, eer, difference, seen = statements.occlusion(result)
    assert f"{found['images']['mask']} mask, {found['images']['scarf']} scarf" in first
    assert eer.startswith("EER of ours: ") and "ours is better than worse" in difference and "IoU" in seen
    groups, cells = occlusion_tables(result)
    assert [row[0] for row in groups.rows][:2] == [CLEAR, COVERED] and len(groups.head) == len(groups.rows[0]) == 5
    assert [row[0] for row in cells.rows] == [COVERED, "mask", "scarf"] and "1.000" in str(cells)
    figures = (draw_occlusion(result), draw_visibility(systems[0].visible, images, "SYNTHETIC"))
    for figure in figures:
        assert "SYNTHETIC" in figure.get_suptitle()
        figure.savefig(tmp_path / "figure.png", dpi=40)
    assert "mask only: worse" in [label.get_text() for label in figures[0].axes[0].get_yticklabels()]


def test_without_occluders_nothing_is_said():
    assert statements.occlusion({}) == occlusion_tables({}) == []
