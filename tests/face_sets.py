"""Face benchmarks in their published formats, as small as they can be, and a model whose scores are known by hand."""

import io
import pickle
import struct
from pathlib import Path

import torch
from PIL import Image

from dcal_core.models.verifier import Features, Verifier


def picture(*colour: int, kind: str = "PNG") -> bytes:
    """An image file of one colour, 8 px."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, kind)
    return out.getvalue()


def write_bin(file: Path, images: list, same: list, protocol: int = 4) -> Path:
    """A set of pairs as Python 3 pickles it."""
    file.write_bytes(pickle.dumps((images, same), protocol))
    return file


def write_old_bin(file: Path, images: list[bytes], same: list[bool]) -> Path:
    """The same as Python 2 pickled it, where text and bytes are one: protocol 2, BINSTRING and booleans."""
    strings = b"".join(b"T" + struct.pack("<I", len(image)) + image for image in images)
    flags = b"".join(b"\x88" if one else b"\x89" for one in same)
    file.write_bytes(b"\x80\x02](" + strings + b"e](" + flags + b"e\x86.")
    return file


class Colours(Verifier):
    """Embeds an image as its mean colour, 0 to 1, of which a cosine and minus a distance are read."""

    image_size, grid, widths, readings = 8, 1, {"colour": 3}, ("cosine", "distance")

    def encode(self, images, trace=False):
        return Features({"colour": images.float().mean((2, 3)) / 255})

    def compare(self, a, b, reading=None):
        self.check_reading(reading)
        a, b = a.parts["colour"], b.parts["colour"]
        if reading == "distance":
            return -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T

    def compare_pairs(self, a, b, reading=None):
        return torch.cat([self.compare(a[[i]], b[[i]], reading)[0] for i in range(len(a))])
