"""Which run is gone on with: its own, an attached one or the one that resume_from names; and who was trained on."""

import json
import os
import shutil
import tempfile
import traceback
from pathlib import Path

import pytest
from tiny import DATA, RUN_CONFIG, Parts, damage, files, linear_model, names, new_run, same

from dcal_core.config.dcal import DCALConfig
from dcal_core.config.parameters import read
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder, find_trained
from dcal_core.storage import DamagedError, seal
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.resume import open_run, people_behind
from dcal_core.training.transfer import load_matching, shapes_of

OTHER = DCALConfig(seed=3, lr=0.5)  # decisive parameters of another run


def begin(
    folder, config: DCALConfig = RUN_CONFIG, roots=(), data: str = DATA, head: int = 2
) -> tuple[Run, Parts, Progress]:
    """A session up to its first batch: its run, what is trained, and where that stands."""
    parts = Parts(9, steps=0, head=head)
    run = open_run(RunFolder(folder), config, data, list(roots), shapes_of(parts.model))
    if run.weights_from:
        load_matching(parts.model, run.weights_from)
    run.remember("faces", ["3"])
    return run, parts, parts.restore(run)


def asides(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("run.old*"))


# ---- its own


def test_nothing_there_starts_fresh(tmp_path, capsys):
    run, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert run.folder.path == tmp_path / "run" and progress == Progress()
    assert same(parts.state(), Parts(9, steps=0).state()) and not (run.folder.path / "started_from.json").exists()
    assert "starting fresh" in capsys.readouterr().out


def test_the_own_run_is_gone_on_with(tmp_path, capsys):
    new_run(tmp_path / "run", batch=7)
    _, parts, progress = begin(tmp_path / "run")
    assert progress.batch == 7 and same(parts.state(), Parts(0).state())
    assert "7 batches done." in capsys.readouterr().out


def test_that_a_run_is_finished_is_said(tmp_path, capsys):
    new_run(tmp_path / "run", batch=7, finished=True)
    assert begin(tmp_path / "run")[2].finished
    assert "nothing is left to train (resume=false starts fresh)" in capsys.readouterr().out


