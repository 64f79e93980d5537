"""Files from elsewhere: an architecture that is none of ours, and weights that would run code."""

import json
import os
from fractions import Fraction

import pytest
import timm
import torch

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.config.dcal import DCALConfig
from dcal_core.errors import ConfigError
from dcal_core.models.files import load_model, read_architecture, save_model
from dcal_core.models.pretrained import load_weights
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import SUMS, DamagedError, seal

CONFIG = DCALConfig(
    backbone="test_vit", image_size=32, allow_random_init=True
)  # timm's own: patch 16, width 64, 6 blocks


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a model, whose files a test may read but not change."""
    folder = tmp_path_factory.mktemp("kept") / "best"
    folder.mkdir()
    torch.manual_seed(0)
    save_model(folder, new_model(CONFIG, []))
    seal(folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    """A model's folder to be changed."""
    return linked(kept, tmp_path / "best")


def linked(kept, folder):
    """Another folder of the same files."""
    folder.mkdir()
    for file in kept.iterdir():
        os.link(file, folder / file.name)
    return folder


def describe(folder, **changes) -> None:
    """Change model.json, as whoever could also write the checksums."""
    found = json.loads((folder / "model.json").read_text()) | changes
    replace(folder / "model.json", json.dumps({name: value for name, value in found.items() if value != "absent"}))


def replace(file, text: str) -> None:
    file.unlink()
    file.write_text(text)
    (file.parent / SUMS).unlink()
    seal(file.parent)


# ---- the architecture


def test_what_was_written_is_read(kept):
    found = read_architecture(kept / "model.json")
    assert found == load_model(kept).architecture == new_model(CONFIG, []).architecture


def test_whole_numbers_may_be_written_as_others(folder):
    describe(folder, image_size=32.0, glca_blocks=1.0, local_ratio=1)
    found = read_architecture(folder / "model.json")
    assert [type(found[name]) for name in ("image_size", "glca_blocks", "local_ratio")] == [int, int, float]
    with torch.no_grad():
        assert load_model(folder).encode(torch.rand(1, 3, 32, 32)).parts["sa"].isfinite().all()


NO_ARCHITECTURE = {
    "recipe": ["other", 1, None],
    "backbone": [
        "hf-hub:evil/model",
        "hf_hub:evil/model",
        "local-dir:/x",
        "file:///x",
        "http://evil/model",
        "../test_vit",
        "resnet18",
        "test_vit.none",
        "",
        3,
        None,
        ["test_vit"],
    ],
    "image_size": [0, -32, 31, 1025, 1e9, "32", 32.5, True, None, [32]],
    "mean": [[0.5, 0.5], [0.5] * 4, 0.5, "0.5", [0.5, 0.5, "0.5"], [0.5, 0.5, float("nan")], [0.5, 0.5, -1], None],
    "std": [[], [0.5, 0.5, 0.0], [0.5, 0.5, float("inf")], [0.5, 0.5, True], {"0": 0.5, "1": 0.5, "2": 0.5}],
    "local_ratio": [-0.1, 1.1, float("nan"), "0.3", None],
    "glca_blocks": [-1, 13, 1.5, "1", None],
    "pwca_layers": [[5, 0], [0, 5], [0, 0], [-1], [64], [0.0], ["0"], [True], [None], "0", {"0": 1}, None],
    "readout": ["mean", 1, None],
    "neck": ["ln", False],
    "similarity": ["dot", None],
    "temperature": [0.0, -1.0, "0.07", None],
}


@pytest.mark.parametrize("name", NO_ARCHITECTURE)
def test_an_architecture_that_is_none_of_ours_is_refused_without_a_network(folder, refused, no_connection, name):
    for value in NO_ARCHITECTURE[name]:
        describe(folder, **{name: value})
        for read in (lambda: read_architecture(folder / "model.json"), lambda: load_model(folder)):
            with refused(DamagedError, folder / "model.json", name, "restore it"):
                read()


FACE = AdaFaceConfig(backbone="ir_18", image_size=32, width=8, allow_random_init=True)
NO_FACE_ARCHITECTURE = {
    "recipe": ["other", 1, None, ["adaface"]],
    "backbone": ["ir_20", "ir_18 ", "test_vit", "hybrid_tiny", "", 18, None, ["ir_18"]],
    "image_size": [0, 16, 40, 1040, "32", 32.5, True, None],
    "width": [0, 7, 129, 1e9, "8", 8.5, True, None, [8]],
}


@pytest.fixture(scope="module")
def kept_face(tmp_path_factory):
    """A folder with a face network, whose files a test may read but not change."""
    folder = tmp_path_factory.mktemp("kept") / "face"
    folder.mkdir()
    save_model(folder, new_model(FACE, []))
    seal(folder)
    return folder


@pytest.fixture
def face_folder(kept_face, tmp_path):
    """A face network's folder to be changed."""
    return linked(kept_face, tmp_path / "face")


def test_what_was_written_of_a_face_network_is_read(kept_face):
    found = read_architecture(kept_face / "model.json")
    assert found == load_model(kept_face).architecture == new_model(FACE, []).architecture


@pytest.mark.parametrize("name", NO_FACE_ARCHITECTURE)
def test_an_architecture_of_no_face_network_is_refused(face_folder, refused, name):
    for value in NO_FACE_ARCHITECTURE[name]:
        describe(face_folder, **{name: value})
        for read in (lambda: read_architecture(face_folder / "model.json"), lambda: load_model(face_folder)):
            with refused(DamagedError, face_folder / "model.json", name, "restore it"):
                read()


