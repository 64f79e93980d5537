"""Face benchmarks in their published formats, as small as they can be, and a model whose scores are known by hand."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from dcal_core.data.landmarks import TEMPLATE, TEMPLATE_SIDE
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


def write_ijb(root: Path, name: str = "ijbc", pixels: int = 8, half: str = "G") -> Path:
    """IJB-C's files for seven images in five templates, with images of one colour; returns the list of templates.

    Templates 3, 5 and 9 (of two media) show person 1 (red), 20 and 21 persons 2 (green) and 3 (blue). Landmarks lie
    where they are in an aligned image of so many pixels.
    """
    meta = root / name.upper() / "meta"
    (root / name.upper() / "loose_crop").mkdir(parents=True)
    meta.mkdir()
    points = " ".join(f"{value * pixels / TEMPLATE_SIDE:.6f}" for value in TEMPLATE.ravel())
    red, pink, green, blue = (200, 0, 0), (200, 40, 40), (0, 200, 0), (0, 0, 200)
    rows = [  # colour, template, medium, confidence
        (red, 3, 70, 0.9), (pink, 5, 71, 0.8), (red, 9, 72, 0.5), (pink, 9, 72, 1.0), (pink, 9, 73, 0.5),
        (green, 20, 74, 1.0), (blue, 21, 75, 1.0),
    ]  # fmt: skip
    for number, (colour, *_) in enumerate(rows, 1):
        image = np.broadcast_to(np.array(colour, np.uint8), (pixels, pixels, 3))
        Image.fromarray(image).save(root / name.upper() / "loose_crop" / f"{number}.jpg", "PNG")
    lists = {
        "face_tid_mid.txt": [f"{number}.jpg {row[1]} {row[2]}" for number, row in enumerate(rows, 1)],
        "name_5pts_score.txt": [f"{number}.jpg {points} {row[3]}" for number, row in enumerate(rows, 1)],
        "template_pair_label.txt": ["3 5 1", "3 9 1", "3 20 0", "5 21 0", "9 20 0"],
        f"1N_gallery_{half}1.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "3,1,a.png"],
        f"1N_gallery_{half}2.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "20,2,b.png"],
        "1N_probe_mixed.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "5,1,c.png", "9,1,d.png", "9,1,e.png", "21,2,f.png"],
    }
    for file, lines in lists.items():
        (meta / f"{name}_{file}").write_text("\n".join(lines) + "\n")
    return meta / f"{name}_face_tid_mid.txt"


def write_tinyface(root: Path) -> Path:
    """TinyFace's files for two probes, three more images of them and two distractors; returns the probes' list."""
    folder = root / "tinyface" / "Testing_Set"
    colours = {
        "Probe/1_1.jpg": (200, 0, 0), "Probe/2_1.jpg": (0, 200, 0), "Gallery_Match/1_2.jpg": (200, 90, 0),
        "Gallery_Match/1_3.jpg": (0, 0, 200), "Gallery_Match/2_2.jpg": (0, 200, 90),
        "Gallery_Distractor/d1.jpg": (10, 200, 10), "Gallery_Distractor/d2.jpg": (0, 0, 90),
    }  # fmt: skip
    for name, colour in colours.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(*colour))
    for kind, name in (("probe", "Probe"), ("gallery_match", "Gallery_Match")):
        files = [Path(one).name for one in colours if one.startswith(f"{name}/")]
        people = np.array([[int(file[0])] for file in files], np.uint16)
        short = kind.removesuffix("_match")
        names = np.array([[file] for file in files], object)
        savemat(folder / f"{kind}_img_ID_pairs.mat", {f"{short}_set": names, f"{short}_ids": people})
    return folder / "probe_img_ID_pairs.mat"


def write_ijbs(root: Path) -> Path:
    """IJB-S's lists and aligned faces of four people, of whom 4 is in no gallery; returns the metadata's file."""
    videos = {1: ["11", "12"], 2: ["11", "13"], 3: ["12"], 4: ["12"]}
    colours = {1: (200, 0, 0), 2: (0, 200, 0), 3: (0, 0, 200), 4: (200, 200, 0)}
    frames = [
        (p, f"videos_{v}_{n}") for p, seen in videos.items() for v in seen for n in range(2) if (p, v) != (3, "12")
    ]
    for person, name in [*frames, *((p, f"img_{p}0{n}") for p in (1, 2, 3) for n in range(2))]:
        file = root / "aligned" / str(person) / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(*colours[person]))
    seen = [f"{p},videos/{v}.mp4,1,2,3,4" for p, found in videos.items() for v in found for _ in range(2)]
    lists = {
        "cs6_metadata.csv": [*seen, *(f"{p},img/{p}0{n}.png,1,2,3,4" for p in (1, 2, 3) for n in range(2))],
        "cs6_surveillance_to_single-booking_probe.csv": ["videos/11.mp4", "videos/12.mp4"],
        "cs6_surveillance_to_surveillance_probe.csv": ["videos/12.mp4", "videos/13.mp4"],
        "cs6_uav_to_single-booking_probe.csv": ["videos/12.mp4", "img/101.png", "img/201.png"],
    }
    for half, people in (("g1", (1, 3)), ("g2", (2,))):
        for kind, files in (("single", "{p}00"), ("booking", "{p}00 {p}01")):
            rows = [f"7,{p},img/{name.format(p=p)}.png" for p in people for name in files.split()]
            lists[f"galleries/cs6_surveillance_to_{kind}_{half}.csv"] = rows
        rows = [f"7,{p},videos/{videos[p][0]}.mp4" for p in people]
        lists[f"galleries/cs6_surveillance_to_surveillance_{half}.csv"] = rows
    for name, rows in lists.items():
        file = root / "protocols" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["HEAD", *rows]) + "\n")
    return root / "protocols" / "cs6_metadata.csv"
