"""`twins benchmark`: pretrained weights on every benchmark there is, as a table and as JSON."""

import json
import re

import numpy as np
import pytest
import tiny
from face_sets import Colours, picture, write_bin, write_ijb, write_ijbs, write_tinyface

from dcal_core.__main__ import main
from dcal_core.commands import benchmark
from dcal_core.commands.benchmark import benchmark_pairs, benchmark_templates, cell
from dcal_core.data.benchmarks.template_sets import read_ijb
from dcal_core.models.face_weights import write_face_weights

CONFIG = tiny.dcal_config(bootstrap_draws=100, encode_batch=3)


@pytest.fixture
def faces(tmp_path, elsewhere, monkeypatch):
    """A folder with a small set of every kind."""
    monkeypatch.setattr(benchmark, "fit_device", lambda: "cpu")
    folder = tmp_path / "faces"
    for write in (write_ijb, write_tinyface, write_ijbs):
        write(folder)
    colours = np.random.default_rng(0).integers(0, 256, (40, 3)).tolist()
    write_bin(folder / "cplfw.bin", [picture(*colour) for colour in colours], [True, False] * 10)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A file as AdaFace's loader takes it, of a narrow network."""
    model = tiny.model_of(tiny.adaface_config())
    write_face_weights(tmp_path / "ir18.ckpt", model.face_weights(), "adaface", "rgb")
    return tmp_path / "ir18.ckpt"


def given(weights, *more: str) -> list[str]:
    narrow = ["--width", "8", "--image_size", "32", "--embedding_dropout", "0"]
    return ["--preset", "adaface_demo", "--weights", str(weights), "--bootstrap_draws", "100", *narrow, *more]


def test_pretrained_weights_are_scored_on_every_benchmark(faces, weights, tmp_path, capsys):
    assert main(["benchmark", *given(weights, "--benchmarks_root", str(faces), "--mode", "N0D0F0")]) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "runs" / "benchmarks" / "ir18.json").read_text())
    found = result["readings"]["whole"]
    titles = ["CPLFW", "IJB-C 1:1", "IJB-C 1:N", "TinyFace 1:N", "IJB-S multi-view surveillance to booking"]
    assert set(titles) < set(found) and len(found) == 9
    assert all(f"| {title} " in said for title in found) and result["mode"] == "N0D0F0" and result["trained_on"] == ""
    accuracy = found["CPLFW"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1 and "folds" in found["CPLFW"]["interval"]
    assert found["TinyFace 1:N"].keys() == {"rank_1", "rank_5", "rank_20", "counts", "interval"}
    assert found["IJB-C 1:1"]["tar_at_far_1e-06"]["value"] is None
    assert "TAR at FAR 1e-06" in said and "not resolvable with 3 impostors" in said


def test_a_trained_run_is_scored_and_its_data_named(faces, tmp_path, capsys):
    config = tiny.adaface_config(run_dir=str(tmp_path / "run"))
    run = tiny.new_run(tmp_path / "run", config)
    run.save_model(run.folder.best, tiny.model_of(config), epoch=1, eer=0.5)
    arguments = ["--run_dir", str(tmp_path / "run"), "--benchmarks_root", str(faces / "tinyface")]
    assert main(["benchmark", *arguments, "--bootstrap_draws", "100"]) == 0
    result = json.loads(run.folder.benchmarks.read_text())
    assert list(result["readings"]["whole"]) == ["TinyFace 1:N"] and result["trained_on"] == "faces"
    assert re.search(
        r"model\.safetensors, trained on faces, mode N1D1F1: .*benchmarks\.json\n", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--benchmarks_root", "runs"],
            "no face benchmark below runs: give a folder as benchmarks_root with one of lfw.bin",
        ),
        (["--benchmarks_root", "nowhere"], "benchmarks_root=nowhere: no such folder"),
        ([], "no face benchmark below data: give"),
    ],
)
def test_without_a_benchmark_one_sentence_says_what_is_searched_for(weights, tmp_path, capsys, elsewhere, more, words):
    (tmp_path / "runs").mkdir()
    assert main(["benchmark", *given(weights, *more)]) == 1
    assert words in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_what_is_wrong_with_one_benchmark_is_said_before_another_is_encoded(faces, weights, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "encode_images", None)
    pairs = faces / "IJBC" / "meta" / "ijbc_template_pair_label.txt"
    pairs.write_text(pairs.read_text() + "3 99 0\n")
    assert main(["benchmark", *given(weights, "--benchmarks_root", str(faces))]) == 1
    assert f"{pairs} names template 99" in capsys.readouterr().err
    assert main(["benchmark", *given(weights, "--benchmarks_root", str(faces / "tinyface"), "--reading", "local")]) == 1
    assert "--reading local: the model offers whole." in capsys.readouterr().err
    assert main(["benchmark", *given(weights.with_name("gone.ckpt"), "--benchmarks_root", str(faces))]) == 1
    assert "gone.ckpt: there is no such file" in capsys.readouterr().err


def test_every_reading_of_a_model_is_scored(faces):
    model = Colours()
    found = list(benchmark_pairs(model, {"CPLFW": faces / "cplfw.bin"}, "F1", CONFIG, "cpu", model.readings))
    assert [(reading, title) for reading, title, _ in found] == [("cosine", "CPLFW"), ("distance", "CPLFW")]
    templates = read_ijb(faces / "IJBC" / "meta" / "ijbc_face_tid_mid.txt")
    found = {
        (r, t): one for r, t, one in benchmark_templates(model, templates, "N1D1F0", CONFIG, "cpu", model.readings)
    }
    assert len(found) == 4 and found["cosine", "IJB-C 1:N"]["rank_1"]["value"] == 1
    # Every gallery has one template, so all mates are first; of the one probe without a mate none may match.
    assert found["distance", "IJB-C 1:N"]["tpir_at_fpir_0.01"]["value"] is None


def test_the_mode_decides_what_counts_in_a_template(faces):
    model, seen = Colours(), {}
    templates = read_ijb(faces / "IJBC" / "meta" / "ijbc_face_tid_mid.txt")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(benchmark, "verify", lambda scores, *rest: seen.update({mode: scores}) or {})
        for mode in ("N1D1F0", "N0D1F0", "N1D0F0"):
            list(benchmark_templates(model, templates, mode, CONFIG, "cpu", ("cosine",)))
    assert len({round(float(scores[1]), 4) for scores in seen.values()}) == 3  # against the template of three images


def test_cells_are_read_as_published():
    assert cell({"value": 0.99823, "low": 0.9971, "high": 0.99899}) == "99.82 (99.71 to 99.90)"
    assert cell({"value": 0.5, "low": 0.25, "high": 0.75, "false_matches": 29}) == "50.00* (25.00 to 75.00)"
    assert cell({"value": 0.5, "low": None, "high": None, "false_matches": 30}) == "50.00"
    assert cell({"value": None, "reason": "not resolvable"}) == "not resolvable"
