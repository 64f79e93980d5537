"""The library as pip installs it: a wheel built from a copy of the sources, used where the checkout is out of sight."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dcal_core
from dcal_core.config.recipes import presets
from dcal_core.installation import presets_folder, program_name

ROOT = Path(__file__).parents[1]
SOURCES = ("dcal_core", "params", "pyproject.toml", "setup.py", "README.md", "LICENSE", "tests/requirements.txt")
LOAD = """
from dcal_core.config.recipes import load, presets
from dcal_core.installation import presets_folder
print(load("demo", presets_folder(), {}).backbone, *presets(presets_folder()))
"""


def pip(*arguments: object) -> None:
    """Run pip without the network; its own words are the failure's."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command with the installed library in another folder; returns what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    for name in [*SOURCES, *(path.name for path in ROOT.glob("requirements*.txt"))]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (folder / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / "sources" / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "sources")
    pip("install", "--no-deps", "--target", folder / "target", *folder.glob("*.whl"))
    shutil.rmtree(folder / "sources")
    (folder / "elsewhere").mkdir()

    def run(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(folder / "target")}
        done = subprocess.run(command, cwd=folder / "elsewhere", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_the_command_lists_what_it_does(installed):
    lines = installed(str(installed.folder / "target/bin/twins"), "--help").splitlines()
    assert lines[0].startswith("usage: twins <command>")
    assert {"prepare", "train", "evaluate", "explain"} <= {line.split()[0] for line in lines[1:]}


def test_the_module_is_the_same_command(installed):
    as_module = installed(sys.executable, "-m", "dcal_core", "--help")
    as_command = installed(str(installed.folder / "target/bin/twins"), "--help")
    assert as_module == as_command.replace("usage: twins", "usage: python -m dcal_core")


def test_the_version_stands_in_one_place(installed):
    assert installed(str(installed.folder / "target/bin/twins"), "--version") == f"twins {dcal_core.__version__}\n"
    [metadata] = installed.folder.glob("target/dcal_core-*.dist-info")
    assert metadata.name == f"dcal_core-{dcal_core.__version__}.dist-info"


def test_presets_travel_in_the_wheel(installed):
    found = installed(sys.executable, "-c", LOAD).split()
    assert found == ["hybrid_tiny", *presets(ROOT / "params")]


def test_presets_of_a_checkout_lie_beside_the_package():
    assert presets_folder() == ROOT / "params"


@pytest.mark.parametrize(
    ("started", "name"),
    [("/usr/bin/twins", "twins"), ("twins.exe", "twins"), ("dcal_core/__main__.py", "python -m dcal_core")],
)
def test_usage_names_the_command_that_was_called(monkeypatch, started, name):
    monkeypatch.setattr(sys, "argv", [started])
    assert program_name() == name
