"""How notebooks begin: preset and folder are chosen, and a trained run is taken up with its parameters."""

import base64
import dataclasses
import json
from pathlib import Path

import IPython.display
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from dcal_core.commands import chosen, session, start
from dcal_core.commands.chosen import choose_preset
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.commands.start import begin_training
from dcal_core.config.recipes import check_given, load, presets
from dcal_core.data.splits import Split, TwinData
from dcal_core.data.twins import DataError, TwinIndex
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError
from dcal_core.training.checkpoints import Progress, Run

PARAMS = Path(__file__).parents[2] / "params"


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    monkeypatch.setattr(chosen, "gpu_verdict", lambda: (False, "no GPU"))


def trained(folder: Path, preset: str = "demo", **given) -> Path:
    """A run with a best model in a folder; returns that model's."""
    config = load(preset, PARAMS, given)
    run, model = Run(RunFolder(folder), config, "the people and images"), nn.Linear(2, 2)
    model.architecture = {"backbone": "a linear layer"}
    run.create()
    run.save_model(run.folder.best, model, epoch=1)
    progress = Progress(batch=3, finished=True)
    modules = {"model": model, "objective": nn.Linear(1, 1)}
    run.save_last(modules, torch.optim.SGD(model.parameters()), None, progress, {})
    return folder / "checkpoints" / "best"


def attach(folder: Path) -> Path:
    """A place below Kaggle's inputs as deep as notebook outputs lie."""
    return folder / "input" / "notebooks" / "owner" / "train" / "runs" / "demo"


# ---- training


@pytest.mark.parametrize(
    ("gpu", "data", "preset"),
    [(True, True, "kaggle_t4x2"), (True, False, "demo"), (False, True, "demo"), (False, False, "demo")],
)
def test_auto_takes_the_large_preset_only_with_gpu_and_data(monkeypatch, tmp_path, gpu, data, preset):
    monkeypatch.setattr(chosen, "gpu_verdict", lambda: (gpu, ""))
    monkeypatch.setattr(chosen, "find_data", lambda given: tmp_path if data and given == "faces" else None)
    assert choose_preset("auto", "faces", trains=True) == choose_preset("auto", "faces") == preset
    assert preset in presets(PARAMS)
    assert choose_preset("local_2080ti", "faces") == "local_2080ti"


@pytest.mark.parametrize(("data", "preset"), [(True, "kaggle_t4x2"), (False, "demo")])
def test_on_kaggle_auto_is_what_training_with_a_gpu_has_chosen_also_without_one(monkeypatch, tmp_path, data, preset):
    monkeypatch.setattr(chosen, "gpu_verdict", lambda: (False, ""))
    monkeypatch.setattr(chosen, "on_kaggle", lambda: True)
    monkeypatch.setattr(chosen, "find_data", lambda given: tmp_path if data else None)
    assert choose_preset("auto", "") == preset
    assert choose_preset("auto", "", trains=True) == "demo"


def test_training_begins_with_the_demo_where_there_is_nothing(capsys, tmp_path):
    begun = begin_training("Train a twin verifier", {"preset": "auto"}, PARAMS)
    assert begun.config == load("demo", PARAMS, {})
    assert begun.folder.path == tmp_path / "runs" / "demo" and begun.trained is None
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "Train a twin verifier (no data found: on drawn twins, SYNTHETIC)"
        and f"torch {torch.__version__}" in lines[1]
    )
    assert lines[-2] == "Preset demo, seed 0, time budget 11 h"
    assert lines[-1] == f"A new run in {tmp_path / 'runs/demo'}"


def test_training_takes_what_is_given(tmp_path):
    given = {"preset": "demo", "seed": "3", "resume": "false", "run_dir": "there", "data_root": ""}
    begun = begin_training("Train", given, PARAMS)
    assert begun.config == load("demo", PARAMS, {"seed": 3, "resume": False, "run_dir": "there"})
    assert begun.folder.path == tmp_path / "there"


def test_beginning_leaves_nothing_but_a_lock_behind(tmp_path):
    begun = begin_training("Train", {"preset": "demo"}, PARAMS)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [begun.folder.lock_file]
    assert not begun.folder.exists  # no run yet


