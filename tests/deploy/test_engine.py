"""An engine gives what its model gives, and refuses weights and descriptions that are not as packed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import adaface_config, dcal_config, model_of, oaml_config
from tiny_predictor import RULE, packed, written

from dcal_core.deploy.engine import ABOUT_FILE, open_engine, read_about
from dcal_core.errors import ConfigError
from dcal_core.storage import DamagedError

CONFIGS = {
    "cosine": dcal_config(),
    "learned": dcal_config(similarity="learned"),
    "adaface": adaface_config(),
    "places": oaml_config(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_descriptors_are_compared_as_the_model_compares_images(name, tmp_path):
    model = model_of(CONFIGS[name]).eval()
    engine = open_engine(packed(tmp_path, model))
    faces = np.random.default_rng(0).integers(0, 256, (6, model.image_size, model.image_size, 3), dtype=np.uint8)
    rows = engine.encode(faces)
    assert rows.dtype == np.float32 and rows.shape[0] == 6 and rows.ndim == 2
    scores = engine.compare_pairs(rows[:3], rows[3:])
    assert scores.dtype == np.float64
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(faces).permute(0, 3, 1, 2))
        expected = model.compare(features[:3], features[3:]).diagonal()
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
    assert np.ptp(scores) > 0


@pytest.mark.parametrize("name", ["adaface", pytest.param("places", marks=pytest.mark.faults)])
def test_a_face_network_is_run_without_timm(name, tmp_path):
    packed(tmp_path, model_of(CONFIGS[name]), decision=RULE)
    code = (
        "import sys; sys.modules['timm'] = sys.modules['torchvision'] = None\n"
        "from dcal_core.__main__ import main\n"
        "sys.exit(main(['verify', *sys.argv[1:], '--aligned']))"
    )
    command = [sys.executable, "-c", code, *written(tmp_path, 2), "--model", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode < 3 and "SYNTHETIC" in done.stdout, done.stderr


def test_what_is_no_packed_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="twins pack"):
        open_engine(tmp_path)
    with pytest.raises(ConfigError, match="nothere.onnx: there is no such file"):
        open_engine(tmp_path / "nothere.onnx")
    packed(tmp_path, model_of(CONFIGS["adaface"]))
    (tmp_path / "model.safetensors").rename(tmp_path / "model.onnx2")
    with pytest.raises(ConfigError, match="no weights of a known format"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 2}, "format 1"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"decision": None}, "decision"),
        ({"provenance": {"weights": "0"}}, "other weights"),
        ({"architecture": {"recipe": "none"}}, "damaged"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changes, message, tmp_path):
    packed(tmp_path, model_of(CONFIGS["adaface"]), **changes)
    with pytest.raises((ConfigError, DamagedError), match=message):
        open_engine(tmp_path)


def test_a_description_is_read_as_it_was_written(tmp_path):
    about = read_about(packed(tmp_path, model_of(CONFIGS["adaface"])))
    assert about == json.loads((tmp_path / ABOUT_FILE).read_text())
