"""Imports point one way only, and only three tables know which systems there are."""

import ast
import sys
from pathlib import Path

import pytest

from dcal_core.config.recipes import CLASSES, class_of
from dcal_core.config.shared import Config

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"errors", "installation", "lettering", "markdown", "missing", "palette", "progress"},
    {"config"},
    {"storage"},
    {"locks"},
    {"environment"},
    {"distributed"},
    {"runs"},
    {"data"},
    {"audit"},
    {"models"},
    {"training"},
    {"verification"},
    {"explain"},
    {"diagnosis"},
    {"deploy"},
    {"recipes"},
    {"commands"},
    {"__main__"},
)
KNOW_THE_RECIPES = {"config/recipes.py", "models/files.py", "recipes/catalogue.py"}  # the three tables of systems
WITH_TIMM = {"models/attention.py", "models/backbones.py", "models/pretrained.py"}
NAMESAKES = {
    "config/shared.py": ["adaface"],
    "config/oaml.py": ["adaface"],
    "models/margins.py": ["adaface"],
    "models/face_weights.py": ["adaface"],
    "recipes/face_network.py": ["adaface"],
}  # a margin, and a form of file
SOURCES = {path.relative_to(ROOT / "dcal_core").as_posix(): path.read_text() for path in ROOT.glob("dcal_core/**/*.py")}


def layer(name: str) -> int:
    """The layer of a module or package of dcal_core; IndexError for one that has none."""
    return [number for number, names in enumerate(LAYERS) if name in names][0]


def top(file: str) -> str:
    """`data/twins.py` -> `data`, `storage.py` -> `storage`."""
    return file.removesuffix(".py").split("/")[0]


def imported(source: str) -> list[str]:
    """All modules that a source imports anywhere in it, with the names taken `from` them, which may be modules."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def against_the_flow(file: str, source: str) -> list[str]:
    """Imports of a file from its own layer's neighbours, a later layer or the benchmarks, or relative to itself."""
    wrong = []
    for name in imported(source):
        if name.startswith((".", "benchmarks")):
            wrong.append(name)
        elif name.startswith("dcal_core."):
            target = name.split(".")[1]
            if target != top(file) and layer(target) >= layer(top(file)):
                wrong.append(name)
    return wrong


def named_recipes(source: str) -> list[str]:
    """Recipe names that stand in a source as text, except as a part of a path (`folder / "dcal"`)."""
    tree = ast.parse(source)
    in_paths = {id(n.right) for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)}
    recipes = set(CLASSES)
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in in_paths]
    return [constant.value for constant in constants if isinstance(constant.value, str) and constant.value in recipes]


def reads_recipe(source: str) -> bool:
    """Whether a source asks a config or an architecture for its recipe."""
    attributes = [
        n.attr
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Attribute) and "config" in (getattr(n.value, "id", ""), getattr(n.value, "attr", ""))
    ]
    keys = [
        n.slice.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Subscript) and hasattr(n.slice, "value")
    ]
    return "recipe" in attributes + keys


