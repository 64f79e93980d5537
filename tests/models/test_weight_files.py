"""Files of pretrained weights in every form that trainers leave: read, or named for what they are, with a cure."""

import argparse
import io
import os
import shlex
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dcal_core.errors import ConfigError
from dcal_core.models.pretrained import load_weights
from dcal_core.models.weight_files import RESAVE

ROOT = Path(__file__).parents[2]
NAME = "vit_tiny_patch16_224"


def backbone() -> nn.Module:
    """A vision transformer of two narrow blocks."""
    return timm.create_model(NAME, img_size=32, depth=2, embed_dim=12, num_classes=0)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return backbone().state_dict()


def after(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: dict) -> dict:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


HEAD = {"head.weight": torch.zeros(5, 12), "head.bias": torch.zeros(5)}
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
FORMS = {  # how trainers leave a model
    "plain": dict,
    "with a head": lambda s: s | HEAD,
    "data parallel": lambda s: after("module.", s),
    "compiled": lambda s: after("_orig_mod.", s),
    "compiled, then data parallel": lambda s: after("module._orig_mod.", s),
    "model.": lambda s: after("model.", s),
    "backbone.": lambda s: after("backbone.", s | HEAD),
    "model.module.": lambda s: after("model.module.", s),
    "encoder.vit.": lambda s: after("encoder.vit.", s) | {"decoder.norm.weight": torch.zeros(3)},
    "Lightning": lambda s: {"state_dict": after("model.", s), "epoch": 3, "optimizer_states": [OPTIMIZER]},
    "Lightning, backbone in a model": lambda s: {"state_dict": after("model.backbone.", s)},
    "PyTorch's tutorial": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": OPTIMIZER, "loss": 0.5},
    "timm": lambda s: {"state_dict": zeros(s), "state_dict_ema": s, "args": argparse.Namespace(lr=0.1)},
    "DeiT": lambda s: {"model": zeros(s), "model_ema": s, "optimizer": OPTIMIZER},
    "DINO": lambda s: {"student": after("module.backbone.", zeros(s)), "teacher": after("backbone.", s), "epoch": 3},
    "DINOv2": lambda s: {"model": after("student.backbone.", zeros(s)) | after("teacher.backbone.", s)},
    "OpenCLIP": lambda s: after("visual.trunk.", s) | {"logit_scale": torch.tensor(1.0)},
    "two dictionaries deep": lambda s: {"checkpoint": {"model": s, "step": 3}},
}


def same(found: dict, given: dict) -> bool:
    return found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read(tmp_path, state, form):
    torch.save(FORMS[form](state), tmp_path / "weights.pth")
    vit = backbone()
    load_weights(NAME, vit, tmp_path / "weights.pth")
    assert same(vit.state_dict(), state)


@pytest.mark.parametrize(
    ("form", "about"),
    [
        ("plain", ""),
        ("DINO", ", there under teacher/backbone.; not used: ['epoch']"),
        ("with a head", "; not used: ['head.bias', 'head.weight']"),
    ],
)
def test_where_the_backbone_stood_and_what_was_not_used_is_said(tmp_path, state, form, about):
    content = FORMS[form](state)
    if form == "DINO":
        content["teacher"] |= {"epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    assert load_weights(NAME, backbone(), tmp_path / "weights.pth") == about


def test_safetensors_are_known_by_their_content(tmp_path, state):
    for name in ("weights.bin", "weights.pth", "weights.safetensors"):
        save_file(after("backbone.", state), tmp_path / name)
        vit = backbone()
        load_weights(NAME, vit, tmp_path / name)
        assert same(vit.state_dict(), state)


def test_of_two_copies_without_a_name_that_tells_none_is_taken(tmp_path, state, refused):
    torch.save({"first": state, "last": zeros(state)}, tmp_path / "weights.pth")
    with refused(ConfigError, "weights.pth", "2 copies", "['first', 'last']", "keep one"):
        load_weights(NAME, backbone(), tmp_path / "weights.pth")


LACKING = {
    "another model": (lambda s: nn.Linear(2, 3).state_dict(), ["2 tensors, first 'weight' [3, 2], 'bias' [3]"]),
    "a wider one": (
        lambda s: after("model.", s) | {"model.norm.weight": torch.ones(13)},
        ["has norm.weight [13], where vit_tiny_patch16_224 has [12]", "first 'model.cls_token' [1, 1, 12]"],
    ),
    "half of it": (
        lambda s: {"teacher": {name: tensor for name, tensor in s.items() if "blocks.1" not in name}},
        [
            "lacks 12 of 30 tensors",
            "first blocks.1.norm1.weight [12]",
            "holds 18 tensors, first 'cls_token' [1, 1, 12]",
        ],
    ),
    "names alone": (lambda s: dict.fromkeys(s, "a"), ["cls_token' (str)"]),
    "empty": (lambda s: {}, ["the file holds nothing"]),
    "an optimiser": (
        lambda s: OPTIMIZER,
        ["lacks 30 of 30 tensors of vit_tiny_patch16_224, first cls_token [1, 1, 12]; the file holds 1 tensor,"],
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_refusal_shows_what_the_file_holds_and_what_was_expected(tmp_path, state, refused, case):
    content, words = LACKING[case]
    torch.save(content(state), tmp_path / "weights.pth")
    with refused(ConfigError, f"weights={tmp_path}/weights.pth", NAME, *words, "give another file"):
        load_weights(NAME, backbone(), tmp_path / "weights.pth")


# ---- what is no weights


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind)
    return out.getvalue()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return out.getvalue()


def arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    return out.getvalue()


def scripted() -> bytes:
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), out)
    return out.getvalue()


