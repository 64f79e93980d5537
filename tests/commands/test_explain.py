"""Explanation from a trained run to files: the test families, two images, and lists of pairs."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from dcal_core.__main__ import main
from dcal_core.commands import explain as command
from dcal_core.commands.known import NO_MAPS, NO_RANGE, known_of_model
from dcal_core.commands.session import begin_with_trained
from dcal_core.commands.train import train_run
from dcal_core.config.recipes import load
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.splits import open_data
from dcal_core.explain import sensitivity as limit
from dcal_core.explain.trust import in_sentences
from dcal_core.runs import RunFolder
from dcal_core.storage import read_sums, seal
from dcal_core.verification.decision import DecisionRule, write_rule
from dcal_core.verification.verdicts import Thresholds

PARAMS = Path(__file__).parents[2] / "params"
BEST = "run/checkpoints/best"
TINY = dict(
    image_size=32, synthetic_families=12, synthetic_images=3, synthetic_test_families=3, validation_share=0.5,
    families_per_batch=4, images_per_person=2, steps_per_epoch=2, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(off_kaggle, tmp_path_factory):
    """A folder with a trained run and the decision rule of an evaluation."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patched:
        off_kaggle(patched, folder)
        patched.setattr(splits, "generate", partial(generate, workers=1))
        config = load("demo", PARAMS, TINY | {"run_dir": "run"})
        train_run(config, RunFolder(folder / "run"), open_data(config, ("train", "validation")))
    model = folder / BEST
    weights = read_sums(model)["model.safetensors"]
    write_rule(DecisionRule("SYNTHETIC", weights, 3, 0.0, Thresholds(-1.0, 1.0), 0.05, None), model, model)
    return folder


@pytest.fixture(autouse=True)
def beside_the_run(off_kaggle, monkeypatch, trained):
    off_kaggle(monkeypatch, trained)
    monkeypatch.setattr(splits, "generate", partial(generate, workers=1))


def explain(*arguments):
    return main(["explain", "--preset", "demo", "-p", "run_dir", "run", *map(str, arguments)])


def test_the_test_families_are_explained(trained, capsys):
    assert explain() == 0
    printed = capsys.readouterr().out
    assert "No map proves that the verdict is right" in printed
    listed = [Path(line.strip()) for line in printed.split("Files:\n")[1].splitlines()]
    assert all(file.is_file() for file in listed)
    endings = {"_".join(file.stem.split("_")[4:]) for file in listed if file.parent.name == "explained"} - {""}
    assert endings == {
        "pair_attention", "attention_rollout", "glca_attention", "discriminative_regions", "attention_stats",
    }  # fmt: skip
    statistics = [json.loads(file.read_text()) for file in listed if file.name.endswith("_stats.json")]
    assert len(statistics) == 6 and {one["data"] for one in statistics} == {"SYNTHETIC"}
    assert "\nIn truth: two people, co-twins." in statistics[0]["answer"]
    comparison = json.loads((trained / "run/explained/comparison.json").read_text())
    assert comparison["data"] == "SYNTHETIC" and comparison["pairs"] == {"same": 3, "twins": 3}
    trust = json.loads((trained / "run/explained/faithfulness.json").read_text())
    assert trust["data"] == "SYNTHETIC" and trust["families"] <= 3 and {"distinctive", "rollout"} <= set(trust["maps"])
    assert (trained / "run/figures/faithfulness.png").is_file()
    session = begin_with_trained("", {"preset": "demo", "run_dir": "run"}, PARAMS)
    assert known_of_model(session)["maps"] == trust["sentences"] == in_sentences(trust)
    (trained / "run/explained/faithfulness.json").write_text(json.dumps(trust | {"weights": "of another training"}))
    assert known_of_model(session)["maps"] == [NO_MAPS]


def images_of(trained):
    return sorted((trained / "runs/scratch").glob("drawn_twins*/test/*/*.png"))


def test_two_images_are_explained_without_any_data(trained, capsys):
    images = images_of(trained)
    assert explain("--images", images[0], images[9]) == 0
    printed = capsys.readouterr().out
    assert "score " in printed and "undecided" in printed
    (file,) = (Path(line.strip()) for line in printed.splitlines() if line.endswith("_stats.json"))
    found = json.loads(file.read_text())
    assert found["images"] == [str(images[0]), str(images[9])]
    assert found["data"] == "images given, model trained on SYNTHETIC"


def test_lists_of_pairs_are_compared(trained, capsys, tmp_path):
    images = images_of(trained)  # 8 of each person, 16 of each family
    same, twins = tmp_path / "same.txt", tmp_path / "twins.txt"
    same.write_text("\n".join(f"{images[16 * k]},{images[16 * k + 1]}" for k in range(3)))
    twins.write_text("\n".join(f"{images[16 * k + j]},{images[16 * k + 8]}" for k in range(3) for j in range(2)))
    own = [trained / "run/explained/comparison.json", *(trained / "run/figures").glob("*.png")]
    before = {file: file.read_bytes() for file in own}
    assert explain("--same", same, "--twins", twins) == 0
    folder = trained / "run/explained/lists" / f"{tmp_path.name}_same_{tmp_path.name}_twins"
    found = json.loads((folder / "comparison.json").read_text())
    assert (folder / "comparison_what_tells_them_apart.png").is_file()
    assert {file: file.read_bytes() for file in before} == before  # the run's own comparison is untouched
    assert found["pairs"] == {"same": 3, "twins": 6} and found["families"] == {"same": 3, "twins": 3, "both": 3}
    assert "left cheek" in capsys.readouterr().out


