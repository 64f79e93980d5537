"""Where this copy of the library keeps its presets, and the command that started it."""

import sys
from pathlib import Path


def presets_folder() -> Path:
    """Folder of the presets: inside an installed package, beside it in a checkout or a notebook."""
    package = Path(__file__).parent
    installed = package / "params"
    return installed if installed.is_dir() else package.parent / "params"


def program_name() -> str:
    """`twins` where the installed command was called, else `python -m dcal_core`."""
    return "twins" if Path(sys.argv[0]).stem == "twins" else "python -m dcal_core"