@pytest.mark.parametrize("begin", [begin_training, begin_with_trained])
def test_an_unknown_preset_or_parameter_is_refused(begin, tmp_path):
    with pytest.raises(ConfigError, match="takes one of auto, adaface_demo, .*, demo"):
        begin("Title", {"preset": "demoo"}, PARAMS)
    trained(tmp_path / "runs" / "demo")
    with pytest.raises(ConfigError, match="did you mean resume?"):
        begin("Title", {"preset": "demo", "resumee": "true"}, PARAMS)


# ---- a trained run


def test_a_trained_run_is_taken_up_with_its_own_parameters(tmp_path, capsys):
    best = trained(tmp_path / "runs" / "demo", epochs=3, lr=1e-3, synthetic_families=50, encode_batch=7)
    begun = begin_with_trained("Evaluate", {"preset": "auto", "data_root": "", "run_dir": ""}, PARAMS)
    assert begun.trained == best and begun.folder.path == tmp_path / "runs" / "demo"
    assert begun.config == load("demo", PARAMS, dict(epochs=3, lr=1e-3, synthetic_families=50, encode_batch=7))
    out = capsys.readouterr().out
    assert out.startswith("Evaluate\n") and str(best) in out


def test_what_cannot_change_the_weights_may_be_given(tmp_path):
    trained(tmp_path / "runs" / "demo", encode_batch=7)
    begun = begin_with_trained("Evaluate", {"preset": "demo", "encode_batch": "9", "bootstrap_draws": 200}, PARAMS)
    assert (begun.config.encode_batch, begun.config.bootstrap_draws) == (9, 200)


def test_a_decisive_parameter_that_differs_is_refused_and_one_that_agrees_is_not(tmp_path):
    trained(tmp_path / "runs" / "demo", seed=3)
    with pytest.raises(ConfigError, match=r"seed=4: .*was trained with 3; leave it out"):
        begin_with_trained("Evaluate", {"preset": "demo", "seed": "4"}, PARAMS)
    assert begin_with_trained("Evaluate", {"preset": "demo", "seed": "3"}, PARAMS).config.seed == 3


def test_a_trained_run_brings_the_parameters_of_its_own_recipe(tmp_path, refused):
    trained(tmp_path / "run", "adaface_demo", width=24)
    given = {"preset": "demo", "run_dir": str(tmp_path / "run")}  # the demo is of another recipe
    assert begin_with_trained("Evaluate", given, PARAMS).config == load(
        "adaface_demo", PARAMS, {"width": 24, "run_dir": str(tmp_path / "run")}
    )
    check_given(given | {"width": "24"}, PARAMS)
    assert begin_with_trained("Evaluate", given | {"width": "24"}, PARAMS).config.width == 24
    with refused(ConfigError, "width=16", "was trained with 24", "leave it out"):
        begin_with_trained("Evaluate", given | {"width": "16"}, PARAMS)
    owners = "it belongs to adaface and oaml: leave it out"
    with refused(ConfigError, "width='24'", f"without effect in recipe=dcal, {owners}"):
        begin_training("Train", given | {"width": "24"}, PARAMS)  # the preset says what is trained
    with refused(ConfigError, "pwca_prob=0.5", "without effect in recipe=adaface, it belongs to dcal: leave it out"):
        begin_with_trained("Evaluate", given | {"pwca_prob": 0.5}, PARAMS)


def test_a_parameter_that_came_later_than_the_run_has_its_default(tmp_path):
    best = trained(tmp_path / "runs" / "demo")
    file = best.parents[1] / "config.json"
    saved = json.loads(file.read_text())
    del saved["flip_prob"]
    file.write_text(json.dumps(saved | {"a_parameter_of_old": 1}))
    assert begin_with_trained("Evaluate", {"preset": "demo"}, PARAMS).config.flip_prob == 0.0


def test_an_attached_run_is_found_and_its_results_go_to_the_own_folder(tmp_path):
    best = trained(attach(tmp_path), seed=3)
    begun = begin_with_trained("Evaluate", {"preset": "demo", "run_dir": ""}, PARAMS)
    assert begun.trained == best and begun.config.seed == 3
    assert begun.folder.path == tmp_path / "runs" / "demo"


