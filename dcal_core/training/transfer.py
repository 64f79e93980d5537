"""Starting from the weights of an earlier model: what fits is taken, what does not is named."""

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from dcal_core.errors import ConfigError
from dcal_core.storage import CURE, DamagedError

LEAST_SHARE = 0.5  # of a model's weights that an earlier one must have for it to start from them
Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_in(folder: Path) -> Shapes:
    """The shape of each tensor in a folder's model.safetensors, whose header alone is read; raises DamagedError."""
    file = folder / "model.safetensors"
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} is damaged: {error}; {CURE}.") from None


def mismatches(ours: Shapes, theirs: Shapes) -> dict[str, str]:
    """Every tensor in which two models differ, by name: missing from theirs, unexpected in theirs, or reshaped."""
    found = {name: "missing" for name in ours if name not in theirs}
    found |= {name: "unexpected" for name in theirs if name not in ours}
    reshaped = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    return found | {name: f"reshaped, {list(theirs[name])} then, {list(ours[name])} now" for name in reshaped}


def listing(differ: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {how}" for name, how in sorted(differ.items(), key=lambda one: one[1]))


def summary(differ: dict[str, str]) -> str:
    """How many tensors differ in each way, and the first of them."""
    ways: dict[str, list[str]] = {}
    for name, how in differ.items():
        way, _, shapes = how.partition(", ")
        ways.setdefault(way, []).append(f"{name} {shapes}".strip())
    return "; ".join(f"{len(found)} {way}, first {found[0]}" for way, found in ways.items())


def refuse_stranger(ours: Shapes, folder: Path) -> None:
    """Raise ConfigError where the model in a folder has too little in common with ours to start from."""
    theirs = shapes_in(folder)
    differ = mismatches(ours, theirs)
    common = sum(math.prod(shape) for name, shape in ours.items() if name not in differ)
    share = common / sum(math.prod(shape) for shape in ours.values())
    if share < LEAST_SHARE:
        count = "1 tensor" if len(theirs) == 1 else f"{len(theirs)} tensors"
        raise ConfigError(
            f"{folder} has {share:.0%} of this model's weights, too little to start from: it holds {count} where "
            f"{len(ours)} are expected ({summary(differ)}). Give the parameters that it was trained with, or "
            "resume=false without resume_from to start fresh (nothing is lost)."
        )


def load_matching(model: nn.Module, folder: Path) -> None:
    """Give a new model the weights of an earlier one where name and shape agree; prints every tensor that does not,
    with advice."""
    theirs = load_file(Path(folder) / "model.safetensors")
    ours = shapes_of(model)
    differ = mismatches(ours, {name: tuple(tensor.shape) for name, tensor in theirs.items()})
    taken = {name: tensor for name, tensor in theirs.items() if name not in differ}
    model.load_state_dict(taken, strict=False)
    print(f"A new run from the weights of {folder}: {len(taken)} of {len(ours)} tensors.")
    if differ:
        print(
            f"These differ; what is missing or reshaped starts anew:{listing(differ)}\nAdvice: a lower lr (a third) or "
            "a longer warmup_share keeps what was learnt; watch the first epochs' curves, and where they do not come "
            "back, start fresh with resume=false."
        )
