"""Checkpoints of AdaFace and CVLFace, made here from the published names and shapes: read, refused, and written."""

import os
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from published_iresnet import published_shapes
from safetensors.torch import save_file
from torch import nn

from dcal_core.audit.alignment import FaceAligner
from dcal_core.errors import ConfigError
from dcal_core.models.face_weights import read_face_weights, write_face_weights
from dcal_core.models.iresnet import IResNet
from dcal_core.models.weight_files import resave_command
from dcal_core.storage import StorageError

SMALL = {"depth": 18, "width": 8, "embedding": 12, "side": 2}
MODEL = "IR-18 of width 8"


def drawn(depth, width, embedding, side):
    """Tensors of the published names and shapes, such that a forward pass neither vanishes nor grows."""
    torch.manual_seed(0)
    state = {}
    for name, shape in published_shapes(depth, width, embedding, side).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or len(shape) == 1 and name.endswith("weight"):
            state[name] = 0.5 + torch.rand(shape)
        else:
            state[name] = torch.randn(shape) * (0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)
    return state


@pytest.fixture(scope="module")
def small():
    return drawn(**SMALL)


def prefixed(prefix, state):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


HEAD = {"head.kernel": torch.zeros(12, 5), "head.t": torch.zeros(1), "head.batch_mean": torch.ones(1)}
MATCHER = {"model.qaconv.fc.weight": torch.zeros(1, 8), "model.occlusion_head.conv1.weight": torch.zeros(2, 8, 3, 3)}


def lightning(state):
    """As PyTorch Lightning keeps a run, where its hyperparameters are plain values."""
    optimiser = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    run = {"epoch": 25, "global_step": 9, "pytorch-lightning_version": "1.4.9", "callbacks": {}, "lr_schedulers": []}
    return run | {"state_dict": OrderedDict(state), "optimizer_states": [optimiser], "hyper_parameters": {"m": 0.4}}


FORMS = {  # the file's content, the order of colours, whom the origin names, what is ignored
    "AdaFace's .ckpt": (lambda s: lightning(prefixed("model.", s) | HEAD), "bgr", "AdaFace", sorted(HEAD)),
    "CVLFace's model.pt": (lambda s: prefixed("net.", s), "rgb", "CVLFace", []),
    "CVLFace on Hugging Face": (lambda s: prefixed("model.net.", s), "rgb", "CVLFace", []),
    "bare": (dict, "", "bare", []),
    "OAML": (lambda s: lightning(prefixed("model.", s) | MATCHER), "bgr", "AdaFace", sorted(MATCHER)),
    "AdaFace's tensors alone": (lambda s: prefixed("model.", s), "bgr", "AdaFace", []),
    "bare in state_dict": (lambda s: {"state_dict": s}, "", "bare", []),
    "in model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 3, "loss": 0.5}, "", "bare", []),
    "data parallel": (lambda s: prefixed("module.", s), "", "bare", []),
    "data parallel in model_state_dict": (lambda s: {"model_state_dict": prefixed("module.", s)}, "", "bare", []),
    "data parallel AdaFace": (lambda s: {"state_dict": prefixed("module.model.", s)}, "bgr", "AdaFace", []),
    "data parallel inside": (lambda s: {"model_state_dict": prefixed("model.module.", s)}, "bgr", "AdaFace", []),
}


def same(found, given):
    return found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)


# ---- reading


@pytest.mark.parametrize(("depth", "count"), [(18, 179), (34, 323), (50, 467), (101, 917)])
def test_the_generator_above_makes_as_many_tensors_as_were_published_shapes(depth, count):
    assert len(published_shapes(depth, 8, 12, 2)) == count


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read(tmp_path, small, form):
    wrap, colour_order, origin, ignored = FORMS[form]
    torch.save(wrap(small), tmp_path / "weights.pt")
    found = read_face_weights(tmp_path / "weights.pt")
    assert same(found.state, small)
    assert (found.depth, found.width, found.embedding, found.image_size) == (18, 8, 12, 32)
    assert (found.colour_order, found.ignored) == (colour_order, ignored)
    assert found.origin.startswith(origin)
    assert found.beside.keys() == {name.removeprefix("model.") for name in ignored if name.startswith("model.")}


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.net.", ""])
def test_safetensors_are_read(tmp_path, small, prefix):
    save_file(prefixed(prefix, small) | HEAD, tmp_path / "weights.safetensors")
    found = read_face_weights(tmp_path / "weights.safetensors")
    assert same(found.state, small)
    assert found.colour_order == {"": "", "model.": "bgr"}.get(prefix, "rgb") and found.ignored == sorted(HEAD)


