"""What the occlusion benchmark compares: the readings of a run, and the same without visibility."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from benchmarks.occlusion import __main__ as command
from benchmarks.trials import Trial
from dcal_core.data.landmarks import DRAWN
from dcal_core.data.occlusion import OccludedImages
from dcal_core.verification.fusion import fit_fusion
from dcal_core.verification.protocol import score_pairs, twin_pairs


@pytest.fixture
def split():
    found = tiny.twins(families=3)
    return replace(found, images=OccludedImages(found.images, 0.7, ("mask", "glasses"), DRAWN))


@pytest.fixture
def model():
    made = tiny.model_of(tiny.oaml_config()).eval()
    torch.nn.init.normal_(made.occlusion_head.conv2.weight)
    return made


def test_the_readings_are_the_models_and_those_without_visibility_are_fused_anew(split, model, monkeypatch):
    monkeypatch.setattr(command, "open_data", lambda config, names: {name: split for name in names})
    monkeypatch.setattr(command, "fit_fusion", lambda scores, genuine, family: fit_fusion(scores, ~genuine, family))
    pairs = twin_pairs(split.index)
    config = tiny.oaml_config()
    found = {one.row: one for one in command.read(Trial("preset", 1, config, ""), model, split, pairs)}
    features = command.encode(model, split, config)
    for name in model.readings:
        np.testing.assert_array_equal(found[name].scores(), score_pairs(model, features, pairs, reading=name))
    assert model.visibility and {one.seed for one in found.values()} == {1}
    model.visibility = False
    scores = np.stack([score_pairs(model, features, pairs, reading=name) for name in ("global", "local")], axis=1)
    expected = fit_fusion(scores, ~pairs.genuine, pairs.family).fuse(scores)
    np.testing.assert_allclose(found["unweighed"].scores(), expected)
    np.testing.assert_array_equal(found["local_unweighed"].scores(), scores[:, 1])
    assert not np.allclose(scores[:, 1], found["local"].scores())
    alone = command.read(Trial("alone", 0, config, ""), model, split, pairs)
    np.testing.assert_array_equal(alone[0].scores(), scores[:, 0])


def test_kinds_of_occluders_that_were_not_trained_on_are_looked_at_too(split, model):
    config = tiny.oaml_config(occlusion_kinds="mask,glasses,scarf", bootstrap_draws=100)
    found = command.seen(model, split, config)
    assert [one["images"] for one in found] == ["an occluder", "mask", "glasses", "an occluder", "hand", "block"]
    known = command.seen(model, split, tiny.oaml_config(bootstrap_draws=100))
    assert [one["images"] for one in known] == ["an occluder", "mask", "glasses"]
    assert command.overlaps([known, known]).count("\n") == 4
