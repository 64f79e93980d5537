"""IR checkpoints of AdaFace (Kim, Jain and Liu, CVPR 2022), of its successor CVLFace and of OAML, read and written.

All name the backbone's tensors alike, behind a prefix of their own. The prefix tells the origin, and so the order of
colours that the first convolution takes. The order stays with the model: reading swaps nothing.
"""

import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dcal_core.errors import ConfigError, quoted
from dcal_core.models.iresnet import BLOCKS, STRIDE, IResNet
from dcal_core.models.weight_files import largest, preferred, read_states
from dcal_core.storage import write_bytes

BACKBONE = ("input_layer.", "body.", "output_layer.")
FIRST, LAST = "input_layer.0.weight", "output_layer.3.weight"  # [width, 3, 3, 3], [embedding, 8 * width * side**2]
COUNT = ".num_batches_tracked"  # of batches, in each batch norm: older files have none, and nothing here reads it
NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
DEPTHS = {sum(stages): depth for depth, stages in BLOCKS.items()}  # by the number of blocks
ORIGINS = {  # by the prefix: whose names these are, and the order of colours, where that tells it
    "model.": ("AdaFace", "bgr"),
    "net.": ("CVLFace", "rgb"),
    "model.net.": ("CVLFace as wrapped on Hugging Face", "rgb"),
    "": ("bare names of AdaFace", ""),
}
PREFIXES = {"adaface": "model.", "cvlface": "net."}  # of the forms that can be written


@dataclass(frozen=True)
class FaceWeights:
    """An IR backbone's tensors under AdaFace's bare names, complete and of the shapes that `IResNet` has.

    width: channels of the first convolution; embedding: numbers in an embedding; image_size: side of the images, px;
    colour_order: "rgb" or "bgr" as the first convolution takes them, "" where the origin does not tell; origin: whose
    file it is, for a message; ignored: the names in it that are not the backbone's, such as `head.kernel`; beside: what
    stands behind the backbone's prefix too, by bare names, unchecked, such as OAML's `qaconv.fc.weight`.
    """

    state: dict[str, Tensor]
    depth: int
    width: int
    embedding: int
    image_size: int
    colour_order: str
    origin: str
    ignored: list[str]
    beside: dict[str, Tensor]


def read_face_weights(file: Path, trust: bool = False) -> FaceWeights:
    """The backbone in a checkpoint of AdaFace or CVLFace, or in any state dict with their names.

    Counts of batches that an older file lacks are 0, and `origin` says so.
    """
    states = read_states(file, trust)
    try:
        return recognise(state_of(states))
    except ValueError as error:
        cure = "give a whole checkpoint of ir_18, ir_34, ir_50 or ir_101"
        raise ConfigError(f"weights={file} {error}: {cure}.") from None


def state_of(states: dict[str, dict]) -> dict:
    """The dictionary in a file that holds a backbone, else the one of most tensors; ValueError if several hold one."""
    having = preferred([place for place, state in states.items() if any(name.endswith(FIRST) for name in state)])
    if len(having) > 1:
        raise ValueError(f"holds {len(having)} backbones, under {quoted(having)}")
    return states[having[0] if having else largest(states)]


def recognise(found: dict[str, Tensor]) -> FaceWeights:
    """The backbone in a state dict; raises ValueError with what is wrong."""
    prefix = prefix_of(found)
    origin, colour_order = ORIGINS[bare(prefix)]
    names = [name for name in found if name.startswith(tuple(prefix + part for part in BACKBONE))]
    state = {name.removeprefix(prefix): found[name] for name in names}
    check_tensors(state)
    sizes = sizes_of(state)
    with torch.device("meta"):
        layout = IResNet(**sizes).state_dict()
    if uncounted := {name: torch.tensor(0) for name in layout if name.endswith(COUNT) and name not in state}:
        state |= uncounted
        origin += f", without {len(uncounted)} counts of batches (num_batches_tracked)"
    check_layout(state, layout, f"IR-{sizes['depth']} of width {sizes['width']}")
    ignored = sorted(set(found) - set(names))
    beside = {name.removeprefix(prefix): found[name] for name in ignored if name.startswith(prefix)}
    return FaceWeights(state=state, colour_order=colour_order, origin=origin, ignored=ignored, beside=beside, **sizes)


