"""A trained model in its folder, written and read.

A model folder holds `model.json`, the architecture as plain values, and `model.safetensors`, the weights: reading
them cannot execute code. An evaluation adds `decision.json`, what a score means (verification/decision.py).
"""

import importlib
import json
from pathlib import Path
from types import ModuleType

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcal_core.config.parameters import read
from dcal_core.config.recipes import parameters_of
from dcal_core.errors import ConfigError
from dcal_core.models.verifier import Verifier
from dcal_core.runs import MODEL_FILE, WEIGHTS_FILE
from dcal_core.storage import DamagedError, check_seal, read_json

MODULES = {  # a recipe's name to the module of its model, which is imported when it is first asked for
    "dcal": "dcal_core.models.dcal",
    "adaface": "dcal_core.models.adaface",
    "oaml": "dcal_core.models.oaml",
}


def module_of(recipe: str) -> ModuleType:
    """The module of a recipe's model, with three names; its functions raise ConfigError for what they refuse.

    ARCHITECTURE                 what model.json holds, by the parameter it came from, if any
    check_architecture(found)    refuses values that no parameter's limits refuse
    rebuild(architecture)        a model with that `architecture`, whose trained weights are still to come

    Where names came later, ADDED gives what models had without them.
    """
    return importlib.import_module(MODULES[recipe])


def save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, whatever their layout in memory."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def save_model(folder: Path, model: Verifier) -> None:
    """Write the model, its weights and `model.architecture`, into a folder."""
    save_tensors(Path(folder) / WEIGHTS_FILE, model.state_dict())
    (Path(folder) / MODEL_FILE).write_text(json.dumps(model.architecture, indent=1))


def read_architecture(file: Path) -> dict:
    """The architecture that a model folder's file describes; DamagedError if no recipe has such a model."""
    return check_architecture(read_json(file), file)


def check_architecture(found: dict, file: Path) -> dict:
    """An architecture, which a file holds, with the types of its recipe's parameters; DamagedError if no recipe has
    such a model."""
    try:
        kind = parameters_of({"recipe": found.get("recipe")})
        module = module_of(found["recipe"])
        found = getattr(module, "ADDED", {}) | found
        if set(found) != set(module.ARCHITECTURE):
            raise ConfigError(f"it names {', '.join(sorted(set(found) ^ set(module.ARCHITECTURE)))}")
        fields = {field: found[name] for name, field in module.ARCHITECTURE.items() if field}
        values = read(kind, fields, agreeing=False)
        for name, field in module.ARCHITECTURE.items():
            value = getattr(values, field) if field else found[name]
            if value != found[name]:
                raise ConfigError(f"{name} is {found[name]!r:.40}")
            found[name] = value  # a whole number, where JSON has 224.0
        module.check_architecture(found)
    except ConfigError as error:
        raise other_version(file, error) from None
    return found


def other_version(file: Path, error: ConfigError) -> DamagedError:
    """The refusal of a model folder's file for what is wrong with the architecture in it."""
    return DamagedError(f"{file} is damaged or of another version ({error}): restore it or train again.")


def load_model(folder: Path) -> Verifier:
    """The trained model of a folder, on the CPU and in eval mode; DamagedError if it is not as it was written."""
    described = Path(folder) / MODEL_FILE
    if not described.is_file():
        raise ConfigError(f"{folder} holds no trained model (model.json is missing): train first, or set run_dir.")
    check_seal(Path(folder))
    return restore_model(read_architecture(described), Path(folder) / WEIGHTS_FILE, described)


def restore_model(architecture: dict, weights: Path, described: Path) -> Verifier:
    """The model of a checked architecture, which the file `described` holds, with a file's weights, on the CPU and in
    eval mode; DamagedError if they do not fit one another."""
    try:
        model = module_of(architecture["recipe"]).rebuild(architecture)
        model.load_state_dict(load_file(weights))
    except ConfigError as error:
        raise other_version(described, error) from None
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedError(
            f"{weights} does not fit {described.name} beside it ({reason}): restore it or train again."
        ) from None
    return model.eval()
