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
from dcal_core.missing import because
from dcal_core.runs import MODEL_FILE

GIVE = "give a file of weights (.safetensors, .pth, .pt, .bin or .ckpt)"
STARTS = {  # how files begin that people take for weights, and what to do with them
    b"\x89PNG": f"a PNG picture: {GIVE}",
    b"\xff\xd8\xff": f"a JPEG picture: {GIVE}",
    b"GIF8": f"a GIF picture: {GIVE}",
    b"BM": f"a BMP picture: {GIVE}",
    b"II*\0": f"a TIFF picture: {GIVE}",
    b"MM\0*": f"a TIFF picture: {GIVE}",
    b"RIFF": f"a WebP picture, or a sound: {GIVE}",
    b"%PDF": f"a PDF document: {GIVE}",
    b"\x1f\x8b": "an archive (gzip): unpack it, and give the file of weights in it",
    b"7z\xbc\xaf": "an archive (7-Zip): unpack it, and give the file of weights in it",
    b"Rar!": "an archive (RAR): unpack it, and give the file of weights in it",
    b"\x89HDF": "an HDF5 file, as Keras writes them: give the PyTorch weights of the model",
    b"\x93NUMPY": "a NumPy array: give the PyTorch weights of the model",
    b"GGUF": "a GGUF file, of a language model: give the PyTorch weights of the model",
    b"version https://git-lfs": "a pointer of Git LFS, which stands for the file: fetch it (git lfs pull), or download "
    "the file itself and give that",
    b"<": "a web page (HTML or XML), as a download that failed leaves it: download the file itself and give that",
}
AVERAGES = re.compile(r"(?:^|[/._])(?:ema|teacher|averaged?)(?:[/._]|$)")  # copies to prefer to the model as trained
RESAVE = (  # run on every form in tests/models/test_weight_files.py
    "import sys, torch; t = torch.is_tensor; d = lambda s: getattr(s, 'state_dict', lambda: s)(); "
    "f = lambda s: {str(k): v if t(v) else f(v) for k, v in d(s).items() if t(v) or hasattr(d(v), 'items')}; "
    "torch.save(f(torch.load(sys.argv[1], 'cpu', weights_only=False)), 'weights.pt')"
)


def resave_command(file: Path) -> str:
    """A shell command that loads a pickle as it asks for, and writes its tensors alone into weights.pt."""
    return f'python -c "{RESAVE}" {shlex.quote(str(file))}'


def is_safetensors(file: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, and a JSON object."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return int.from_bytes(start[:8], "little") <= file.stat().st_size and start[8:] == b"{"


def what_it_is(file: Path) -> str:
    """What a file is that is no weights, and what to do; "" for one that may be some."""
    with file.open("rb") as opened:
        start = opened.read(300)
    if not start:
        return "an empty file: download it again, or give another file"
    if is_safetensors(file):
        return ""
    if start[257:262] == b"ustar":
        return "an archive (tar): unpack it, and give the file of weights in it"
    if zipfile.is_zipfile(file) and (inside := foreign_archive(file)):
        return inside
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((kind for magic, kind in STARTS.items() if text.startswith(magic)), "")


def foreign_archive(file: Path) -> str:
    """What a zip archive is, and what to do; "" for one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return ""  # the reader says why
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program (torch.jit.save): give the state dict that it was made from"
    if any(name.endswith("data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz): give the PyTorch weights of the model"
    files = f"of {len(names)} files, first {quoted(names[0])}" if names else "without a file in it"
    return f"an archive (zip) {files}: unpack it, and give the file of weights in it"


def check_archive(file: Path) -> None:
    """Refuse a zip archive that is not as torch wrote it; ValueError. torch itself ignores the checksums, and unpacks
    compressed entries to up to a thousand times their size."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")


def check_file(file: Path) -> None:
    """Refuse what is no file, or not one of weights; ConfigError."""
    if not file.is_file():
        what = " is a folder" if file.is_dir() else f": there is no such file{because(file)}"
        raise ConfigError(f"weights={file}{what}. Give the path of a file.")
    try:
        kind = what_it_is(file)
    except OSError as error:
        raise ConfigError(f"weights={file} cannot be read ({error.strerror}): give another file.") from None
    if kind:
        raise ConfigError(f"weights={file} is {kind}.")
    if (file.parent / MODEL_FILE).is_file():
        raise ConfigError(
            f"weights={file} belongs to a run of this project: give resume_from={file.parent}, which also knows the "
            "people that it was trained on."
        )


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