def bare(prefix: str) -> str:
    """A prefix without those of wrappers: data parallel, and torch.compile."""
    return prefix.replace("module.", "").replace("_orig_mod.", "")


def prefix_of(names: Iterable[str]) -> str:
    """What stands before the backbone's names, with the prefixes of wrappers."""
    found = [name.removesuffix(FIRST) for name in names if name.endswith(FIRST)]
    known = [prefix for prefix in found if bare(prefix) in ORIGINS]
    if not known:
        raise ValueError(f"holds no {FIRST}, with which AdaFace's backbones begin, but {quoted([*names])}")
    if len(known) > 1:
        raise ValueError(f"holds {len(known)} backbones, by the prefixes {quoted(known)}")
    return known[0]


def check_tensors(state: dict[str, Tensor]) -> None:
    """Refuse what is no tensor, or not of finite numbers that are all in the file."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"holds a {type(tensor).__name__} as {quoted(name)}, where a tensor belongs")
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not plain or tensor.dtype not in NUMBERS:
            raise ValueError(f"holds {quoted(name)} as {tensor.dtype}, {tensor.layout}, on {tensor.device}")
        stated = tensor.numel() * tensor.itemsize  # a single number can be stated to fill any shape
        if not 0 < stated <= tensor.untyped_storage().nbytes():
            raise ValueError(f"holds fewer numbers of {quoted(name)} than its shape {list(tensor.shape)} has, or none")
        if not tensor.isfinite().all():
            raise ValueError(f"has a number in {quoted(name)} that is not finite")


def sizes_of(state: dict[str, Tensor]) -> dict[str, int]:
    """`IResNet`'s arguments, as the names and shapes tell them."""
    if se_block := next((name for name in state if ".se_block." in name), ""):
        raise ValueError(f"has squeeze-and-excitation blocks ({quoted(se_block)}), as ir_se_50 and no backbone here")
    for name, dimensions in ((FIRST, 4), (LAST, 2)):
        if name not in state:
            raise ValueError(f"lacks {name}")
        if state[name].ndim != dimensions:
            raise ValueError(f"has {name} of the shape {list(state[name].shape)}, where {dimensions} dimensions belong")
    numbers = re.findall(r"^body\.([0-9]{1,4})\.", "\n".join(state), re.MULTILINE)
    blocks = max(map(int, numbers), default=-1) + 1
    if blocks not in DEPTHS:
        raise ValueError(f"has {blocks} blocks (body.*), where {', '.join(map(str, DEPTHS))} are known")
    width = len(state[FIRST])
    embedding, inputs = state[LAST].shape
    side = max(1, round(math.sqrt(inputs / (8 * width))))  # of the map before the embedding
    return {"depth": DEPTHS[blocks], "width": width, "embedding": embedding, "image_size": STRIDE * side}


def check_layout(state: dict[str, Tensor], layout: dict[str, Tensor], model: str) -> None:
    """Refuse other names or shapes than those of the layout."""
    for name, wanted in layout.items():
        if name not in state:
            raise ValueError(f"lacks {name}, which an {model} has")
        if state[name].shape != wanted.shape:
            theirs = list(state[name].shape)
            raise ValueError(f"has {name} of the shape {theirs}, where an {model} has {list(wanted.shape)}")
    if unknown := sorted(set(state) - set(layout)):
        raise ValueError(f"has {quoted(unknown[0])}, which an {model} lacks")


def write_face_weights(file: Path, state: dict[str, Tensor], form: str, colour_order: str) -> None:
    """Write an `IResNet`'s state as AdaFace's own loader ("adaface", a .ckpt) or CVLFace's ("cvlface", a .pt) takes it.

    colour_order: the model's, "rgb" or "bgr". Where theirs is the other one, the first convolution's input channels are
    swapped in the file, so that it gives the same embeddings.
    """
    if form not in PREFIXES or colour_order not in ("rgb", "bgr"):
        raise ValueError(f"form={form!r}, colour_order={colour_order!r}: take adaface or cvlface, and rgb or bgr.")
    prefix = PREFIXES[form]
    tensors = {prefix + name: tensor.cpu() for name, tensor in state.items()}
    if colour_order != ORIGINS[prefix][1]:
        tensors[prefix + FIRST] = tensors[prefix + FIRST].flip(1)
    content = io.BytesIO()
    torch.save({"state_dict": tensors} if form == "adaface" else tensors, content)
    write_bytes(file, content.getbuffer())
