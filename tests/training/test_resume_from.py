"""A run that starts from another one's weights: which resume_from names, or whose model is no longer the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import OTHER, asides, begin
from tiny import DATA, RUN_CONFIG, Parts, damage, files, linear_model, names, new_run, same
from torch import nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.errors import ConfigError
from dcal_core.models.files import save_tensors
from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError
from dcal_core.training.checkpoints import Progress
from dcal_core.training.resume import open_run
from dcal_core.training.transfer import load_matching, refuse_stranger, shapes_of


def naming(source, **changes) -> DCALConfig:
    """The parameters of another run that is to go on from somewhere."""
    return DCALConfig(resume_from=str(source), **{"seed": 3, "lr": 0.5} | changes)


def started_from(folder: Path) -> Path:
    return Path(json.loads((folder / "started_from.json").read_text())["weights"])


def is_new_run_of(seed: int, parts: Parts, progress: Progress) -> bool:
    """Whether it has the model of other parts, and nothing else of them."""
    alike = same(dict(parts.model.state_dict()), dict(Parts(seed).model.state_dict()))
    return alike and progress == Progress() and not parts.optimizer.state_dict()["state"]


# ---- named


def test_a_named_run_with_the_same_parameters_is_copied_and_gone_on_with_exactly(tmp_path, capsys):
    source = new_run(tmp_path / "other", batch=7)
    before = files(source.folder)
    run, parts, progress = begin(tmp_path / "run", naming(source.folder, lr=RUN_CONFIG.lr))
    assert progress.batch == 7 and same(parts.state(), Parts(0).state()) and run.history() == source.history()
    assert run.folder.path == tmp_path / "run" and not (run.folder.path / "started_from.json").exists()
    parts.save(run, batch=9)
    assert begin(tmp_path / "run", naming(source.folder, lr=RUN_CONFIG.lr))[2].batch == 9  # the same command again
    assert files(source.folder) == before


@pytest.mark.parametrize("place", ["", "checkpoints/last/00000007", "checkpoints/last/00000005", "checkpoints/best"])
def test_with_other_parameters_a_new_run_starts_from_the_weights_that_are_named(tmp_path, capsys, place):
    source = new_run(tmp_path / "other", batch=5, seed=1)
    Parts(2).save(source, batch=7)
    source.save_model(source.folder.best, Parts(4).model)
    before = files(source.folder)
    run, parts, progress = begin(tmp_path / "run", naming(source.folder.path / place))
    assert is_new_run_of(4 if "best" in place else 2, parts, progress)  # a checkpoint stands for its run
    weights = source.folder.best if "best" in place else source.folder.saved[0]
    assert started_from(run.folder.path) == weights and run.folder.saved == []
    assert f"A new run from the weights of {weights}" in capsys.readouterr().out
    assert files(source.folder) == before


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    new_run(tmp_path / "other", batch=7)
    monkeypatch.chdir(tmp_path)
    assert is_new_run_of(0, *begin(Path("run"), naming("other"))[1:])
    assert started_from(tmp_path / "run") == tmp_path / "other" / "checkpoints" / "last" / "00000007"


@pytest.mark.parametrize("place", ["", "checkpoints/last/00000007", "checkpoints/best"])
def test_its_own_folder_is_moved_aside_and_the_same_command_goes_on_from_there(tmp_path, capsys, place):
    folder = tmp_path / "run"
    run = new_run(folder, batch=7)
    run.save_model(run.folder.best, Parts(0).model)
    config = naming(folder / place)
    for _ in range(2):  # the second time, the first was interrupted before its first checkpoint
        run, parts, progress = begin(folder, config)
        assert is_new_run_of(0, parts, progress) and asides(tmp_path) == ["run.old1"]
        assert started_from(folder).is_relative_to(tmp_path / "run.old1") and started_from(folder).is_dir()
    run, parts, progress = begin(folder, OTHER)  # nor need the cause be named again
    assert is_new_run_of(0, parts, progress)
    Parts(5).save(run, batch=2)
    for given in (config, OTHER):
        _, parts, progress = begin(folder, given)
        assert progress.batch == 2 and same(parts.state(), Parts(5).state()) and asides(tmp_path) == ["run.old1"]


def test_a_run_that_has_itself_started_from_another_can_be_started_from(tmp_path):
    folder = tmp_path / "run"
    new_run(folder, batch=7)
    run, *_ = begin(folder, naming(folder))
    Parts(5).save(run, batch=2)
    run, parts, progress = begin(folder, naming(folder, lr=0.25))
    assert is_new_run_of(5, parts, progress) and asides(tmp_path) == ["run.old1", "run.old2"]
    Parts(6).save(run, batch=3)
    run, parts, progress = begin(folder, naming(folder, lr=0.25), data="others")
    assert is_new_run_of(6, parts, progress) and asides(tmp_path) == ["run.old1", "run.old2", "run.old3"]


def test_other_data_in_its_own_folder_start_a_new_run(tmp_path):
    new_run(tmp_path / "run", batch=7)
    _, parts, progress = begin(tmp_path / "run", naming(tmp_path / "run", lr=RUN_CONFIG.lr), data="others")
    assert is_new_run_of(0, parts, progress) and asides(tmp_path) == ["run.old1"]


def test_an_interrupted_and_changed_start_takes_what_is_named_or_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    new_run(folder, batch=7)
    begin(folder, naming(folder))
    assert is_new_run_of(0, *begin(folder, naming(folder, lr=0.25))[1:])  # never silently from nothing
    run, parts, progress = begin(folder, DCALConfig(seed=5))
    assert same(parts.state(), Parts(9, steps=0).state()) and "starting fresh" in capsys.readouterr().out
    assert not (folder / "started_from.json").exists()
    assert same(begin(folder, DCALConfig(seed=5))[1].state(), Parts(9, steps=0).state())


def test_weights_that_are_gone_when_an_interrupted_start_is_repeated_are_named(tmp_path, refused):
    source = new_run(tmp_path / "other", batch=7)
    begin(tmp_path / "run", naming(source.folder))
    weights = source.folder.saved[0]
    shutil.rmtree(source.folder)
    with refused(ConfigError, tmp_path / "run" / "started_from.json", weights, "restore", "resume=false"):
        begin(tmp_path / "run", OTHER)


def test_a_run_that_goes_on_beside_the_named_one_is_gone_on_with(tmp_path, capsys):
    new_run(tmp_path / "other", batch=50)
    new_run(tmp_path / "input" / "a", OTHER, batch=9, seed=4)  # an earlier session of this run, attached
    _, parts, progress = begin(tmp_path / "run", naming(tmp_path / "other"), [tmp_path / "input"])
    assert progress.batch == 9 and same(parts.state(), Parts(4).state())


@pytest.mark.parametrize("place", ["nowhere", "run/checkpoints", "run/checkpoints/last", "run/config.json", "empty"])
def test_a_place_without_run_or_model_is_refused_and_changes_nothing(tmp_path, refused, place):
    new_run(tmp_path / "run", batch=7)
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    given = naming(tmp_path / place, lr=RUN_CONFIG.lr)
    with refused(ConfigError, f"resume_from={tmp_path / place}", "neither a run", "name a run's folder", "leave"):
        begin(tmp_path / "run", given)
    assert files(tmp_path) == before


@pytest.mark.parametrize("place", ["", "checkpoints/best"])
def test_a_named_model_that_is_damaged_is_refused_before_anything_is_moved(tmp_path, refused, place):
    run = new_run(tmp_path / "run", batch=7)
    run.save_model(run.folder.best, Parts(0).model)
    for model in (run.folder.saved[0], run.folder.checkpoints / "best"):
        (model / "model.safetensors").write_bytes(b"")
    before = files(tmp_path)
    with refused(DamagedError, run.folder.path):
        begin(tmp_path / "run", naming(tmp_path / "run" / place))
    assert files(tmp_path) == before


def test_of_a_named_run_the_newest_whole_checkpoint_is_taken(tmp_path, capsys):
    source = new_run(tmp_path / "other", batch=5, seed=1)
    Parts(2).save(source, batch=7)
    damage(source.folder.saved[0])
    before = files(source.folder)
    assert is_new_run_of(1, *begin(tmp_path / "run", naming(source.folder))[1:])
    assert str(source.folder.saved[0]) in capsys.readouterr().out and files(source.folder) == before


def test_what_the_caller_refuses_of_the_weights_is_refused_before_anything_is_moved(tmp_path, refused):
    new_run(tmp_path / "run", batch=7)
    before, asked = files(tmp_path), []

    def check_source(weights):
        asked.append(weights)
        raise ConfigError("these were trained on others.")

    for _ in range(2):
        with refused(ConfigError, "others"):
            open_run(
                RunFolder(tmp_path / "run"), naming(tmp_path / "run"), DATA, [], shapes_of(linear_model()), check_source
            )
        assert files(tmp_path) == before
    assert asked == [tmp_path / "run" / "checkpoints" / "last" / "00000007"] * 2


# ---- a model that has changed


def changed_model() -> nn.Module:
    """Of another head, with a new part; a trunk of 72 of its 107 weights is the same."""
    torch.manual_seed(1)
    return linear_model(head=3, new=nn.Linear(3, 2))


def with_a_part_that_went() -> nn.Module:
    torch.manual_seed(2)
    return linear_model(gone=nn.Linear(1, 1))


def kept_model(folder: Path, model: nn.Module, config: DCALConfig = RUN_CONFIG, batch: int = 7) -> Path:
    """A run's checkpoint of a model."""
    run, parts = new_run(folder, config), Parts(0)
    parts.model = model
    parts.save(run, batch=batch)
    return run.folder.saved[0]


