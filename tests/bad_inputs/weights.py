"""Files of pretrained weights from elsewhere, with a judge that checks sums, names, shapes and numbers."""

import functools
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import timm
import torch
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from bad_inputs.mutations import damaged, spoilt_json
from bad_inputs.trial import EXECUTED, Kind
from dcal_core.config.dcal import DCALConfig
from dcal_core.models.pretrained import load_weights, pretrained_backbone

NAME = "vit_tiny_patch16_224"
Sample = tuple[str, bytes | str]  # the file's ending, and its content or what stands in its place


class Malicious:
    """Where it is unpickled, a file is made."""

    def __reduce__(self):
        return exec, (f"open({EXECUTED!r}, 'w').close()",)


def backbone() -> nn.Module:
    """A vision transformer of one narrow block."""
    return timm.create_model(NAME, img_size=32, depth=1, embed_dim=12, num_classes=0)


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor.contiguous() for name, tensor in backbone().state_dict().items()}


def torch_file(content: object, **options) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def read_afresh(ending: str, data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a file, whose own sums are checked; raises whatever its reader raises."""
    if ending == ".safetensors":
        return load_safetensors(data)
    if data.startswith(b"PK") and zipfile.ZipFile(io.BytesIO(data)).testzip():
        raise ValueError
    found = torch.load(io.BytesIO(data), weights_only=True)
    return found.get("model", found)


def malformed(folder: Path, sample: Sample) -> bool | None:
    """The judge of weights: each tensor there, of its shape, each number a finite one."""
    ending, data = sample
    if isinstance(data, str):
        return True
    try:
        found = read_afresh(ending, data)
        if any(found[name].shape != tensor.shape for name, tensor in tensors().items()):
            return True
        return not all(found[name].isfinite().all() for name in tensors())
    except Exception:  # whatever a reader raises, these are no weights
        return True


def write(folder: Path, sample: Sample) -> None:
    ending, data = sample
    file = folder / f"weights{ending}"
    if isinstance(data, bytes):
        file.write_bytes(data)
    elif data == "folder":
        file.mkdir()


def use(folder: Path, sample: Sample) -> None:
    """What training does with `weights`; of a small backbone, once the file is known to be one."""
    file = folder / f"weights{sample[0]}"
    if not file.is_file():
        pretrained_backbone(DCALConfig(backbone="hybrid_tiny", image_size=32, weights=str(file)), [])
    load_weights(NAME, backbone(), file)


def header_with(**facts) -> bytes:
    """A safetensors file whose header says something else of one tensor."""
    data = save_safetensors(tensors())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["cls_token"] |= facts
    return headed(json.dumps(header).encode(), data[8 + length :])


def headed(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def changed(**others: torch.Tensor | None) -> bytes:
    """A sound file but for some tensors, which None leaves out."""
    together = tensors() | others
    return save_safetensors({name: tensor for name, tensor in together.items() if tensor is not None})


def zipped_with(place: int) -> bytes:
    """A file of torch's with one bit of a tensor changed."""
    data = bytearray(torch_file(tensors()))
    data[data.index(tensors()["cls_token"].numpy().tobytes()) + place] ^= 1
    return bytes(data)


def bad_weights() -> dict[str, Sample]:
    """Weights that Hypothesis would not damage so."""
    sound, model = save_safetensors(tensors()), tensors() | {"code": Malicious()}
    old = {"_use_new_zipfile_serialization": False}
    return {
        "no such file": (".safetensors", "missing"),
        "a folder in its place": (".safetensors", "folder"),
        **{f"empty {ending}": (ending, b"") for ending in (".safetensors", ".pth", ".bin")},
        "text": (".pth", b"404 not found"),
        "pointer of a large file": (".safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "code among tensors": (".pth", torch_file(model)),
        "code among tensors, old format": (".pth", torch_file(model, **old)),
        "code alone": (".bin", pickle.dumps(Malicious())),
        "code as .ckpt": (".ckpt", pickle.dumps({"state_dict": Malicious()}, 2)),
        "code as .safetensors": (".safetensors", pickle.dumps(Malicious())),
        "a whole module": (".pth", torch_file(nn.Linear(2, 2))),
        "tensors of another model": (".pth", torch_file(nn.Linear(2, 2).state_dict())),
        "a list": (".pth", torch_file([1, 2])),
        "a number": (".pth", torch_file(7)),
        "nothing": (".pth", torch_file({})),
        "texts for tensors": (".pth", torch_file(dict.fromkeys(tensors(), "a"))),
        "numbers for names": (".pth", torch_file(dict(enumerate(tensors().values())))),
        "one bit changed": (".pth", zipped_with(0)),
        "an archive without tensors": (".pth", b"PK\x05\x06" + bytes(18)),
        "header of 2^60 bytes": (".safetensors", struct.pack("<Q", 2**60) + sound[8:]),
        "header of a list": (".safetensors", headed(b"[]", b"")),
        "header nested deeply": (".safetensors", headed(b'{"a":' * 100_000, b"")),
        "tensor of 2^40 numbers": (".safetensors", header_with(shape=[2**20, 2**20])),
        "tensor beyond the end": (".safetensors", header_with(data_offsets=[0, 2**40])),
        "tensor before the beginning": (".safetensors", header_with(data_offsets=[-48, 0])),
        "tensor of an unknown type": (".safetensors", header_with(dtype="F99")),
        "rest cut off": (".safetensors", sound[:-4]),
        "rest too long": (".safetensors", sound + b"\0"),
        "tensor missing": (".safetensors", changed(**{"norm.weight": None})),
        "tensor of another shape": (".safetensors", changed(**{"norm.weight": torch.ones(13)})),
        "tensor of NaN": (".safetensors", changed(**{"norm.weight": torch.full((12,), float("nan"))})),
        "tensor with an infinite number": (".safetensors", changed(**{"norm.bias": torch.full((12,), float("inf"))})),
    }


def of(ending: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Sample]:
    return content.map(lambda data: (ending, data))


def bad_headers() -> st.SearchStrategy[bytes]:
    data = save_safetensors(tensors())
    (length,) = struct.unpack("<Q", data[:8])
    return spoilt_json(json.loads(data[8 : 8 + length])).map(lambda header: headed(header, data[8 + length :]))


OLD = torch_file(tensors(), _use_new_zipfile_serialization=False)
WEIGHTS = Kind(
    name="pretrained weights",
    by_hand=bad_weights(),
    generated=st.one_of(
        of(".safetensors", damaged(save_safetensors(tensors()))),
        of(".safetensors", bad_headers()),
        of(".pth", damaged(torch_file({"model": tensors()}))),
        of(".pt", damaged(OLD)),
        of(".bin", damaged(OLD[:300])),
    ),
    count=80,
    lay_out=write,
    malformed=malformed,
    use=use,
    names=lambda sample: (f"weights{sample[0]}",),
    example="no such file",
)
