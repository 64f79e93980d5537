"""The notebook builder: a tiny project is built, compared, checked, and run away from its own folder."""

import base64
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import build_notebooks
from build_notebooks import ROOT, BuildError, build, core_files, main
from notebooks_src.builder.outputs import keep

SCRIPT = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {format_version: '1.3', jupytext_version: 1.0.0}
# ---

# %% [markdown]
# # A tiny notebook

# %% tags=["parameters"]
size = 3  # images

# %%
# <embed dcal_core>

# %%
print("again")

# %%
print("again")

# %%
def late():
    import dcal_core.data.twins as twins

    return twins.NAME


print(size, late(), "from", __import__("dcal_core").__file__)
print("in", CORE_DIR, CORE_HASH, sorted(path.name for path in PARAMS_DIR.iterdir()))
"""

# The same notebook with a module in three cells, the last of them hidden.
STORY = SCRIPT.replace(
    """# %%
print("again")
""",
    """# %%
# <embed dcal_core/model.py: imports, WIDTH, halved>

# %% [markdown]
# Half as wide.

# %%
# <embed dcal_core/model.py: Model, Model.wide>

# %% tags=["core"] jupyter={"source_hidden": true}
# <embed dcal_core/model.py: Model.name,
#  rebuild>

# %%
from dcal_core.model import rebuild

print(rebuild().wide(), rebuild().name)
""",
    1,
)
PIECES = [
    '"""A model."""\n\nimport math\n\nWIDTH = 8  # channels\n\n\ndef halved(x):\n    return x / 2',
    "class Model:\n    size = 1\n\n    def wide(self):\n        return halved(WIDTH)",
    '    # ---- words\n\n    # Its name.\n    @property\n    def name(self):\n        return "M"\n\n\n'
    "# ---- from disk\n\n\ndef rebuild():\n    return Model()",
]
MODEL = f"{PIECES[0]}\n\n\n{PIECES[1]}\n\n{PIECES[2]}\n"

# What a shell, IPython, a template or a line splitter could spoil.
AWKWARD = '''\
"""Braces {CORE_DIR} {{x}}, $HOME ${HOME}, é 山 \\N{BULLET}."""

PROMPTS = """
In [1]: x
... >>> 1 + 1
%magic --flag
%%writefile /nowhere
!ls $HOME
"""
SPACES = 1   
BLANKS = """
	
"""


def add():
    """Add.

    >>> 1 + 1
    """


SEPARATORS = "\x0c \u2028 \x85"
'''

# Runs the code cells with IPython's own magics, an order of magnitude faster than a kernel.
RUN_CELLS = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
"""


