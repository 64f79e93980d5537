"""The Dockerfile: what it copies is there and sent, what it runs works in a bare environment, and nobody is root."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from dcal_core.commands.serve import parser_of_serve

ROOT = Path(__file__).resolve().parents[1]
TEXT = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"}


def of(instruction: str) -> list[str]:
    """What follows each of these instructions."""
    return [rest for name, rest in STEPS if name == instruction]


def copied() -> list[tuple[list[Path], str]]:
    """What each COPY takes, and where to."""
    found = []
    for line in of("COPY"):
        *sources, target = line.split()
        found.append(([path for source in sources for path in sorted(ROOT.glob(source))], target))
        assert all([*ROOT.glob(source)] for source in sources), line
    return found


def sent(path: Path) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that fits decides."""
    name = path.relative_to(ROOT).as_posix()
    lets = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not pattern.startswith("#") and fnmatch.fnmatch(name, pattern):
            lets = line.startswith("!")
    return lets


def test_every_step_is_known_and_what_it_copies_is_sent():
    assert {name for name, _ in STEPS} == KNOWN
    files = {path.relative_to(ROOT).as_posix() for paths, _ in copied() for path in paths}
    assert all(sent(path) for paths, _ in copied() for path in paths)
    assert not sent(ROOT / "runs") and not sent(ROOT / "tests/tiny.py") and not sent(ROOT / ".git")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"].values()
    assert files >= {"requirements.txt", *(file for extra in extras for file in extra["file"])}  # setuptools reads them
    for asked in re.findall(r"-r (\S+)", TEXT):
        assert asked in files or Path(asked).parts[0] in files and (ROOT / asked).is_file()


def test_nobody_is_root_and_the_page_is_what_it_serves():
    names = [name for name, _ in STEPS]
    assert of("USER") == ["twins"] and "useradd --create-home twins" in of("RUN")
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in ("RUN", "COPY"))
    assert json.loads(of("ENTRYPOINT")[0]) == ["twins"]
    command, *arguments = json.loads(of("CMD")[0])
    options = parser_of_serve().parse_args(arguments)
    assert command == "serve" and options.model == "/model" and options.host == "0.0.0.0"
    assert of("EXPOSE") == [str(options.port)]


@pytest.mark.faults
def test_its_steps_give_an_answer_in_a_bare_environment(tmp_path):
    """By the Python that runs this test; without Docker, whoever builds the image is who runs it."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv/bin"
    build, home = tmp_path / "build", tmp_path / "home"
    for folder in (build, home):
        folder.mkdir()
    for sources, target in copied():
        for source in sources:
            place = build / target / source.name if target.endswith("/") else build / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)
    for line in of("RUN"):
        program, *arguments = shlex.split(line)
        if program == "pip":
            subprocess.run([programs / "pip", *arguments], cwd=build, check=True)
    shutil.rmtree(build)
    installed = subprocess.run([programs / "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "gradio" in installed and not re.search(r"^(wandb|papermill|ipywidgets|jupytext)", installed, re.MULTILINE)
    model = new_model(home / "model")
    files = [home / f"{seed}.png" for seed in (0, 1)]
    for seed, file in enumerate(files):
        pixels = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(seed))
        face = Image.fromarray((255 * pixels.permute(1, 2, 0)).byte().numpy()).resize((64, 64), Image.BICUBIC)
        face.save(file)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    verify = [programs / "twins", "verify", *files, "--model", model, "--json", "--aligned"]
    done = subprocess.run(verify, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode <= 2, done.stderr
    assert json.loads(done.stdout)["verdict"] in ("same", "different", "undecided")
    serve = [programs / "twins", "serve", model, "--port", "7943"]
    with subprocess.Popen(serve, cwd=home, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline().startswith("http://127.0.0.1:7943/ shows")
        finally:
            server.terminate()


def new_model(folder: Path) -> Path:
    """A packed model of random weights."""
    sys.path.insert(0, str(ROOT / "tests/deploy"))
    from tiny_predictor import RULE, packed

    folder.mkdir()
    return packed(folder, tiny.model_of(tiny.dcal_config()).eval(), decision=RULE)
