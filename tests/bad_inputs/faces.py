"""Files of others' face recognisers, with a judge that knows the published names and shapes of AdaFace's backbones."""

import functools
import pickle
from pathlib import Path

import torch
from hypothesis import strategies as st
from published_iresnet import published_shapes
from safetensors.torch import save as save_safetensors

from bad_inputs.mutations import damaged
from bad_inputs.trial import Kind
from bad_inputs.weights import Malicious, Sample, of, read_afresh, torch_file, write
from dcal_core.models.face_weights import read_face_weights

BACKBONE = ("input_layer.", "body.", "output_layer.")
SHAPES = published_shapes(depth=18, width=2, embedding=3, side=1)


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"net.{name}": torch.rand(shape) for name, shape in SHAPES.items()}


def malformed(folder: Path, sample: Sample) -> bool:
    """The judge: each published tensor there but for counts of batches, of its shape and finite, and none beside."""
    ending, data = sample
    if isinstance(data, str):
        return True
    try:
        found = read_afresh(ending, data)
        found = found.get("state_dict", found)
        found = {name.removeprefix("net."): tensor for name, tensor in found.items() if name.startswith("net.")}
        found = {name: tensor for name, tensor in found.items() if name.startswith(BACKBONE)}
        if any(found[name].shape != SHAPES[name] or not found[name].isfinite().all() for name in found):
            return True
        return not all(name in found or name.endswith(".num_batches_tracked") for name in SHAPES)
    except Exception:  # whatever a reader raises, this is no such backbone
        return True


def without(part: str) -> dict[str, torch.Tensor]:
    """A sound state but for the tensors that have a part in their names."""
    return {name: tensor for name, tensor in tensors().items() if part not in name}


def bad_faces() -> dict[str, Sample]:
    """Files that Hypothesis would not damage so."""
    sound, kernel = tensors(), "net.body.3.res_layer.1.weight"
    full = torch.zeros(1).expand(2**45)
    return {
        "no such file": (".ckpt", "missing"),
        "a folder in its place": (".pt", "folder"),
        **{f"empty {ending}": (ending, b"") for ending in (".safetensors", ".ckpt")},
        "text": (".ckpt", b"<html>404</html>"),
        "code beside the weights": (".ckpt", torch_file({"state_dict": sound, "hyper_parameters": Malicious()})),
        "code among the weights": (".pt", torch_file(sound | {"net.head": Malicious()})),
        "code alone": (".pt", pickle.dumps(Malicious())),
        "code as .safetensors": (".safetensors", pickle.dumps(Malicious())),
        "nothing": (".pt", torch_file({})),
        "nothing in state_dict": (".ckpt", torch_file({"state_dict": {}})),
        "a list in state_dict": (".ckpt", torch_file({"state_dict": [1]})),
        "a number in model_state_dict": (".ckpt", torch_file({"model_state_dict": 1})),
        "numbers for names": (".pt", torch_file({"model_state_dict": dict(enumerate(sound.values()))})),
        "no blocks": (".pt", torch_file(without("body."))),
        "no embedding": (".pt", torch_file(without("output_layer."))),
        "tensor missing": (".pt", torch_file(without(kernel))),
        "tensor of another shape": (".pt", torch_file(sound | {kernel: torch.ones(4, 4, 3, 3)[:, :3]})),
        "tensor of NaN": (".pt", torch_file(sound | {kernel: torch.full((4, 4, 3, 3), float("nan"))})),
        "tensor of 2^45 numbers in one": (".pt", torch_file(sound | {"net.output_layer.3.weight": full})),
        "sparse tensor": (".pt", torch_file(sound | {kernel: torch.ones(4, 4, 3, 3).to_sparse()})),
        "text for a tensor": (".pt", torch_file(sound | {kernel: "ones"})),
        "squeeze and excitation": (
            ".safetensors",
            save_safetensors(sound | {"net.body.0.res_layer.se_block.fc1.weight": torch.ones(1)}),
        ),
        "a ninth block": (".safetensors", save_safetensors(sound | {"net.body.8.res_layer.0.weight": torch.ones(16)})),
        "names of another network": (".pt", torch_file({name.replace("body", "layer"): sound[name] for name in sound})),
    }


def use(folder: Path, sample: Sample) -> None:
    """What training does with `weights` of such a backbone."""
    read_face_weights(folder / f"weights{sample[0]}")


FACES = Kind(
    name="face recognisers of others",
    by_hand=bad_faces(),
    generated=st.one_of(
        of(".safetensors", damaged(save_safetensors(tensors()))),
        of(".ckpt", damaged(torch_file({"state_dict": tensors()}))),
        of(".pt", damaged(torch_file(tensors(), _use_new_zipfile_serialization=False))),
    ),
    count=60,
    lay_out=write,
    malformed=malformed,
    use=use,
    names=lambda sample: (f"weights{sample[0]}",),
    example="a ninth block",
)
