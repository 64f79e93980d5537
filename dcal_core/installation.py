"""Where this copy of the library keeps its presets, and the command that started it."""

import subprocess
import sys
from pathlib import Path


def presets_folder() -> Path:
    """Folder of the presets: inside an installed package, beside it in a checkout or a notebook."""
    package = Path(__file__).parent
    installed = package / "params"
    return installed if installed.is_dir() else package.parent / "params"


def commit() -> str:
    """The commit of a checkout, with `-dirty` where files were changed since; "" elsewhere, or without git."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return ""
    described = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(described, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def program_name() -> str:
    """`twins` where the installed command was called, else `python -m dcal_core`."""
    return "twins" if Path(sys.argv[0]).stem == "twins" else "python -m dcal_core"
