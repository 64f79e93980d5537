"""Reading files of pretrained weights; none can run code unless it is trusted."""

import argparse
import pickletools
import re
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dcal_core.errors import ConfigError, quoted
from dcal_core.models.weight_kinds import check_file, is_safetensors

AVERAGES = re.compile(r"(?:^|[/._])(?:ema|teacher|averaged?)(?:[/._]|$)")  # copies to prefer to the model as trained
RESAVE = (  # run on every form in tests/models/test_weight_files.py
    "import sys, torch; t = torch.is_tensor; d = lambda s: getattr(s, 'state_dict', lambda: s)(); "
    "f = lambda s: {str(k): v if t(v) else f(v) for k, v in d(s).items() if t(v) or hasattr(d(v), 'items')}; "
    "torch.save(f(torch.load(sys.argv[1], 'cpu', weights_only=False)), 'weights.pt')"
)


def resave_command(file: Path) -> str:
    """A shell command that loads a pickle as it asks for, and writes its tensors alone into weights.pt."""
    return f'python -c "{RESAVE}" {shlex.quote(str(file))}'


def check_archive(file: Path) -> None:
    """Refuse a zip archive that is not as torch wrote it; ValueError. torch itself ignores the checksums, and unpacks
    compressed entries to up to a thousand times their size."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")


def read_states(file: Path, trusted: bool = False) -> dict[str, dict]:
    """Every dictionary with a name in a file, by its place there: "" for the outermost, "teacher", "model/ema".

    A pickle that asks for more than tensors, and so could run any code, is refused unless the file is trusted.
    """
    check_file(file)
    try:
        check_archive(file)
        return dict(dictionaries(load(file, trusted)))
    except ModuleNotFoundError as error:  # a trusted pickle, of a trainer's own classes
        raise ConfigError(
            f"weights={file} asks for the module {error.name}, which is not installed: install it, or re-save the "
            f"tensors alone where it is: {resave_command(file)}."
        ) from None
    except Exception as error:  # damaged files raise whatever their reader raises
        reason = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
        named = file.suffix == ".safetensors"  # and so no pickle is ever loaded from it
        asked = "" if named or trusted else asked_for(file, reason)
        if asked:
            raise ConfigError(
                f"weights={file} is a pickle that asks for {asked:.100} and so could run any code: it was not "
                "loaded. Take a .safetensors file; or re-save the tensors alone on a machine where nothing can be "
                f"harmed: {resave_command(file)}; or, if its source is beyond doubt, give trust_weights=true."
            ) from None
        reason = "it is no pickle of tensors" if "weights_only" in reason else reason
        if named and not is_safetensors(file):
            reason = "no .safetensors file begins so; one that torch.save has written is named .pth"
        raise ConfigError(f"weights={file} cannot be read as weights ({reason[-200:]}): give another file.") from None


def asked_for(file: Path, reason: str) -> str:
    """The first object that a pickle asks for and torch refuses, "" where there is none: by torch's own reason or, for
    pickles as others write them, by their commands, which are read and not followed."""
    if found := re.search(r"GLOBAL ([\w.]*\w)", reason):
        return found[1]
    try:
        with file.open("rb") as opened:
            asked = [argument for command, argument, _ in pickletools.genops(opened) if command.name == "GLOBAL"]
    except Exception:  # this is no pickle, which pickletools says in many ways
        return ""
    return asked[0].replace(" ", ".") if asked else ""


def load(file: Path, trusted: bool) -> object:
    """What a file holds; safetensors are known by their content, and a name that says so is believed."""
    if file.suffix == ".safetensors" or is_safetensors(file):
        return load_file(file)
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's own checkpoints hold their arguments
        return torch.load(file, "cpu", weights_only=not trusted)


def dictionaries(content: object, place: str = "") -> Iterator[tuple[str, dict]]:
    """The dictionaries in a file's content by their place, each without those in it; raises ValueError."""
    if isinstance(content, nn.Module):  # a trusted pickle
        content = content.state_dict()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    inner = {name: value for name, value in content.items() if isinstance(value, dict | nn.Module)}
    if len(inner) < len(content) or not content:
        yield place, {str(name): value for name, value in content.items() if name not in inner}
    for name, value in inner.items():
        yield from dictionaries(value, f"{place}/{name}" if place else str(name))


def preferred(places: list[str]) -> list[str]:
    """Of several copies of a model in a file the averages (EMA, a teacher), where there are some."""
    return [place for place in places if AVERAGES.search(place)] or places


def largest(states: dict[str, dict]) -> str:
    """The place of most tensors."""
    return max(states, key=lambda place: sum(isinstance(value, Tensor) for value in states[place].values()))


def described(state: dict) -> str:
    """The first names in a dictionary, with the shapes of its tensors."""
    first = [f"{quoted(name)} {shape_of(value)}" for name, value in list(state.items())[:3]]
    count = "1 tensor" if len(state) == 1 else f"{len(state)} tensors"
    return f"{count}, first {', '.join(first)}" if first else "nothing"


def shape_of(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"({type(value).__name__})"
