"""A Space's folder: what the Hub reads of it, what it needs, and what it may overwrite."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from dcal_core.deploy import space
from dcal_core.deploy.engine import ABOUT_FILE
from dcal_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAMES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python-headless"}
NAMES |= {"yaml": "pyyaml"}


def pack(folder: Path) -> Path:
    """A packed model, as far as a Space knows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT_FILE).write_text("{}")
    return folder


def test_the_folder_has_what_the_hub_reads(tmp_path):
    folder = space.write_space(pack, tmp_path / "space")
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and re.fullmatch(r"\d+\.\d+\.\d+", front["sdk_version"])
    assert (folder / front["app_file"]).is_file() and len(front["short_description"]) <= 60
    assert (folder / "model" / ABOUT_FILE).is_file() and (folder / "dcal_core/deploy/assets/page.js").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert space.write_space(pack, folder) == folder  # again, over itself


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        space.write_space(pack, tmp_path)


def test_it_asks_for_every_package_that_the_page_imports():
    needed = {name for file in reached("dcal_core/deploy/page.py") for name in outside(file)}
    asked = {line.split("#")[0].strip() for line in space.REQUIREMENTS.read_text().splitlines()[2:]}
    named = {re.split("[<>=]", line)[0] for line in asked}
    given = {"gradio", "starlette", "huggingface_hub"}  # in a Space, and by Gradio
    assert {NAMES.get(name, name) for name in needed} - given <= named
    texts = [ROOT / "requirements.txt", ROOT / "requirements-faces.txt"]
    known = {line.split("#")[0].strip() for text in texts for line in text.read_text().splitlines()}
    assert asked <= known


def reached(start: str) -> set[Path]:
    """The library's files that one of them imports, at once or later, and what those import as they start."""
    found, new = set(), {ROOT / start}
    while new:
        file = new.pop()
        found.add(file)
        for name in imports(file, everywhere=file.parent.name == "deploy"):
            for end in (".py", "/__init__.py"):
                path = ROOT / (name.replace(".", "/") + end)
                new |= {path} - found if path.is_file() else set()
    return found


def imports(file: Path, everywhere: bool) -> set[str]:
    """Modules that a file imports, and names from them, which may be modules."""
    tree = ast.parse(file.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def outside(file: Path) -> set[str]:
    """Packages that a file imports as it starts, beside the library and Python's own."""
    tops = {name.split(".")[0] for name in imports(file, everywhere=file.parent.name == "deploy")}
    return tops - sys.stdlib_module_names - {"dcal_core"}
