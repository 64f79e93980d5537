"""Image files, with a judge that checks PNG's own sums and decodes everything else afresh and whole."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from bad_inputs.mutations import damaged
from bad_inputs.trial import EXECUTED, Kind
from dcal_core.data.images import open_images

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 64_000_000
PNG = b"\x89PNG\r\n\x1a\n"


def face(side: int, kind: str, mode: str = "RGB", **options) -> bytes:
    """A smooth picture as a file of some format."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn
    return exif


SOUND = [
    face(40, "JPEG"),
    face(80, "JPEG", quality=60, progressive=True),
    face(16, "JPEG", "CMYK", exif=turned()),
    face(40, "PNG"),
    face(12, "PNG", "P"),
    face(12, "PNG", "LA", exif=turned()),
    face(12, "PNG", "I;16"),
    face(24, "WEBP"),
    face(12, "WEBP", lossless=True),
    face(12, "GIF"),
    face(8, "BMP"),
    face(8, "TIFF", compression="tiff_lzw"),
    face(8, "TIFF", compression="tiff_adobe_deflate"),
    face(8, "PPM"),
]


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes, width: int = 4, height: int = 4, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of some chunks behind a header that claims a size."""
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + b"".join(chunks)


CUT = chunk(b"IDAT", zlib.compress(np.random.default_rng(0).bytes(500))[:99])
PIXELS, END = chunk(b"IDAT", zlib.compress(bytes(4 * 13))), chunk(b"IEND", b"")


def whole_png(data: bytes) -> bool:
    """Whether a PNG's chunks follow one another up to the empty last one, each with the right checksum."""
    place = len(PNG)
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 12 + length
        if end > len(data) or struct.pack(">I", zlib.crc32(data[place + 4 : end - 4])) != data[end - 4 : end]:
            return False
        place = end
    return False


def malformed(folder: Path, data: bytes | str) -> bool | None:
    """The judge of images."""
    if isinstance(data, str):
        return True
    if data.startswith(PNG) and not whole_png(data):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(data), formats=FORMATS).verify()
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > MOST_PIXELS:
                return True
            picture.load()
            if picture.mode == "F" or (picture.mode.startswith("I") and not 0 <= min(picture.getextrema()) <= 65535):
                return True
            dict(picture.getexif())
            picture.convert("RGB")
    except Exception:  # whatever a decoder raises, this is no image
        return True
    return None if max(picture.getextrema() if picture.mode.startswith("I") else [0]) > 65535 else False


def write(folder: Path, data: bytes | str) -> None:
    """The image between sound ones."""
    (folder / "good.png").write_bytes(face(8, "PNG"))
    file = folder / "face.jpg"
    if isinstance(data, bytes):
        file.write_bytes(data)
    elif data != "missing":
        {"folder": os.mkdir, "pipe": os.mkfifo, "link to itself": lambda f: f.symlink_to(f)}[data](file)


def use(folder: Path, data: bytes | str) -> str | None:
    """Left out of several with a reason, and refused where nothing else is there."""
    bad = folder / "face.jpg"
    store = open_images([folder / "good.png", bad], 16, folder / "cache", max_lost_share=0.5, workers=1)
    if store.kept.tolist() == [0, 1]:
        return None
    ((path, reason),) = store.rejected
    assert path == bad and store.kept.tolist() == [0] and reason
    open_images([bad], 16, folder / "cache", max_lost_share=0.0, workers=1)
    raise AssertionError("accepted alone, left out beside another")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size."""
    data = SOUND[0]
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF whose header claims a size: the first two fields of its directory."""
    data = bytearray(face(8, "TIFF"))
    (place,) = struct.unpack("<I", data[4:8])
    for field, value in enumerate((width, height)):
        struct.pack_into("<HHII", data, place + 2 + 12 * field, 256 + field, 4, 1, value)
    return bytes(data)


def webp_of(width: int, height: int) -> bytes:
    """An extended WebP whose canvas claims a size."""
    frame = face(8, "WEBP")[12:]
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


BY_HAND = {
    "empty file": b"",
    "no such file": "missing",
    "a folder in its place": "folder",
    "a pipe in its place": "pipe",
    "a link to itself": "link to itself",
    "text": b"404 not found",
    "web page": b"<!DOCTYPE html><html></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PostScript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch {EXECUTED}) system\n".encode(),
    "PDF": b"%PDF-1.7\n%%EOF\n",
    "icon": face(16, "ICO"),
    "a pickle": f"cos\nsystem\n(S'touch {EXECUTED}'\ntR.".encode(),
    "an archive": b"PK\x05\x06" + bytes(18),
    "zeros": bytes(1000),
    "magic of a JPEG": b"\xff\xd8\xff",
    "magic of a PNG": PNG,
    "JPEG without an end": SOUND[0][: len(SOUND[0]) * 3 // 4],
    "JPEG of 65,535 x 65,535": jpeg_of(65_535, 65_535),
    "JPEG without a side": jpeg_of(0, 40),
    "PNG without an end": SOUND[3][:-12],
    "PNG with a wrong sum": SOUND[3][:-14] + b"\xff" + SOUND[3][-13:],
    "PNG with a wrong sum in a comment": png(chunk(b"tEXt", b"a\0b")[:-1] + b"\xff", PIXELS, END),
    "PNG without a side": png(PIXELS, END, width=0),
    "PNG without pixels": png(END),
    "PNG of 0 bits": png(PIXELS, END, depth=0),
    "PNG whose pixels are cut short": png(CUT, END),
    "PNG of 60,000 x 60,000": png(PIXELS, END, width=60_000, height=60_000),
    "PNG of 9,000 x 9,000": png(PIXELS, END, width=9_000, height=9_000),
    "PNG of 7,999 x 8,000 that is cut short": png(CUT, END, width=7_999, height=8_000),
    "PNG of 2^31 x 2^31": png(PIXELS, END, width=2**31 - 1, height=2**31 - 1),
    "PNG with a text of 300 MB": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 1)), PIXELS, END),
    "GIF of 65,535 x 65,535": face(8, "GIF")[:6] + b"\xff" * 4 + face(8, "GIF")[10:],
    "GIF without a frame": face(8, "GIF")[:13] + b";",
    "WebP of 16,383 x 16,383": webp_of(16_383, 16_383),
    "WebP cut short": SOUND[7][:-20],
    "BMP of 60,000 x 60,000": face(8, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + face(8, "BMP")[26:],
    "TIFF of 100,000 x 100,000": tiff_of(100_000, 100_000),
    "TIFF of 2^32 - 1 columns": tiff_of(2**32 - 1, 1),
    "TIFF whose directory is elsewhere": b"II*\0" + struct.pack("<I", 2**31) + bytes(50),
    "TIFF whose directory leads to itself": b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8),
    "TIFF of real numbers": face(8, "TIFF", "F"),
    "PPM of 60,000 x 60,000": b"P6 60000 60000 255\n",
    "PPM without a side": b"P6 0 0 255\n",
    "PPM cut short": SOUND[-1][:-1],
}

IMAGES = Kind(
    name="images",
    by_hand=BY_HAND,
    generated=st.one_of(
        st.sampled_from(SOUND).flatmap(damaged),
        st.sampled_from(SOUND).flatmap(lambda data: st.integers(0, len(data) - 1).map(lambda n: data[:n])),
        st.builds(lambda data, rest: data[:24] + rest, st.sampled_from(SOUND), st.binary(max_size=60)),
    ),
    count=150,
    lay_out=write,
    malformed=malformed,
    use=use,
    names=lambda data: ("face.jpg",),
    example="empty file",
)
