"""Pretrained weights of a backbone: found, read from any copy of it in a file, and loaded whole."""

import re
from collections import Counter
from pathlib import Path

from timm.models import eva
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.errors import ConfigError, quoted
from dcal_core.models.backbones import create_backbone
from dcal_core.models.weight_files import described, largest, preferred, read_states, shape_of

WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
NEARLY = 0.9  # of the most names that a copy of the backbone in a file shares with ours, where it counts as one too


def load_weights(name: str, vit: nn.Module, file: Path, trusted: bool = False) -> str:
    """Fill the whole backbone from any copy of it in a file, of another image size if need be; returns where in the
    file it stood and what was not used, for a message."""
    states = read_states(file, trusted)
    ours = vit.state_dict()
    place, prefix = find_copy(states, ours, file)
    found = states[place]
    inside = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    try:
        if isinstance(vit, eva.Eva):
            state = eva.checkpoint_filter_fn(inside, vit)
        else:
            state = checkpoint_filter_fn(inside, vit, adapt_layer_scale=True)
    except Exception as error:  # another architecture can fail anywhere
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"weights={file} cannot be read as {name} ({reason[-200:]}); it holds {described(found)}: give "
            "another file."
        ) from None
    check_state(name, ours, state, found, file)
    vit.load_state_dict({tensor: state[tensor] for tensor in ours})
    where = "/".join(filter(None, (place, prefix)))
    unused = sorted(set(state) - set(ours)) + [key for key in found if not key.startswith(prefix)]
    return (f", there under {where}" if where else "") + (f"; not used: {quoted(unused)}" if unused else "")


def find_copy(states: dict[str, dict], ours: dict, file: Path) -> tuple[str, str]:
    """The copy of the backbone in a file that has most of our names: its place, and what stands before the names there.

    A file with fewer than half of them may be in another project's names: then the place of most tensors.
    """
    shared = Counter()
    for place, state in states.items():
        for key in state:
            starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
            shared.update((place, key[:start]) for start in starts if key[start:] in ours)
    most = max(shared.values(), default=0)
    if 2 * most < len(ours):
        return largest(states), ""
    copies = {"/".join(filter(None, where)): where for where, count in shared.items() if count >= NEARLY * most}
    chosen = preferred([*copies])
    if len(chosen) > 1:
        raise ConfigError(
            f"weights={file} holds {len(chosen)} copies of the backbone, under {quoted(chosen)}: keep one of them."
        )
    return copies[chosen[0]]


def check_state(name: str, ours: dict, state: dict, found: dict, file: Path) -> None:
    """Refuse a converted state that lacks a tensor of ours, or has one of another shape or with a number that is not
    finite; found: what the file holds, for the message."""
    cure = f"the file holds {described(found)}: give another file, or the backbone that this one is of"
    if missing := [tensor for tensor in ours if tensor not in state]:
        first = f"{missing[0]} {shape_of(ours[missing[0]])}"
        raise ConfigError(
            f"weights={file} lacks {len(missing)} of {len(ours)} tensors of {name}, first {first}; {cure}."
        )
    for tensor, wanted in ours.items():
        values = state[tensor]
        if not isinstance(values, Tensor) or values.shape != wanted.shape:
            raise ConfigError(
                f"weights={file} has {tensor} {shape_of(values)}, where {name} has {shape_of(wanted)}; {cure}."
            )
        if not values.isfinite().all():
            raise ConfigError(f"weights={file} has a number in {tensor} that is not finite: give another file.")


def find_weights(backbone: str, roots: list[Path]) -> Path | None:
    """The one attached weight file below the roots whose path names the backbone, e.g. a Kaggle model."""
    wanted = backbone.split(".")[0]
    files = (path for root in roots for ending in WEIGHT_FILES for path in Path(root).glob(f"models/**/*{ending}"))
    found = sorted(path for path in files if wanted in str(path).replace("-", "_").lower())
    if len(found) > 1:
        raise ConfigError(f"{len(found)} attached files fit backbone={backbone!r}: choose one by weights={found[0]}, …")
    return found[0] if found else None


def pretrained_backbone(config: DCALConfig, input_roots: list[Path]) -> nn.Module:
    """The backbone with weights from `weights`, an attached model or timm's hub."""
    file = Path(config.weights) if config.weights else find_weights(config.backbone, input_roots)
    if file:
        vit = create_backbone(config)
        about = load_weights(config.backbone, vit, file, config.trust_weights)
        print(f"Pretrained weights of {config.backbone}: {file}{about}")
        return vit
    if config.allow_random_init:
        print(f"{config.backbone} starts from random weights (allow_random_init=true).")
        return create_backbone(config)
    if config.backbone == "hybrid_tiny":
        raise ConfigError("backbone=hybrid_tiny has no pretrained weights: set allow_random_init=true.")
    try:
        return create_backbone(config, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # whatever the hub's client raises without a network, the cure is the same
        raise ConfigError(
            f"the pretrained weights of {config.backbone} were neither attached nor available from timm's hub "
            f"({type(error).__name__}). Switch the internet on, or attach the Kaggle model of that name, or give "
            "weights=<file>; allow_random_init=true trains from nothing."
        ) from error