@pytest.mark.parametrize("attached", [False, True])
def test_a_new_run_takes_what_fits_a_changed_model_and_lists_the_rest(tmp_path, capsys, attached):
    weights = kept_model(tmp_path / "input" / "a" if attached else tmp_path / "run", with_a_part_that_went())
    ours, model = changed_model(), changed_model()
    run = open_run(RunFolder(tmp_path / "run"), RUN_CONFIG, DATA, [tmp_path / "input"], shapes_of(model))
    moved = weights if attached else tmp_path / "run.old1" / "checkpoints" / "last" / "00000007"
    assert run.weights_from == moved and run.folder.saved == [] and weights.exists() == attached
    said = capsys.readouterr().out
    assert f"{weights} holds another model than this one" in said
    assert (f"The run that was in {tmp_path / 'run'} is now in {tmp_path / 'run.old1'}." in said) != attached
    load_matching(model, run.weights_from)
    theirs = load_file(run.weights_from / "model.safetensors")
    for name, tensor in model.state_dict().items():
        expected = theirs if name.startswith("trunk") else ours.state_dict()
        assert torch.equal(tensor, expected[name]), name
    lines = capsys.readouterr().out.splitlines()
    assert str(moved) in lines[0] and "2 of 6 tensors" in lines[0]
    assert lines[1] == "These differ; what is missing or reshaped starts anew:"
    assert sorted(lines[2:-1]) == [
        "  gone.bias: unexpected",
        "  gone.weight: unexpected",
        "  head.bias: reshaped, [2] then, [3] now",
        "  head.weight: reshaped, [2, 8] then, [3, 8] now",
        "  new.bias: missing",
        "  new.weight: missing",
    ]
    assert lines[-1].startswith("Advice: a lower lr") and "warmup_share" in lines[-1] and "resume=false" in lines[-1]


