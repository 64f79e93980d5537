"""Which recipe a set of parameters is for, and how presets and given values are read.

Values come from defaults < `params/<preset>.yaml` < papermill's `-p`, `-f` and `-y`.
"""

import difflib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from dcal_core.config.parameters import read
from dcal_core.config.shared import Config
from dcal_core.errors import ConfigError, quoted
from dcal_core.missing import because

DEFAULT = "dcal"
ELSEWHERE = {  # names that other projects use
    "learning_rate": "lr",
    "batch_size": "families_per_batch triplets_per_batch pairs_per_batch",
    "num_epochs": "epochs",
    "data_dir": "data_root",
    "dataset": "data_root",
    "output_dir": "run_dir",
    "img_size": "image_size",
    "model": "backbone",
    "checkpoint": "resume_from",
    "pretrained": "weights",
    "num_workers": "loader_workers",
    "gpus": "nproc",
}
ENDINGS = (".yaml", ".yml", ".json")  # of a preset's file; JSON is YAML
CLASSES = {  # a recipe's name to the class of its parameters
    "dcal": "dcal_core.config.dcal:DCALConfig",
    "adaface": "dcal_core.config.adaface:AdaFaceConfig",
    "oaml": "dcal_core.config.oaml:OAMLConfig",
}


def class_of(recipe: str) -> type[Config]:
    return pkgutil.resolve_name(CLASSES[recipe])


def without_co_twins() -> str:
    """The recipes that can do without co-twins, in words."""
    return " or ".join(recipe for recipe in CLASSES if not class_of(recipe).needs_co_twins)


def parameters_of(values: dict) -> type[Config]:
    """The class of the recipe that some values name; raises ConfigError for a recipe that does not exist."""
    recipe = values.get("recipe", DEFAULT)
    if not isinstance(recipe, str) or recipe not in CLASSES:
        raise ConfigError(f"parameter recipe={quoted(recipe)}: takes one of {', '.join(CLASSES)}.")
    return class_of(recipe)


def check_names(kind: type[Config], values: dict, origin: str) -> None:
    """Refuse a name that a recipe lacks, with the recipes that have it, or with the nearest name."""
    for name in values:
        if name in kind.model_fields:
            continue
        if owners := [recipe for recipe in CLASSES if name in class_of(recipe).model_fields]:
            raise ConfigError(
                f"{name}={quoted(values[name])} in {origin}: without effect in "
                f"recipe={kind.model_fields['recipe'].default}, it belongs to {' and '.join(owners)}: leave it out."
            )
        raise ConfigError(f"unknown parameter {quoted(name)} in {origin}: {nearest(name, kind.model_fields)}")


def nearest(name: object, names: Iterable[str]) -> str:
    """Advice for a parameter's name that is none of these."""
    plain = str(name).lower().replace("-", "_")
    translated = {word: [one for one in ours.split() if one in names] for word, ours in ELSEWHERE.items()}
    terms = {name: [name] for name in names} | {word: ours for word, ours in translated.items() if ours}
    closest = difflib.get_close_matches(plain, terms, n=1)
    near = terms[closest[0]] if closest else []
    return f"did you mean {' or '.join(near)}?" if near else "docs/parameters.md lists all parameters."


def read_config(values: dict, origin: str) -> Config:
    """One recipe's parameters, checked; raises ConfigError."""
    kind = parameters_of(values)
    check_names(kind, values, origin)
    return read(kind, values)


class AsWritten(yaml.SafeLoader):
    """YAML with numbers and dates left as text, for the parameter's type to decide: YAML 1.1 reads 010 as 8, and 1:30
    as 90."""


for _kind in ("int", "float", "timestamp"):
    AsWritten.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_yaml_str)


def presets(params_dir: Path) -> list[str]:
    return sorted(path.stem for path in Path(params_dir).glob("*.yaml"))


def needs_of_presets(params_dir: Path) -> dict[str, str]:
    """What each preset trains and needs, by its name: the first comment in its file."""
    files = {preset: Path(params_dir) / f"{preset}.yaml" for preset in presets(params_dir)}
    first = {preset: file.read_text(encoding="utf-8").partition("\n")[0] for preset, file in files.items()}
    return {preset: line.removeprefix("#").strip() for preset, line in first.items()}


def name_of(preset: str) -> str:
    """A preset's name, also of one that is given by its file."""
    return Path(preset).stem if preset.endswith(ENDINGS) else preset


def file_of(preset: str, params_dir: Path) -> Path:
    """The file of a preset, which is a name in the folder or a YAML file anywhere; raises ConfigError."""
    if isinstance(preset, str) and preset.endswith(ENDINGS):
        return Path(preset).expanduser()
    if preset not in presets(params_dir):
        names = ("auto", *presets(params_dir))
        near = difflib.get_close_matches(str(preset).lower(), names, n=1)
        meant = f"did you mean {near[0]}? It " if near else ""
        raise ConfigError(f"preset={preset!r}: {meant}takes one of {', '.join(names)}, or a YAML file.")
    return Path(params_dir) / f"{preset}.yaml"


def read_preset(preset: str, params_dir: Path) -> dict:
    """The values in a preset's file as they are written; raises ConfigError."""
    path = file_of(preset, params_dir)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, AsWritten) or {}  # noqa: S506 - a SafeLoader
        named = yaml.compose(text, AsWritten).value if isinstance(values, dict) and values else []
        names = [key.value for key, _ in named]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}{because(path)}): put a file there.") from None
    except Exception as error:  # a value that does not fit its tag makes PyYAML raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path} is not YAML ({reason:.200}): write one `name: value` a line.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}: write one `name: value` a line.")
    if len(values) < len(names):  # YAML takes the last one silently
        raise ConfigError(f"{path} holds {max(names, key=names.count)!r} more than once: keep one of them.")
    return values


def load(preset: str, params_dir: Path, overrides: dict) -> Config:
    """Defaults, then the preset's file, then the overrides, as one checked Config; raises ConfigError."""
    values = read_preset(preset, params_dir)
    kind = parameters_of(values | overrides)
    check_names(kind, values, file_of(preset, params_dir).name)
    check_names(kind, overrides, "the given parameters")
    written = {name: value for name, value in values.items() if name != "recipe"}
    read(kind, written, agreeing=False)  # a wrong value is refused where an override hides it too
    return read(kind, values | overrides)


def check_given(given: dict, params_dir: Path) -> None:
    """Refuse misspelt names and impossible values among a notebook's parameters, before anything slow is loaded."""
    values = dict(given)
    preset = values.pop("preset", "auto")
    kinds = []
    if preset != "auto":
        kinds.append(parameters_of(read_preset(preset, params_dir) | values))
    if "recipe" in values:
        kinds.append(parameters_of(values))
    elif preset == "auto" or values.get("run_dir"):  # the recipe is the machine's choice, or that of the run there
        kinds += map(class_of, CLASSES)
    kind = next((kind for kind in kinds if set(values) <= set(kind.model_fields)), kinds[0])
    check_names(kind, values, "the given parameters")
    read(kind, values, agreeing=False)