CHECK = """\
def check_given(given, params_dir):
    print("given", given)
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "dcal_core/__init__.py": '"""Core."""\n\n__version__ = "1"\n',
        "dcal_core/size.py": "SIZE = 3\n",
        "dcal_core/unused.py": "raise ImportError\n",
        "dcal_core/config/__init__.py": "",
        "dcal_core/config/recipes.py": CHECK,
        "dcal_core/data/__init__.py": "",
        "dcal_core/data/twins.py": "from dcal_core.size import SIZE\n\nNAME = f'twins{SIZE}'\n",
        "params/small.yaml": "# one minute on a CPU\nsize: 2\n",
        "params/large.yaml": "size: 9  # {braces}\n",
        "notebooks_src/tiny.py": SCRIPT,
        "dcal_core/model.py": MODEL,
    }
    return write(tmp_path / "project", files)


def built(project: Path) -> dict:
    return json.loads(build(project / "notebooks_src/tiny.py", project))


def codes(notebook: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook: dict, folder: Path, python_path: str = "") -> list[str]:
    """Return the lines that the notebook prints when it runs in a new empty folder."""
    folder = write(folder, {"notebook.json": json.dumps(notebook), "empty/none": ""})
    hidden = str(Path(__file__).parent / "not_installed")  # else the notebook finds a checkout that make has installed
    path = os.pathsep.join(filter(None, [hidden, python_path]))
    environment = os.environ | {"PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-c", RUN_CELLS, str(folder / "notebook.json")]
    done = subprocess.run(command, cwd=folder / "empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_closure_follows_imports_into_functions_and_modules_only(project):
    names = [path.relative_to(project).as_posix() for path in core_files(project / "notebooks_src/tiny.py", project)]
    expected = [
        "__init__.py",
        "config/__init__.py",
        "config/recipes.py",
        "data/__init__.py",
        "data/twins.py",
        "size.py",
    ]
    assert names == [f"dcal_core/{name}" for name in expected]


def test_imports_are_followed_to_their_end(project):
    chain = {f"dcal_core/link{n}.py": f"from dcal_core.link{n + 1} import LAST\n" for n in range(5)}
    write(project, chain | {"dcal_core/link5.py": "LAST = 5\n", "notebooks_src/one.py": "import dcal_core.link0\n"})
    found = core_files(project / "notebooks_src/one.py", project)
    assert {project / f"dcal_core/link{n}.py" for n in range(6)} <= set(found)


@pytest.mark.parametrize(
    ("line", "beside"),
    [
        ("import dcal_core", ""),
        ("from dcal_core import __version__", ""),
        ("from dcal_core import size", "size.py"),
        ("from dcal_core.size import SIZE", "size.py"),
        ("from dcal_core.data import twins", "data/__init__.py data/twins.py size.py"),
        ("import os, dcal_core.data.twins", "data/__init__.py data/twins.py size.py"),
    ],
)
def test_every_way_of_importing_is_followed(project, line, beside):
    script = project / "notebooks_src/one.py"
    script.write_text(line + "\n")
    always = ["__init__.py", "config/__init__.py", "config/recipes.py"]  # to check the parameters
    names = [path.relative_to(project / "dcal_core").as_posix() for path in core_files(script, project)]
    assert names == sorted([*always, *beside.split()])


def test_two_builds_are_identical_and_hold_nothing_of_the_tools(project):
    first = build(project / "notebooks_src/tiny.py", project)
    assert first == build(project / "notebooks_src/tiny.py", project)
    assert first.endswith("}\n")
    notebook = json.loads(first)
    assert "jupytext" not in json.dumps(notebook["metadata"])
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert notebook["metadata"]["kaggle"]["accelerator"] == "none"  # a GPU counts against the week's hours
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)


def test_cells_have_unique_ids_of_their_content_and_no_outputs(project):
    notebook = built(project)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    repeated = [cell["id"] for cell in notebook["cells"] if cell["source"] == ['print("again")']]
    assert repeated[1] == f"{repeated[0]}-2"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)

    write(project, {"notebooks_src/tiny.py": SCRIPT.replace("# # A tiny", "# # Another")})
    assert [cell["id"] for cell in built(project)["cells"]][2:] == ids[2:]  # the first one notes the names


def test_validation_changes_nothing(project):
    notebook = nbformat.from_dict(built(project))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nbformat.validate(notebook)
    assert notebook == built(project)


def test_the_library_is_one_hidden_cell_per_package_and_announced(project):
    cells = built(project)["cells"]
    known, given, announcement, *hidden = [cell for cell in cells if "core" in cell["metadata"].get("tags", [])]
    assert announcement["cell_type"] == "markdown"
    assert "The next 5 hidden cells" in "".join(announcement["source"])  # one writes, four are written
    assert "notebooks_src/tiny.py" in "".join(announcement["source"])
    files = [re.findall(r"^# ==== (\S+)", "".join(cell["source"]), re.MULTILINE) for cell in hidden]
    assert files == [
        [],
        ["dcal_core/__init__.py", "dcal_core/size.py"],
        ["dcal_core/config/__init__.py", "dcal_core/config/recipes.py"],
        ["dcal_core/data/__init__.py", "dcal_core/data/twins.py"],
        ["params/large.yaml", "params/small.yaml"],
        [],  # says which library is used
    ]
    for cell in [known, given, *hidden]:
        assert cell["metadata"]["_kg_hide-input"] and cell["metadata"]["jupyter"]["source_hidden"]
    assert [cell["metadata"] for cell in cells if cell["metadata"].get("tags") == ["parameters"]] == [
        {"tags": ["parameters"]}
    ]


def test_parameters_are_told_from_other_names(project, tmp_path):
    heading = "# %% [markdown]\n# ## Parameters\n\n"
    script = SCRIPT.replace('# %% tags=["parameters"]', f'# %%\nearlier = 1\n\n{heading}# %% tags=["parameters"]')
    write(project, {"notebooks_src/tiny.py": script})
    notebook = built(project)
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    at = sources.index("## Parameters")
    assert "_known" in sources[at - 1] and "given = {" in sources[at + 2]  # the heading stands by its cell
    injected = {"cell_type": "code", "source": ["size = 4\n", "more = 'x'"]}  # as papermill does
    notebook["cells"].insert(at + 2, injected)
    assert "given {'size': 4, 'more': 'x'}" in run_cells(notebook, tmp_path / "run")


def test_parameters_are_read_anew_when_all_cells_run_again_in_one_kernel(project, tmp_path):
    """Run All again, with a value changed, one added and one taken out."""
    notebook = built(project)
    texts = "size = 3\nodd = 'x'\nepochs = None\n", "size = 5\nmore = 'y'\nepochs = 2\n"
    times = [
        json.loads(json.dumps(notebook["cells"]).replace("size = 3  # images", json.dumps(t)[1:-1])) for t in texts
    ]
    notebook["cells"] = times[0] + times[1]
    given = [line for line in run_cells(notebook, tmp_path / "run") if line.startswith("given")]
    assert given == ["given {'size': 3, 'odd': 'x'}", "given {'size': 5, 'more': 'y', 'epochs': 2}"]

    alone = [cell for cell in built(project)["cells"] if "given = {" in "".join(cell["source"])]
    notebook["cells"] += alone  # without the cell before the parameters
    with pytest.raises(AssertionError, match="choose Run All"):
        run_cells(notebook, tmp_path / "alone")


def test_the_presets_are_listed_with_what_each_needs(project):
    listed = SCRIPT.replace("# # A tiny notebook", "# # A tiny notebook\n#\n# <presets>\n#\n# More.")
    write(project, {"notebooks_src/tiny.py": listed, "params/large.yaml": "# for a GPU: data\n# an hour\nsize: 9\n"})
    lines = "- `large`: for a GPU: data\n- `small`: one minute on a CPU"
    assert "".join(built(project)["cells"][1]["source"]) == f"# A tiny notebook\n\n{lines}\n\nMore."


def test_awkward_sources_are_written_to_the_byte(project, tmp_path):
    write(project, {"dcal_core/size.py": AWKWARD + "SIZE = 3\n", "params/odd.yaml": "é: '{CORE_DIR} $HOME'\n"})
    notebook = built(project)
    copy = 'import shutil; shutil.copytree(CORE_DIR, "../copy")'
    notebook["cells"].append({"cell_type": "code", "source": [copy]})
    output = run_cells(notebook, tmp_path / "run")
    assert output[0].endswith(" (embedded)"), output
    for path in [*core_files(project / "notebooks_src/tiny.py", project), *project.glob("params/*")]:
        assert (tmp_path / "run/copy" / path.relative_to(project)).read_bytes() == path.read_bytes()


def test_a_checkout_is_used_only_where_it_is_the_same(project, tmp_path):
    notebook = built(project)
    same = run_cells(notebook, tmp_path / "same", str(project))
    assert f"checkout in {project})" in same[0]
    assert str(project / "dcal_core/__init__.py") in same[-2]

    write(project, {"dcal_core/size.py": "SIZE = 4\n"})
    other = run_cells(notebook, tmp_path / "other", str(project))
    assert other[0].endswith(" (embedded)")
    assert "3 twins3 from" in other[-2] and str(project) not in other[-2]


def test_an_edited_cell_is_named_and_used_though_a_checkout_is_there(project, tmp_path):
    notebook = built(project)
    edited = json.loads(json.dumps(notebook).replace("SIZE = 3", "SIZE = 7").replace("size: 2", "size: 5"))
    output = run_cells(edited, tmp_path / "run", str(project))
    assert output[0].endswith("(embedded, edited: dcal_core/size.py, edited: params/small.yaml)")
    assert "3 twins7 from" in output[-2]


def test_a_module_stands_in_visible_cells_and_is_written_whole(project, tmp_path):
    write(project, {"notebooks_src/tiny.py": STORY})
    notebook = built(project)
    texts = [(cell, "".join(cell["source"])) for cell in notebook["cells"]]
    shown = [(cell, text) for cell, text in texts if text.startswith("# ==== dcal_core/model.py")]
    cells = [cell for cell, _ in shown]
    assert [text.split("\n", 1)[1] for _, text in shown] == PIECES
    assert [cell["metadata"] for cell in cells[:2]] == [{}, {}]
    assert cells[2]["metadata"] == {"jupyter": {"source_hidden": True}, "tags": ["core"]}
    packages = [source for source in codes(notebook) if source.startswith("# ==== dcal_core/__init__.py")]
    assert len(packages) == 1 and "def rebuild" not in packages[0]

    copy = 'import shutil; shutil.copy(CORE_DIR / "dcal_core/model.py", "../model.py")'
    notebook["cells"].append({"cell_type": "code", "source": [copy]})
    output = run_cells(notebook, tmp_path / "run")
    assert output[0].endswith(" (embedded)") and "4.0 M" in output
    assert (tmp_path / "run/model.py").read_text() == MODEL


def test_an_edited_or_missing_piece_is_named(project, tmp_path):
    write(project, {"notebooks_src/tiny.py": STORY})
    notebook = built(project)
    again = json.loads(json.dumps(notebook["cells"]).replace("x / 2", "x / 4"))
    once_more = ("dcal_core/model.py 1/3", "# Use the library", "rebuild()")
    notebook["cells"] += [cell for cell in again if any(part in "".join(cell["source"]) for part in once_more)]
    output = run_cells(notebook, tmp_path / "run")
    assert [line for line in output if line.endswith("(embedded, edited: dcal_core/model.py)")] and "2.0 M" in output

    without = built(project)
    left_out = ("dcal_core/model.py 3/3", "import rebuild")
    without["cells"] = [cell for cell in without["cells"] if not any(p in "".join(cell["source"]) for p in left_out)]
    assert run_cells(without, tmp_path / "without")[0].endswith("(embedded, edited: dcal_core/model.py)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("Model.name,\n#  rebuild", "Model.name"),
            "pieces of dcal_core/model.py: rebuild is left out; name each once",
        ),
        (("WIDTH, halved", "WIDTH"), "halved is left out"),
        (("imports, ", ""), "imports is left out"),
        (
            ("WIDTH, halved", "halved, WIDTH"),
            "the order is another; name each once, in this order: imports, WIDTH, halved, Model",
        ),
        (("halved>", "halfed>"), "halved is left out, halfed is not there"),
        (("rebuild>", "rebuild, other>"), "model.py: other is not there; name each"),
        (
            ("dcal_core/model.py: imports", "dcal_core/modl.py: imports"),
            "shows dcal_core/modl.py, which it does not import",
        ),
        (("model.py: imports, WIDTH, halved>", "model.py>"), "`# <embed dcal_core/model.py>` is no marker"),
        (("# <embed dcal_core>", "# again"), "needs one cell `# <embed dcal_core>`, the first of its kind"),
    ],
)
def test_pieces_that_are_not_the_whole_file_fail_the_build(project, change, message):
    write(project, {"notebooks_src/tiny.py": STORY.replace(*change, 1)})
    with pytest.raises(BuildError) as error:
        build(project / "notebooks_src/tiny.py", project)
    assert message in str(error.value)


def test_a_piece_that_is_not_formatted_fails_the_build(project):
    write(project, {"notebooks_src/tiny.py": STORY, "dcal_core/model.py": MODEL.replace("\n\n\nclass", "\n\nclass")})
    with pytest.raises(BuildError, match="run `ruff format`"):
        build(project / "notebooks_src/tiny.py", project)


def test_a_picture_is_attached_to_its_cell(project):
    linked = "# # A tiny notebook\n# ![Two faces, SYNTHETIC](pictures/faces.png) [code](pictures/faces.png)"
    write(project, {"notebooks_src/tiny.py": SCRIPT.replace("# # A tiny notebook", linked)})
    with pytest.raises(BuildError, match="no notebooks_src/pictures/faces.png; correct the link"):
        build(project / "notebooks_src/tiny.py", project)
    write(project, {"notebooks_src/pictures/faces.png": "a picture"})
    cell = built(project)["cells"][1]
    assert "![Two faces, SYNTHETIC](attachment:faces.png) [code](pictures/faces.png)" in "".join(cell["source"])
    assert base64.b64decode(cell["attachments"]["faces.png"]["image/png"]) == b"a picture"


def test_a_script_chooses_kaggles_machine(project):
    header = "# ---\n# jupyter:\n#   kaggle: {accelerator: nvidiaTeslaT4, isGpuEnabled: true}\n"
    write(project, {"notebooks_src/tiny.py": SCRIPT.replace("# ---\n# jupyter:\n", header, 1)})
    kaggle = built(project)["metadata"]["kaggle"]
    assert (kaggle["accelerator"], kaggle["isGpuEnabled"], kaggle["isInternetEnabled"]) == ("nvidiaTeslaT4", True, True)


def test_a_notebook_too_large_for_kaggle_fails_the_build(project, monkeypatch):
    monkeypatch.setattr(build_notebooks, "MOST_KB", 20)
    build(project / "notebooks_src/tiny.py", project)
    write(project, {"dcal_core/data/twins.py": "NAME = 1\n" + "# filler\n" * 2000})
    with pytest.raises(
        BuildError, match=r"tiny.ipynb: \d+ KB, .* no more than 20 KB .* dcal_core/data \d\d KB, dcal_core"
    ):
        build(project / "notebooks_src/tiny.py", project)


def test_a_notebook_is_measured_in_bytes(project, monkeypatch):
    write(project, {"dcal_core/data/twins.py": "NAME = 1\n" + "# …\n" * 2000})
    text = build(project / "notebooks_src/tiny.py", project)
    assert len(text) < len(text.encode()) - 3000
    monkeypatch.setattr(build_notebooks, "MOST_KB", len(text) / 1000 + 1)
    with pytest.raises(BuildError, match="KB"):
        build(project / "notebooks_src/tiny.py", project)


def test_thin_notebooks_use_an_installed_or_attached_library_or_say_what_to_attach(project, tmp_path, capsys):
    write(project, {"notebooks_src/tiny.py": STORY.replace(", CORE_DIR", "").replace('"in"', '"presets in"')})
    main(["--thin", str(tmp_path / "thin")], project)
    assert "thin/: 1 current" in capsys.readouterr().out and not (project / "notebooks").exists()
    text = (tmp_path / "thin/tiny.ipynb").read_text()
    notebook = json.loads(text)
    assert "# ====" not in text and "SIZE = 3" not in text
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    fences = [source for source in sources if source.startswith("```python\n")]
    assert fences == [f"```python\n{piece}\n```" for piece in PIECES]

    installed = run_cells(notebook, tmp_path / "installed", str(project))
    assert installed[0].startswith("dcal_core ") and installed[0].endswith(f" (in {project})")
    assert installed[1] == "given {'size': 3}" and "4.0 M" in installed

    attached = json.loads(text.replace("/kaggle/input", str(tmp_path / "input")))
    with pytest.raises(AssertionError, match="dcal_core is not here: attach the dataset that holds it"):
        run_cells(attached, tmp_path / "nowhere")
    there = tmp_path / "input/datasets/somebody/core"
    shutil.copytree(project, there, ignore=shutil.ignore_patterns("__pycache__"))  # it may hold the old SIZE
    write(there, {"dcal_core/size.py": "SIZE = 5\n"})
    output = run_cells(attached, tmp_path / "attached")
    assert f"(in {there}, other than {installed[0].split()[1]}, with which this notebook was built)" in output[0]
    assert [line for line in output if line.startswith("3 twins5 from")]


def test_an_edit_takes_effect_when_the_cells_run_again(project, tmp_path):
    notebook = built(project)
    again = json.loads(json.dumps(notebook["cells"]).replace("SIZE = 3", "SIZE = 70"))
    notebook["cells"] += [cell for cell in again if "_core_home" not in "".join(cell["source"])]  # the same folder
    output = run_cells(notebook, tmp_path / "run")
    assert [line.split(" from")[0] for line in output if " from " in line] == ["3 twins3", "3 twins70"]


@pytest.mark.notebook
def test_runs_in_an_empty_folder_where_nothing_is_installed(project, tmp_path):
    papermill = pytest.importorskip("papermill")
    main([], project)
    empty = tmp_path / "empty"
    empty.mkdir()
    source, output = project / "notebooks/tiny.ipynb", tmp_path / "out.ipynb"
    done = papermill.execute_notebook(source, output, {"size": 5}, cwd=empty, progress_bar=False)
    text = "".join(o.get("text", "") for cell in done.cells for o in cell.get("outputs", []))
    assert " (embedded)\n" in text
    core = text.split("\nin ")[1].split()[0]
    assert f"5 twins3 from {core}/dcal_core/__init__.py" in text
    assert "['large.yaml', 'small.yaml']" in text
    assert not list(empty.iterdir())


def test_check_names_what_is_missing_stale_or_extra(project, capsys):
    with pytest.raises(SystemExit) as missing:
        main(["--check"], project)
    assert "missing: notebooks/tiny.ipynb" in str(missing.value)
    assert "run `python build_notebooks.py`" in str(missing.value)
    assert not (project / "notebooks").exists()

    main([], project)
    main(["--check"], project)
    assert "1 current" in capsys.readouterr().out

    write(project, {"dcal_core/size.py": "SIZE = 4\n", "notebooks/old.ipynb": "{}"})
    with pytest.raises(SystemExit) as drift:
        main(["--check"], project)
    assert "stale: notebooks/tiny.ipynb\nextra: notebooks/old.ipynb" in str(drift.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "notebooks_src/tiny.py",
            SCRIPT + "from dcal_core.dat import x\n",
            "no dcal_core/dat.py; correct the import",
        ),
        (
            "notebooks_src/tiny.py",
            SCRIPT + "from dcal_core.size import SIZES\n",
            "no SIZES in dcal_core/size.py; correct the import",
        ),
        (
            "notebooks_src/tiny.py",
            SCRIPT + "from dcal_core import Core\n",
            "no dcal_core/Core.py; correct the import",
        ),
        (
            "notebooks_src/tiny.py",
            SCRIPT.replace("# <embed dcal_core>", "1"),
            "needs one cell `# <embed dcal_core>`",
        ),
        (
            "notebooks_src/tiny.py",
            SCRIPT + "\n# %%\n# <embed dcal_core>\n",
            "needs one cell `# <embed dcal_core>`",
        ),
        (
            "notebooks_src/tiny.py",
            SCRIPT.replace('tags=["parameters"]', ""),
            'starts `# %% tags=["parameters"]`',
        ),
        ("notebooks_src/tiny.py", SCRIPT + "if\n", "invalid syntax; correct"),
        ("dcal_core/size.py", "SIZE = 3\nfrom . import data\n", "write `from dcal_core... import ...`"),
        ("dcal_core/size.py", "SIZE = 3\nimport dcal_core.nothing\n", "no dcal_core/nothing.py; correct the import"),
        ("dcal_core/size.py", "SIZE = 3", "exactly one newline"),
        ("params/small.yaml", "size: 3\n\n", "exactly one newline"),
        ("dcal_core/data/twins.py", "\n", "exactly one newline"),
        ("dcal_core/size.py", "SIZE = 3\n# ==== dcal_core/odd.py\n", "a line begins with `# ==== dcal_core/`"),
    ],
)
def test_errors_name_the_file_and_the_cure(project, file, text, message):
    write(project, {file: text})
    with pytest.raises(BuildError) as error:
        build(project / "notebooks_src/tiny.py", project)
    assert file in str(error.value) and message in str(error.value)


def test_a_project_without_scripts_is_an_error(project):
    (project / "notebooks_src/tiny.py").unlink()
    with pytest.raises(SystemExit, match="notebooks_src/: holds no"):
        main(["--check"], project)


# ---- outputs


def executed(notebook: dict, run: Path, tags: list[str]) -> None:
    """Leave a notebook in a run's folder as papermill does: a cell that has printed, and shown a picture."""
    picture = io.BytesIO()
    Image.effect_noise((900, 300), 90).convert("RGB").save(picture, "PNG")
    said = (
        f"Drawing\n\rtwins:  50%|###   | 1/2\n\n{run.resolve()}/figures, SYNTHETIC\n{platform.platform(terse=True)}\n"
    )
    cell = next(cell for cell in notebook["cells"] if cell["source"] == ['print("again")'])
    cell["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": said},
        {"output_type": "stream", "name": "stderr", "text": "a warning"},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "<Image>"},
        },
    ]
    cell["metadata"]["tags"] = tags
    core = next(cell for cell in notebook["cells"] if "core" in cell["metadata"].get("tags", []))
    core["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "dcal_core 12345678"}]
    write(run, {"tiny.ipynb": json.dumps(notebook)})


@pytest.fixture
def kept(project, tmp_path) -> Path:
    """The project with the outputs of a run."""
    executed(built(project), tmp_path / "place/runs/demo", tags=["picture"])
    keep(tmp_path / "place/runs/demo", project / "notebooks_src/outputs")
    return project


def test_a_notebook_shows_the_kept_outputs_of_the_very_cells_that_made_them(kept, capsys):
    notebook = built(kept)
    (cell,) = [cell for cell in notebook["cells"] if cell.get("outputs")]
    assert cell["source"] == ['print("again")'] and cell["id"].count("-") == 0  # the first of the two
    printed, shown = cell["outputs"]
    assert (
        printed["text"] == f"Drawing\nruns/demo/figures, SYNTHETIC\n{platform.system()}\n"
    )  # no folder of this machine
    ((kind, picture),) = shown["data"].items()
    picture = base64.b64decode(picture)
    assert len(picture) <= 18_000 and kind == f"image/{Image.open(io.BytesIO(picture)).format.lower()}"
    assert "make demo" in "".join(notebook["cells"][1]["source"]) and capsys.readouterr().out == ""
    assert build(kept / "notebooks_src/tiny.py", kept) == build(kept / "notebooks_src/tiny.py", kept)


def test_a_thin_notebook_and_one_without_kept_outputs_show_none(kept):
    thin = json.loads(build(kept / "notebooks_src/tiny.py", kept, thin=True))
    shutil.rmtree(kept / "notebooks_src/outputs")
    for notebook in (thin, built(kept)):
        assert not [cell for cell in notebook["cells"] if cell.get("outputs")]
        assert "make demo" not in json.dumps(notebook)


def test_the_outputs_of_a_cell_that_has_changed_are_left_out_with_a_line(kept, capsys):
    script = SCRIPT.replace('print("again")', 'print("once more")', 1).replace('print("again")', "", 1)
    write(kept, {"notebooks_src/tiny.py": script})
    assert not [cell for cell in built(kept)["cells"] if cell.get("outputs")]
    assert capsys.readouterr().out == "tiny: cells that have changed since `make demo outputs`, and show none: 1\n"


def test_kept_anew_nothing_of_before_is_left(kept, tmp_path):
    folder = kept / "notebooks_src/outputs"
    before = {path.name for path in folder.iterdir()}
    write(folder, {"old.json": "{}", "tiny-00000000-0.png": "old"})
    keep(tmp_path / "place/runs/demo", folder)
    assert {path.name for path in folder.iterdir()} == before and len(before) == 2
    with pytest.raises(SystemExit, match="no executed notebooks: make demo leaves them"):
        keep(tmp_path / "nowhere", folder)


def test_the_limit_of_a_notebook_counts_its_outputs_too(kept, monkeypatch):
    text = build(kept / "notebooks_src/tiny.py", kept)
    monkeypatch.setattr(build_notebooks, "MOST_KB", len(text.encode()) / 1000)
    assert build(kept / "notebooks_src/tiny.py", kept) == text
    monkeypatch.setattr(build_notebooks, "MOST_KB", len(text.encode()) / 1000 - 0.1)
    with pytest.raises(BuildError, match=r"or keep smaller outputs: \d+ KB"):
        build(kept / "notebooks_src/tiny.py", kept)


def test_a_cell_without_the_tag_shows_what_it_has_printed_alone(project, tmp_path):
    executed(built(project), tmp_path / "place/runs/demo", tags=[])
    keep(tmp_path / "place/runs/demo", project / "notebooks_src/outputs")
    (outputs,) = [cell["outputs"] for cell in built(project)["cells"] if cell.get("outputs")]
    assert [output["output_type"] for output in outputs] == ["stream"]
    assert [path.name for path in (project / "notebooks_src/outputs").iterdir()] == ["tiny.json"]


def test_the_committed_outputs_are_small_synthetic_and_of_no_ones_machine():
    pictures = [path for path in (ROOT / "notebooks_src/outputs").iterdir() if path.suffix != ".json"]
    assert pictures and sum(path.stat().st_size for path in pictures) <= 200_000
    texts = "".join(path.read_text() for path in (ROOT / "notebooks_src/outputs").glob("*.json"))
    assert "SYNTHETIC" in texts and not re.search(r"/(home|root|tmp|work)/", texts)
    assert {path.name for path in pictures} == {*re.findall(r'"image/(?:png|jpeg)": "(.*)"', texts)}


def test_the_committed_notebooks_are_current():
    main(["--check"], ROOT)
