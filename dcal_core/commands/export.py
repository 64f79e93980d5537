"""The command `export`: a packed model in other runtimes' formats, compared with the model before it is left."""

import argparse
from pathlib import Path

import numpy as np

from dcal_core.commands.bare_parser import bare_parser
from dcal_core.commands.chosen import trained_config
from dcal_core.data.decoding import Unreadable, decode, is_image, read_file
from dcal_core.data.drawn.drawing import draw
from dcal_core.data.drawn.genomes import family, nuisance
from dcal_core.data.roots import find_root
from dcal_core.data.splits import TwinData, drawn_root, open_data
from dcal_core.data.twins import DataError
from dcal_core.deploy.engine import Engine, open_engine
from dcal_core.deploy.export import FORMS, PAIRS, export, functions_of
from dcal_core.errors import ConfigError
from dcal_core.installation import program_name
from dcal_core.missing import because
from dcal_core.runs import RunFolder

FACES = 64  # that the file is compared on
SEED = 9_000  # of faces that no training has drawn


def parser_of_export() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = bare_parser(
        "export",
        "Write a packed model for another runtime, and compare its scores with the model's.",
        "models/demo models/demo/model.onnx --faces runs/demo",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=f"a folder that {program_name()} pack has written")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument("--format", choices=FORMS, default="onnx", help="onnx")
    parser.add_argument("--int8", action="store_true", help="weights of 8 bits; ONNX only")
    parser.add_argument(
        "--faces",
        type=Path,
        metavar="DIR",
        help="what to compare on, and to calibrate --int8 with: the model's run, or a folder of face images as in "
        "training; drawn faces",
    )
    return parser


def drawn_faces(size: int) -> np.ndarray:
    """Drawn faces of twins, [FACES, size, size, 3] uint8."""
    faces = []
    for k in range(FACES // 8):
        for sibling, genome in enumerate(family(SEED, "test", k, 0.5)):
            faces += [draw(genome, nuisance(SEED, "test", k, sibling, image), size) for image in range(4)]
    return np.stack(faces)


def faces_in(folder: Path, size: int, fit: str) -> np.ndarray:
    """At most FACES faces of a folder, [N, size, size, 3] uint8; DataError where there are fewer than two, or one
    cannot be read."""
    files = sorted(file for file in folder.rglob("*") if is_image(file.name))
    if len(files) < 2:
        raise DataError(f"--faces {folder}: two face images at least are needed{because(folder)}.")
    chosen = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, FACES).astype(int))]
    try:
        return np.stack([decode(read_file(file), size, fit).transpose(1, 2, 0) for file in chosen])
    except Unreadable as reason:
        raise DataError(f"--faces {folder}: one of its images: {reason}: take it out.") from None


def spread(images, count: int) -> np.ndarray:
    """Some images of a store, evenly over it, [N, S, S, 3] uint8."""
    places = np.unique(np.linspace(0, len(images.images) - 1, count).astype(int))
    return images.batch(places).permute(0, 2, 3, 1).numpy()


def given_faces(place: Path | None, about: dict) -> tuple[np.ndarray, TwinData | None, str]:
    """Faces [N, S, S, 3] to compare on; of a run, its training and validation families too; and what they are."""
    if place is None:
        return drawn_faces(about["image_size"]), None, "drawn faces"
    if not RunFolder(place).exists:
        return faces_in(place, about["image_size"], about["fit"]), None, f"faces in {place}"
    config = trained_config(RunFolder(place).best, {})
    if find_root(config) is None and drawn_root(config).is_dir():  # named, so that no advice on other data is printed
        config = config.replace(data_root=str(drawn_root(config)))
    data = open_data(config, ("train", "validation"))
    return spread(data["validation"].images, FACES), data, f"validation faces of {place}"


def write_int8(engine: Engine, file: Path, faces: np.ndarray, data: TwinData | None) -> str:
    """Write a model in 8 bits, calibrated on training faces and tried on validation families where they are given;
    returns what became of it, in words."""
    functions_of("onnx")  # says what is not installed
    from dcal_core.deploy.quantise import export_int8

    calibration = spread(data["train"].images, 2 * FACES) if data else faces
    validation = data["validation"] if data else None
    return export_int8(engine.model, engine.about, file, faces, calibration, validation).sentence(file)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parser_of_export().parse_args(arguments)
    ending = FORMS[options.format].ending
    if options.out.suffix != ending:
        raise ConfigError(f"{options.out}: --format {options.format} is written to a file whose name ends in {ending}.")
    if options.int8 and options.format != "onnx":
        raise ConfigError(f"--int8 --format {options.format}: only ONNX is written in 8 bits: take --format onnx.")
    if not options.out.parent.is_dir():
        raise ConfigError(f"{options.out}: there is no such folder{because(options.out.parent)}.")
    if options.int8 and not options.faces:
        raise ConfigError(
            "--int8 calibrates on faces as in training: give --faces, the model's run or a folder of them."
        )
    engine = open_engine(options.model)
    faces, data, kind = given_faces(options.faces, engine.about)
    if options.int8:
        print(write_int8(engine, options.out, faces, data))
    else:
        worst = export(engine.model, engine.about, options.out, options.format, faces)
        print(f"{options.out}: on {PAIRS} pairs of {kind} its scores differ from the model's by at most {worst:.1e}.")
    return 0
