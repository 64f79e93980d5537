"""The command `pack`: a trained run as one folder, with the range in which it was validated, in ONNX too."""

import argparse
import contextlib
import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dcal_core.commands.bare_parser import bare_parser
from dcal_core.commands.chosen import trained_config
from dcal_core.commands.export import FACES, drawn_faces
from dcal_core.data.decoding import Unreadable
from dcal_core.data.roots import find_root
from dcal_core.data.splits import drawn_root
from dcal_core.data.twins import SYNTHETIC, DataError
from dcal_core.deploy.engine import ONNX_FILE, compare_file, open_engine
from dcal_core.deploy.export import PAIRS, ExportError, export, functions_of
from dcal_core.deploy.faces import FaceReader
from dcal_core.deploy.inputs import source_of
from dcal_core.deploy.package import landmarks_of, pack
from dcal_core.deploy.ranges import fit_range
from dcal_core.deploy.space import write_space
from dcal_core.errors import ConfigError
from dcal_core.progress import progress_line
from dcal_core.runs import MODEL_FILE, RunFolder, weights_hash
from dcal_core.storage import StorageError, write_text
from dcal_core.verification.decision import read_rule


def measure_range(run: RunFolder, root: Path) -> tuple[dict, list[np.ndarray]]:
    """The validated range of a run, from its scores.csv and the images below `root`, and some of their faces, [S, S, 3]
    uint8; DataError if they do not fit."""
    names, a, b, wrong, family = validation_pairs(run)
    config = trained_config(run.best, {})
    reader = FaceReader(config.image_size, config.fit, landmarks_of(run))
    faces, some, refused = {}, [], []
    for place, name in enumerate(progress_line(names, desc="measuring validation images", unit="image")):
        try:
            face = reader.read(source_of(root / name))
        except Unreadable as reason:
            refused.append(f"{name}: {reason}")
            continue
        faces[place] = face.measures
        if place % -(-len(names) // FACES) == 0:
            some.append(face.pixels)
    kept = np.isin(a, list(faces)) & np.isin(b, list(faces))
    if not kept.any():
        raise DataError(f"no two validation images can be read ({refused[0]}): give --data_root.")
    number = np.full(len(names), -1)
    number[list(faces)] = np.arange(len(faces))
    limits = fit_range(list(faces.values()), number[a[kept]], number[b[kept]], wrong[kept], family[kept])
    about = f"Measured on {len(faces):,} validation images"
    about += f"; {len(refused):,} more were left out, such as {refused[0]}." if refused else "."
    about += "" if reader.finds else " Faces were not looked for, so nothing limits their size, turn and confidence."
    return {"weights": weights_hash(run.best), "about": about, "limits": limits}, some


def write_quick(folder: Path, faces: Sequence[np.ndarray]) -> None:
    """Write a packed folder's model as ONNX beside its weights, for commands to start sooner; where that is not
    possible, say why. It is compared on faces [S, S, 3], or on drawn ones where there are fewer than two."""
    file = folder / ONNX_FILE
    for earlier in (file, compare_file(file)):
        earlier.unlink(missing_ok=True)
    try:
        functions_of("onnx")  # says what is not installed
        engine = open_engine(folder)
        faces = np.stack(faces) if len(faces) > 1 else drawn_faces(engine.about["image_size"])
        worst = export(engine.model, engine.about, file, "onnx", faces)
        print(f"{file}: on {PAIRS} pairs its scores differ from the model's by at most {worst:.1e}.")
    except ExportError as reason:
        print(f"There is no {ONNX_FILE}, so verifying two pictures starts with PyTorch, which takes longer: {reason}")


def validation_pairs(run: RunFolder) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The validation images of a run's scores.csv by name, and its comparisons of them: two images, whether the verdict
    of equal errors is wrong, and the family, [P] each; DataError without them."""
    if not run.scores.is_file():
        raise DataError(f"{run.scores} is missing: evaluate the run again.")
    threshold = read_rule(run.best).threshold
    with run.scores.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "validation"]
    if not rows:
        raise DataError(f"{run.scores} holds no validation pair: evaluate the run again.")
    names, place = np.unique([row[side] for row in rows for side in ("image_a", "image_b")], return_inverse=True)
    a, b = place.reshape(-1, 2).T
    matched = np.array([float(row["score"]) for row in rows]) >= threshold
    wrong = matched != np.array([row["same_person"] == "1" for row in rows])
    return names.tolist(), a, b, wrong, np.array([row["family"] for row in rows])


def images_root(run: RunFolder, data_root: str) -> Path:
    """The folder below which a run's scores.csv names images; DataError where it is not found."""
    config = trained_config(run.best, {"data_root": data_root})
    root = drawn_root(config) if run.data() == SYNTHETIC and not config.data_root else find_root(config)
    if root is None:
        raise DataError("the images were not found: give --data_root.")
    return root


def parser_of_pack() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = bare_parser(
        "pack",
        "Write a trained and evaluated run as one folder that needs neither the run nor its data.",
        "runs/demo models/demo",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--data_root", default="", help="where its images are; else where training found them")
    parser.add_argument("--space", action="store_true", help="with the page, as a Space of the Hugging Face Hub")
    return parser


def pack_measured(run: RunFolder, folder: Path, data_root: str = "", space: bool = False) -> Path:
    """Write a run as a packed folder, or as a Space, with its validated range where that can be measured."""
    if not (run.best / MODEL_FILE).is_file() or read_rule(run.best) is None:
        raise ConfigError(f"{run} holds no run that was trained and evaluated: do that first, or name another folder.")
    measured, faces = None, ()
    try:
        measured, faces = measure_range(run, images_root(run, data_root))
        with contextlib.suppress(StorageError):  # a run that is attached cannot be written to
            write_text(run.range, json.dumps(measured, indent=1) + "\n")
    except DataError as error:
        print(f"The validated range is not known, so answers will not say whether a picture is inside it: {error}")
    packed = partial(pack, run, measured=measured)
    if space:  # its page draws maps, for which it needs PyTorch
        return write_space(packed, folder)
    write_quick(packed(folder), faces)
    return folder


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parser_of_pack().parse_args(arguments)
    folder = pack_measured(RunFolder(options.run.resolve()), options.folder, options.data_root, options.space)
    print(f"Packed: {folder}")
    return 0