STRANGERS = {
    **{f"a {kind} picture": picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF")},
    "a WebP picture": picture("WEBP"),
    "an archive (zip) of 2 files, first 'weights.pth'": zipped(**{"weights.pth": b"", "readme.md": b""}),
    "an archive (zip) without a file": zipped(),
    "a NumPy archive": arrays(),
    "a TorchScript program": scripted(),
    "an archive (tar)": tarred(),
    "an archive (gzip)": b"\x1f\x8b\x08" + bytes(20),
    "a web page": b"\n<!DOCTYPE html><html><title>404</title></html>",
    "a web page (HTML or XML)": b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "an empty file": b"",
    "cannot be read as weights (it is no pickle of tensors)": b"404: not found",
    "cannot be read as weights (it is no pickle of tensors": b'{"error": "Invalid username or password."}',
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("ending", [".pth", ".bin"])
@pytest.mark.parametrize("what", STRANGERS)
def test_what_is_no_weights_is_named_and_no_unsafe_load_advised(tmp_path, what, ending, trusted):
    file = tmp_path / f"weights{ending}"
    file.write_bytes(STRANGERS[what])
    with pytest.raises(ConfigError) as refusal:
        load_weights(NAME, backbone(), file, trusted)
    sentence = str(refusal.value)
    assert f"weights={file}" in sentence and (what in sentence or trusted and "cannot be read" in sentence)
    assert not any(unsafe in sentence for unsafe in ("weights_only", "trust_weights", "torch.load"))
    assert any(cure in sentence for cure in ("give ", "unpack", "download"))


def test_a_torch_file_under_the_name_of_safetensors_is_told_its_own(tmp_path, state, refused):
    torch.save(state, tmp_path / "weights.safetensors")
    with refused(ConfigError, "weights.safetensors", "torch.save", "named .pth"):
        load_weights(NAME, backbone(), tmp_path / "weights.safetensors")


def test_the_model_of_a_run_is_gone_on_from_and_not_taken_as_weights(tmp_path, state, refused):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text("{}")
    with refused(ConfigError, f"resume_from={tmp_path}", "people"):
        load_weights(NAME, backbone(), tmp_path / "model.safetensors")


# ---- the cure for a pickle with more than tensors


class Settings(dict):
    """A trainer's own dictionary."""


class Trainer(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


def module_of(state: dict) -> nn.Module:
    vit = backbone()
    vit.load_state_dict(state)
    return vit


UNSAFE = {
    "a whole module": lambda s: module_of(s),
    "a module in a module": lambda s: Trainer(module_of(s)),
    "a module in a dictionary": lambda s: {"model": module_of(s), "epoch": 3},
    "settings beside": lambda s: {"state_dict": after("model.", s), "hyper_parameters": Settings(lr=0.1)},
    "settings around": lambda s: Settings(model_state_dict=s, lr=types.SimpleNamespace(lr=0.1)),
    "an optimiser beside": lambda s: {
        "net": s,
        "optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9),
    },
    "a mean and its teacher": lambda s: {"student": zeros(s), "teacher": module_of(s)},
}


IN_A_SHELL = [("a whole module", True)]  # which starts torch anew, so the others do not


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", UNSAFE)
def test_the_command_that_a_refusal_prints_gives_a_file_that_needs_no_trust(tmp_path, monkeypatch, state, form, zipped):
    file = tmp_path / "it's from a trainer.pth"
    torch.save(UNSAFE[form](state), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError) as refusal:
        load_weights(NAME, backbone(), file)
    sentence = str(refusal.value)
    assert RESAVE in sentence and "trust_weights=true" in sentence
    command = sentence[sentence.index("python -c") : sentence.index("; or, if its source")]
    if (form, zipped) in IN_A_SHELL:
        command = command.replace("python -c", f"{sys.executable} -c")
        path = {"PYTHONPATH": f"{Path(__file__).parent}:{ROOT}:{ROOT / 'tests'}"}
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
        exec(sys.argv.pop(1), {})
    vit = backbone()
    load_weights(NAME, vit, tmp_path / "weights.pt")
    assert same(vit.state_dict(), state)


@pytest.mark.parametrize("form", UNSAFE)
def test_with_trust_the_same_files_are_read_as_they_are(tmp_path, state, form):
    torch.save(UNSAFE[form](state), tmp_path / "weights.pth")
    vit = backbone()
    load_weights(NAME, vit, tmp_path / "weights.pth", trusted=True)
    assert same(vit.state_dict(), state)
