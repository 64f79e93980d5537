import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import OF_DCAL, SIZE, make_model

from dcal_core.data.drawn.synthetic import generate, mask_file
from dcal_core.data.images import open_images
from dcal_core.data.locate import resolve_paths
from dcal_core.data.splits import SYNTHETIC, Split, TwinData
from dcal_core.data.twins import read_index
from dcal_core.explain import trust
from dcal_core.explain.faithfulness import BASELINES, OWN_MARK
from dcal_core.explain.trust import measure_maps

FAMILIES = 3


@pytest.fixture
def data(tmp_path):
    """Drawn twins, three images of each."""
    generate(
        tmp_path, split="test", families=FAMILIES, images_per_person=3, size=SIZE, difficulty=0.0, seed=0, workers=1
    )
    index = read_index(tmp_path / "test_dataset_infor.json", tmp_path / "test_twin_pairs.json", "test")
    index = resolve_paths(index, tmp_path, 0.0)
    images = open_images(index.paths, SIZE, tmp_path / "decoded", 0.0, workers=1)
    return TwinData(tmp_path, SYNTHETIC, {"test": Split(index, images)})


@pytest.fixture
def asked(monkeypatch):
    """What `faithfulness` was asked, in place of its answer."""
    calls = []

    def record(model, a, b, grid, family, masks, **options):
        calls.append({"a": a, "b": b, "grid": grid, "family": family, "masks": masks} | options)
        return {}

    monkeypatch.setattr(trust, "faithfulness", record)
    return calls


def place_of(data, image):
    """Where an image stands in the test split."""
    (place,) = np.flatnonzero((data["test"].images.images == image.numpy()).all((1, 2, 3)))
    return place


def test_pairs_are_co_twins_evenly_over_families_with_their_own_masks(data, asked):
    found = measure_maps(make_model(), data, pairs_per_family=2, batch=5, seed=7)
    assert found == {
        "data": SYNTHETIC,
        "co_twins": True,
        "pairs": 2 * FAMILIES,
        "families": FAMILIES,
        "left_out": 0,
        "maps": {},
    }
    (call,), index = asked, data["test"].index
    assert (call["grid"], call["batch"], call["seed"]) == (4, 5, 7)
    assert np.bincount(call["family"]).tolist() == [2] * FAMILIES
    for pair, family in enumerate(call["family"]):
        a, b = (place_of(data, call[side][pair]) for side in "ab")
        assert index.person_of[a] != index.person_of[b]
        assert index.family_of[index.person_of[a]] == index.family_of[index.person_of[b]] == family
        for side, image in enumerate((a, b)):
            path = index.paths[image]
            file = mask_file(data.root, path)
            assert np.array_equal(call["masks"][side, pair].numpy(), np.asarray(Image.open(file)))
    measure_maps(make_model(), data, pairs_per_family=2, seed=8)
    assert not torch.equal(call["a"], asked[1]["a"])


def test_a_pair_with_a_face_that_shows_no_mark_is_left_out_and_counted(data, asked):
    people = data["test"].index.families[1]
    for file in (data.root / "masks" / "test" / people[1]).iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[mask == OWN_MARK] = 128
        Image.fromarray(mask).save(file)
    found = measure_maps(make_model(), data, pairs_per_family=2)
    assert (found["pairs"], found["families"], found["left_out"]) == (4, 2, 2)
    (call,) = asked
    assert sorted(call["family"]) == [0, 0, 2, 2] and call["masks"].shape[:2] == (2, 4)
    assert (call["masks"] == OWN_MARK).any((2, 3)).all()


def test_real_faces_have_no_masks(data, asked):
    measure_maps(make_model(), replace(data, root=data.root / "nowhere", label="ND-TWINS"))
    assert asked[0]["masks"] is None and len(asked[0]["a"]) == FAMILIES


def test_without_co_twins_there_is_nothing_to_measure(data):
    split = data["test"]
    alone = replace(
        split.index, families=tuple((p,) for p in split.index.people), family_of=np.arange(len(split.index.people))
    )
    with pytest.raises(ValueError, match="pairs of co-twins: there are none"):
        measure_maps(make_model(), replace(data, splits={"test": Split(alone, split.images)}))


def test_all_maps_that_the_model_has_are_measured(data):
    found = measure_maps(make_model(readout="local_tokens"), data)
    assert set(found["maps"]) == {*OF_DCAL, *BASELINES, "random", "usual_places"}
    assert all("localisation" in figures for figures in found["maps"].values())
    json.dumps(found, allow_nan=False)