def test_the_old_format_of_torch_is_read(tmp_path, small):
    torch.save(prefixed("net.", small), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert same(read_face_weights(tmp_path / "model.pt").state, small)


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 34, "width": 8, "embedding": 16, "side": 1},
        {"depth": 50, "width": 9, "embedding": 16, "side": 3},
        {"depth": 101, "width": 8, "embedding": 20, "side": 7},
        {"depth": 18, "width": 16, "embedding": 8, "side": 14},
    ],
    ids=str,
)
def test_names_and_shapes_tell_the_architecture_and_its_model_takes_the_state(tmp_path, sizes):
    torch.save(prefixed("net.", drawn(**sizes)), tmp_path / "model.pt")
    found = read_face_weights(tmp_path / "model.pt")
    told = {"depth": found.depth, "width": found.width, "embedding": found.embedding, "image_size": found.image_size}
    assert told | {"side": found.image_size // 16} == sizes | {"image_size": 16 * sizes["side"]}
    IResNet(**told).load_state_dict(found.state)


def test_an_ir_50_of_full_size_is_read(tmp_path):
    state = drawn(depth=50, width=64, embedding=512, side=7)
    torch.save(lightning(prefixed("model.", state) | {"head.kernel": torch.zeros(512, 9)}), tmp_path / "ir50.ckpt")
    found = read_face_weights(tmp_path / "ir50.ckpt")
    assert (found.depth, found.width, found.embedding, found.image_size) == (50, 64, 512, 112)
    assert found.state["output_layer.3.weight"].shape == (512, 25088) and len(found.state) == 467
    model = IResNet(50)
    model.load_state_dict(found.state)
    assert same(model.state_dict(), state)


def test_counts_of_batches_may_be_missing_and_that_is_said(tmp_path, small):
    old = {name: tensor for name, tensor in small.items() if "num_batches" not in name}
    torch.save(prefixed("net.", old), tmp_path / "old.pt")
    found = read_face_weights(tmp_path / "old.pt")
    assert found.state.keys() == small.keys() and all(torch.equal(found.state[name], old[name]) for name in old)
    assert {found.state[name].item() for name in small.keys() - old.keys()} == {0}
    assert found.origin == f"CVLFace, without {len(small) - len(old)} counts of batches (num_batches_tracked)"


# ---- refusing


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def next_block(state):
    return {name.replace("body.7.", "body.8."): tensor for name, tensor in state.items() if "body.7." in name}


SE = {"body.0.res_layer.se_block.fc1.weight": torch.zeros(1, 8, 1, 1)}
FIRST, LAST, CONV = "input_layer.0.weight", "output_layer.3.weight", "body.4.res_layer.1.weight"
CASES = {  # what is made of a sound state, and what the refusal says
    "wrong shape": (
        lambda s: s | {CONV: torch.zeros(31, 16, 3, 3)},
        [f"has {CONV} of the shape [31, 16, 3, 3]", f"{MODEL} has [32, 16, 3, 3]"],
    ),
    "inputs of the embedding": (
        lambda s: s | {LAST: torch.zeros(12, 255)},
        [f"has {LAST} of the shape [12, 255]", f"{MODEL} has [12, 256]"],
    ),
    "first convolution of grey images": (
        lambda s: s | {FIRST: torch.zeros(8, 1, 3, 3)},
        [f"has {FIRST} of the shape [8, 1, 3, 3]", "has [8, 3, 3, 3]"],
    ),
    "first convolution of another width": (
        lambda s: s | {FIRST: torch.zeros(9, 3, 3, 3)},
        ["has input_layer.1.weight of the shape [8]", "IR-18 of width 9 has [9]"],
    ),
    "first convolution without dimensions": (
        lambda s: s | {FIRST: torch.tensor(8.0)},
        [f"has {FIRST} of the shape []", "4 dimensions"],
    ),
    "embedding layer of one dimension": (
        lambda s: s | {LAST: torch.zeros(256)},
        [f"has {LAST} of the shape [256]", "2 dimensions"],
    ),
    "count of several numbers": (
        lambda s: s | {"output_layer.4.num_batches_tracked": torch.zeros(2, dtype=torch.long)},
        ["has output_layer.4.num_batches_tracked of the shape [2]", f"{MODEL} has []"],
    ),
    "missing convolution": (lambda s: without(s, CONV), [f"lacks {CONV}, which an {MODEL} has"]),
    "missing statistics": (
        lambda s: without(s, "output_layer.4.running_var"),
        ["lacks output_layer.4.running_var, which"],
    ),
    "missing embedding layer": (lambda s: without(s, LAST), [f"lacks {LAST}"]),
    "missing first convolution": (lambda s: without(s, FIRST), [f"holds no {FIRST}"]),
    "missing last block": (
        lambda s: {name: tensor for name, tensor in s.items() if "body.7." not in name},
        ["has 7 blocks (body.*), where 8, 16, 24, 49 are known"],
    ),
    "missing inner block": (
        lambda s: {name: tensor for name, tensor in s.items() if "body.5." not in name},
        ["lacks body.5.res_layer.0.weight, which"],
    ),
    "no blocks": (lambda s: {name: tensor for name, tensor in s.items() if "body." not in name}, ["has 0 blocks"]),
    "one more block": (lambda s: s | next_block(s), ["has 9 blocks (body.*), where 8, 16, 24, 49 are known"]),
    "one more tensor": (
        lambda s: s | {"body.0.res_layer.9.weight": torch.zeros(8)},
        ["has 'body.0.res_layer.9.weight'", f"an {MODEL} lacks"],
    ),
    "a block of no number": (
        lambda s: s | {f"body.{'9' * 5000}.weight": torch.zeros(8)},
        ["has 'body.999", f"an {MODEL} lacks"],
    ),
    "affine last batch norm": (
        lambda s: s | {"output_layer.4.weight": torch.ones(12)},
        ["has 'output_layer.4.weight'", "lacks"],
    ),
    "squeeze and excitation": (
        lambda s: s | SE,
        ["squeeze-and-excitation", "body.0.res_layer.se_block.fc1.weight", "ir_se_50"],
    ),
    "empty": (lambda s: {}, [f"holds no {FIRST}"]),
    "another network": (lambda s: nn.Linear(2, 2).state_dict(), [f"holds no {FIRST}", "'weight', 'bias'"]),
    "another prefix": (lambda s: prefixed("teacher.", s), [f"holds no {FIRST}"]),
    "two backbones": (
        lambda s: {"state_dict": prefixed("model.", s) | prefixed("net.", s)},
        ["holds 2 backbones", "'model.', 'net.'"],
    ),
    "a list": (lambda s: list(s.values()), ["cannot be read"]),
    "a list in state_dict": (lambda s: {"state_dict": [1]}, [f"holds no {FIRST}", "but ['state_dict']"]),
    "a list in model_state_dict": (lambda s: {"model_state_dict": [1]}, [f"holds no {FIRST}"]),
    "numbers for names": (
        lambda s: {"model_state_dict": dict(enumerate(s.values()))},
        [f"holds no {FIRST}", "['0', '1'"],
    ),
    "a text for a tensor": (lambda s: s | {CONV: "zeros"}, [f"holds a str as '{CONV}'"]),
    "whether, not how much": (lambda s: s | {CONV: s[CONV] > 0}, [f"holds '{CONV}' as torch.bool"]),
    "complex numbers": (lambda s: s | {CONV: s[CONV] * 1j}, [f"holds '{CONV}' as torch.complex64"]),
    "a sparse tensor": (lambda s: s | {LAST: s[LAST].to_sparse()}, [f"holds '{LAST}'", "torch.sparse_coo"]),
    "a tensor without numbers": (lambda s: s | {LAST: s[LAST].to("meta")}, [f"holds '{LAST}'", "meta"]),
    "a tensor of size 0": (lambda s: s | {FIRST: torch.zeros(0, 3, 3, 3)}, [f"'{FIRST}'", "[0, 3, 3, 3]"]),
    "no number": (lambda s: s | {CONV: s[CONV].log()}, [f"has a number in '{CONV}' that is not finite"]),
    "infinite": (lambda s: s | {CONV: s[CONV] / 0}, [f"has a number in '{CONV}' that is not finite"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_whole_backbone_is_refused(tmp_path, small, refused, case):
    change, words = CASES[case]
    file = tmp_path / "weights.pt"
    torch.save(change(small), file)
    with refused(ConfigError, f"weights={file}", *words, "give "):
        read_face_weights(file)


@pytest.mark.parametrize("shape", [(2**45,), (2**31, 2**31), (2**62,), (2**31, 2**30, 2), (2**62 + 1,)], ids=str)
@pytest.mark.parametrize("name", [FIRST, LAST, "body.0.res_layer.0.num_batches_tracked"])
def test_a_shape_that_the_file_does_not_fill_is_refused_before_it_takes_memory(tmp_path, small, refused, name, shape):
    """Memory for it is not to be had on any machine: PyTorch's own error would say so."""
    file = tmp_path / "weights.pt"
    torch.save(small | {name: torch.zeros(1).expand(shape)}, file)
    with refused(ConfigError, f"weights={file}", name, str(shape[0]), "give "):
        read_face_weights(file)


def compressed(file):
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def changed_in_the_middle(file):
    content = bytearray(file.read_bytes())
    content[content.index(drawn(**SMALL)[CONV].numpy().tobytes())] ^= 1
    file.write_bytes(content)


NO_FILES = {
    "missing": (lambda file: file.unlink(), "there is no such file"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "is a folder"),
    "empty": (lambda file: file.write_bytes(b""), "is an empty file"),
    "text": (lambda file: file.write_text("404: not found"), "it is no pickle of tensors"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-2000]), "cannot be read"),
    "cut in half": (lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "cannot be read"),
    "one bit changed": (changed_in_the_middle, "checksum"),
    "compressed": (compressed, "compressed"),
}


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize("case", NO_FILES)
def test_a_file_that_is_none_is_refused(tmp_path, small, refused, case, ending):
    spoil, word = NO_FILES[case]
    file = tmp_path / f"weights{ending}"
    torch.save(prefixed("net.", small), file)
    spoil(file)
    word = word if file.is_file() and ending != ".safetensors" else "weights"
    with refused(ConfigError, f"weights={file}", word):
        read_face_weights(file)


# ---- code in files


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, refused, attack, ending):
    file = tmp_path / f"weights{ending}"
    attack.write(file)
    with refused(ConfigError, f"weights={file}", "asks for", "was not loaded", "re-save", "trust_weights=true"):
        read_face_weights(file)
    assert not attack.touched.exists()


@pytest.mark.parametrize("trust", [False, True])
def test_a_pickle_named_safetensors_is_never_run(tmp_path, refused, attack, trust):
    attack.write(tmp_path / "weights.safetensors")
    with refused(ConfigError, "weights.safetensors", "give another file"):
        read_face_weights(tmp_path / "weights.safetensors", trust)
    assert not attack.touched.exists()


@pytest.fixture
def of_lightning(tmp_path, small, monkeypatch):
    """A checkpoint with the hyperparameters in a class of the trainer's own, whose module is here at first."""
    module = types.ModuleType("lightning_of_old")
    attribute_dict = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = attribute_dict
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = lightning(prefixed("model.", small)) | {"hyper_parameters": attribute_dict(m=0.4, h=0.333)}
    torch.save(content, tmp_path / "adaface.ckpt")
    return tmp_path / "adaface.ckpt"


def test_a_trainers_own_objects_need_trust(of_lightning, small, refused):
    with refused(
        ConfigError,
        f"weights={of_lightning}",
        "lightning_of_old.AttributeDict",
        resave_command(of_lightning),
        "trust_weights=true",
    ):
        read_face_weights(of_lightning)
    found = read_face_weights(of_lightning, trust=True)
    assert same(found.state, small) and found.colour_order == "bgr"


def test_where_the_trainer_is_not_installed_trust_is_not_enough_and_that_is_said(of_lightning, refused, monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning_of_old")
    with refused(
        ConfigError, f"weights={of_lightning}", "module lightning_of_old", "install it", resave_command(of_lightning)
    ):
        read_face_weights(of_lightning, trust=True)


# ---- writing


def adaface_loader(file, model):
    """What AdaFace's inference does with a checkpoint."""
    state = torch.load(file, weights_only=True)["state_dict"]
    model.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("model.")})


