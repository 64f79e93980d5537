"""The figures of docs/maps.json, from results of `faithfulness`."""

import json
from pathlib import Path

import pytest

from benchmarks.maps import __main__ as command
from benchmarks.maps.__main__ import RESULT, figures_of, summary, table_of


def found(pointing):
    """A result of `measure_maps` with one map and the prior."""

    def estimate(value):
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    localisation = {name: estimate(pointing) for name in ("pointing", "pointing_any", "energy", "average_precision")}
    measured = {name: estimate(0.2) for name in ("deletion", "insertion", "randomisation")}
    maps = {"usual_places": {"localisation": localisation}, "occlusion": measured | {"localisation": localisation}}
    return {"data": "SYNTHETIC", "pairs": 120, "families": 120, "left_out": 0, "maps": maps}


def test_the_seeds_stand_side_by_side_and_together():
    result = summary({"0": found(0.9), "1": found(0.8)}, "demo preset, seeds 0 to 1", 7)
    assert result["seeds"]["1"]["occlusion"]["pointing"] == [0.8, 0.75, 0.85]
    assert result["all_seeds"]["occlusion"]["pointing"] == [0.85, 0.8, 0.9]
    assert "insertion" not in result["all_seeds"]["usual_places"]
    assert result["about"]["synthetic_test_seed"] == 7
    rows = table_of(result).splitlines()
    assert any("What tells them apart, thorough | 85.0 %" in row and "90, 80" in row for row in rows)


def test_the_committed_file_has_the_same_form():
    committed = json.loads(RESULT.read_text())
    of_seed = committed["seeds"]["0"]["occlusion"]
    assert set(of_seed) == set(figures_of(found(0.9)["maps"]["occlusion"]))
    mean = sum(one["occlusion"]["pointing"][0] for one in committed["seeds"].values()) / len(committed["seeds"])
    assert committed["all_seeds"]["occlusion"]["pointing"][0] == pytest.approx(mean, abs=1e-4)


def test_the_command_measures_every_seed_and_writes_one_file(monkeypatch, tmp_path, capsys):
    class Data:
        label = "SYNTHETIC"

    monkeypatch.setattr(command, "run_all", lambda trials, jobs: None)
    monkeypatch.setattr(command, "open_data", lambda config, names: Data)
    monkeypatch.setattr(command, "measured", lambda trial, data: found(0.9 - trial.seed / 10))
    out = tmp_path / "maps.json"
    assert command.main(["--seeds", "3", "--out", str(out), "--folder", str(tmp_path)]) == 0
    result = json.loads(Path(out).read_text())
    assert list(result["seeds"]) == ["0", "1", "2"]
    assert result["all_seeds"]["occlusion"]["pointing"] == [0.8, 0.7, 0.9]
    assert result["about"]["synthetic_test_seed"] == 20261128
    assert "SYNTHETIC" in capsys.readouterr().out
