"""Runs of the ablation: trained, scored, kept, and not done again."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import trials
from benchmarks.ablation import __main__ as command
from benchmarks.ablation.rows import CONFIRM, FULL, ROWS
from benchmarks.trials import Trial, plan, run_all, run_trial
from dcal_core.config.recipes import load
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.errors import UserError
from dcal_core.locks import LockedError
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import twin_pairs

PARAMS = Path(__file__).parents[3] / "params"
TINY = dict(
    image_size=32, synthetic_families=8, synthetic_images=3, synthetic_test_families=2, validation_share=0.4,
    families_per_batch=4, images_per_person=2, steps_per_epoch=2, epochs=1,
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def base():
    return load("demo", PARAMS, TINY)


@pytest.mark.parametrize(("rows", "preset"), [(ROWS, FULL), (CONFIRM, "preset")], ids=["explored", "planned"])
def test_every_row_is_a_change_that_config_knows_and_is_held_against_another_row(rows, preset):
    base = load("demo", PARAMS, {})
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert row.against in {*names, ""} - {row.name} and set(row.changes) <= set(base.decisive())
        others = [base.replace(**other.changes) for other in rows if other is not row]
        assert base.replace(**row.changes) not in others, f"{row.name} is another row once more"
    assert {row.name: row for row in rows}[preset].changes == {}  # the preset as it is


def test_the_main_rows_come_first_seed_by_seed(base, tmp_path):
    trials = plan(ROWS, base, "the test people", tmp_path, seeds=3, few=1)
    mains = [row.name for row in ROWS if row.main]
    assert [(one.row, one.seed) for one in trials[: 3 * len(mains)]] == [(row, s) for s in range(3) for row in mains]
    assert len(trials) == 3 * len(mains) + len(ROWS) - len(mains)
    assert len({one.folder for one in trials}) == len(trials) and {one.test for one in trials} == {"the test people"}
    for one in trials:
        changes = {row.name: row.changes for row in ROWS}[one.row]
        assert all(getattr(one.config, name) == value for name, value in changes.items())
    later = plan(ROWS, base.replace(seed=5), "the test people", tmp_path, seeds=3, few=1)
    assert [one.seed for one in later] == [one.config.seed for one in later] == [5 + one.seed for one in trials]


def test_a_run_goes_to_another_process_as_it_is(base, tmp_path):
    (trial,) = plan(ROWS[:1], base, "the test people", tmp_path, seeds=1, few=1)
    function, sent = pickle.loads(pickle.dumps((run_trial, trial)))
    assert function is run_trial and sent == trial and sent.config.fingerprint() == trial.config.fingerprint()


def test_a_run_leaves_its_scores_and_is_not_done_again(base, tmp_path, monkeypatch):
    config = base.replace(glca_blocks=0, pwca_first=0, run_dir=str(tmp_path / "sa"))
    index = trials.open_data(config, ("test",))["test"].index
    trial = Trial("sa", 0, config, index.fingerprint())
    assert trial.result() is None
    found = run_trial(trial, threads=1)
    assert trial.result() == found and found["batches"] == 2 and found["data"] == "SYNTHETIC"
    scores = trial.scores()
    assert len(scores) == 2 * (2 * 28 + 64) and np.isfinite(scores).all()
    assert found["eer"] == equal_error_rate(scores, twin_pairs(index).genuine)[0]
    before = (trial.folder / "trial.json").stat().st_mtime_ns
    run_all([trial], jobs=2)
    assert (trial.folder / "trial.json").stat().st_mtime_ns == before
    for other in (replace(trial, config=config.replace(lr=1e-4)), replace(trial, test="other people")):
        assert other.result() is None  # of these it says nothing
    monkeypatch.setattr(trials, "write_text", stopped)
    with pytest.raises(KeyboardInterrupt):  # where it is scored anew, with the scores already replaced
        run_trial(trial, threads=1)
    assert trial.result() is None


def test_a_run_that_another_process_trains_is_refused(base, tmp_path, hold, refused):
    trial = Trial("sa", 0, base.replace(run_dir=str(tmp_path / "sa")), "the test people")
    holder = hold(tmp_path / "sa" / "lock")
    with refused(LockedError, str(tmp_path / "sa"), f"process {holder.pid} on "):
        run_trial(trial, threads=1)
    assert not (tmp_path / "sa" / "checkpoints").exists()


def stopped(*_):
    raise KeyboardInterrupt


def test_the_command_writes_table_and_figure_and_names_a_failed_run(tmp_path, capsys, monkeypatch):
    parameters = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    options = ["--rows", "sa", FULL, "--seeds", "2", "--jobs", "2", "--folder", "out"]
    monkeypatch.setattr(command, "TEST_FAMILIES", 2)
    monkeypatch.setattr(splits, "generate", partial(generate, workers=1))
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))
    assert command.main([*options, *parameters]) == 0
    found = json.loads(Path("out/ablation.json").read_text())
    assert [line["row"] for line in found["rows"]] == ["sa", FULL] and found["data"] == "SYNTHETIC"
    assert found["test_families"] == 2 and Path("out/ablation.png").is_file()
    kept = [json.loads(Path(f"out/{run['row']}/seed{run['seed']}/trial.json").read_text()) for run in found["runs"]]
    assert len(kept) == 4 and all(run.items() <= own.items() for run, own in zip(found["runs"], kept, strict=True))
    assert Path("out/ablation.md").read_text().strip() in capsys.readouterr().out
    assert command.main([*options, *parameters, "-p", "pwca_last", "9"]) == 1  # of 3 blocks
    assert "seed0 failed (pwca_first, pwca_last: hybrid_tiny has 3 blocks" in capsys.readouterr().err


def test_other_test_families_are_scored_anew_without_training_anew(monkeypatch):
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))
    monkeypatch.setattr(splits, "generate", partial(generate, workers=1))
    others = TINY.items() - {("synthetic_test_families", 2)}
    given = [part for name, value in others for part in ("-p", name, str(value))]
    options = ["--rows", "ratio_10", "--few", "1", "--jobs", "2", "--folder", "out", *given]  # no main row
    run, trained = Path("out/ratio_10/seed0"), set()
    for families in (2, 3):
        assert command.main([*options, "-p", "synthetic_test_families", str(families)]) == 0
        assert json.loads(Path("out/ablation.json").read_text())["test_families"] == families
        assert len(np.load(run / "scores.npy")) == families * (2 * 28 + 64)
        trained.add((run / "checkpoints/best/model.safetensors").stat().st_mtime_ns)
    assert len(trained) == 1


def test_an_unknown_row_is_named(capsys):
    assert command.main(["--rows", "salt"]) == 1
    assert "--rows salt: takes some of sa, " in capsys.readouterr().err


def test_a_failing_run_is_named(base, tmp_path):
    trial = Trial("sa", 0, base.replace(data_root=str(tmp_path / "nothing"), run_dir=str(tmp_path / "sa")), "")
    with pytest.raises(UserError, match="data_root"):
        run_all([trial], jobs=2)


def test_results_survive_a_stop(base, tmp_path):
    trial = Trial("sa", 0, base.replace(run_dir=str(tmp_path / "sa")), "")
    trial.folder.mkdir()
    (trial.folder / "scores.npy").write_bytes(b"half")  # killed before trial.json
    assert trial.result() is None
