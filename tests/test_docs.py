"""README and docs/: what they link to and quote exists, what is made from the code is current, and commands parse."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import dcal_core
from benchmarks.ablation import __main__ as ablation
from benchmarks.gpu import __main__ as gpu
from benchmarks.speed import __main__ as speed
from dcal_core.commands.export import parser_of_export
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.pack import parser_of_pack
from dcal_core.commands.serve import parser_of_serve
from dcal_core.commands.synth import parser_of_synth
from dcal_core.commands.verify import parser_of_verify
from dcal_core.config.recipes import check_given
from dcal_core.errors import UserError
from dcal_core.installation import presets_folder
from docs import gallery, house, list_parameters

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
CURRENT = {page: text for page, text in TEXTS.items() if page != "CHANGELOG.md"}  # which names what is gone
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPELLINGS = ("twins", "make", "python -m", "papermill", "torchrun", "pytest", "pip install")
PLACES = r"(?:docs|params|tests|dcal_core|notebooks|notebooks_src|benchmarks|\.ci|\.github)/[\w./-]+"
INSIDE = r"(?:config|models|recipes|training|verification|explain|commands|data|audit|deploy)/\w+\.py"


class Parsed(BaseException):
    """A command has read its arguments, and would now begin."""


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))


def quoted_commands(text: str) -> list[str]:
    """Every command in a block of shell or between backticks, without its comment, long lines joined."""
    found = []
    for language, block in FENCE.findall(text):
        if language == "bash":
            found += block.replace("\\\n", " ").splitlines()
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        starts = [one for one in SPELLINGS if code.startswith(f"{one} ")]
        if starts and "<" not in code and "…" not in code:
            found.append(code)
    return [line for line in found if line.strip()]


COMMANDS_QUOTED = sorted({(page, line) for page, text in CURRENT.items() for line in quoted_commands(text)})


@pytest.fixture
def parse(monkeypatch):
    """Reads a command of ours as far as its parameters; SystemExit or UserError where one does not exist."""

    def stop(options):
        given_parameters(options)
        raise Parsed

    def run(main, arguments: list[str]) -> None:
        module = sys.modules[main.__module__]
        monkeypatch.setattr(module, "given_parameters", stop, raising=False)
        try:
            main(arguments)
        except Parsed:
            return
        raise AssertionError(f"refused: {arguments}")

    return run


def check_make(arguments: list[str]) -> None:
    """Targets and variables of a make command that the Makefile knows."""
    text = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, _, value = word.partition("=")
        if value:
            assert f"$({name})" in text or f"\n{name} " in text, word
        else:
            assert re.search(rf"^{re.escape(name)}:", text, re.MULTILINE), f"make {name}"


def check_pip(arguments: list[str]) -> None:
    """Requirements files and extras that exist."""
    project = (ROOT / "pyproject.toml").read_text()
    for word in arguments:
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), word
        elif match := re.fullmatch(r"\.\[(\w+)\]", word):
            assert f"\n{match[1]} = " in project, word


def check_papermill(arguments: list[str]) -> None:
    """A notebook that exists, with parameters that exist."""
    assert (ROOT / arguments[0]).is_file()
    given = {arguments[at + 1]: arguments[at + 2] for at, word in enumerate(arguments) if word == "-p"}
    check_given(given, presets_folder())


OWN_PARSERS = {
    "export": parser_of_export,
    "pack": parser_of_pack,
    "serve": parser_of_serve,
    "synth": parser_of_synth,
    "verify": parser_of_verify,
}
KNOWN_MODULES = {f"benchmarks.{name}" for name in ("ablation", "gpu", "maps", "occlusion", "page", "speed")} | {"venv"}
KNOWN_MODULES |= {"benchmarks.deploy", "benchmarks.scaling"}
KNOWN_MODULES |= {f"benchmarks.rehearsal{part}" for part in ("", ".weights", ".loosen")}


def check_command(line: str, parse) -> None:
    """Refuse a command line that would be refused."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]  # variables of the environment
    if not words or re.match(r"\w+=", words[0]):
        return
    words = [word for word in words if word != "$run"]  # as the page's own line before sets it
    program = Path(words[0]).name
    if program == "torchrun":
        words = ["python", *words[words.index("-m") :]]
        program = "python"
    if program == "python" and words[1] == "-m" and words[2] == "dcal_core":
        program, words = "twins", words[2:]
    if program == "docker" and words[1] == "run":
        program, words = "twins", words[words.index("twins") :]  # the image, and what the command in it is given
    if program == "twins" and words[1:2] and words[1] in OWN_PARSERS:
        OWN_PARSERS[words[1]]().parse_args(words[2:])
    elif program == "twins" and len(words) > 1 and words[1] != "--version":
        given_parameters(read_options(words[1], words[2:]))
    elif program == "twins":
        return
    elif program == "python" and words[1] == "-m":
        assert words[2] in KNOWN_MODULES, line
        if words[3:] and words[2] == "benchmarks.ablation":
            parse(ablation.ablate, words[3:])
        if words[2] == "benchmarks.gpu":
            gpu.read_options(words[3:])
        assert words[2] != "benchmarks.speed" or (speed.main and not words[3:])
    elif program == "python":
        assert (ROOT / words[1]).is_file(), line
    elif program == "make":
        check_make(words[1:])
    elif program == "papermill":
        check_papermill(words[1:])
    elif program == "pip":
        check_pip(words[2:])
    elif program == "pytest":
        assert words[1] == "-m" and f'"{words[2]}:' in (ROOT / "pyproject.toml").read_text(), line
    else:
        assert program in ("python3", "source", "docker"), f"not known to this test: {line}"


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    lost = []
    for link in links(TEXTS[page]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", CURRENT)
def test_paths_in_the_text_exist(page):
    code = " ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXTS[page])))
    paths = [ROOT / path for path in re.findall(rf"(?<![\w/]){PLACES}", code)]
    paths += [ROOT / "dcal_core" / path for path in re.findall(rf"(?<![\w/]){INSIDE}", code)]
    assert [str(path) for path in paths if not path.exists() and not path.with_suffix("").exists()] == []


@pytest.mark.parametrize(("page", "line"), COMMANDS_QUOTED)
def test_a_quoted_command_parses(page, line, parse):
    check_command(line, parse)


@pytest.mark.parametrize(
    "line",
    [
        "twins trian --preset demo",
        "twins train --preset no_such",
        "twins train -p epohcs 3",
        "twins explain --image a.png",
        "make no_such",
        "make demo NO_SUCH=1",
        "papermill notebooks/no_such.ipynb out.ipynb",
        'pip install ".[no_such]"',
        "pytest -m no_such",
    ],
)
def test_a_command_that_does_not_exist_is_seen(line, parse):
    with pytest.raises((AssertionError, KeyError, SystemExit, UserError)):
        check_command(line, parse)


def test_commands_are_found_in_the_pages():
    assert len(COMMANDS_QUOTED) > 30
    assert ("README.md", "twins verify runs/scratch/drawn_twins*_64px*/test/5000[12]/*d00.png") in COMMANDS_QUOTED


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "```python" in text])
def test_python_in_the_pages_can_be_imported(page):
    for language, block in FENCE.findall(TEXTS[page]):
        if language == "python":
            compile(block, page, "exec")
            for line in block.splitlines():
                if line.startswith(("import ", "from ")):
                    exec(line, {})