def test_what_fits_wholly_is_taken_without_a_word_of_advice(tmp_path, capsys):
    model = changed_model()
    load_matching(model, kept_model(tmp_path / "run", changed_model()))
    assert same(dict(model.state_dict()), dict(changed_model().state_dict()))
    assert "6 of 6 tensors" in (said := capsys.readouterr().out) and "differ" not in said


@pytest.mark.parametrize("place", ["own", "attached", "named"])
def test_a_model_that_is_too_different_is_refused_each_time_and_stays_where_it_is(tmp_path, place):
    folder = {"own": "run", "attached": "input/a", "named": "other"}[place]
    small = nn.ModuleDict({"head": nn.Linear(8, 2), "trunk": nn.Linear(8, 9)})
    small.architecture = {}
    weights = kept_model(tmp_path / folder, small)
    config = naming(tmp_path / folder) if place == "named" else RUN_CONFIG
    before = files(tmp_path)
    for _ in range(2):  # so that a second try does not start afresh because the first moved the run
        with pytest.raises(ConfigError) as refusal:
            open_run(RunFolder(tmp_path / "run"), config, DATA, [tmp_path / "input"], shapes_of(linear_model()))
        sentence = str(refusal.value)
        assert sentence.startswith(f"{weights} has 20% of this model's weights") and "\n" not in sentence
        assert "4 tensors where 4 are expected (2 reshaped, first trunk." in sentence
        assert "resume=false" in sentence and "parameters" in sentence
        assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({"a": (2,)}, "1 tensor where 300 are expected (300 missing, first block0.weight; 1 unexpected, first a)"),
        ({}, "0 tensors where 300 are expected (300 missing, first block0.weight)"),
        ({f"vit.block{n}.weight": (8, 8) for n in range(300)}, "300 unexpected, first vit.block0.weight)"),
        (
            {f"block{n}.weight": (9, 8) for n in range(300)},
            "300 reshaped, first block0.weight [9, 8] then, [8, 8] now)",
        ),
    ],
)
def test_a_refusal_of_many_tensors_counts_them_and_names_the_first(tmp_path, theirs, told):
    save_tensors(tmp_path / "model.safetensors", {name: torch.zeros(shape) for name, shape in theirs.items()})
    with pytest.raises(ConfigError) as refusal:
        refuse_stranger({f"block{n}.weight": (8, 8) for n in range(300)}, tmp_path)
    assert told in str(refusal.value) and len(str(refusal.value)) < 500 and "\n" not in str(refusal.value)


def test_a_run_that_fits_comes_before_one_that_is_further_and_does_not(tmp_path, capsys):
    kept_model(tmp_path / "input" / "a", changed_model(), batch=9)
    new_run(tmp_path / "run", batch=7)
    _, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert progress.batch == 7 and same(parts.state(), Parts(0).state()) and asides(tmp_path) == []


def test_an_attached_run_that_fits_comes_before_its_own_that_does_not(tmp_path, capsys):
    kept_model(tmp_path / "run", changed_model(), batch=9)
    new_run(tmp_path / "input" / "a", batch=7)
    _, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert progress.batch == 7 and same(parts.state(), Parts(0).state())
    assert asides(tmp_path) == ["run.old1"] and names(tmp_path / "run" / "checkpoints" / "last") == ["00000007"]
    assert [path.name for path in RunFolder(tmp_path / "run.old1").saved] == ["00000009"]


def test_of_two_runs_that_do_not_fit_the_further_one_is_started_from(tmp_path):
    for folder, batch in (("run", 5), ("input/a", 9)):
        kept_model(tmp_path / folder, changed_model(), batch=batch)
    run, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert run.weights_from.is_relative_to(tmp_path / "input") and progress == Progress()
    assert asides(tmp_path) == ["run.old1"] and run.folder.saved == []
