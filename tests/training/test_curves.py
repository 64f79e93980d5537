"""What a run logs, by epoch and as curves that name their data, their meaning and their unit."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from dcal_core.palette import COLOURS
from dcal_core.recipes.adaface import AdaFaceRecipe
from dcal_core.recipes.dcal import DCALRecipe
from dcal_core.training.curves import Line, Panel, by_epoch, draw_losses, draw_validation

LINES = [
    {"batch": 10, "epoch": 10 / 13, "lr": 1e-3, "loss": 4.0, "twin": 1.0},
    {"batch": 13, "epoch": 1.0, "lr": 8e-4, "loss": 17.0, "skipped": 2},
    {"batch": 13, "epoch": 1, "validation/eer": 0.3, "validation/auc": 0.8},
    {"batch": 23, "epoch": 23 / 13, "lr": 5e-4, "loss": 2.0, "twin": 0.5, "skipped": 1},
    {"batch": 26, "epoch": 2.0, "lr": 4e-4, "loss": 2.0, "twin": 1.8, "skipped": 3},
]


def test_a_mean_counts_each_batch_of_the_epoch_the_same():
    first, second = by_epoch(LINES)
    assert first["loss"] == (10 * 4 + 3 * 17) / 13 and first["twin"] == 1.0  # where it was logged
    assert second["loss"] == 2.0 and second["twin"] == (10 * 0.5 + 3 * 1.8) / 13


def test_an_epoch_ends_with_its_last_batch_learning_rate_and_validation():
    first, second = by_epoch(LINES)
    assert (first["epoch"], first["batch"], first["lr"], first["skipped"]) == (1, 13, 8e-4, 2)
    assert (first["validation/eer"], first["validation/auc"]) == (0.3, 0.8)
    assert (second["epoch"], second["batch"], second["lr"], second["skipped"]) == (2, 26, 4e-4, 4)
    assert "validation/eer" not in second


def test_nothing_logged_is_no_epoch():
    assert by_epoch([]) == []


# ---- drawn


def rendered(figure: Figure) -> Figure:
    """The figure after it was drawn, which must raise no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return figure


HISTORY = [
    {"batch": 10, "epoch": 0.5, "lr": 1e-3, "sa/identity": 4.0, "sa/twin": 0.5, "loss": 2.0},
    {"batch": 20, "epoch": 1.0, "lr": 1e-3, "sa/identity": 3.0, "sa/twin": 0.4, "pwca/twin": 0.6, "loss": -1.0},
    {"batch": 20, "epoch": 1, "validation/eer": 0.30, "validation/auc": 0.8},
    {"batch": 40, "epoch": 2, "validation/eer": 0.25, "validation/auc": 0.9},
    {"batch": 60, "epoch": 3, "validation/eer": 0.28, "validation/auc": 0.85},
]
TRIPLETS = [
    {"batch": 10, "epoch": 0.5, "embedding/twin": 0.3, "embedding/identity": 7.0, "d_ap": 0.4, "d_an": 0.5}
    | {"active": 0.9, "loss": 1.7},
    {"batch": 20, "epoch": 1.0, "embedding/twin": 0.2, "d_ap": 0.3, "d_an": 0.6, "active": 0.7, "loss": 0.2},
]


