"""The recipes by name."""

import pkgutil
from pathlib import Path

from dcal_core.config.shared import Config
from dcal_core.models.verifier import Verifier
from dcal_core.training.recipe import Recipe

RECIPES = {  # a recipe's name to its class, which is imported only when it is asked for
    "dcal": "dcal_core.recipes.dcal:DCALRecipe",
    "adaface": "dcal_core.recipes.adaface:AdaFaceRecipe",
    "oaml": "dcal_core.recipes.oaml:OAMLRecipe",
}


def recipe_of(config: Config) -> Recipe:
    """The recipe that a config names."""
    return pkgutil.resolve_name(RECIPES[config.recipe])(config)


def new_model(config: Config, input_roots: list[Path], pretrained: bool = True) -> Verifier:
    """The config's model to train, as its recipe makes it."""
    return recipe_of(config).new_model(input_roots, pretrained)
