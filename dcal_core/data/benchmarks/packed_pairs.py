"""Benchmarks of image pairs as InsightFace packs them: LFW, CFP-FP, AgeDB-30, CALFW and CPLFW.

A .bin file is a pickle of (encoded images, whether images 2 i and 2 i + 1 show one person). Unpickling can run whatever
a file asks for. Here lists, bytes and booleans come of it and nothing else; what numpy has pickled stays in parts.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcal_core.config.shared import Config
from dcal_core.data.locate import folders_below
from dcal_core.data.twins import DataError
from dcal_core.environment import input_roots
from dcal_core.errors import ConfigError
from dcal_core.missing import because

SETS = {"lfw": "LFW", "cfp_fp": "CFP-FP", "agedb_30": "AgeDB-30", "calfw": "CALFW", "cplfw": "CPLFW"}
FILES = ", ".join(f"{name}.bin" for name in SETS)
CORES = ("numpy.core", "numpy._core")  # by numpy's version
PIECES = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
OF_NUMPY = {"numpy.dtype", "numpy.ndarray"} | {f"{core}.{piece}" for core in CORES for piece in PIECES}
ONE_BYTE = ("u1", "b1", b"u1", b"b1")  # numpy's codes of uint8 and bool, also as Python 2 writes them


class Parts:
    """What numpy would put together from parts: a type, a number or an array. Nothing is: the parts are only kept."""

    def __init__(self, *parts):
        self.parts = parts

    def __setstate__(self, parts: tuple):
        self.parts += parts

    def content(self) -> bytes:
        """The numbers of an array, or the one number, where each is a byte; raises ValueError."""
        kinds = [part.parts[0] for part in self.parts if isinstance(part, Parts)]
        data = [part for part in self.parts if isinstance(part, bytes | bytearray)]
        if not kinds or kinds[0] not in ONE_BYTE or not data:
            raise ValueError("numpy's objects in it are not of bytes or truth values")
        return bytes(data[-1])


def encoded(text: str, _: str) -> bytes:
    """Bytes, from the text as which Python 3 writes them for Python 2."""
    return text.encode("latin1")


class Reader(pickle.Unpickler):
    """An unpickler that calls the two functions above and refuses to call any other."""

    def find_class(self, module: str, name: str):
        asked = f"{module}.{name}"
        if asked in OF_NUMPY:
            return Parts
        if asked == "_codecs.encode":
            return encoded
        raise pickle.UnpicklingError(f"it asks to run {asked:.80}")


def read_pairs(file: Path) -> tuple[list[bytes], np.ndarray]:
    """The encoded images of a .bin file, and whether each two in a row show one person, [P] bool; raises DataError."""
    try:
        with file.open("rb") as opened:
            images, same = Reader(opened, encoding="bytes").load()
        images = [image.content() if isinstance(image, Parts) else image for image in images]
        same = list(same.content()) if isinstance(same, Parts) else same
        same = [one.content()[0] if isinstance(one, Parts) else one for one in same]
        if not all(isinstance(image, bytes) for image in images) or not all(one in (0, 1) for one in same):
            raise ValueError("it holds something else than images and truth values")
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): restore it.") from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{file} is not read as image pairs ({reason}): fetch it from a source you trust.") from None
    if not same or len(images) != 2 * len(same):
        raise DataError(f"{file} holds {len(images):,} images for {len(same):,} pairs of two: fetch it again.")
    return images, np.array(same, dtype=bool)


def benchmark_roots(config: Config) -> list[Path]:
    """The folders to search for benchmarks: `benchmarks_root`, or where the data are; raises ConfigError."""
    root = config.benchmarks_root
    if root and not Path(root).is_dir():
        raise ConfigError(f"benchmarks_root={root}: no such folder{because(root)}: correct it, or leave it out.")
    return input_roots(root or config.data_root)


def find_files(roots: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """The file of each name that is below the roots, in the order of the names; DataError if one is there twice."""
    found = {}
    for folder, files in folders_below(roots):
        for name in set(names) & set(files):
            if name in found:
                raise DataError(
                    f"{found[name]} and {folder / name}: give the folder of one of them as benchmarks_root."
                )
            found[name] = folder / name
    return {name: found[name] for name in names if name in found}


def pair_files(config: Config) -> dict[str, Path]:
    """The .bin files that are there, by title."""
    found = find_files(benchmark_roots(config), [f"{name}.bin" for name in SETS])
    return {title: found[f"{name}.bin"] for name, title in SETS.items() if f"{name}.bin" in found}
