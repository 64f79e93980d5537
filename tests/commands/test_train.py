"""Training from end to end on a few drawn twins: validation, going on, other weights, several processes, a shell."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from face_sets import picture, write_bin
from safetensors.torch import load_file

from dcal_core.commands import chosen, train
from dcal_core.commands.session import Session
from dcal_core.commands.train import Unfinished, leave_results, main, tell_outcome, train_run, validator
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import load
from dcal_core.data.splits import open_data
from dcal_core.data.twins import DataError
from dcal_core.distributed import ENDED, OUTCOMES, LaunchError, read_outcomes
from dcal_core.errors import ConfigError
from dcal_core.models.files import load_model
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.recipes.dcal import DCALRecipe
from dcal_core.runs import RunFolder
from dcal_core.training import loop, task
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.loop import Diverged, MemoryShort
from dcal_core.verification.benchmarks.ten_folds import fold_pairs, open_pair_sets
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.protocol import score_pairs, twin_pairs

CONFIG = tiny.dcal_config(
    synthetic_families=12,
    synthetic_images=3,
    validation_share=0.25,
    families_per_batch=3,
    steps_per_epoch=2,
    epochs=2,
    encode_batch=5,  # no divisor of the number of images
)


@pytest.fixture(scope="module")
def data(draw_apart):
    """Train and validation splits of twins drawn once, without worker processes."""
    with pytest.MonkeyPatch.context() as patched:
        draw_apart(patched)
        return open_data(CONFIG.replace(synthetic_test_families=2), ("train", "validation"))


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


def changed(**values) -> DCALConfig:
    return CONFIG.replace(**values)


def test_validation_scores_all_pairs_of_held_out_families(data):
    model, split = tiny.model_of(CONFIG).train(), data["validation"]
    figures = validator(recipe_of(CONFIG), split)(model)
    pairs = twin_pairs(split.index)
    assert len(pairs) == 3 * 15 and pairs.genuine.sum() == 3 * 6  # 3 families of 6 images
    embeddings = encode_images(model, split.images, CONFIG.encode_batch, progress=False)
    scores = score_pairs(model, embeddings, pairs)
    eer, auc = equal_error_rate(scores, pairs.genuine)[0], roc_auc(scores, pairs.genuine)
    assert figures == pytest.approx({"eer": eer, "eer_low": 0.0, "auc": auc})  # too few families for an interval
    assert model.training and all(module.training for module in model.modules())


def test_validation_scores_the_pair_benchmarks_that_are_there(data, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 3))
    write_bin(tmp_path / "lfw.bin", [picture(*colour) for colour in images.tolist()], [True, False] * 10)
    config = changed(benchmarks_root=str(tmp_path), best_by="benchmarks")
    model = tiny.model_of(config)
    figures = validator(recipe_of(config), data["validation"])(model)
    sets = open_pair_sets({"LFW": tmp_path / "lfw.bin"}, config.image_size, tmp_path / "cache")
    features = encode_images(model, sets.images, 40, progress=False)
    accuracy = fold_pairs(model, features, sets)[0]["LFW"].right.mean()
    assert figures["benchmarks/LFW"] == figures["benchmarks"] == pytest.approx(accuracy) and "eer" in figures


def test_what_a_recipe_settles_comes_before_the_scores_and_into_the_figures(data):
    model, recipe, split = tiny.model_of(CONFIG), recipe_of(CONFIG), data["validation"]
    before = validator(recipe, split)(model)

    def settle(model, score, genuine, family):
        scores = score(model.readings[0])
        assert equal_error_rate(scores, genuine)[0] == before["eer"] and len(set(family)) == 3
        ways = model.compare, model.compare_pairs
        model.compare, model.compare_pairs = (lambda *pair, way=way: -way(*pair) for way in ways)  # from now on
        return {"kept": 7.0}

    recipe.settle = settle
    figures = validator(recipe, split)(model)
    assert figures["kept"] == 7.0 and figures["auc"] == pytest.approx(1 - before["auc"])


def test_a_run_trains_validates_and_leaves_a_model_of_those_figures(data, tmp_path):
    run, progress = train_run(CONFIG, RunFolder(tmp_path / "run"), data)
    assert progress.finished and progress.batch == 4
    logged = [line for line in run.history() if "validation/eer" in line]
    assert [line["epoch"] for line in logged] == [1, 2]
    best = min(logged, key=lambda line: line["validation/eer"])
    figures = validator(recipe_of(CONFIG), data["validation"])(load_model(run.folder.best))
    assert progress.best_eer == best["validation/eer"] == pytest.approx(figures["eer"])
    assert best["validation/auc"] == pytest.approx(figures["auc"])


def test_a_second_session_goes_on_and_ends_as_one_long_session_would(data, tmp_path):
    whole, _ = train_run(CONFIG, RunFolder(tmp_path / "whole"), data)
    stopped, progress = train_run(changed(time_budget_hours=0.0), RunFolder(tmp_path / "run"), data)
    assert not progress.finished and progress.batch == 1
    torch.manual_seed(99)  # another session has another past
    run, progress = train_run(CONFIG, RunFolder(tmp_path / "run"), data)
    assert progress.finished
    ends = [load_file(r.folder.saved[0] / "model.safetensors") for r in (whole, run)]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_attached_run_is_gone_on_with(data, tmp_path, capsys):
    train_run(
        changed(time_budget_hours=0.0), RunFolder(tmp_path / "input" / "notebooks" / "owner" / "train" / "demo"), data
    )
    run, progress = train_run(CONFIG, RunFolder(tmp_path / "run"), data)
    assert progress.finished and run.folder.path == tmp_path / "run"
    assert "attached run" in capsys.readouterr().out


# ---- from another run's weights


@pytest.fixture(scope="module")
def earlier(data, off_kaggle, tmp_path_factory):
    """A finished run, not to be changed; its earlier life saw two more people."""
    with pytest.MonkeyPatch.context() as patched:
        off_kaggle(patched, tmp_path_factory.mktemp("empty"))
        patched.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
        run, _ = train_run(changed(epochs=1), RunFolder(tmp_path_factory.mktemp("earlier") / "run"), data)
    run.remember("faces", [*data["train"].index.people, "from", "before"])
    return run.folder.path


def copied(earlier: Path, folder: Path) -> Path:
    return Path(shutil.copytree(earlier, folder))


def people_of(folder: Path) -> set[str]:
    return set(json.loads((folder / "trained_on.json").read_text())["people"])


def ends_alike(*folders: Path) -> bool:
    first, second = (load_file(RunFolder(folder).saved[0] / "model.safetensors") for folder in folders)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("place", ["", "checkpoints/best"])
def test_a_run_that_starts_from_another_ends_the_same_wherever_it_is_interrupted(data, tmp_path, earlier, place):
    config = changed(lr=1e-3, resume_from=str(earlier / place))
    whole, progress = train_run(config, RunFolder(tmp_path / "whole"), data)
    assert progress.finished and progress.batch == 4 and not ends_alike(whole.folder, earlier)
    own = copied(earlier, tmp_path / "run")
    config = changed(lr=1e-3, resume_from=str(own / place))
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "Trainer", interrupted)
        train_run(config, RunFolder(own), data)
    assert RunFolder(own).saved == [] and (tmp_path / "run.old1").is_dir()
    for hours in (0.0, CONFIG.time_budget_hours):
        torch.manual_seed(99)
        run, progress = train_run(config.replace(time_budget_hours=hours), RunFolder(own), data)
        assert people_of(own) == {*data["train"].index.people, "from", "before"}
    assert progress.finished and ends_alike(whole.folder, own) and not (tmp_path / "run.old2").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_people_who_were_trained_on_before_are_not_validated_on(data, tmp_path, earlier, refused):
    own, person = copied(earlier, tmp_path / "run"), data["validation"].index.people[3]
    (own / "trained_on.json").write_text(json.dumps({"data": "faces", "people": ["from", person]}))
    before = sorted(tmp_path.rglob("*"))
    for folder in (own, tmp_path / "new", own):  # and nothing is moved before that is found out
        with refused(ConfigError, f"resume_from={own}", f"1 of the people to validate on, first {person}", "seed"):
            train_run(changed(lr=1e-3, resume_from=str(own)), RunFolder(folder), data)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_model_with_another_part_takes_what_fits_from_the_named_run(data, tmp_path, earlier, capsys):
    run, progress = train_run(
        changed(glca_blocks=2, epochs=1, resume_from=str(earlier)), RunFolder(tmp_path / "run"), data
    )
    said = capsys.readouterr().out
    assert progress.finished and "  glca.1.attn.qkv.weight: missing" in said and "Advice: a lower lr" in said
    assert ": unexpected" not in said and ": reshaped" not in said
    assert load_model(run.folder.best).encode(torch.rand(1, 3, 32, 32)).parts["glca"].isfinite().all()


def test_a_model_that_is_too_different_is_refused_and_nothing_is_moved(data, tmp_path, earlier):
    own = copied(earlier, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    for folder in (own, tmp_path / "new", own):
        with pytest.raises(ConfigError, match=r"has \d+% of this model's weights, too little to start from"):
            train_run(changed(backbone="test_vit", resume_from=str(own)), RunFolder(folder), data)
        assert sorted(tmp_path.rglob("*")) == before


def test_the_initialisation_depends_on_the_seed_alone(data, tmp_path, monkeypatch):
    seen = []

    def keep(trainer):
        seen.append(trainer.model.vit.cls_token.detach().clone())

    monkeypatch.setattr(train.Trainer, "train", keep)
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        train_run(changed(seed=seed), RunFolder(tmp_path / str(number)), data)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_parameters_that_the_model_refuses_leave_no_run(data, tmp_path):
    with pytest.raises(ConfigError, match="3 blocks"):
        train_run(changed(pwca_last=4), RunFolder(tmp_path / "run"), data)
    assert not (tmp_path / "run").exists()


# ---- several processes


class Launched:
    """Stands in for torchrun: trains in this process as one of those that were launched, after some failures."""

    def __init__(self, monkeypatch, data, failures=()):
        self.monkeypatch, self.data, self.failures, self.configs = monkeypatch, data, list(failures), []
        monkeypatch.setattr(train, "launch", self)
        monkeypatch.setattr(train, "launched", lambda: False)
        monkeypatch.setattr(train, "gpu_verdict", lambda: (False, "no GPU"))

    def __call__(self, command, processes):
        assert command[:2] == ["train", "-f"] and len(command) == 3
        file = Path(command[2])
        config = load(file.stem, file.parent, {})
        assert processes == config.nproc
        self.configs.append(config)
        if self.failures:
            error = self.failures.pop(0)
            kind = type(error).__name__
            raise LaunchError(f"one of them failed: {kind}: {error}", kind, getattr(error, "values", {}), True)
        with self.monkeypatch.context() as patched:
            patched.setattr(train, "launched", lambda: True)
            train_run(config, RunFolder(Path(config.run_dir)), self.data)


def test_several_processes_train_the_run_that_is_then_here(data, tmp_path, monkeypatch):
    launched = Launched(monkeypatch, data)
    config = changed(nproc=3, run_dir="elsewhere", resume=False, lr=1e-3)
    run, progress = train_run(config, RunFolder(tmp_path / "some run.v2"), data)
    assert launched.configs == [config.replace(run_dir=str(tmp_path / "some run.v2"))]
    assert run.folder.path == tmp_path / "some run.v2" and (run.folder.best).is_dir()
    assert progress.finished and progress.batch == 4 and progress.best_eer < 1


def test_processes_short_of_memory_begin_again_with_smaller_parts(data, tmp_path, monkeypatch, capsys):
    config = changed(families_per_batch=6, nproc=3)
    parts = SimpleNamespace(batches=DCALRecipe(config).batches(data["train"]))
    with monkeypatch.context() as patched, pytest.raises(MemoryShort) as short:
        patched.setattr(loop, "world_size", lambda: 3)
        loop.Trainer.use_less_memory(parts)
    launched = Launched(monkeypatch, data, [short.value])
    _, progress = train_run(config, RunFolder(tmp_path / "run"), data)
    assert [config.accumulation for config in launched.configs] == [1, 2] and progress.finished
    assert "accumulation=2" in capsys.readouterr().out


def test_another_failure_of_a_process_is_passed_on(data, tmp_path, monkeypatch):
    launched = Launched(monkeypatch, data, [DataError("3 families give accumulation=2")])
    with pytest.raises(LaunchError, match="DataError: 3 families"):
        train_run(changed(nproc=3), RunFolder(tmp_path / "run"), data)
    assert len(launched.configs) == 1


def test_more_processes_than_gpus_are_refused(data, tmp_path, monkeypatch):
    launched = Launched(monkeypatch, data)
    monkeypatch.setattr(train, "gpu_verdict", lambda: (True, "2 x Tesla T4"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="nproc=3, one GPU each, but here is 2 x Tesla T4: lower it"):
        train_run(changed(nproc=3), RunFolder(tmp_path / "run"), data)
    assert not launched.configs


# ---- from a shell


@pytest.fixture
def shell(monkeypatch, data):
    """Lets the command train on the drawn twins at hand, which ends at once and leaves nothing; returns what was
    trained."""
    monkeypatch.setattr(train, "open_data", lambda config, names, check: data)
    monkeypatch.setattr(chosen, "gpu_verdict", lambda: (False, "no GPU"))
    seen = []

    def train_run(config, folder, given):
        seen.append((config, folder.path, given))
        return Run(folder, config, "x"), Progress(batch=4, best_eer=0.125, finished=True)

    monkeypatch.setattr(train, "train_run", train_run)
    monkeypatch.setattr(train, "leave_results", lambda *given: None)
    return seen


def test_the_command_trains_a_preset_with_the_given_parameters(shell, data, tmp_path, capsys):
    assert main(["--preset", "demo", "-p", "epochs", "3", "-p", "run_dir", "here"]) == 0
    params = Path(train.__file__).parents[2] / "params"
    assert shell == [(load("demo", params, {"epochs": 3, "run_dir": "here"}), tmp_path / "here", data)]
    last = capsys.readouterr().out.splitlines()[-1]
    assert "12.5%" in last and data.label in last and str(tmp_path / "here") in last


def test_the_command_says_in_a_line_that_nothing_was_learnt(shell, tmp_path, monkeypatch, capsys):
    stuck = Progress(batch=400, best_eer=0.489, finished=True, at_chance=True)
    monkeypatch.setattr(train, "train_run", lambda config, folder, data: (Run(folder, config, "x"), stuck))
    assert main(["--preset", "demo", "-p", "lr", "1e-5"]) == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("This run does not learn: after 400 batches") and "lr=1e-3 (now 1e-05)" in line
    assert last.startswith("Best validation EER 48.9%")


@pytest.mark.parametrize(("finished", "process", "leaves"), [(True, 0, 1), (False, 0, 0), (True, 1, 0)])
def test_the_command_leaves_results_once_and_when_nothing_is_left_to_train(
    shell, data, tmp_path, monkeypatch, finished, process, leaves
):
    run, left = Run(RunFolder(tmp_path / "run"), CONFIG, "x"), []
    monkeypatch.setattr(train, "train_run", lambda *given: (run, Progress(finished=finished)))
    monkeypatch.setattr(train, "leave_results", lambda *given: left.append(given[1:]))
    monkeypatch.setattr(train, "rank", lambda: process)
    assert main(["--preset", "demo"]) == 0
    assert left == [(run, data.label)] * leaves


def test_a_recipe_that_no_other_project_reads_leaves_a_log_and_curves(data, tmp_path):
    run, _ = train_run(changed(epochs=1), RunFolder(tmp_path / "run"), data)
    left = leave_results(Session(CONFIG, run.folder), run, data.label)
    assert left["exported"] == [] and not run.folder.exports.exists()
    (epoch,) = json.loads(left["training_log"].read_text())["epochs"]
    assert epoch["batch"] == 2 and epoch["validation/eer"] == run.history()[-1]["validation/eer"]
    assert left["loss_curves"].is_file() and left["validation_curves"].is_file()


def test_a_run_in_two_sessions_has_one_curve_in_tensorboard(data, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, folder = changed(tracker="tensorboard", steps_per_epoch=4), RunFolder(tmp_path / "run")
    _, progress = train_run(config.replace(time_budget_hours=0), folder, data)
    assert not progress.finished
    run, _ = train_run(config, folder, data)
    events = reader.EventAccumulator(str(folder.tensorboard))
    events.Reload()
    for name in ("loss", "lr", "validation/eer"):
        kept = [(row["batch"], pytest.approx(row[name])) for row in run.history() if name in row]
        assert kept and [(one.step, one.value) for one in events.Scalars(name)] == kept


PLACES = {  # whether somebody is there, whether it is Kaggle
    "in Jupyter": (True, False),
    "on Kaggle": (True, True),
    "by Save & Run All": (False, True),
    "by papermill": (False, False),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("finished", [False, True])
def test_what_training_has_come_to_is_told_so_that_it_is_read(monkeypatch, capsys, tmp_path, place, finished):
    somebody, kaggle = PLACES[place]
    monkeypatch.setattr(train, "is_interactive", lambda: somebody)
    monkeypatch.setattr(train, "on_kaggle", lambda: kaggle)
    run = Run(RunFolder(tmp_path / "run"), CONFIG, "x")
    progress = Progress(batch=1, finished=finished, best_eer=0.25 if finished else float("inf"))
    if place == "by papermill" and not finished:  # its console shows nothing but errors
        with pytest.raises(Unfinished) as error:
            tell_outcome(run, progress, "SYNTHETIC")
        said = str(error.value)
    else:
        tell_outcome(run, progress, "SYNTHETIC")
        said = capsys.readouterr().out
    assert str(tmp_path / "run") in said and "inf" not in said and "1 batches" not in said
    assert ("25.0% (SYNTHETIC)" in said, "none yet" in said, "NOT finished" in said) == (finished, *[not finished] * 2)
    assert ("Add Input" in said) == (kaggle and not finished)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_has_learnt_nothing_says_so_at_its_end(monkeypatch, capsys, tmp_path, place, finished):
    monkeypatch.setattr(train, "is_interactive", lambda: PLACES[place][0])
    monkeypatch.setattr(train, "on_kaggle", lambda: PLACES[place][1])
    run = Run(RunFolder(tmp_path / "run"), CONFIG, "x")
    said = []
    for at_chance in (True, False):
        progress = Progress(batch=400, finished=finished, best_eer=0.489, at_chance=at_chance)
        try:
            tell_outcome(run, progress, "SYNTHETIC")
            said.append(capsys.readouterr().out)
        except Unfinished as error:
            said.append(f"{error}\n")
    first, rest = said[0].split("\n", maxsplit=1)
    assert rest == said[1] and "48.9% (SYNTHETIC)" in rest
    assert "does not learn" in first and "the best EER on held-out families is 48.9%" in first and "readout=" in first


# ---- training that diverges


def diverges(trainer):
    """Stands in for `Trainer.train`: an epoch with its checkpoint, then steps without a finite loss."""
    trainer.budget = SimpleNamespace(used_up=lambda: True, need=lambda seconds: None)
    TRAIN(trainer)
    raise Diverged("more than max_skipped=20 steps in a row had no finite loss: lower lr")


TRAIN = loop.Trainer.train


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_diverges_ends_with_its_curves_and_one_sentence(data, tmp_path, monkeypatch, capsys, place):
    monkeypatch.setattr(loop.Trainer, "train", diverges)
    session = Session(CONFIG, RunFolder(tmp_path / "run"))
    run, progress = train_run(session.config, session.folder, data)
    assert progress.batch == 1 and not progress.finished
    left = leave_results(session, run, data.label)
    assert left["loss_curves"].is_file() and left["validation_curves"].is_file() and left["exported"] == []
    somebody, kaggle = PLACES[place]
    monkeypatch.setattr(train, "is_interactive", lambda: somebody)
    monkeypatch.setattr(train, "on_kaggle", lambda: kaggle)
    capsys.readouterr()
    if place == "by papermill":
        with pytest.raises(Diverged, match="had no finite loss: lower lr"):
            tell_outcome(run, progress, data.label)
    else:
        tell_outcome(run, progress, data.label)
        assert capsys.readouterr().out == f"{run.diverged}\n"


def test_a_run_that_diverges_before_its_first_checkpoint_has_none(data, tmp_path, monkeypatch):
    def at_once(trainer):
        raise Diverged("no finite loss")

    monkeypatch.setattr(loop.Trainer, "train", at_once)
    run, progress = train_run(CONFIG, RunFolder(tmp_path / "run"), data)
    assert run.diverged and progress == Progress()


def test_processes_that_diverge_end_as_one_does(data, tmp_path, monkeypatch):
    Launched(monkeypatch, data, [Diverged("no finite loss: lower lr")])
    run, progress = train_run(changed(nproc=3), RunFolder(tmp_path / "run"), data)
    assert run.diverged.endswith("no finite loss: lower lr") and not progress.finished


def test_the_command_draws_the_curves_of_a_run_that_diverges_and_says_why(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "open_data", lambda config, names, check: data)
    monkeypatch.setattr(chosen, "gpu_verdict", lambda: (False, "no GPU"))
    monkeypatch.setattr(loop.Trainer, "train", diverges)
    assert main(["--preset", "demo", "--run_dir", "run", "--steps_per_epoch", "2", "--families_per_batch", "3"]) == 1
    said = capsys.readouterr()
    figures = tmp_path / "run" / "figures"
    assert f"Curves so far: {figures / 'loss_curves.png'} {figures / 'validation_curves.png'}" in said.out
    assert said.err.splitlines()[-1].startswith("Diverged: more than max_skipped=20") and "Traceback" not in said.err


# ---- the command


def test_the_command_takes_a_presets_file_from_anywhere(shell, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "epochs: 7\nsynthetic_families: 8\nbackbone: hybrid_tiny\nallow_random_init: true\n"
    )
    assert main(["-f", str(tmp_path / "mine.yaml"), "-p", "lr", "1e-4"]) == 0
    config, folder, _ = shell[0]
    assert (config.epochs, config.lr, folder) == (7, 1e-4, tmp_path / "runs" / "mine")


def test_the_command_says_in_a_sentence_what_the_user_can_mend(shell, capsys):
    assert main(["--preset", "demo", "-p", "epoch", "3"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ConfigError: unknown parameter 'epoch' in the given parameters: did you mean epochs?"
    ]
    assert shell == []


def test_the_command_shows_where_anything_else_failed(shell, monkeypatch, capsys):
    def fail(config, names, check):
        raise RuntimeError("something broke")

    monkeypatch.setattr(train, "open_data", fail)
    assert main(["--preset", "demo"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1] == "RuntimeError: something broke"


def test_a_launched_process_says_why_it_ends_as_its_launcher_expects(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "by torchrun")
    monkeypatch.setenv(OUTCOMES, str(tmp_path))
    monkeypatch.setenv("RANK", "0")
    assert main(["--preset", "demo", "-p", "epochs", "0"]) == 1
    (outcome,) = read_outcomes(tmp_path)
    assert outcome["kind"] == "ConfigError" and outcome["message"].startswith("parameter epochs=0: takes 1 to ")
    assert capsys.readouterr().err == f"{ENDED}0.\n"


@pytest.mark.parametrize(
    "typed, again",
    [
        (["--preset", "demo"], "twins train --preset demo"),
        (["-p", "data_root", "my twins"], "twins train -p data_root 'my twins'"),
        (["-p", "resume", "false", "-p", "lr", "1e-3"], "twins train -p lr 1e-3"),
        (["-p", "resume=False"], "twins train"),
        (["--resume=0", "--epochs", "0"], "twins train --epochs 0"),
        (["--resume", "no"], "twins train"),
        (["-p", "resume", "true"], "twins train -p resume true"),
        (["-p", "run_dir", "resume=false"], "twins train -p run_dir resume=false"),
    ],
)
def test_the_command_to_go_on_with_is_as_typed_but_starts_nothing_afresh(monkeypatch, typed, again):
    monkeypatch.setattr("sys.argv", ["/usr/bin/twins", "train"])
    assert train.command_line(typed) == again
