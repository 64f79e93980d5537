"""From a config to a model, and from a folder to a trained one.

A model folder holds `model.json`, the architecture as plain values, and `model.safetensors`, the weights: neither can
execute code when read.
"""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dcal_core.config import FIELDS, Config, ConfigError, read_value
from dcal_core.models.backbones import check_name, create_backbone, hybrid_tiny, pretrained_backbone, timm_backbone
from dcal_core.models.dcal import DCAL
from dcal_core.storage import DamagedError, check_seal, read_json

MOST_BLOCKS = FIELDS["pwca_last"].metadata["high"]
ARCHITECTURE = {  # what model.json holds, by the parameter that it came from, if it came from one
    "recipe": "recipe",
    "backbone": "backbone",
    "image_size": "image_size",
    "mean": None,
    "std": None,
    "local_ratio": "local_ratio",
    "glca_blocks": "glca_blocks",
    "pwca_layers": None,
    "readout": "readout",
    "neck": "neck",
    "similarity": "similarity",
    "temperature": "similarity_temperature",
}


def architecture_of(config: Config, vit: nn.Module) -> dict:
    """Everything that rebuilds the model without its weights, as plain values."""
    depth = len(vit.blocks)
    if max(config.pwca_first, config.pwca_last) > depth:
        raise ConfigError(f"pwca_first, pwca_last: {config.backbone} has {depth} blocks; lower them.")
    paired = config.pwca_first and config.pwca_prob  # without, its neck would wait for gradients that never come
    pwca = range(config.pwca_first - 1, config.pwca_last or depth) if paired else range(0)
    found = {
        "mean": list(vit.pretrained_cfg["mean"]),
        "std": list(vit.pretrained_cfg["std"]),
        "pwca_layers": list(pwca),
    }
    return {name: getattr(config, field) if field else found[name] for name, field in ARCHITECTURE.items()}


def assemble(architecture: dict, vit: nn.Module, gradient_checkpointing: bool = False) -> DCAL:
    """The model of an architecture around its backbone; it keeps the architecture, to be saved with its weights."""
    names = ("image_size", "mean", "std", "local_ratio", "glca_blocks", "readout", "neck", "similarity", "temperature")
    layers = architecture["pwca_layers"]
    model = DCAL(
        vit=vit,
        pwca_layers=range(layers[0], layers[-1] + 1) if layers else range(0),
        gradient_checkpointing=gradient_checkpointing,
        **{name: architecture[name] for name in names},
    )
    model.architecture = architecture
    return model


def new_model(config: Config, input_roots: list[Path], pretrained: bool = True) -> DCAL:
    """A model to train; raises ConfigError. pretrained=False where a checkpoint will bring all weights anyway."""
    vit = pretrained_backbone(config, input_roots) if pretrained else create_backbone(config)
    return assemble(architecture_of(config, vit), vit, config.gradient_checkpointing)


def save_state(file: Path, module: nn.Module) -> None:
    """Write a module's tensors, whatever their layout in memory."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the model, its weights and `model.architecture`, into a folder."""
    save_state(Path(folder) / "model.safetensors", model)
    (Path(folder) / "model.json").write_text(json.dumps(model.architecture, indent=1))


def read_architecture(file: Path) -> dict:
    """The architecture that a model folder's file describes; raises DamagedError where it describes none of ours."""
    found = read_json(file)
    try:
        if set(found) != set(ARCHITECTURE):
            raise ConfigError(f"it names {', '.join(sorted(set(found) ^ set(ARCHITECTURE)))}")
        for name, field in ARCHITECTURE.items():
            value = read_value(FIELDS[field], found[name]) if field else found[name]
            if value != found[name]:
                raise ConfigError(f"{name} is {found[name]!r:.40}")
            found[name] = value  # a whole number, where JSON has 224.0
        for name, number, count in (("mean", float, 3), ("std", float, 3), ("pwca_layers", int, None)):
            if not isinstance(found[name], list) or len(found[name]) != (count or len(found[name])):
                raise ConfigError(f"{name} is {found[name]!r:.40}")
            if any(type(value) not in (number, int) or not 0 <= value < MOST_BLOCKS for value in found[name]):
                raise ConfigError(f"{name} is {found[name]!r:.40}")
        layers = found["pwca_layers"]
        if not all(found["std"]) or layers != list(range(layers[0], layers[-1] + 1) if layers else []):
            raise ConfigError(f"std is {found['std']}, pwca_layers is {layers!r:.40}")
        if found["backbone"] != "hybrid_tiny":
            check_name(found["backbone"])  # which also keeps timm from fetching a model of any other name
    except ConfigError as error:
        raise DamagedError(f"{file} is damaged or of another version ({error}): restore it or train again.") from None
    return found


def load_model(folder: Path) -> nn.Module:
    """The trained model of a folder, on the CPU and in eval mode; raises ConfigError where the folder holds none, and
    DamagedError where it is not as it was written."""
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise ConfigError(f"{folder} holds no trained model (model.json is missing): train first, or set run_dir.")
    check_seal(folder)
    architecture = read_architecture(folder / "model.json")
    name, size = architecture["backbone"], architecture["image_size"]
    vit = hybrid_tiny(size) if name == "hybrid_tiny" else timm_backbone(name, size)
    if max(architecture["pwca_layers"], default=0) >= len(vit.blocks):
        raise DamagedError(f"{folder / 'model.json'} is damaged: {name} has {len(vit.blocks)} blocks; restore it.")
    model = assemble(architecture, vit)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        file = folder / "model.safetensors"
        raise DamagedError(f"{file} does not fit model.json beside it ({reason}): restore it or train again.") from None
    return model.eval()
