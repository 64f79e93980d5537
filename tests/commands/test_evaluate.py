"""Evaluation from trained runs to the report: what stands beside what, and what is refused."""

import json
import platform
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

import dcal_core
from dcal_core.__main__ import main
from dcal_core.commands import evaluate as evaluation
from dcal_core.commands.chosen import listed
from dcal_core.commands.evaluate import SPLITS, draw_report, evaluate_systems, score_systems
from dcal_core.commands.session import begin_with_trained
from dcal_core.commands.train import train_run
from dcal_core.config.recipes import load
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.splits import open_data
from dcal_core.data.twins import DataError
from dcal_core.errors import UserError
from dcal_core.models.files import load_model
from dcal_core.models.oaml import OAML
from dcal_core.models.verifier import Features, Verifier
from dcal_core.runs import RunFolder
from dcal_core.storage import digest, seal
from dcal_core.verification.calibration import from_dict
from dcal_core.verification.decision import read_rule, rule_of_report
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.occlusion import occlusion
from dcal_core.verification.protocol import score_pairs, twin_pairs

PARAMS = Path(__file__).parents[2] / "params"
TINY = dict(
    image_size=32, synthetic_families=12, synthetic_images=3, synthetic_test_families=5, validation_share=0.5,
    families_per_batch=4, images_per_person=2, steps_per_epoch=2, epochs=1, bootstrap_draws=100,
)  # fmt: skip


class Brightness(Verifier):
    """A stand-in for the baseline: compares images by their mean colour."""

    encoded = 0

    def encode(self, images, trace=False):
        type(self).encoded += len(images)
        colour = images.float().mean((2, 3)) / 255
        return Features({"colour": colour, "found": torch.arange(len(images)) % 2 == 0})

    def compare(self, a, b, reading=None):
        distance = -torch.cdist(a.parts["colour"], b.parts["colour"])
        return distance if reading != "red" else -abs(a.parts["colour"][:, None, 0] - b.parts["colour"][:, 0])

    def compare_pairs(self, a, b, reading=None):
        raise NotImplementedError  # all pairs of a family are wanted