def test_the_own_run_comes_before_an_attached_one(tmp_path):
    trained(attach(tmp_path), seed=3)
    best = trained(tmp_path / "runs" / "demo", seed=4)
    assert begin_with_trained("Evaluate", {"preset": "demo"}, PARAMS).trained == best


def test_without_a_trained_run_it_is_said_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="no trained model in .*runs/demo: train one first, or correct run_dir"):
        begin_with_trained("Evaluate", {"preset": "demo"}, PARAMS)


# ---- figures


def test_a_figure_is_kept_as_png_and_shown_from_that_file(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    Session(load("demo", PARAMS, {}), RunFolder(tmp_path / "run")).show(figure, "curves")
    kept = (tmp_path / "run" / "figures" / "curves.png").read_bytes()
    assert kept.startswith(b"\x89PNG\r\n\x1a\n")
    (data,) = shown
    assert base64.b64decode(data["image/png"]) == kept
    assert data["text/plain"] == f"Picture: {tmp_path / 'run' / 'figures' / 'curves.png'}"


def test_a_session_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Session(load("demo", PARAMS, {}), RunFolder(Path("run"))).folder = RunFolder(Path("other"))


# ---- the data that a trained model is tried on


def tried_on(monkeypatch, tmp_path, label: str, people: tuple[str, ...], trained_label: str, trained_people: list[str]):
    """What a session opens for a model trained on some people, where some people are found."""
    best = trained(tmp_path / "run")
    Run(RunFolder(tmp_path / "run"), load("demo", PARAMS, {}), "x").remember(trained_label, trained_people)
    families = np.zeros(len(people), int)
    paths = tuple(f"{person}/0.png" for person in people)
    index = TwinIndex("test", people, (people,), paths, np.arange(len(people)), families)
    found = TwinData(tmp_path, label, {"test": Split(index, None)})
    monkeypatch.setattr(session, "open_data", lambda config, names: found)
    monkeypatch.setattr(session, "find_root", lambda config: None if found.synthetic else tmp_path)
    return Session(load("demo", PARAMS, {}), RunFolder(tmp_path / "run"), best).open_data(("test",))


def test_unseen_people_are_opened_as_they_are(monkeypatch, tmp_path):
    data = tried_on(monkeypatch, tmp_path, "nd-twin", ("1", "2"), "nd-twin", ["3", "4"])
    assert data.label == "nd-twin" and data["test"].index.people == ("1", "2")


def test_people_that_were_trained_on_are_refused(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="1 people of the test split, first 2, were trained on"):
        tried_on(monkeypatch, tmp_path, "nd-twin", ("1", "2"), "nd-twin", ["2", "3"])


def test_drawn_twins_do_not_stand_in_for_the_data_that_was_trained_on(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="trained on nd-twin, which is not to be found"):
        tried_on(monkeypatch, tmp_path, "SYNTHETIC", ("1", "2"), "nd-twin", ["3"])


def test_a_model_trained_on_drawn_twins_says_so_on_real_ones(monkeypatch, tmp_path):
    data = tried_on(monkeypatch, tmp_path, "nd-twin", ("1", "2"), "SYNTHETIC", ["3"])
    assert data.label == "nd-twin, model trained on SYNTHETIC" and not data.synthetic


def test_an_empty_parameter_leaves_that_of_the_run(monkeypatch, tmp_path):
    trained(tmp_path / "run", data_root="photographs")
    given = {"preset": "demo", "run_dir": str(tmp_path / "run"), "data_root": ""}
    assert begin_with_trained("Evaluate", given, PARAMS).config.data_root == "photographs"


@pytest.mark.parametrize("resume_from", ["", "elsewhere"])
def test_other_parameters_are_refused_before_the_data_is_read(tmp_path, refused, resume_from):
    trained(tmp_path / "run")
    given = {"preset": "demo", "run_dir": str(tmp_path / "run"), "lr": 0.5, "resume_from": resume_from}
    with refused(ConfigError, "lr: 0.002 then, 0.5 now", f"resume_from={tmp_path / 'run'}", "resume=false", "run_dir"):
        begin_training("Train", given, PARAMS)


@pytest.mark.parametrize("place", [".", "checkpoints/best", "checkpoints/last/00000003"])
def test_a_new_run_may_start_from_an_old_one_of_other_parameters(monkeypatch, tmp_path, place):
    monkeypatch.setattr(start, "refuse_stranger", lambda ours, folder: None)  # the run there is a linear layer's
    trained(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    given = {"preset": "demo", "run_dir": "run", "lr": "0.5", "resume_from": f"run/{place}"}
    begun = begin_training("Train", given, PARAMS)
    assert (
        begun.config.resume_from == f"run/{place}" and begun.config.lr == 0.5 and begun.folder.path == tmp_path / "run"
    )
    assert sorted(tmp_path.rglob("*")) == sorted([*before, begun.folder.lock_file])  # moved once its weights fit


def test_resume_false_forbids_what_resume_from_asks_for_and_moves_nothing(tmp_path, refused):
    trained(tmp_path / "run")
    given = {"preset": "demo", "run_dir": "run", "resume": "false", "resume_from": "run"}
    with refused(ConfigError, "resume_from", "resume=false", "leave one of them out"):
        begin_training("Train", given, PARAMS)
    assert (tmp_path / "run").is_dir() and not (tmp_path / "run.old1").exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{", b"\x80\x04\x95"])
def test_a_trained_run_whose_parameters_cannot_be_read_is_refused(tmp_path, refused, content):
    file = trained(tmp_path / "runs" / "demo").parents[1] / "config.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(DamagedError, file, "restore it"):
        begin_with_trained("Evaluate", {"preset": "demo"}, PARAMS)


@pytest.mark.parametrize("content", ["{}", '{"data": 1, "people": []}', '{"data": "faces", "people": "12"}', "[]", "{"])
def test_what_cannot_say_whom_the_model_was_trained_on_is_refused(tmp_path, refused, content):
    best = trained(tmp_path / "run")
    (tmp_path / "run" / "trained_on.json").write_text(content)
    begun = Session(load("demo", PARAMS, {}), RunFolder(tmp_path / "run"), best)
    with refused(DamagedError, tmp_path / "run" / "trained_on.json", "is damaged"):
        begun.open_data(("test",))


def test_a_model_without_word_of_whom_it_was_trained_on_is_refused(tmp_path, refused):
    best = trained(tmp_path / "run")
    with refused(DataError, tmp_path / "run" / "trained_on.json", "attach the whole run"):
        Session(load("demo", PARAMS, {}), RunFolder(tmp_path / "run"), best).open_data(("test",))


def test_the_size_of_what_can_be_made_again_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "scratch_root", lambda: tmp_path / "scratch")
    assert session.scratch_size().startswith("Drawn faces and decoded images: 0 MB in ")  # nothing there yet
    for name in ("decoded/a.npy", "drawn_twins/train/b.png"):
        (tmp_path / "scratch" / name).parent.mkdir(parents=True)
        (tmp_path / "scratch" / name).write_bytes(bytes(600_000))
    (tmp_path / "scratch/gone").symlink_to(tmp_path / "nowhere")
    said = "used by evaluation too, and made again if deleted."
    assert session.scratch_size() == f"Drawn faces and decoded images: 1 MB in {tmp_path / 'scratch'}: {said}"


# ---- aligned or not


@pytest.mark.parametrize("label", ["faces", "faces_aligned_112"])
@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("then", [False, True, None])
def test_a_model_of_aligned_faces_on_raw_images_or_the_other_way_round_says_so(tmp_path, monkeypatch, label, now, then):
    best = trained(tmp_path / "run")
    described = {"data": label, "people": ["1"]} | ({} if then is None else {"aligned": then})  # None: an old run
    RunFolder(tmp_path / "run").trained_on.write_text(json.dumps(described))
    if now:
        (tmp_path / "test_aligned_images").mkdir()
        (tmp_path / "test_aligned_images" / "alignment.json").write_text("{}")
    monkeypatch.setattr(session, "find_root", lambda config: tmp_path)
    monkeypatch.setattr(session, "open_data", lambda config, names: TwinData(tmp_path, "mine", {}))
    data = Session(load("demo", PARAMS, {}), RunFolder(tmp_path / "run"), best).open_data(("test",))
    was = label.endswith("112") if then is None else then
    assert (data.label == "mine") == (was == now)
    if was != now:
        was_form = "faces that prepare aligned" if was else "images that prepare did not align"
        assert data.label == f"mine, model trained on {was_form}"