def test_the_list_of_parameters_is_current():
    assert TEXTS["docs/parameters.md"] == list_parameters.page(), "run `make docs`"


def test_the_picture_of_the_house_is_current():
    drawn = TEXTS["docs/architecture.md"].split(house.BEGIN)[1].split(house.END)[0]
    assert drawn == house.graph(), "run `make docs`"


def test_the_architecture_describes_every_package():
    table = set(re.findall(r"^\| `dcal_core/(\w+)/` \|", TEXTS["docs/architecture.md"], re.MULTILINE))
    assert table == set(house.packages())


def test_every_preset_is_in_the_readme():
    named = set(re.findall(r"\]\(params/(\w+)\.yaml\)", TEXTS["README.md"]))
    assert named == {path.stem for path in ROOT.glob("params/*.yaml")}


def test_every_page_is_in_the_index():
    index = TEXTS["README.md"].split("## Documentation")[1]
    assert [page for page in TEXTS if page.startswith("docs/") and f"({page})" not in index] == []


def test_versions_agree():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == dcal_core.__version__
    versions = re.findall(r"^## \[([\d.]+)\]", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == dcal_core.__version__


def test_the_checks_on_github_are_those_of_this_checkout():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert [step for step in steps if step.get("run") == ".ci/run"]
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"]).returncode == 0


def test_the_gallery_shows_every_picture_of_its_list_and_stays_small():
    assert TEXTS["docs/gallery.md"] == gallery.page(), "run `python docs/gallery.py`"
    names = {one.name for pictures in gallery.SECTIONS.values() for one in pictures}
    files = list((ROOT / "docs" / "gallery").iterdir())
    assert {file.name for file in files} == {f"{name}.png" for name in names}
    assert sum(file.stat().st_size for file in files) < 1_500_000


def test_the_gallery_is_made_from_a_run_of_drawn_twins_alone(tmp_path, monkeypatch):
    run = tmp_path / "run"
    arguments = ["gallery.py", "--run", str(run), "--to", str(tmp_path / "gallery.md")]
    monkeypatch.setattr(sys, "argv", arguments)
    for one in (one for pictures in gallery.SECTIONS.values() for one in pictures):
        file = run / one.file.replace("*", "1_2")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2000, 500), "red").save(file)
    (run / "trained_on.json").write_text('{"data": "ND-TWINS", "people": ["1"]}')
    with pytest.raises(SystemExit, match="shows drawn twins only"):
        gallery.main()
    (run / "trained_on.json").write_text('{"data": "SYNTHETIC", "people": ["1"]}')
    gallery.main()
    assert (tmp_path / "gallery.md").read_text(encoding="utf-8") == gallery.page()
    with Image.open(tmp_path / "gallery" / "roc.png") as picture:
        assert picture.size == (1200, 300)
    (run / "figures" / "roc.png").unlink()
    with pytest.raises(SystemExit, match=r"roc\.png is missing: run"):
        gallery.main()
