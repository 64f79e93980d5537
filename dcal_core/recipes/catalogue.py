"""The recipes by name."""

import pkgutil

from dcal_core.config.shared import Config
from dcal_core.training.recipe import Recipe

RECIPES = {  # a recipe's name to its class, which is imported only when it is asked for
    "dcal": "dcal_core.recipes.dcal:DCALRecipe",
    "adaface": "dcal_core.recipes.adaface:AdaFaceRecipe",
}


def recipe_of(config: Config) -> Recipe:
    """The recipe that a config names."""
    return pkgutil.resolve_name(RECIPES[config.recipe])(config)
