"""Every recipe that can be chosen brings what the training loop asks of it."""

import pytest
import tiny

from dcal_core.config.recipes import CLASSES, class_of
from dcal_core.recipes.catalogue import RECIPES, recipe_of
from dcal_core.training.recipe import Recipe
from dcal_core.training.task import Task

CONFIGS = {
    "dcal": tiny.dcal_config(steps_per_epoch=3),
    "adaface": tiny.adaface_config(steps_per_epoch=3),
    "oaml": tiny.oaml_config(steps_per_epoch=3, milestones="60"),
}


def test_every_recipe_that_can_be_chosen_is_in_the_catalogue_and_tried_here():
    assert RECIPES.keys() == CLASSES.keys() == CONFIGS.keys()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_recipe_brings_batches_an_objective_an_optimizer_and_a_schedule(config):
    recipe, split = recipe_of(config), tiny.twins(4)
    assert isinstance(recipe, Recipe) and recipe.config is config and type(config) is class_of(config.recipe)
    batches = recipe.batches(split)
    assert batches.steps_per_epoch == 3
    model, objective = tiny.parts_of(config, people=len(split.index.people))
    part = recipe.augment(batches[0][0], seed=0)
    assert part["images"].min() >= 0 and part["images"].max() <= 1
    loss, figures = objective(model.train(), part)
    loss.backward()
    assert loss.isfinite() and figures
    optimizer = recipe.optimizer(Task(model, objective))
    trained = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    weights = [*model.parameters(), *objective.parameters()]
    assert sorted(trained) == sorted(id(weight) for weight in weights if weight.requires_grad)
    assert all(group["factor"] > 0 for group in optimizer.param_groups)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(config.lr) and rates[-1] < rates[50] and rates[0] < rates[4]


@pytest.mark.parametrize(
    "config",
    [tiny.dcal_config(similarity="learned"), tiny.adaface_config(), tiny.oaml_config(class_memory=True)],
    ids=CONFIGS,
)
def test_the_curves_of_a_recipe_show_figures_that_its_objective_logs(config):
    recipe, split = recipe_of(config), tiny.twins(4)
    model, objective = tiny.parts_of(config, people=len(split.index.people))
    logged = objective(model.train(), recipe.augment(recipe.batches(split)[0][0], seed=0))[1]
    assert recipe.curves and {line.name for panel in recipe.curves for line in panel.lines} <= set(logged)


def test_only_what_gets_no_gradient_in_some_of_the_steps_skips_layers():
    assert not [name for name, config in CONFIGS.items() if recipe_of(config).skips_layers]
    assert recipe_of(tiny.oaml_config(softmax_weight=0.0)).skips_layers
    assert recipe_of(tiny.dcal_config(pwca_prob=0.5)).skips_layers
    assert not recipe_of(tiny.dcal_config(pwca_prob=0.0)).skips_layers