def adaface_trainer(file, model):
    """What AdaFace's training does with a checkpoint to start from."""
    state = torch.load(file, weights_only=True)["state_dict"]
    model.load_state_dict({key.replace("model.", ""): value for key, value in state.items() if "model." in key})


def cvlface_loader(file, model):
    """What CVLFace does: its model keeps the network as `net`, and what does not fit is passed over."""
    wrapper = nn.ModuleDict({"net": model})
    odd = wrapper.load_state_dict(torch.load(file, weights_only=True), strict=False)
    assert not odd.missing_keys and not odd.unexpected_keys


LOADERS = [("adaface", adaface_loader, "bgr"), ("adaface", adaface_trainer, "bgr"), ("cvlface", cvlface_loader, "rgb")]


def network(state=None):
    model = IResNet(18, width=8, embedding=12, image_size=32).eval()
    if state:
        model.load_state_dict(state)
    return model


@pytest.mark.parametrize("ours", ["rgb", "bgr"])
@pytest.mark.parametrize(("form", "load", "theirs"), LOADERS, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_written_gives_its_readers_the_same_embeddings(tmp_path, small, form, load, theirs, ours):
    model, other = network(small), network()
    faces = torch.randn(4, 3, 32, 32, dtype=torch.double)  # RGB, normalised
    write_face_weights(tmp_path / "written.pt", model.state_dict(), form, ours)
    load(tmp_path / "written.pt", other)
    assert same(model.state_dict(), small)
    model.double(), other.double()
    with torch.no_grad():
        wanted = model(faces if ours == "rgb" else faces.flip(1))
        found = other(faces if theirs == "rgb" else faces.flip(1))
        swapped = other(faces.flip(1) if theirs == "rgb" else faces)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    assert (swapped - wanted).abs().max() > 1e-2  # else this test would see no order of colours


@pytest.mark.parametrize("colour_order", ["rgb", "bgr"])
@pytest.mark.parametrize(("form", "origin"), [("adaface", "AdaFace"), ("cvlface", "CVLFace")])
def test_what_is_written_is_read_again(tmp_path, small, form, origin, colour_order):
    write_face_weights(tmp_path / "written.pt", small, form, colour_order)
    found = read_face_weights(tmp_path / "written.pt")
    assert (found.origin, found.colour_order) == (origin, {"adaface": "bgr", "cvlface": "rgb"}[form])
    first = small[FIRST] if found.colour_order == colour_order else small[FIRST][:, [2, 1, 0]]
    assert same(found.state, small | {FIRST: first})


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, small, refused):
    for form, colour_order in (("onnx", "rgb"), ("adaface", "")):
        with pytest.raises(ValueError, match=r"adaface or cvlface, and rgb or bgr\.$"):
            write_face_weights(tmp_path / "written.pt", small, form, colour_order)
    with refused(StorageError, tmp_path / "gone" / "written.pt"):
        write_face_weights(tmp_path / "gone" / "written.pt", small, "adaface", "rgb")
    assert not list(tmp_path.iterdir())