def test_what_a_model_cannot_do_is_said_before_its_verdict(trained, capsys, monkeypatch):
    monkeypatch.setattr(command, "write_view", lambda *_: [])  # no pictures, which take long
    weights = read_sums(trained / BEST)["model.safetensors"]
    report = trained / "run/report.json"
    sure, unsure, other = "not shown to be better than guessing", "No likelihood ratio", "of another model"
    for eer, of, said in ((0.6, weights, True), (0.1, weights, False), (0.6, other, False), (None, weights, False)):
        report.write_text(json.dumps({"weights": of, "metrics": {"eer": {"high": eer}}}))
        assert explain("--images", images_of(trained)[0], images_of(trained)[8]) == 0
        printed = capsys.readouterr().out
        before = printed[: printed.index("score ")]
        assert (sure in before) == said and "drawn faces only" in before and unsure in before
    report.write_text("{")
    assert explain("--images", images_of(trained)[0], images_of(trained)[8]) == 0
    assert "report.json" in capsys.readouterr().out.split("score ")[0]
    report.unlink()


def test_a_pair_in_both_lists_is_refused(trained, capsys, tmp_path):
    images = images_of(trained)
    same, twins = tmp_path / "same.txt", tmp_path / "twins.txt"
    same.write_text(f"{images[0]},{images[1]}")
    twins.write_text(f"{images[1]},{images[0]}")
    assert explain("--same", same, "--twins", twins) == 1
    assert "1 pair in both lists, first " in capsys.readouterr().err
    assert explain("--same", same, "--twins", same) == 1


def lists_of(folder, **pairs):
    """The options that name two lists of pairs."""
    for name, lines in pairs.items():
        (folder / f"{name}.txt").write_text("\n".join(f"{a},{b}" for a, b in lines))
    return ["--same", folder / "same.txt", "--twins", folder / "twins.txt"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda face: Image.new("RGB", face.size), "made.png is of one colour: it shows no face."),
        (lambda face: face.point(lambda value: 100 + value // 64), "made.png has almost no contrast"),
        (lambda face: face, "are one file or its copy: give two pictures."),
        (lambda face: face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "have the same pixels, mirrored"),
    ],
)
def test_lists_go_through_the_gate(trained, capsys, tmp_path, make, reason):
    images = images_of(trained)
    if make(Image.open(images[1])) == Image.open(images[1]):
        shutil.copy(images[1], tmp_path / "made.png")
    else:
        make(Image.open(images[1]).convert("RGB")).save(tmp_path / "made.png")
    lists = lists_of(tmp_path, same=[(images[0], images[1])], twins=[(images[0], images[8]), (images[1], "made.png")])
    assert explain(*lists) == 1
    printed = capsys.readouterr()
    assert "No comparison: " in printed.err and reason in printed.err and "Take them out of the lists." in printed.err
    assert not (trained / "run/explained/lists" / f"{tmp_path.name}_same_{tmp_path.name}_twins").exists()


def test_doubts_about_listed_pictures_are_said_and_kept(trained, capsys, tmp_path):
    images = images_of(trained)
    for number in range(7):
        Image.open(images[number]).resize((60, 40)).save(tmp_path / f"wide{number}.png")
    Image.open(images[0]).resize((64, 64)).save(tmp_path / "again.png")
    same = [(images[0], "again.png"), *((images[7], f"wide{number}.png") for number in range(7))]
    assert explain(*lists_of(tmp_path, same=same, twins=[(images[0], images[8])])) == 0
    printed = capsys.readouterr().out
    folder = trained / "run/explained/lists" / f"{tmp_path.name}_same_{tmp_path.name}_twins"
    notes = json.loads((folder / "comparison.json").read_text())["notes"]
    assert "look like the same photograph saved twice" in notes[0] and notes[0] in printed
    assert (
        sum("is not square: 60 x 40 px" in note for note in notes) == 7 and notes[-1] not in printed.split("And ")[1:]
    )
    assert re.search(r"^And \d+ more\.$", printed, re.M)


def test_a_copy_in_the_other_list_is_refused(trained, capsys, tmp_path):
    images = images_of(trained)
    shutil.copy(images[1], tmp_path / "copy.png")
    assert explain(*lists_of(tmp_path, same=[(images[0], images[1])], twins=[("copy.png", images[0])])) == 1
    assert "1 pair in both lists, first " in capsys.readouterr().err


def test_pictures_that_cannot_be_compared_have_no_verdict_and_no_files(trained, capsys, tmp_path):
    image = images_of(trained)[0]
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    shutil.copy(image, tmp_path / "copy.png")
    for name, reason in (("black.png", "is of one colour: it shows no face"), ("copy.png", "are one file or its copy")):
        assert explain("--images", image, tmp_path / name) == 1
        printed = capsys.readouterr()
        assert "No verdict: " in printed.err and reason in printed.err and "score" not in printed.out
    assert not [*(trained / "run/explained/images").glob("*copy*"), *(trained / "run/explained/images").glob("*black*")]


