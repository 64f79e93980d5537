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


def panels_of(history, recipe) -> dict:
    """The axes of the losses by the title, without the data."""
    axes = rendered(draw_losses(history, recipe.curves, "SYNTHETIC")).axes
    assert all(one.get_title().endswith(" (SYNTHETIC)") for one in axes)
    return {one.get_title().removesuffix(" (SYNTHETIC)"): one for one in axes}


def test_curves_are_labelled_with_data_and_units():
    losses = draw_losses(HISTORY, DCALRecipe.curves, "SYNTHETIC").axes
    validated = draw_validation(HISTORY, "SYNTHETIC").axes
    for axes in (*losses, *validated):
        assert "SYNTHETIC" in axes.get_title() and axes.get_xlabel() == "epoch"
    assert [axes.get_ylabel() for axes in (*losses, *validated)] == ["loss"] * 3 + ["EER (%)", "ROC-AUC"]
    titles = [axes.get_title() for axes in (*losses, *validated)]
    assert len(set(titles)) == len(titles)


def test_losses_of_different_size_have_axes_of_their_own_beside_the_total():
    panels = panels_of(HISTORY, DCALRecipe)
    assert {title: lines_of(axes) for title, axes in panels.items()} == {
        "Total loss": {"total, as in the progress bar": [[0.5, 2.0], [1.0, -1.0]]},
        "Identity losses": {"SA": [[0.5, 4.0], [1.0, 3.0]]},
        "Twin losses": {"SA": [[0.5, 0.5], [1.0, 0.4]], "PWCA": [[1.0, 0.6]]},
    }
    assert [text.get_text() for text in panels["Twin losses"].get_legend().get_texts()] == ["SA", "PWCA"]


def test_validation_shows_what_was_logged_and_why_it_flatters():
    figure = draw_validation(HISTORY, "SYNTHETIC")
    errors, areas = figure.axes
    assert np.allclose(errors.lines[0].get_xydata(), [[1, 30], [2, 25], [3, 28]])
    assert np.allclose(errors.lines[1].get_xydata(), [[2, 25]])
    assert errors.get_legend_handles_labels()[1] == ["best: 25.0 %, epoch 2"]
    assert np.allclose(areas.lines[0].get_xydata(), [[1, 0.8], [2, 0.9], [3, 0.85]])
    assert "flatter the model" in figure.get_supxlabel()


def test_triplets_show_their_distances_beside_the_losses():
    panels = panels_of(TRIPLETS, AdaFaceRecipe)
    assert {title: lines_of(axes) for title, axes in panels.items()} == {
        "Total loss": {"total, as in the progress bar": [[0.5, 1.7], [1.0, 0.2]]},
        "Identity loss": {"identity": [[0.5, 7.0]]},
        "Triplets": {
            "distance to the same person": [[0.5, 0.4], [1.0, 0.3]],
            "distance to the co-twin": [[0.5, 0.5], [1.0, 0.6]],
            "share of triplets with a loss": [[0.5, 0.9], [1.0, 0.7]],
            "mean loss of all triplets": [[0.5, 0.3], [1.0, 0.2]],
        },
    }
    assert panels["Triplets"].get_legend() is not None
    without = [{name: value for name, value in line.items() if "identity" not in name} for line in TRIPLETS]
    assert list(panels_of(without, AdaFaceRecipe)) == ["Total loss", "Triplets"]  # no empty panel


@pytest.mark.parametrize("history", [HISTORY[:2], HISTORY[2:], []], ids=["no validation", "no losses", "nothing"])
def test_a_history_that_lacks_something_is_drawn_without_it(history):
    losses = panels_of(history, DCALRecipe)["Total loss"]
    errors, areas = rendered(draw_validation(history, "SYNTHETIC")).axes
    assert bool(losses.lines) == any("loss" in line for line in history)
    assert bool(errors.lines) == bool(areas.lines) == any("validation/eer" in line for line in history)
    assert "SYNTHETIC" in errors.get_title() and errors.get_ylabel() == "EER (%)"


@pytest.mark.parametrize(("eer", "auc"), [(0.7, 0.2), (0.0, 1.0), (1.0, 0.0), (0.002, 0.9999)])
def test_no_marker_of_the_validation_is_cut(eer, auc):
    history = [{"batch": 10, "epoch": 1, "validation/eer": eer, "validation/auc": auc}]
    for axes, value in zip(draw_validation(history, "SYNTHETIC").axes, (100 * eer, auc), strict=True):
        low, high = axes.get_ylim()
        pixels = 0.03 * (high - low)  # about a marker's radius
        assert low + pixels < value < high - pixels


def test_each_panel_of_a_recipe_is_drawn_with_its_title_unit_colours_and_styles():
    panels = (
        Panel("First", "loss", (Line("a", "the a", 0, "--"), Line("not logged", "nothing", 1))),
        Panel("Second", "share", (Line("b", "the b", 2),)),
    )
    figure = rendered(draw_losses([{"epoch": 1, "a": 3.0, "b": 0.5, "c": 7.0}], panels, "SYNTHETIC"))
    first, second = figure.axes  # without a total, since none was logged
    assert [axes.get_title() for axes in (first, second)] == ["First (SYNTHETIC)", "Second (SYNTHETIC)"]
    assert [axes.get_ylabel() for axes in (first, second)] == ["loss", "share"]
    assert lines_of(first) == {"the a": [[1, 3.0]]} and lines_of(second) == {"the b": [[1, 0.5]]}
    assert (first.lines[0].get_color(), first.lines[0].get_linestyle()) == (COLOURS[0], "--")
    assert (second.lines[0].get_color(), second.lines[0].get_linestyle()) == (COLOURS[2], "-")
