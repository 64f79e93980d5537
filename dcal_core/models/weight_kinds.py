"""What a file given as weights is, told by how it begins; nothing here imports torch."""

import zipfile
from pathlib import Path

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
