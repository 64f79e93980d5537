"""The page as a Space of the Hugging Face Hub: a folder with all that it takes, ready to be pushed there.

app.py              starts the page
requirements.txt    what it needs beside Gradio
README.md           the Space's front matter
model/              the packed model
dcal_core/          the library
"""

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

from dcal_core.deploy.engine import ABOUT_FILE
from dcal_core.errors import ConfigError
from dcal_core.storage import disk_errors, write_text

GRADIO = "6.31.0"  # where none is installed
REQUIREMENTS = Path(__file__).parent / "assets/requirements.txt"  # the container's too
APP = """\
from dcal_core.deploy.cache import FeatureCache
from dcal_core.deploy.page import start
from dcal_core.deploy.predictor import Predictor

page = start(Predictor.load("model", cache=FeatureCache(most=0)))
print(page.local_url, flush=True)
page.block_thread()
"""
FRONT = """\
---
title: Twin verifier
emoji: 👥
colorFrom: blue
colorTo: purple
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: mit
short_description: Do two photographs show one person, or two twins?
---

# Twin verifier

Compares two photographs: verdict, likelihood ratio, validated range, and where the faces differ. What the model is, and
how often it errs: [its card](model/README.md).

Pictures are compared in the memory of the Space; no file is written and none is kept.
"""


def write_space(pack: Callable[[Path], Path], folder: Path) -> Path:
    """Write a Space, and return its folder; `pack` writes the packed model to a folder that it is given.

    ConfigError if the folder holds something else; StorageError.
    """
    folder = Path(folder)
    model = folder / "model"
    if folder.exists() and not (model / ABOUT_FILE).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files: name a new folder, or that of a Space.")
    pack(model)
    library = Path(__file__).parents[1]
    with disk_errors(folder):
        shutil.copytree(
            library, folder / library.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
        shutil.copyfile(REQUIREMENTS, folder / REQUIREMENTS.name)
    write_text(folder / "app.py", APP)
    write_text(folder / "README.md", front_matter())
    return folder


def front_matter() -> str:
    """The README of a Space, for the Gradio that is installed here."""
    try:
        gradio = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        gradio = GRADIO
    return FRONT.format(gradio=gradio)