@pytest.fixture(scope="module")
def runs(off_kaggle, tmp_path_factory):
    """A folder with three trained runs: two of one seed, one of another, at another image size."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patched:
        off_kaggle(patched, folder)
        patched.setattr(splits, "generate", partial(generate, workers=1))
        changes = {"a": {}, "b": {"lr": 1e-3}, "c": {"seed": 1, "image_size": 48}}
        for name, change in changes.items():
            config = load("demo", PARAMS, TINY | change | {"run_dir": name})
            train_run(config, RunFolder(folder / name), open_data(config, ("train", "validation")))
    return folder


@pytest.fixture(autouse=True)
def beside_the_runs(off_kaggle, monkeypatch, runs):
    off_kaggle(monkeypatch, runs)
    monkeypatch.setattr(splits, "generate", partial(generate, workers=1))
    monkeypatch.setattr(evaluation, "SFace", Brightness)


def begun(**given):
    session = begin_with_trained("Evaluate", {"preset": "demo", "run_dir": "a", **given}, PARAMS)
    return session, session.open_data(SPLITS)


def test_every_system_scores_the_same_pairs_and_has_validation_families_of_its_own():
    session, data = begun(compare="b, c", baseline="true")
    systems = score_systems(session, data)
    assert [system.name for system in systems] == ["a", "b", "c", "SFace"]
    for system in systems:
        assert np.array_equal(system.test.pairs.a, systems[0].test.pairs.a)
        assert system.test.scores.shape == (5 * 2 * 28 + 5 * 64,) and np.isfinite(system.test.scores).all()
    held_out = [system.validation.index.fingerprint() for system in systems]
    assert held_out[0] == held_out[1] == held_out[3] != held_out[2]
    assert "48 px, seed 1" in systems[2].about and "found a face in 40 of 80 test images" in systems[3].about


def test_scores_are_those_of_the_trained_model():
    session, data = begun()
    (system,) = score_systems(session, data)
    model, pairs = evaluation.load_model(Path("a/checkpoints/best")), twin_pairs(data["test"].index)
    expected = score_pairs(model, encode_images(model, data["test"].images, 7, progress=False), pairs)
    np.testing.assert_allclose(system.test.scores, expected, atol=1e-5)


def test_any_system_can_be_tested_behind_occluders(monkeypatch):
    session, data = begun(compare="b", occluded_share=0.5)
    systems = score_systems(session, data)
    assert data.label == "SYNTHETIC, 50 % of images occluded by drawing" and data.synthetic
    images = data["test"].images
    model = load_model(Path("b/checkpoints/best"))
    scores = score_pairs(model, encode_images(model, images, 64, progress=False), systems[1].test.pairs)
    np.testing.assert_allclose(systems[1].test.scores, scores, atol=1e-5)
    result = evaluate_systems(session, data, systems, "twins evaluate")
    assert result["data"] == data.label and result["synthetic"] and "visibility" not in result["occlusion"]
    assert sum(result["occlusion"]["images"].values()) == (images.kind_of != "").sum()
    assert any("Occluders (mask,glasses,scarf) were drawn over 50 % of" in line for line in result["conditions"])
    monkeypatch.setattr(evaluation, "plots", MagicMock())  # the figures of every report, which take seconds
    names = [name for name, _ in draw_report(result, systems, data)]
    assert "occlusion" in names and "visibility" not in names


def test_a_model_that_says_what_is_visible_is_measured_by_it_and_its_embeddings_can_be_flip_fused():
    session, data = begun(occluded_share=1)
    torch.manual_seed(0)
    model, config = OAML(depth=18, image_size=32, width=8), session.config.replace(flip_fusion=True)
    fused, whole, local = evaluation.score_model("ours", "untrained", model, data, config)
    assert [one.name for one in (fused, whole, local)] == ["ours", "ours, global", "ours, local"]
    images, pairs = data["test"].images, whole.test.pairs
    with torch.inference_mode():
        faces = images.batch(range(80))
        straight, mirrored = (model.eval().encode(one).parts for one in (faces, faces.flip(-1)))
    np.testing.assert_allclose(fused.visible, straight["visible"], atol=1e-6)
    embeddings = torch.nn.functional.normalize(straight["embedding"] + mirrored["embedding"])
    cosines = (embeddings[pairs.a] * embeddings[pairs.b]).sum(1)
    np.testing.assert_allclose(whole.test.scores, cosines, atol=1e-5)
    lines = occlusion([fused, whole], images, draws=20)["visibility"]
    assert [line["images"] for line in lines] == ["an occluder", "mask", "glasses", "scarf"] and lines[0]["count"] == 80


def test_flip_fusion_adds_every_branch_to_its_mirror_images_and_leaves_no_decision_rule(capsys):
    session, data = begun(flip_fusion="true")
    (system,) = score_systems(session, data)
    model = load_model(session.trained)
    with torch.inference_mode():
        faces = data["test"].images.batch(range(80))
        straight, mirrored = (model.eval().encode(one).parts for one in (faces, faces.flip(-1)))
    assert list(straight) == ["sa", "glca"]
    both = [torch.nn.functional.normalize(part + mirrored[name]) for name, part in straight.items()]
    pairs = system.test.pairs
    cosines = sum((one[pairs.a] * one[pairs.b]).sum(1) for one in both) / len(both)
    np.testing.assert_allclose(system.test.scores, cosines, atol=1e-5)
    assert evaluation.keep_rule(session, None) == [] and "No decision rule is kept" in capsys.readouterr().out


def test_fused_scores_come_from_weights_chosen_on_validation_families():
    session, data = begun(baseline="true", fuse="true")
    ours, baseline, fused = score_systems(session, data)
    assert fused.name == "fused" and " a, " in fused.about and fused.about.endswith(" SFace")
    rules = []
    for part in ("validation", "test", "unrelated"):
        scores = [getattr(one, part).scores for one in (ours, baseline)]
        columns = np.stack([*scores, np.ones(len(scores[0]))], axis=1)
        rules.append(np.linalg.lstsq(columns, getattr(fused, part).scores, rcond=None)[0])
    np.testing.assert_allclose(rules, [rules[0]] * 3, rtol=1e-3, atol=1e-9)  # one linear rule for all three


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"compare": "nowhere"}, "no trained model in"),
        ({"compare": "c", "fuse": "true"}, "fuse=true: takes two systems or more with the same validation families"),
        ({"fuse": "true"}, "fuse=true: takes two systems or more"),
        ({"compare": "b,a"}, "compare: names a run twice"),
    ],
)
def test_what_cannot_stand_side_by_side_is_a_sentence(given, sentence, capsys):
    options = [part for name, value in given.items() for part in ("-p", name, value)]
    assert main(["evaluate", "--preset", "demo", "-p", "run_dir", "a", *options]) == 1
    assert sentence in capsys.readouterr().err


def test_a_compared_run_is_tested_on_the_families_asked_for_now():
    session, data = begun(compare="b", synthetic_test_families=3)
    ours, other = score_systems(session, data)
    assert len(ours.test.scores) == len(other.test.scores) == 3 * (2 * 28 + 64)


def test_a_run_on_other_people_is_refused():
    _, data = begun()
    fewer = splits.Split(data["test"].index.select_families([0, 1]), data["test"].images)
    with pytest.raises(UserError, match="compare=b: that run is tested on other people"):
        evaluation.same_people(replace(data, splits={"test": fewer}), data, "b")
    assert evaluation.same_people(data, data, "b") is data


def test_the_command_leaves_a_report_that_names_all_systems(capsys):
    given = ["--preset", "demo", "-p", "run_dir", "a", "-p", "compare", "b", "-p", "baseline", "true"]
    assert main(["evaluate", *given]) == 0
    report, printed = json.loads(Path("a/report.json").read_text()), capsys.readouterr().out
    assert [system["name"] for system in report["systems"]] == ["a", "b", "SFace"] and report["data"] == "SYNTHETIC"
    assert {(line["a"], line["b"]) for line in report["differences"]} == {("a", "b"), ("a", "SFace")}
    page = Path("a/report.html").read_text()
    assert "SYNTHETIC DATA" in page and "SFace" in page and "<script" not in page
    assert f"EER {100 * report['metrics']['eer']['value']:.1f} %" in printed and "between a and b" in printed
    scores = score_systems(*begun())[0].test
    assert report["metrics"]["eer"]["value"] == pytest.approx(equal_error_rate(scores.scores, scores.pairs.genuine)[0])


def test_the_report_tells_code_device_and_model_and_no_folder_of_this_machine(capsys):
    given = ["--preset", "demo", "-p", "compare", '"b", b/../c']
    assert main(["evaluate", *given, "-p", "run_dir", "a"]) == 0
    report = json.loads(Path("a/report.json").read_text())
    assert shlex.split(report["command"]) == ["python", "-m", "dcal_core", "evaluate", *given, "-p", "run_dir", "a"]
    assert report["model"] == "a/checkpoints/best" and report["synthetic"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", report["created"]) and report["device"]
    assert 0 < report["seconds"]["evaluation"] < 600 and report["seconds"]["training"] > 0
    assert ".html" not in Path("a/report.html").read_text(encoding="utf-8")  # no notebook was run here
    assert report["code"].startswith(f"dcal_core {dcal_core.__version__}")
    assert report["code"].endswith(f"Python {platform.python_version()}, PyTorch {torch.__version__}")
    weights = load_model(Path("a/checkpoints/best")).parameters()
    assert report["system"]["size"] == sum(weight.numel() for weight in weights)
    for file in ("report.json", "report.html", "scores.csv"):
        assert str(Path.cwd()) not in (Path("a") / file).read_text(encoding="utf-8"), file
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3].endswith("for two people.") and printed[-2].startswith("EER ") and "scores.csv" in printed[-1]


@pytest.mark.parametrize("content", [None, "", "[]", '{"seconds": NaN}', '{"seconds": "1"}'])
def test_a_run_without_whole_checkpoints_has_no_time_of_training(tmp_path, content):
    run = RunFolder(tmp_path)
    if content is not None:
        run.checkpoint(3).mkdir(parents=True)
        (run.checkpoint(3) / "progress.json").write_text(content)
    assert evaluation.seconds_of_training(run) is None


def test_one_system_is_no_comparison(capsys):
    evaluated()
    printed = capsys.readouterr().out
    assert "| system" not in printed and "other systems" not in Path("a/report.html").read_text()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("a", ["a"]),
        ("a, b,c ,", ["a", "b", "c"]),
        ('"x, y",b', ["x, y", "b"]),
        ("a|b, $1, שלום, <i>", ["a|b", "$1", "שלום", "<i>"]),
    ],
)
def test_compared_runs_may_have_any_names(text, names):
    assert listed(text) == names


def test_figures_are_those_that_the_page_takes():
    session, data = begun()
    systems = score_systems(session, data)
    result = evaluate_systems(session, data, systems, "twins evaluate", "code")
    names = [name for name, _ in draw_report(result, systems, data)]
    assert names in (["scores", "roc", "det", "reliability", "confusable"], ["scores", "roc", "det", "confusable"])
    assert ("reliability" in names) == ("reason" not in result["calibration"])
    conditions = " ".join(result["conditions"])
    assert "5 families are few" in conditions and "10 test people of 5 families with 8 images each" in conditions
    assert "Refused: 0 of the 80 test images listed (0.0 %), as missing" in conditions


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [tmp_path / "x" / "seed0", tmp_path / "y" / "seed0", tmp_path / "y" / "seed1"]
    assert evaluation.short_names(folders) == ["x/seed0", "y/seed0", "y/seed1"]
    assert evaluation.short_names(folders[1:]) == ["seed0", "seed1"]


def test_too_few_families_are_a_sentence_before_an_image_is_decoded(monkeypatch):
    monkeypatch.setattr(splits, "open_split", lambda *_: pytest.fail("decoded"))
    few = "test: of 1 family, 1 with two images of one person and 1 with images of co-twins; it takes 2 of each"
    with pytest.raises(DataError, match=few):
        begun(synthetic_test_families=1)


def evaluated(*options, run="a"):
    assert main(["evaluate", "--preset", "demo", *options, *(["-p", "run_dir", run] if run else [])]) == 0


def test_a_model_folder_alone_gives_verdicts_and_likelihood_ratios(tmp_path):
    evaluated()
    report = json.loads(Path("a/report.json").read_text())
    alone = tmp_path / "model"
    shutil.copytree("a/checkpoints/best", alone)
    model, rule = load_model(alone), read_rule(alone)
    assert rule == rule_of_report(report) and rule.threshold == report["threshold"]["value"]
    assert rule.weights == report["weights"] == digest(alone / "model.safetensors")
    faces = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        score = float(model.compare(model.encode(faces[:1]), model.encode(faces[1:])))
    assert rule.verdict(score) in ("same", "undecided", "different") and f"score {score:.2f}: " in rule.sentence(score)
    fitted = report["calibration"].get("fitted")
    assert rule.llr(score) == (from_dict(fitted).llr([score])[0] if fitted else None)


def test_an_attached_run_is_copied_to_have_its_rule_and_found_again(off_kaggle, monkeypatch, runs, tmp_path, capsys):
    shutil.copytree(runs / "a", tmp_path / "input/trained")
    if (tmp_path / "input/trained/checkpoints/best/decision.json").exists():  # of another test
        (tmp_path / "input/trained/checkpoints/best/decision.json").unlink()
        seal(tmp_path / "input/trained/checkpoints/best")
    off_kaggle(monkeypatch, tmp_path)
    before = {file: file.read_bytes() for file in Path("input").rglob("*") if file.is_file()}
    evaluated(run="")
    assert {file: file.read_bytes() for file in Path("input").rglob("*") if file.is_file()} == before
    assert "input/trained is attached and stays as it is: its model is copied to" in capsys.readouterr().out
    own = Path("runs/demo").resolve()
    assert read_rule(own / "checkpoints/best").data == "SYNTHETIC"
    evaluated(run="")  # finds the copy, and accepts it
    printed = capsys.readouterr().out
    assert f"Model {own}/checkpoints/best" in printed and "is attached" not in printed

    shutil.move(own, tmp_path / "input/evaluated")  # the output of that evaluation, attached beside the training's
    session = begin_with_trained("Explain", {"preset": "demo"}, PARAMS)
    assert session.trained == tmp_path / "input/evaluated/checkpoints/best"
    assert RunFolder.around(session.trained).data() == "SYNTHETIC"


def test_an_attached_model_is_not_put_among_another_run(off_kaggle, monkeypatch, runs, tmp_path, capsys):
    shutil.copytree(runs / "a", tmp_path / "input/trained")
    off_kaggle(monkeypatch, tmp_path)
    unfinished = Path("runs/demo/config.json")
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("{}")
    evaluated(run="")
    assert "runs/demo is the folder of another run, so no decision rule is kept" in capsys.readouterr().out
    assert unfinished.read_text() == "{}" and not Path("runs/demo/checkpoints").exists()


def test_a_model_with_several_readings_is_a_system_for_each_from_one_encoding(monkeypatch, capsys):
    monkeypatch.setattr(Brightness, "readings", ("colour", "red"))
    monkeypatch.setattr(Brightness, "encoded", 0)
    monkeypatch.setattr(evaluation, "load_model", lambda folder: Brightness())
    session, data = begun()
    own, other = score_systems(session, data)
    assert (own.name, other.name) == ("a", "a, red")
    assert "; its reading colour; it found" not in own.about and own.about.endswith("; its reading colour")
    assert other.about.endswith("; its reading red") and own.weights == other.weights != ""
    assert Brightness.encoded == sum(len(data[split].index.paths) for split in SPLITS)
    features = encode_images(Brightness(), data["test"].images, 64, progress=False)
    red = features.parts["colour"][:, 0].numpy()
    np.testing.assert_allclose(other.test.scores, -abs(red[own.test.pairs.a] - red[own.test.pairs.b]), atol=6e-6)
    assert not np.allclose(own.test.scores, other.test.scores)
    assert len(own.unrelated.scores) and other.unrelated is None

    evaluated("-p", "baseline", "true", "-p", "fuse", "true")
    report = json.loads(Path("a/report.json").read_text())
    assert [one["name"] for one in report["systems"]] == ["a", "a, red", "SFace", "SFace, red", "fused"]
    assert report["system"]["name"] == "a" and report["weights"] == own.weights
    assert report["metrics"]["eer"]["value"] == pytest.approx(
        equal_error_rate(own.test.scores, own.test.pairs.genuine)[0]
    )
    fused = report["systems"][-1]["about"]
    assert " a, " in fused and fused.endswith(" SFace") and "red" not in fused  # the models' own answers
    assert "a, red" in Path("a/report.html").read_text() and "a, red" in capsys.readouterr().out