def test_parameters_that_cannot_change_the_weights_may_differ(tmp_path):
    new_run(tmp_path / "run", batch=7)
    run, _, progress = begin(tmp_path / "run", DCALConfig(seed=3, tracker="wandb", encode_batch=1))
    assert progress.batch == 7 and json.loads((run.folder.path / "config.json").read_text())["encode_batch"] == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_another_fingerprint_is_refused_with_each_field_and_both_values(tmp_path, refused, elsewhere):
    new_run(tmp_path / "run", batch=7)
    given = str(new_run(tmp_path / "other", OTHER, batch=9).folder) if elsewhere else ""
    before = files(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        begin(tmp_path / "run", DCALConfig(seed=4, lr=0.5, encode_batch=1, resume_from=given))
    sentence = str(refusal.value)
    assert "seed: 3 then, 4 now" in sentence and "lr: 5e-05 then, 0.5 now" in sentence
    assert "encode_batch" not in sentence and "epochs" not in sentence
    assert f"resume_from={tmp_path / 'run'}" in sentence and "resume=false" in sentence and "run_dir" in sentence
    assert files(tmp_path) == before


def test_a_run_from_before_a_parameter_existed_goes_on_while_that_has_its_default(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    for file in (run.folder.config, run.folder.saved[0] / "progress.json"):
        facts = json.loads(file.read_text()) | {"fingerprint": "of that version"}
        del facts.get("parameters", facts)["layer_decay"]
        file.write_text(json.dumps(facts))
    seal(run.folder.saved[0])
    assert begin(tmp_path / "run")[2].batch == 7
    assert json.loads(run.folder.config.read_text())["layer_decay"] == 1.0
    with pytest.raises(ConfigError, match=r"\(layer_decay: 1\.0 then, 0\.5 now\)"):
        begin(tmp_path / "run", RUN_CONFIG.replace(layer_decay=0.5))


def test_other_people_or_images_are_refused(tmp_path, refused):
    new_run(tmp_path / "run", batch=7)
    before = files(tmp_path)
    cures = ("attach", f"resume_from={tmp_path / 'run'}", "resume=false", "run_dir")
    with refused(ConfigError, tmp_path / "run", "other people or images", *cures):
        begin(tmp_path / "run", data="others")
    assert files(tmp_path) == before


@pytest.mark.parametrize("config", ["missing", "edited"])
def test_a_checkpoint_of_other_parameters_is_refused_whatever_config_json_says(tmp_path, refused, config):
    run = new_run(tmp_path / "run", OTHER, batch=7)
    (run.folder.path / "config.json").unlink()
    if config == "edited":
        Run(RunFolder(run.folder.path), RUN_CONFIG, DATA).create()
    with refused(ConfigError, run.folder.path, "resume=false", "run_dir"):
        begin(run.folder.path)
    begin(run.folder.path, DCALConfig(seed=3, resume=False))
    assert asides(tmp_path) == ["run.old1"] and RunFolder(tmp_path / "run.old1").saved


def test_resume_false_moves_the_old_run_aside_and_goes_on_with_no_attached_one(tmp_path, capsys):
    new_run(tmp_path / "input" / "a", DCALConfig(seed=4), batch=9)
    for batch in (7, 8):
        new_run(tmp_path / "run", batch=batch)
        assert begin(tmp_path / "run", DCALConfig(seed=4, resume=False), [tmp_path / "input"])[2].batch == 0
        assert not (tmp_path / "run" / "started_from.json").exists()
    assert [RunFolder(tmp_path / name).saved[0].name for name in asides(tmp_path)] == ["00000007", "00000008"]
    assert f"is now in {tmp_path / 'run.old2'}" in capsys.readouterr().out


def test_resume_false_forbids_what_resume_from_asks_for(refused):
    with refused(ConfigError, "resume_from", "resume=false", "leave one of them out"):
        read(DCALConfig, {"resume_from": "runs/demo", "resume": False})


def test_a_damaged_newest_checkpoint_costs_the_batches_since_the_one_before_it(tmp_path):
    run = new_run(tmp_path / "run", batch=7)
    run.log(batch=9, loss=1.0)
    Parts(1).save(run, batch=9)
    damage(run.folder.saved[0])
    run, parts, progress = begin(tmp_path / "run")
    assert progress.batch == 7 and same(parts.state(), Parts(0).state()) and len(run.history()) == 1
    parts.save(run, batch=9)  # the name is free again
    assert names(run.folder.checkpoints / "last") == ["00000007", "00000009", "00000009.damaged1"]


def test_a_run_of_damaged_checkpoints_is_not_begun_again_by_itself(tmp_path, refused):
    run = new_run(tmp_path / "run", batch=7)
    damage(run.folder.saved[0])
    before = files(tmp_path)
    for _ in range(2):
        with refused(DamagedError, run.folder.path, "resume=false"):
            begin(run.folder.path)
    assert files(tmp_path) == before
    assert begin(run.folder.path, DCALConfig(seed=3, resume=False))[2].batch == 0 and asides(tmp_path) == ["run.old1"]


# ---- attached


def test_an_attached_run_that_is_further_is_copied_and_left_as_it_was(tmp_path, capsys):
    new_run(tmp_path / "run", batch=7, seed=0)
    source = new_run(tmp_path / "input" / "notebooks" / "owner" / "train" / "runs" / "demo", batch=8, seed=4)
    Parts(5).save(source, batch=9)
    source.log(batch=9, loss=2.0)
    source.save_model(source.folder.best, Parts(5).model, epoch=3)
    new_run(tmp_path / "input" / "b", batch=8, seed=6)
    before = files(source.folder)
    run, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert run.folder.path == tmp_path / "run" and progress.batch == 9 and same(parts.state(), Parts(5).state())
    assert run.history() == [{"batch": 8, "loss": 1.0}, {"batch": 9, "loss": 2.0}]
    assert find_trained(run.folder, []) == run.folder.checkpoints / "best"
    assert f"Going on from the attached run {source.folder}, 9 batches done." in capsys.readouterr().out
    parts.save(run, batch=10)
    assert files(source.folder) == before


@pytest.mark.parametrize("attached", [6, 7])
def test_an_attached_run_that_is_no_further_is_left(tmp_path, attached):
    new_run(tmp_path / "run", batch=7, seed=0)
    new_run(tmp_path / "input" / "a", batch=attached, seed=5)
    _, parts, progress = begin(tmp_path / "run", roots=[tmp_path / "input"])
    assert progress.batch == 7 and same(parts.state(), Parts(0).state())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"config": OTHER}, "other parameters (lr: 0.5 then, 5e-05 now)"),
        ({"config": OTHER, "data": "others"}, "other parameters (lr: 0.5 then, 5e-05 now)"),
        ({"data": "others"}, "other people or images"),
    ],
    ids=["parameters", "both", "data"],
)
def test_an_attached_run_of_other_parameters_or_data_is_passed_over(tmp_path, capsys, given, why):
    source = new_run(tmp_path / "input" / "a", batch=9, **given)
    assert begin(tmp_path / "run", roots=[tmp_path / "input"])[2].batch == 0
    said = capsys.readouterr().out
    assert f"Passed over {source.folder}: a run with {why}." in said and "fresh" in said


def test_an_attached_run_that_is_damaged_is_passed_over_by_name(tmp_path, capsys):
    sources = [new_run(tmp_path / "input" / name, batch=batch) for name, batch in (("a", 9), ("b", 8))]
    damage(sources[0].folder.saved[0])
    before = files(tmp_path / "input")
    assert begin(tmp_path / "run", roots=[tmp_path / "input"])[2].batch == 8
    assert str(sources[0].folder.saved[0]) in capsys.readouterr().out and files(tmp_path / "input") == before


