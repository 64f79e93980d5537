"""`twins pack` and `twins verify`, from a trained run to an exit status."""

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ADAFACE_VALUES, OAML_VALUES, VALUES, model_of
from tiny_predictor import packed as tiny_packed

from dcal_core import Predictor
from dcal_core.__main__ import main
from dcal_core.commands import verify as command
from dcal_core.commands.pack import images_root
from dcal_core.config.recipes import class_of, load
from dcal_core.data.locate import INDEX_FILES
from dcal_core.deploy import package
from dcal_core.deploy.engine import ABOUT_FILE, ONNX_FILE, open_engine
from dcal_core.deploy.export import ExportError
from dcal_core.errors import ConfigError
from dcal_core.models.files import load_model
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import RunFolder
from dcal_core.storage import read_sums
from dcal_core.training.checkpoints import Run
from dcal_core.verification.calibration import Logistic
from dcal_core.verification.decision import DecisionRule, write_rule
from dcal_core.verification.verdicts import Thresholds

PARAMS = Path(__file__).parents[2] / "params"
ROOT = Path(__file__).parents[2]
SIZE = 32


def drawn(folder: Path, count: int) -> list[Path]:
    """Pictures with structure, in files of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        files.append(folder / f"{seed}.png")
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(files[-1])
    return files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, as if trained and evaluated, with its validation images."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    config = load("demo", PARAMS, {"image_size": SIZE, "run_dir": str(folder), "data_root": str(folder / "data")})
    torch.manual_seed(0)
    made = Run(RunFolder(folder), config, "the people and images")
    made.remember("SYNTHETIC", ["10", "11"])
    made.save_model(made.folder.best, new_model(config, []), epoch=1)
    weights = read_sums(made.folder.best)["model.safetensors"]
    rule = DecisionRule(
        "SYNTHETIC", weights, 9, 0.5, Thresholds(-0.5, 0.9), 0.05, Logistic(4.0, -2.0, 9), True, Logistic(4.0, 0.0, 9)
    )
    write_rule(rule, made.folder.best, made.folder.best)
    images = drawn(folder / "data/train", 8)
    for name in INDEX_FILES:
        (folder / "data" / name).write_text("{}")
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "image_a", "image_b", "family", "same_person", "score"])
        for a in range(0, 8, 2):
            writer.writerow(["validation", *(f"train/{images[n].name}" for n in (a, a + 1)), a // 2, 1, 0.7])
            writer.writerow(["test", "absent.png", "absent.png", 9, 1, 0.7])
    return made.folder


@pytest.fixture
def packed(run, tmp_path):
    package.pack(run, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def without_onnx(monkeypatch):
    """As where the packages that write ONNX, which takes seconds, are missing."""
    reason = "--format onnx needs onnxscript, which is not installed"
    monkeypatch.setattr("dcal_core.commands.pack.functions_of", Mock(side_effect=ExportError(reason)))


def verify(*arguments) -> int:
    return main(["verify", *map(str, arguments)])


def test_a_packed_folder_needs_neither_run_nor_data(run, tmp_path, without_onnx, capsys):
    (tmp_path / "model").mkdir()
    for name in (ABOUT_FILE, ONNX_FILE, "model.compare.onnx"):
        (tmp_path / "model" / name).write_text("of an earlier packing")
    assert main(["pack", str(run), str(tmp_path / "model"), "--data_root", str(run.path / "data")]) == 0
    assert "starts with PyTorch, which takes longer: --format onnx needs onnxscript" in capsys.readouterr().out
    assert not list((tmp_path / "model").glob("*.onnx"))
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "model")
    about = json.loads((tmp_path / "elsewhere" / ABOUT_FILE).read_text())
    assert about["image_size"] == SIZE and about["label"] == "SYNTHETIC" and about["fit"] == "stretch"
    assert about["provenance"]["seed"] == 0 and about["provenance"]["trained_on"]["people"] == 2
    card = (tmp_path / "elsewhere/README.md").read_text()
    assert card.startswith("---\nlibrary_name: dcal_core\n") and "**SYNTHETIC.**" in card
    a, b = drawn(tmp_path / "images", 2)
    predictor = Predictor.from_pretrained(tmp_path / "elsewhere", find_faces=False)
    answer = predictor.verify(a, b)
    model = load_model(run.best)
    with torch.inference_mode():
        faces = [
            torch.from_numpy(np.asarray(Image.open(file).resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
            for file in (a, b)
        ]
        score = model.compare(*(model.encode(face.permute(2, 0, 1)[None]) for face in faces)).item()
    assert answer.score == pytest.approx(score, abs=1e-5)


def test_a_loaded_model_is_saved_and_pickled(run, packed, tmp_path, monkeypatch):
    a, b = drawn(tmp_path / "images", 2)
    for number, source in enumerate((run.path, packed, packed / "model.safetensors")):
        predictor = Predictor.load(source, find_faces=False)
        saved = predictor.save_pretrained(tmp_path / f"saved{number}")
        assert (saved / ABOUT_FILE).read_bytes() == (packed / ABOUT_FILE).read_bytes()
        expected = predictor.verify(a, b)
        assert Predictor.from_pretrained(saved, find_faces=False).verify(a, b) == expected
        assert pickle.loads(pickle.dumps(predictor)).verify(a, b) == expected
    monkeypatch.chdir(packed.parent)
    pickled = pickle.dumps(Predictor.load(packed.name, find_faces=False))
    monkeypatch.chdir(run.path)  # as a worker that starts elsewhere
    assert pickle.loads(pickled).verify(a, b) == expected
    with pytest.raises(ConfigError, match="made of an engine"):
        Predictor(predictor.engine).save_pretrained(tmp_path / "none")
    with pytest.raises(ConfigError, match="made of an engine"):
        pickle.dumps(Predictor(predictor.engine))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        package.pack(run, tmp_path / "mine")


def test_a_repository_that_cannot_be_fetched_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("no/such-model", "not a name", "a/b/c"):
        with pytest.raises(ConfigError, match="neither a folder nor a repository"):
            Predictor.from_pretrained(name)


@pytest.mark.parametrize("config", [VALUES, ADAFACE_VALUES, OAML_VALUES], ids=["dcal", "adaface", "oaml"])
def test_a_row_depends_on_the_size_of_a_batch_alone(config, tmp_path):
    """Shares of a list, and jobs that go on after a kill, fill their batches in other ways."""
    engine = open_engine(tiny_packed(tmp_path, model_of(class_of(config.get("recipe", "dcal"))(**config)).eval()))
    faces = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    first = engine.encode(faces[:8])
    order = np.random.default_rng(1).permutation(12)[:8]
    for row, face in zip(engine.encode(faces[order]), order, strict=True):
        assert face >= 8 or np.array_equal(row, first[face])
    pairs = np.random.default_rng(2).integers(0, 8, (2, 64))
    scores = engine.compare_pairs(*first[pairs])
    turned = engine.compare_pairs(*first[pairs[:, ::-1]])
    assert np.array_equal(turned[::-1], scores)


def test_the_validated_range_is_that_of_the_validation_images(run, tmp_path, without_onnx, capsys):
    main(["pack", str(run), str(tmp_path / "model"), "--data_root", str(run.path / "data")])
    found = json.loads((tmp_path / "model" / ABOUT_FILE).read_text())["range"]
    if found is None:  # with the packages that find faces, these pictures show none
        assert "validated range is not known" in capsys.readouterr().out
        return
    assert found["limits"]["sharpness"]["low"] > 0


def test_the_images_of_drawn_twins_are_those_that_training_was_given(run):
    assert images_root(run, "") == run.path / "data"


def test_the_exit_status_is_the_verdict(run, packed, tmp_path, capsys, monkeypatch):
    a, b, *_ = drawn(tmp_path / "images", 2)
    answers = {"same": 0, "different": 1, "undecided": 2}
    for verdict, status in answers.items():
        limits = {"same": (-3.0, -2.0), "different": (2.0, 3.0), "undecided": (-3.0, 3.0)}[verdict]
        about = json.loads((packed / ABOUT_FILE).read_text())
        about["decision"]["verdict"] |= {"different_below": limits[0], "same_from": limits[1]}
        (packed / ABOUT_FILE).write_text(json.dumps(about))
        assert verify(a, b, "--model", packed, "--aligned") == status
        text = capsys.readouterr().out
        assert text.count("\n") == 1 and "SYNTHETIC" in text and "%" not in text
        assert verify(a, b, "--model", packed, "--aligned", "--json") == status
        found = json.loads(capsys.readouterr().out)
        assert found["verdict"] == verdict and found["sentence"] == text.strip() and found["label"] == "SYNTHETIC"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.png"],
        ["a.png", "b.png", "c.png"],
        ["-", "-"],
        ["--unknown"],
        ["a.png", "missing.png"],
        ["a.png", "b.png", "--model", "nowhere"],
        ["--pairs", "missing.csv"],
        ["--pairs", "pairs.csv", "--shard", "3"],
        ["--pairs", "pairs.csv", "--shard", "4/3", "--output", "x.csv"],
        ["--gallery", "x"],
        ["a.png", "b.png", "--folder", "x"],
    ],
)
def test_what_fails_is_never_taken_for_a_verdict(arguments, packed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = drawn(tmp_path, 2)
    a.rename("a.png"), b.rename("b.png")
    Path("pairs.csv").write_text("a.png,b.png\n")
    given = [] if "--model" in arguments else ["--model", packed, "--aligned"]
    assert verify(*arguments, *given) == command.FAILED > 2
    assert capsys.readouterr().err


def test_the_help_names_every_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "2 undecided; of many pairs 0 done; 3 failed, 130 interrupted" in capsys.readouterr().out


def test_a_fault_of_the_program_is_never_taken_for_a_verdict(monkeypatch, capsys):
    monkeypatch.setattr(command, "run_command", lambda _: 1 / 0)
    assert verify("a", "b") == command.FAILED and "ZeroDivisionError" in capsys.readouterr().err


def test_one_picture_comes_from_standard_input(packed, tmp_path, monkeypatch, capsys):
    a, b = drawn(tmp_path / "images", 2)
    status = verify(a, b, "--model", packed, "--aligned", "--json")
    expected = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(a.read_bytes())))
    assert verify("-", b, "--model", packed, "--aligned", "--json") == status
    assert json.loads(capsys.readouterr().out)["score"] == expected["score"]


def test_the_difference_is_drawn(packed, tmp_path, capsys):
    a, b = drawn(tmp_path / "images", 2)
    verify(a, b, "--model", packed, "--aligned", "--explain", tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size[0] > 300


def test_a_difference_that_cannot_be_drawn_is_refused_before_the_answer(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "predictor_of", lambda *_, **__: Mock(engine=object()))  # as one of model.onnx
    assert verify("a.png", "b.png", "--model", packed / ONNX_FILE, "--explain", tmp_path / "out.png") == command.FAILED
    told = capsys.readouterr()
    assert not told.out and "--explain needs the model in PyTorch" in told.err


def test_the_run_that_was_evaluated_last_is_taken(run, tmp_path, off_kaggle, monkeypatch, capsys):
    off_kaggle(monkeypatch, tmp_path)
    a, b = drawn(tmp_path / "images", 2)
    assert verify(a, b, "--aligned") == command.FAILED and "twins train" in capsys.readouterr().err
    for number, name in enumerate(("old", "new")):
        shutil.copytree(run.path, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "checkpoints/best/decision.json", (number, number))
    assert package.newest_run(tmp_path / "runs").name == "new"
    assert verify(a, b, "--aligned") in (0, 1, 2)


def test_a_list_gives_a_file_and_shares_of_it(packed, tmp_path, capsys):
    files = drawn(tmp_path / "images", 4)
    listed = tmp_path / "images/pairs.csv"
    listed.write_text("image_a,image_b\n" + "".join(f"{a.name},{b.name}\n" for a in files for b in files if a < b))
    shared = ["--pairs", listed, "--model", packed, "--aligned", "--output"]
    assert verify(*shared, tmp_path / "whole.csv") == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    assert whole.count(b"\r\n") == 7
    for part in (1, 2):
        assert verify(*shared, tmp_path / "parts.csv", "--shard", f"{part}/2") == 0
    parts = [(tmp_path / f"parts.{part}-of-2.csv").read_bytes() for part in (1, 2)]
    assert parts[0] + parts[1].partition(b"\r\n")[2] == whole
    capsys.readouterr()
    assert verify("--pairs", listed, "--model", packed, "--aligned") == 0
    assert capsys.readouterr().out.encode() == whole
    assert not list(tmp_path.glob("*.cache*"))
    files[0].write_bytes(b"broken")
    for output, name in (([], "standard output"), (["--output", tmp_path / "new.csv"], tmp_path / "new.csv")):
        assert verify("--pairs", listed, "--model", packed, "--aligned", *output) == 0
        told = capsys.readouterr().err
        assert f"6 pairs, 3 without an answer (column error): {name}\n" in told and told.count("Not checked: ") == 1


def test_a_folder_is_compared_with_a_gallery(packed, tmp_path, capsys):
    drawn(tmp_path / "own", 2), drawn(tmp_path / "gallery", 3)
    assert verify("--folder", tmp_path / "own", "--gallery", tmp_path / "gallery", "--model", packed, "--aligned") == 0
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 7


def test_a_shell_sees_the_status(packed, tmp_path):
    a, _ = drawn(tmp_path / "images", 2)
    command_line = [sys.executable, "-m", "dcal_core", "verify", a, a, "--model", packed, "--aligned"]
    assert subprocess.run(command_line, cwd=ROOT, capture_output=True).returncode == 2


@pytest.fixture
def without_torch(tmp_path):
    """An interpreter with everything installed but PyTorch and what is built on it."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (target,) = environment.glob("lib/python*/site-packages")
    for package_of_ours in Path(np.__file__).parents[1].iterdir():
        if not package_of_ours.name.startswith(
            ("torch", "functorch", "timm", "accelerate", "__editable__", "distutils")
        ):
            (target / package_of_ours.name).symlink_to(package_of_ours)
    return environment / "bin/python"


@pytest.mark.faults
def test_a_packed_folder_and_its_onnx_file_verify_where_pytorch_is_not_installed(run, tmp_path, without_torch):
    packed = tmp_path / "model"
    assert main(["pack", str(run), str(packed), "--data_root", str(run.path / "data")]) == 0
    a, b = drawn(tmp_path / "images", 2)
    expected = Predictor.load(packed, find_faces=False).verify(a, b)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    missing = subprocess.run([without_torch, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "No module named 'torch'" in missing.stderr
    for model in (packed / ONNX_FILE, packed):  # whose safetensors need PyTorch
        command = [without_torch, "-m", "dcal_core", "verify", a, b, "--aligned", "--json", "--model", model]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode < 3, done.stderr
        assert json.loads(done.stdout)["score"] == pytest.approx(expected.score, abs=1e-4)
