"""The Makefile: how it installs, with uv and without, and what it cleans."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
# Stands for Python: makes an environment whose pip notes what it is asked for.
[ "$2" = venv ] || exit 0
mkdir -p .venv/bin
printf '#!/bin/sh\\necho pip "$@" >> asked\\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""
UV = '#!/bin/sh\necho uv "$@" >> asked\nexit {status}\n'


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile, and a PATH that begins with its own `bin`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "pyproject.toml", "setup.py"):
        (tmp_path / name).touch()
    program(tmp_path, "python3", PYTHON)
    return tmp_path


def program(folder, name, text):
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def make(folder, *targets, **variables):
    """What make prints; no uv but the folder's own is found."""
    for tool in ("make", "sh", "bash", "mkdir", "chmod", "touch", "find", "rm", "du", "cat"):
        if not (folder / "bin" / tool).exists():
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MAKE"))}
    environment = given | {"PATH": str(folder / "bin")} | variables
    done = subprocess.run(["make", *targets], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def asked(folder):
    return (folder / "asked").read_text().splitlines()


PIP_CALL = "pip install --disable-pip-version-check --editable ."
UV_CALL = "uv pip install --python .venv/bin/python --torch-backend auto --editable ."


def test_pip_installs_where_there_is_no_uv(project):
    said = make(project, ".venv/installed")
    assert asked(project) == [PIP_CALL]
    assert "with pip: 2 to 10 minutes, and 2 GB, or 6.5 GB" in said and "docs/running.md" in said


def test_uv_chooses_the_build_of_pytorch_where_it_is_installed(project):
    program(project, "uv", UV.format(status=0))
    said = make(project, ".venv/installed")
    assert asked(project) == [UV_CALL] and "with uv: 2 to 10 minutes" in said and "pip does it" not in said


def test_pip_does_what_uv_cannot_and_one_sentence_says_so(project):
    program(project, "uv", UV.format(status=2))
    said = make(project, ".venv/installed")
    assert asked(project) == [UV_CALL, PIP_CALL]
    assert said.count("uv cannot install that from PyTorch's index: pip does it from its own.\n") == 1


def test_an_index_given_to_pip_is_kept(project):
    program(project, "uv", UV.format(status=0))
    make(project, ".venv/installed", PIP_INDEX_URL="https://download.pytorch.org/whl/cpu")
    assert asked(project) == [PIP_CALL]


def test_clean_removes_what_can_be_made_again_and_no_run(project):
    made_again = ["runs/scratch/decoded/a.npy", "dcal_core/__pycache__/a.pyc", ".pytest_cache/a", "docs/.ruff_cache/a"]
    made_again += ["notebooks/.ipynb_checkpoints/a.ipynb", "build/lib/a.py", ".hypothesis/a"]
    kept = ["runs/demo/checkpoints/best/model.safetensors", "runs/demo.old1/config.json", "wandb/offline-run-1/a.wandb"]
    kept += ["mlruns/0/meta.yaml", "data/faces/a.png", ".venv/lib/__pycache__/a.pyc", "dcal_core/a.py"]
    for name in made_again + kept:
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    said = make(project, "clean")
    assert "runs/scratch" in said
    assert [name for name in made_again if (project / name).exists()] == []
    assert [name for name in kept if not (project / name).exists()] == []
    make(project, "clean")  # again, with nothing left


def test_clean_follows_no_link_out_of_the_project(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("large disk")
    (elsewhere / "precious").touch()
    (project / "runs").mkdir()
    (project / "runs/scratch").symlink_to(elsewhere)
    (project / "linked").symlink_to(elsewhere)
    make(project, "clean")
    assert not (project / "runs/scratch").exists() and (elsewhere / "precious").exists()
