import numpy as np

from benchmarks.speed import maps
from benchmarks.speed.__main__ import read_setting
from benchmarks.speed.maps import map_rows, rows_of
from dcal_core.config.dcal import DCALConfig
from dcal_core.recipes.catalogue import new_model


def test_what_is_timed_is_the_work_that_the_rows_name(monkeypatch):
    model = new_model(DCALConfig(backbone="test_vit", image_size=32), [], pretrained=False)
    seen, encode, rollouts = [], model.encode, []
    model.encode = lambda images, trace=False: seen.append((len(images), trace)) or encode(images, trace)
    monkeypatch.setattr(maps, "rollout_map", lambda features, grid: rollouts.append(len(features)))

    def once(works, *_):
        counted = {}
        for name, work in works.items():
            seen.clear()
            work()
            counted[name] = list(seen)
        assert counted == {
            "maps": [(2, True), (2, False)],  # encoded once for all, and half-way to the local mean
            "pair": [(2, False)],
            "with rollout": [(4, True)],
            "without": [(4, False)],
        }
        assert rollouts == [4]
        seconds = {"maps": 8.0, "pair": 2.0, "with rollout": 1.05, "without": 1.0}
        return {name: np.array([each]) for name, each in seconds.items()}

    monkeypatch.setattr(maps, "alternate", once)
    quick, rollout = rows_of(model, "test_vit", 32, read_setting(["--quick"])[0])
    assert (quick.figure.median, quick.goal, quick.met, quick.note) == (4.0, 5, True, "6 maps")
    assert (rollout.figure.median, rollout.goal, rollout.met) == (1.05, 1.1, True)


def test_the_demos_model_has_every_quick_map():
    rows = list(map_rows(read_setting(["--quick"])[0]))
    assert [row.note for row in rows] == ["7 maps", "batch 4", "6 maps", "batch 4"]
    assert "hybrid_tiny, 64 px" in rows[0].name and "test_vit" in rows[2].name