@pytest.mark.parametrize("changes", [{"width": 16}, {"image_size": 48}, {"backbone": "ir_34"}], ids=str)
def test_an_architecture_of_another_face_network_than_the_weights_is_refused(face_folder, refused, changes):
    describe(face_folder, **changes)
    with refused(DamagedError, face_folder / "model.safetensors", "does not fit model.json"):
        load_model(face_folder)


def test_one_recipes_architecture_is_not_read_as_anothers(folder, face_folder, refused):
    for one, recipe in ((folder, "adaface"), (face_folder, "dcal")):
        describe(one, recipe=recipe)
        with refused(DamagedError, one / "model.json", "it names", "neck", "restore it"):
            load_model(one)


@pytest.mark.parametrize(
    ("changes", "word"), [({"readout": "absent"}, "readout"), ({"url": "http://evil"}, "url"), ({"vit": {}}, "vit")]
)
def test_an_architecture_with_a_name_too_few_or_too_many_is_refused(folder, refused, changes, word):
    describe(folder, **changes)
    with refused(DamagedError, folder / "model.json", word, "another version", "restore it or train again"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"pwca_layers": []},
        {"image_size": 64},
        {"glca_blocks": 2},
        {"backbone": "deit_tiny_patch16_224"},
        {"backbone": "hybrid_tiny"},
        {"backbone": "vit_small_patch16_rope_mixed_224"},
        {"backbone": "eva02_tiny_patch14_224"},
        {"readout": "tokens"},
        {"similarity": "learned"},
    ],
    ids=str,
)
def test_an_architecture_that_the_weights_beside_it_do_not_have_is_refused(folder, refused, no_connection, changes):
    describe(folder, **changes)
    with refused(DamagedError, folder / "model", "restore"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"test_vit"', "[" * 100_000])
def test_an_architecture_that_is_no_object_is_refused(folder, refused, content):
    replace(folder / "model.json", content)
    with refused(DamagedError, folder / "model.json", "restore it"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_pickle_in_place_of_a_models_file_is_refused(folder, refused, attack, no_connection, name):
    (folder / name).unlink()
    (folder / SUMS).unlink()
    attack.write(folder / name)
    seal(folder)
    with refused(DamagedError, folder / name, "restore"):
        load_model(folder)
    assert not attack.touched.exists()


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", SUMS])
def test_a_model_that_is_not_as_it_was_sealed_is_refused(folder, refused, name):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(content[:-9])
    with refused(DamagedError, folder, name, "restore it"):
        load_model(folder)


# ---- foreign weights


@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt", ".bin"])
def test_weights_that_would_run_code_are_refused_and_the_way_to_trust_them_named(tmp_path, refused, attack, ending):
    file = tmp_path / f"weights{ending}"
    attack.write(file)
    before = file.read_bytes()
    with refused(ConfigError, f"weights={file}", "was not loaded", ".safetensors", "trust_weights=true"):
        new_model(DCALConfig(backbone="test_vit", image_size=32, weights=str(file)), [])
    assert not attack.touched.exists() and file.read_bytes() == before


def test_attached_weights_that_would_run_code_are_refused_too(tmp_path, refused, attack):
    file = tmp_path / "models" / "timm" / "test-vit" / "pytorch" / "default" / "1" / "pytorch_model.bin"
    file.parent.mkdir(parents=True)
    attack.write(file)
    with refused(ConfigError, f"weights={file}", "trust_weights=true"):
        new_model(DCALConfig(backbone="test_vit", image_size=32), [tmp_path])
    assert not attack.touched.exists()


def test_a_pickle_that_calls_itself_safetensors_is_refused_and_not_run(tmp_path, refused, attack):
    file = tmp_path / "weights.safetensors"
    attack.write(file)
    with refused(ConfigError, f"weights={file}", "give another file"):
        new_model(DCALConfig(backbone="test_vit", image_size=32, weights=str(file)), [])
    with refused(ConfigError, f"weights={file}", "give another file"):
        new_model(DCALConfig(backbone="test_vit", image_size=32, weights=str(file), trust_weights=True), [])
    assert not attack.touched.exists()


def write_as_others_do(file, zipped: bool, wrap: bool) -> dict:
    """Weights as training scripts leave them, with a figure of no kind that PyTorch allows by default."""
    torch.manual_seed(1)
    state = timm.create_model("test_vit", img_size=32, num_classes=0).state_dict()
    content = {"state_dict": state, "lr": Fraction(1, 10)} if wrap else state
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_harmless_object_beside_the_weights_needs_trust_and_then_does_no_harm(tmp_path, refused, zipped):
    file = tmp_path / "weights.pth"
    state = write_as_others_do(file, zipped, wrap=True)
    config = {"backbone": "test_vit", "image_size": 32, "weights": str(file)}
    with refused(ConfigError, f"weights={file}", "asks for", "not loaded", "trust_weights=true"):
        new_model(DCALConfig(**config), [])
    kept = new_model(DCALConfig(**config, trust_weights=True), []).vit.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_but_tensors_needs_no_trust(tmp_path, zipped, trusted):
    state = write_as_others_do(tmp_path / "weights.pth", zipped, wrap=False)
    vit = timm.create_model("test_vit", img_size=32, num_classes=0)
    load_weights("test_vit", vit, tmp_path / "weights.pth", trusted)
    assert all(torch.equal(vit.state_dict()[name], tensor) for name, tensor in state.items())


def test_trust_covers_no_weights_of_another_architecture(tmp_path, refused):
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "lr": Fraction(1, 10)}, tmp_path / "weights.pth")
    config = DCALConfig(backbone="test_vit", image_size=32, weights=str(tmp_path / "weights.pth"), trust_weights=True)
    with refused(ConfigError, "weights.pth", "lacks", "give another file"):
        new_model(config, [])
