"""What `make kaggle` prepares is what the official tool takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from notebooks_src.builder import kaggle

ROOT = Path(__file__).resolve().parents[1]
FIELDS = (  # of the tool's version 2.2.5; id_no stands for a notebook that is there already
    "id title code_file language kernel_type is_private enable_gpu enable_tpu enable_internet machine_shape "
    "dataset_sources competition_sources kernel_sources model_sources keywords docker_image docker_image_pinning_type"
)
SAME = {"new_title": "title", "dataset_data_sources": "dataset_sources", "kernel_data_sources": "kernel_sources"}
PUSH = """
import json, os, sys
from contextlib import contextmanager
from types import SimpleNamespace
from kaggle.api.kaggle_api_extended import KaggleApi
asked = []
@contextmanager
def client(self):
    kernels = SimpleNamespace(save_kernel=lambda request: asked.append(request))
    yield SimpleNamespace(kernels=SimpleNamespace(kernels_api_client=kernels))
class Stop(Exception):
    pass
def stop(self, ref):
    raise Stop
KaggleApi.build_kaggle_client, KaggleApi.dataset_status = client, stop
api = KaggleApi()
api.config_values = {"username": "someone"}
library, *notebooks = sys.argv[1:]
try:
    api.dataset_create_new(library, dir_mode="zip")
except Stop:  # it was found in order, and would be asked for
    print(json.dumps("dataset"))
for notebook in notebooks:
    api.kernels_push(notebook)
for one in asked:
    names = "slug new_title enable_gpu enable_internet is_private machine_shape".split()
    names += ["dataset_data_sources", "kernel_data_sources"]
    print(json.dumps({name: getattr(one, name) for name in names}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return kaggle.prepare("someone", tmp_path_factory.mktemp("kaggle") / "out", ["someone/faces"])


def metadata_of(folders):
    return {folder.name: json.loads((folder / "kernel-metadata.json").read_text()) for folder in folders[1:]}


def test_every_field_is_written_and_fits(folders):
    found = metadata_of(folders)
    assert {*found} == {script.stem for script in (ROOT / "notebooks_src").glob("*.py")}
    for name, metadata in found.items():
        assert [*metadata] == FIELDS.split()
        assert metadata["id"] == "someone/" + metadata["title"].lower().replace(" ", "-")
        notebook = json.loads((folders[0].parent / name / metadata["code_file"]).read_text())
        assert metadata["enable_gpu"] == notebook["metadata"]["kaggle"]["isGpuEnabled"]
        assert bool(metadata["machine_shape"]) == metadata["enable_gpu"]
        assert metadata["dataset_sources"] == ["someone/twins-library", "someone/faces"]
        assert not any("# ====" in "".join(cell["source"]) for cell in notebook["cells"])  # thin
    assert [name for name, metadata in found.items() if metadata["enable_internet"]] == ["train"]


def test_a_notebook_comes_behind_those_whose_outputs_it_reads(folders):
    names = [folder.name for folder in folders[1:]]
    for name, metadata in metadata_of(folders).items():
        for source in metadata["kernel_sources"]:
            assert names.index(source.removeprefix("someone/twins-")) < names.index(name)


def test_the_dataset_holds_what_the_notebooks_look_for(folders):
    about = json.loads((folders[0] / "dataset-metadata.json").read_text())
    assert about["id"] == f"someone/{kaggle.LIBRARY}" and 20 <= len(about["subtitle"]) <= 80
    assert (folders[0] / "dcal_core/__init__.py").is_file() and (folders[0] / "params/demo.yaml").is_file()


@pytest.mark.parametrize("arguments", [["Some One"], ["someone", "--data", "faces"], []])
def test_names_that_kaggle_does_not_have_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        kaggle.main([*arguments, "--output", str(tmp_path / "out")])
    assert end.value.code == 2 and not (tmp_path / "out").exists()


def test_the_official_tool_takes_it(folders):
    """By its own validation, up to the request that it would send."""
    pytest.importorskip("kagglesdk", reason="pip install -r tests/requirements.txt")
    environment = os.environ | {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "0" * 32, "PYTHONPATH": ""}
    command = [sys.executable, "-c", PUSH, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "does not resolve" not in done.stdout and "retired" not in done.stdout + done.stderr
    dataset, *asked = [json.loads(line) for line in done.stdout.splitlines() if re.match(r'[{"]', line)]
    expected = metadata_of(folders).values()
    assert dataset == "dataset" and [one["slug"] for one in asked] == [one["id"] for one in expected]
    for one, metadata in zip(asked, expected, strict=True):
        for field, value in one.items():
            assert field == "slug" or (value or None) == (metadata[SAME.get(field, field)] or None)