def test_a_read_only_attached_run_resumes_for_a_user_who_may_not_write_there():
    place = Path(tempfile.mkdtemp())
    source = new_run(place / "input" / "a", batch=9)
    source.save_model(source.folder.best, Parts(0).model)
    for path in source.folder.path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    source.folder.path.chmod(0o555)
    (place / "own").mkdir()
    for path in (place, place / "input", place / "own"):
        path.chmod(0o777)
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            run = open_run(
                RunFolder(place / "own" / "run"), RUN_CONFIG, DATA, [place / "input"], shapes_of(linear_model())
            )
            run.remember("faces", [])
            shutil.rmtree(run.folder.checkpoints / "best")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in RunFolder(place / "own" / "run").saved] == ["00000009"]
    shutil.rmtree(place)


def test_a_copy_of_an_attached_run_that_was_cut_short_anywhere_is_no_run(tmp_path, killed_at):
    source = new_run(tmp_path / "input" / "a", batch=9)
    source.save_model(source.folder.best, Parts(0).model)
    own = tmp_path / "run"
    for number in range(0, 1000, 3):
        shutil.rmtree(own, ignore_errors=True)
        if not killed_at(
            number, lambda: open_run(RunFolder(own), RUN_CONFIG, DATA, [tmp_path / "input"], shapes_of(linear_model()))
        ):
            break
        if number % 12 == 0:
            assert begin(own, roots=[tmp_path / "input"])[2].batch == 9
    assert number > 20 and begin(own)[2].batch == 9


# ---- who was trained on


def test_the_people_behind_weights_are_those_of_the_run_that_they_lie_in(tmp_path, refused):
    run = new_run(tmp_path / "run", batch=7)
    run.save_model(run.folder.best, Parts(0).model)
    assert people_behind(run.folder.saved[0]) == people_behind(run.folder.checkpoints / "best") == ["1", "2"]
    shutil.copytree(run.folder.checkpoints / "best", tmp_path / "best")
    with refused(ConfigError, f"resume_from={tmp_path / 'best'}", "trained_on.json", "attach the whole run"):
        people_behind(tmp_path / "best")


@pytest.mark.parametrize("content", ["{}", '{"people": "12"}', '{"people": null}', "[]", "no JSON"])
def test_people_that_cannot_be_read_are_not_taken_for_nobody(tmp_path, refused, content):
    run = new_run(tmp_path / "run", batch=7)
    (run.folder.path / "trained_on.json").write_text(content)
    with refused(DamagedError, run.folder.path / "trained_on.json", "restore it"):
        people_behind(run.folder.saved[0])


def test_the_people_of_earlier_sessions_stay_those_that_a_run_was_trained_on(tmp_path):
    run = new_run(tmp_path / "run", batch=7)  # on 1 and 2, who may be those behind the weights it started from
    run, *_ = begin(run.folder.path)  # on 3
    assert people_behind(run.folder.saved[0]) == ["1", "2", "3"]
    fresh, *_ = begin(run.folder.path, DCALConfig(seed=3, resume=False))
    assert json.loads(fresh.folder.trained_on.read_text())["people"] == ["3"]


# ---- trained models


def test_the_trained_model_of_the_own_run_comes_first(tmp_path):
    for folder in (tmp_path / "run", tmp_path / "input" / "a"):
        run = new_run(folder, batch=1)
        run.save_model(run.folder.best, Parts(0).model)
    own, new, attached = (RunFolder(tmp_path / name) for name in ("run", "new", "input/a"))
    assert find_trained(own, [tmp_path / "input"]) == own.best
    assert find_trained(new, [tmp_path / "input"]) == attached.best


def test_a_run_that_was_never_validated_is_not_trained(tmp_path, refused):
    new_run(tmp_path / "run", batch=1)
    with refused(ConfigError, tmp_path / "run", "no trained model in", "yet: train it for one epoch at least"):
        find_trained(RunFolder(tmp_path / "run"), [tmp_path])


def test_several_trained_runs_are_a_choice_for_the_user(tmp_path):
    for seed, name in enumerate(("a", "b", "copy of b")):
        run = new_run(tmp_path / "input" / name)
        run.save_model(run.folder.best, Parts(min(seed, 1)).model)
    with pytest.raises(ConfigError, match=rf"^2 trained runs .*run_dir={tmp_path / 'input' / 'a'}"):
        find_trained(RunFolder(tmp_path / "new"), [tmp_path / "input"])


def test_the_best_model_survives_a_kill_at_any_moment(tmp_path, killed_at):
    kept, model = [], Parts(1).model
    for number in range(0, 1000, 2):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run = new_run(tmp_path / "run")
        run.save_model(run.folder.best, Parts(0).model, epoch=1)
        if not killed_at(number, lambda run=run: run.save_model(run.folder.best, model, epoch=2)):
            break
        best = find_trained(run.folder, [])
        kept.append(json.loads((best / "facts.json").read_text())["epoch"])
    assert kept == sorted(kept) and set(kept) == {1, 2}
