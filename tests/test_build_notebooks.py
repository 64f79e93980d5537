"""The notebook builder: a tiny project is built, compared, checked, and run away from its own folder."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest

from build_notebooks import ROOT, BuildError, build, core_files, main

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
        "dcal_core/config.py": "SIZE = 3\n",
        "dcal_core/unused.py": "raise ImportError\n",
        "dcal_core/data/__init__.py": "",
        "dcal_core/data/twins.py": "from dcal_core.config import SIZE\n\nNAME = f'twins{SIZE}'\n",
        "params/small.yaml": "# one minute on a CPU\nsize: 2\n",
        "params/large.yaml": "size: 9  # {braces}\n",
        "notebooks_src/tiny.py": SCRIPT,
    }
    return write(tmp_path / "project", files)


def built(project: Path) -> dict:
    return json.loads(build(project / "notebooks_src/tiny.py", project))


def codes(notebook: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook: dict, folder: Path, python_path: str = "") -> list[str]:
    """Return the lines that the notebook prints when it runs in a new empty folder."""
    folder = write(folder, {"notebook.json": json.dumps(notebook), "empty/none": ""})
    environment = os.environ | {"PYTHONPATH": python_path, "IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-c", RUN_CELLS, str(folder / "notebook.json")]
    done = subprocess.run(command, cwd=folder / "empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("Writing ")]


def test_closure_follows_imports_into_functions_and_modules_and_leaves_out_the_rest(project):
    names = [path.relative_to(project).as_posix() for path in core_files(project / "notebooks_src/tiny.py", project)]
    expected = ["__init__.py", "config.py", "data/__init__.py", "data/twins.py"]
    assert names == [f"dcal_core/{name}" for name in expected]


@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("import dcal_core", "__init__.py"),
        ("from dcal_core import __version__", "__init__.py"),
        ("from dcal_core import config", "config.py"),
        ("from dcal_core.config import SIZE", "config.py"),
        ("from dcal_core.data import twins", "twins.py"),
        ("import os, dcal_core.data.twins", "twins.py"),
    ],
)
def test_every_way_of_importing_is_followed(project, line, last):
    script = project / "notebooks_src/one.py"
    script.write_text(line + "\n")
    assert core_files(script, project)[-1].name == last


def test_two_builds_are_identical_and_hold_nothing_of_the_tools(project):
    first = build(project / "notebooks_src/tiny.py", project)
    assert first == build(project / "notebooks_src/tiny.py", project)
    assert first.endswith("}\n")
    notebook = json.loads(first)
    assert "jupytext" not in json.dumps(notebook["metadata"])
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert notebook["metadata"]["kaggle"]["accelerator"] == "nvidiaTeslaT4"
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
    assert [cell["id"] for cell in built(project)["cells"]][1:] == ids[1:]


def test_validation_changes_nothing(project):
    notebook = nbformat.from_dict(built(project))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nbformat.validate(notebook)
    assert notebook == built(project)


def test_library_cells_are_hidden_and_announced(project):
    cells = built(project)["cells"]
    announcement, *hidden = [cell for cell in cells if cell["metadata"].get("tags") == ["core"]]
    assert len(hidden) == 1 + 4 + 2 + 1  # folder, modules, presets, use
    assert announcement["cell_type"] == "markdown"
    assert "The next 8 hidden cells" in "".join(announcement["source"])
    assert "notebooks_src/tiny.py" in "".join(announcement["source"])
    for cell in hidden:
        assert cell["metadata"]["_kg_hide-input"] and cell["metadata"]["jupyter"]["source_hidden"]
    for cell in hidden[:-1]:  # the last one says which library is used
        assert cell["metadata"]["_kg_hide-output"] and cell["metadata"]["jupyter"]["outputs_hidden"]
    assert all(len(source.splitlines()) <= 25 for source in codes(built(project)))
    assert cells[1]["metadata"] == {"tags": ["parameters"]}


def test_awkward_sources_are_written_to_the_byte(project, tmp_path):
    write(project, {"dcal_core/config.py": AWKWARD + "SIZE = 3\n", "params/odd.yaml": "é: '{CORE_DIR} $HOME'\n"})
    notebook = built(project)
    copy = 'import shutil; shutil.copytree(CORE_DIR, "../copy")'
    notebook["cells"].append({"cell_type": "code", "source": [copy]})
    output = run_cells(notebook, tmp_path / "run")
    assert output[0].endswith(" (embedded)"), output
    for path in [*core_files(project / "notebooks_src/tiny.py", project), *project.glob("params/*")]:
        written = (tmp_path / "run/copy" / path.relative_to(project)).read_bytes()
        assert written.split(b"\n", 1)[1] == path.read_bytes()


def test_a_checkout_is_used_only_where_it_is_the_same(project, tmp_path):
    notebook = built(project)
    same = run_cells(notebook, tmp_path / "same", str(project))
    assert f"checkout in {project})" in same[0]
    assert str(project / "dcal_core/__init__.py") in same[-2]

    write(project, {"dcal_core/config.py": "SIZE = 4\n"})
    other = run_cells(notebook, tmp_path / "other", str(project))
    assert other[0].endswith(" (embedded)")
    assert "3 twins3 from" in other[-2] and str(project) not in other[-2]


def test_an_edited_cell_is_named_and_used_though_a_checkout_is_there(project, tmp_path):
    notebook = built(project)
    edited = json.loads(json.dumps(notebook).replace("SIZE = 3", "SIZE = 7").replace("size: 2", "size: 5"))
    output = run_cells(edited, tmp_path / "run", str(project))
    assert output[0].endswith("(embedded, edited: dcal_core/config.py, edited: params/small.yaml)")
    assert "3 twins7 from" in output[-2]


def test_an_edit_takes_effect_when_the_cells_run_again(project, tmp_path):
    notebook = built(project)
    again = json.loads(json.dumps(notebook["cells"]).replace("SIZE = 3", "SIZE = 70"))
    notebook["cells"] += [cell for cell in again if "_core_home" not in "".join(cell["source"])]
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

    write(project, {"dcal_core/config.py": "SIZE = 4\n", "notebooks/old.ipynb": "{}"})
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
        ("dcal_core/config.py", "from . import data\n", "write `from dcal_core... import ...`"),
        ("dcal_core/config.py", "import dcal_core.nothing\n", "no dcal_core/nothing.py; correct the import"),
        ("dcal_core/config.py", "SIZE = 3", "exactly one newline"),
        ("params/small.yaml", "size: 3\n\n", "exactly one newline"),
        ("dcal_core/data/twins.py", "\n", "exactly one newline"),
        ("dcal_core/config.py", "SIZE = '''\n\t\n'''\n", "config.py:2: `%%writefile` would change"),
        ("dcal_core/config.py", '"""Add.\n\n    >>> 1 + 1\n"""\n', "config.py:3: `%%writefile` would change"),
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


def test_the_committed_notebooks_are_current():
    main(["--check"], ROOT)