def lines_of(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_curves_are_labelled_with_data_and_units():
    (losses,) = rendered(draw_losses(HISTORY, DCALRecipe.curves, "SYNTHETIC")).axes
    errors, areas = rendered(draw_validation(HISTORY, "SYNTHETIC")).axes
    for axes in (losses, errors, areas):
        assert "SYNTHETIC" in axes.get_title() and axes.get_xlabel() == "epoch"
    assert [axes.get_ylabel() for axes in (losses, errors, areas)] == ["loss", "EER (%)", "ROC-AUC"]


def test_curves_show_what_was_logged():
    (losses,) = draw_losses(HISTORY, DCALRecipe.curves, "SYNTHETIC").axes
    errors, areas = draw_validation(HISTORY, "SYNTHETIC").axes
    assert lines_of(losses) == {
        "SA identity": [[0.5, 4.0], [1.0, 3.0]],
        "SA twin": [[0.5, 0.5], [1.0, 0.4]],
        "PWCA twin": [[1.0, 0.6]],
    }
    assert np.allclose(errors.lines[0].get_xydata(), [[1, 30], [2, 25], [3, 28]])
    assert np.allclose(errors.lines[1].get_xydata(), [[2, 25]])
    assert errors.get_legend_handles_labels()[1] == ["best: 25.0 %, epoch 2"]
    assert np.allclose(areas.lines[0].get_xydata(), [[1, 0.8], [2, 0.9], [3, 0.85]])


def test_triplets_show_their_distances_beside_the_losses():
    losses, triplets = rendered(draw_losses(TRIPLETS, AdaFaceRecipe.curves, "SYNTHETIC")).axes
    assert lines_of(losses) == {"identity": [[0.5, 7.0]], "twin": [[0.5, 0.3], [1.0, 0.2]]}
    assert lines_of(triplets) == {
        "distance to the same person": [[0.5, 0.4], [1.0, 0.3]],
        "distance to the co-twin": [[0.5, 0.5], [1.0, 0.6]],
        "share of triplets with a loss": [[0.5, 0.9], [1.0, 0.7]],
        "mean loss of all triplets": [[0.5, 0.3], [1.0, 0.2]],
    }
    assert "SYNTHETIC" in triplets.get_title() and triplets.get_legend() is not None


def test_the_legend_names_every_loss():
    (losses,) = draw_losses(HISTORY, DCALRecipe.curves, "SYNTHETIC").axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["SA identity", "SA twin", "PWCA twin"]


@pytest.mark.parametrize("history", [HISTORY[:2], HISTORY[2:], []], ids=["no validation", "no losses", "nothing"])
def test_a_history_that_lacks_something_is_drawn_without_it(history):
    (losses,) = rendered(draw_losses(history, DCALRecipe.curves, "SYNTHETIC")).axes
    errors, areas = rendered(draw_validation(history, "SYNTHETIC")).axes
    assert bool(losses.lines) == any("loss" in line for line in history)
    assert bool(errors.lines) == bool(areas.lines) == any("validation/eer" in line for line in history)
    assert "SYNTHETIC" in errors.get_title() and errors.get_ylabel() == "EER (%)"


def test_curves_of_a_random_model_stay_within_the_axes():
    history = [{"batch": 10, "epoch": 1, "validation/eer": 0.7, "validation/auc": 0.2}]
    errors, areas = draw_validation(history, "SYNTHETIC").axes
    assert errors.get_ylim()[0] <= 70 <= errors.get_ylim()[1]
    assert areas.get_ylim()[0] <= 0.2 <= areas.get_ylim()[1]


def test_each_panel_of_a_recipe_is_drawn_with_its_title_unit_colours_and_styles():
    panels = (
        Panel("First", "loss", (Line("a", "the a", 0, "--"), Line("not logged", "nothing", 1))),
        Panel("Second", "share", (Line("b", "the b", 2),)),
    )
    first, second = rendered(draw_losses([{"epoch": 1, "a": 3.0, "b": 0.5, "c": 7.0}], panels, "SYNTHETIC")).axes
    assert [axes.get_title() for axes in (first, second)] == ["First (SYNTHETIC)", "Second (SYNTHETIC)"]
    assert [axes.get_ylabel() for axes in (first, second)] == ["loss", "share"]
    assert lines_of(first) == {"the a": [[1, 3.0]]} and lines_of(second) == {"the b": [[1, 0.5]]}
    assert (first.lines[0].get_color(), first.lines[0].get_linestyle()) == (COLOURS[0], "--")
    assert (second.lines[0].get_color(), second.lines[0].get_linestyle()) == (COLOURS[2], "-")