def read_of_config(source: str) -> set[str]:
    """What a source reads of a config: `config.<name>`, `<any>.config.<name>`, `getattr(config, "<name>")`.

    `folder.config` is the path of a file.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_config(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and is_config(node.args[0]):
            found |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()
    return found


def is_config(node: ast.expr) -> bool:
    """Whether an expression is called `config`, by itself or as an attribute of anything but a folder."""
    *owners, name = ast.unparse(node).split(".")
    return name == "config" and owners[-1:] != ["folder"]


def module_of(name: str) -> str | None:
    """The file that an imported name comes from, if it is one of ours."""
    parts = name.split(".")[1:]
    candidates = ["/".join(parts) + ".py", "/".join(parts[:-1]) + ".py"]
    return next((file for file in candidates if file in SOURCES), None)


@pytest.mark.parametrize("file", [file for file in SOURCES if file != "__init__.py"])
def test_imports_point_one_way(file):
    assert against_the_flow(file, SOURCES[file]) == []


def test_an_import_against_the_flow_is_seen():
    assert against_the_flow("models/dcal.py", "import dcal_core.training.loop") == ["dcal_core.training.loop"]
    assert against_the_flow("training/loop.py", "from dcal_core.verification.metrics import roc_auc")
    assert against_the_flow("training/loop.py", "def f():\n    from dcal_core import verification")
    assert against_the_flow("config/shared.py", "from dcal_core.environment import banner")
    assert against_the_flow("environment.py", "from dcal_core.distributed import rank")
    assert against_the_flow("models/dcal.py", "from benchmarks.speed.naive import NaiveDCAL")
    assert against_the_flow("training/loop.py", "from dcal_core.commands.train import train_run")
    assert against_the_flow("data/images.py", "from . import twins")
    assert not against_the_flow("explain/maps.py", "from dcal_core.models import verifier\nimport torch")


def test_training_has_its_validator_given_and_imports_no_metric():
    files = [file for file in SOURCES if top(file) == "training"]
    names = [name for file in files for name in imported(SOURCES[file])]
    assert files and not [name for name in names if "verification" in name or name.startswith("sklearn")]


def test_timm_is_loaded_with_a_vision_transformer_only():
    for file, source in SOURCES.items():
        at_once = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {name.split(".")[0] for node in at_once for name in imported(ast.unparse(node))}
        assert "timm" not in modules or file in WITH_TIMM, file


def test_no_module_imports_itself_around_a_circle():
    imports = {file: {module_of(n) for n in imported(s) if n.startswith("dcal_core.")} for file, s in SOURCES.items()}
    left = {file: targets - {None} for file, targets in imports.items()}
    while free := [file for file, targets in left.items() if not targets]:
        left = {file: targets - set(free) for file, targets in left.items() if file not in free}
    assert left == {}


@pytest.mark.parametrize("file", SOURCES)
def test_only_the_tables_know_the_recipes(file):
    if file not in KNOW_THE_RECIPES:
        own = Path(file).stem  # a system's own files may name it
        assert set(named_recipes(SOURCES[file])) <= {own, *NAMESAKES.get(file, [])}
        assert not reads_recipe(SOURCES[file])


def test_a_recipe_that_is_named_is_seen():
    assert named_recipes('if system == "dcal": pass') == ["dcal"]
    assert named_recipes('losses = {"dcal": 1}["dcal"]') == ["dcal", "dcal"]
    assert named_recipes('root / "dcal"') == [] and named_recipes('"""How dcal works."""') == []
    assert (
        reads_recipe("config.recipe")
        and reads_recipe("self.config.recipe")
        and reads_recipe('architecture["recipe"]')
        and not reads_recipe("x[0]")
    )


def test_no_module_is_a_box_for_anything():
    names = {part.removesuffix(".py") for file in SOURCES for part in file.split("/")}
    assert names.isdisjoint({"utils", "util", "helpers", "helper", "common", "misc"})


def test_packages_re_export_nothing():
    own = {file: imported(source) for file, source in SOURCES.items() if file.endswith("__init__.py")}
    assert not [name for names in own.values() for name in names if name.startswith(("dcal_core", "."))]


def test_parameters_are_read_without_torch():
    sources = [source for file, source in SOURCES.items() if top(file) == "config"]
    outside = {name.split(".")[0] for source in sources for name in imported(source)}
    assert len(sources) > len(CLASSES) and outside <= sys.stdlib_module_names | {"pydantic", "yaml", "dcal_core"}


@pytest.mark.parametrize("file", [file for file in SOURCES if top(file) == "training"])
def test_training_reads_only_parameters_that_every_recipe_has(file):
    assert read_of_config(SOURCES[file]) <= {*Config.model_fields, *dir(Config)}


def test_training_reads_parameters_and_a_recipes_own_one_would_be_seen():
    assert {"precision", "epochs", "lr"} & set().union(*(read_of_config(SOURCES[file]) for file in SOURCES))
    assert read_of_config("a = config.pwca_prob + self.config.width\nb = self.recipe.config.neck") == {
        "pwca_prob",
        "width",
        "neck",
    }
    assert read_of_config('getattr(config, "twin_loss")') == {"twin_loss"}
    assert read_of_config("self.folder.config.exists(); config = 3; other.lr; config.replace(lr=1)") == {"replace"}
    for recipe in CLASSES:  # there are such parameters
        assert set(class_of(recipe).model_fields) - {*Config.model_fields, *dir(Config)}