def test_doubts_are_said_before_the_score(trained, capsys, tmp_path):
    learnt = sorted((trained / "runs/scratch").glob("drawn_twins*/train/*/*.png"))
    run = RunFolder(trained / "run")
    known = next(file for file in learnt if file.parent.name in run.people())
    other = next(file for file in learnt if file.parent.name not in run.people())
    shutil.copy(known, tmp_path / "holiday.png")
    Image.open(other).resize((60, 40)).save(tmp_path / "wide.png")
    assert explain("--images", tmp_path / "holiday.png", tmp_path / "wide.png") == 0
    printed = capsys.readouterr().out
    for doubt in ("holiday.png is an image that the model was trained on", "wide.png is not square: 60 x 40 px"):
        assert 0 < printed.index(doubt) < printed.index("\nscore ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "none.png", "none.png"], "--images none.png: there is no such file"),
        (["--images", "run/config.json", "run/config.json"], "config.json: not an image"),
        (["--same", "run/config.json"], "--same and --twins are lists to be compared: give both"),
        (["--same", "none.txt", "--twins", "none.txt"], "--same none.txt: there is no such file"),
        (["-p", "pairs_per_family", "0"], "pairs_per_family=0: takes 1 to 1000"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(capsys, arguments, sentence):
    assert explain(*arguments) == 1
    assert sentence in capsys.readouterr().err


def test_before_an_evaluation_scores_have_no_verdict(trained, capsys):
    evaluated = (trained / BEST).rename(trained / "aside")
    shutil.copytree(evaluated, trained / BEST)
    (trained / BEST / "decision.json").unlink()
    seal(trained / BEST)
    images = images_of(trained)
    try:
        assert explain("--images", images[0], images[1]) == 0
        assert "decision.json, so scores come without a verdict: run evaluate first" in capsys.readouterr().out
    finally:
        shutil.rmtree(trained / BEST)
        evaluated.rename(trained / BEST)


# ---- sensitivity: the same run


@pytest.fixture
def few_marks(monkeypatch):
    monkeypatch.setattr(limit, "DRAWS", 5)
    monkeypatch.setattr(limit, "DIAMETERS", (0.2, 0.6))


def test_the_limit_of_detection_of_the_test_families(trained, capsys, few_marks):
    assert main(["sensitivity", "run"]) == 0
    result = json.loads((trained / "run" / "sensitivity.json").read_text())
    assert result["data"] == "SYNTHETIC" and result["families"] == 3 and result["people"] == 6
    assert "verdict" in result
    assert (trained / "run/figures/sensitivity.png").is_file()
    assert "A single mark, 60 % darker than the skin, is seen in" in capsys.readouterr().out
    session = begin_with_trained("", {"preset": "demo", "run_dir": "run"}, PARAMS)
    assert known_of_model(session)["sensitivity"] == result["sentences"]
    (trained / "run/sensitivity.json").write_text(json.dumps(result | {"weights": "of another training"}))
    assert "sensitivity" not in known_of_model(session)


def test_the_report_is_told_of_the_validated_range_of_the_same_weights(trained):
    session = begin_with_trained("", {"preset": "demo", "run_dir": "run"}, PARAMS)
    measured = {"about": "Measured on 9 validation images.", "limits": {"sharpness": {"low": 0.25}}}
    session.folder.range.write_text(json.dumps(measured | {"weights": "of another training"}))
    assert known_of_model(session)["images"] == NO_RANGE
    weights = read_sums(session.trained)["model.safetensors"]
    session.folder.range.write_text(json.dumps(measured | {"weights": weights}))
    assert known_of_model(session)["images"] == (
        "Validated range of images: sharpness at least 0.25. Measured on 9 validation images."
    )


def test_the_limit_of_detection_on_given_images(trained, capsys, few_marks):
    test = next(trained.glob("runs/scratch/drawn_twins*/test"))
    for person in sorted(test.iterdir())[:3]:
        shutil.copytree(person, trained / "people" / person.name)
    assert main(["sensitivity", "run", "--images", str(trained / "people")]) == 0
    result = json.loads((trained / "run/explained/images/sensitivity.json").read_text())
    assert result["families"] == result["people"] == 3
    assert result["data"] == "images given, model trained on SYNTHETIC"
    shutil.rmtree(next((trained / "people").iterdir()))
    assert main(["sensitivity", "run", "--images", str(trained / "people")]) == 1
    assert "2 folders with two images or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sensitivity", "run", "--images", "nowhere"], "--images nowhere: there is no such folder"),
        (["sensitivity", "run", "-p", "run_dir", "run"], "run_dir is given more than once"),
        (["sensitivity", "nowhere"], "no trained model in"),
    ],
)
def test_sensitivity_refuses_at_once(arguments, reason, capsys):
    assert main(arguments) == 1
    assert reason in capsys.readouterr().err