# ---- the published model


def test_the_published_ir_50_gives_the_published_cosines():
    """Of AdaFace's README: its three test images, with IR-50 trained on MS1MV2."""
    file, folder = os.environ.get("TWINS_ADAFACE_IR50"), os.environ.get("TWINS_ADAFACE_IMAGES")
    if not file or not folder:
        pytest.skip(
            "set TWINS_ADAFACE_IR50 to adaface_ir50_ms1mv2.ckpt, and TWINS_ADAFACE_IMAGES to a folder with AdaFace's "
            "img1.jpeg, img2.jpeg and img3.jpeg (those of 112 x 112 px are taken as aligned, others are aligned here)"
        )
    weights = read_face_weights(Path(file))
    assert (weights.depth, weights.colour_order, len(weights.state)) == (50, "bgr", 467)
    model = IResNet(50).eval()
    model.load_state_dict(weights.state)
    images = [np.asarray(Image.open(Path(folder) / f"img{number}.jpeg").convert("RGB")) for number in (1, 2, 3)]
    aligned = all(image.shape == (112, 112, 3) for image in images)
    if not aligned:
        images = [FaceAligner().align(image, 112)[0] for image in images]
    bgr = torch.from_numpy(np.stack(images)[..., ::-1].copy())  # [3, 112, 112, 3]
    with torch.no_grad():
        embeddings = F.normalize(model((bgr.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5))  # [3, 512]
    cosines = embeddings @ embeddings.T  # [3, 3]
    found = torch.stack([cosines[0, 1], cosines[0, 2], cosines[1, 2]])
    near = 0.01 if aligned else 0.1  # AdaFace aligns by another detector
    torch.testing.assert_close(found, torch.tensor([0.7334, -0.0655, -0.0277]), atol=near, rtol=0)
