"""What deploy.ipynb does beside the commands `pack` and `verify`: lists of pairs, pictures of answers, times."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dcal_core.commands.export import FACES, spread, write_int8
from dcal_core.commands.pack import pack_measured
from dcal_core.commands.session import Session, show_picture
from dcal_core.data.splits import TwinData, open_data
from dcal_core.deploy.difference import MAP, pair_view
from dcal_core.deploy.engine import ONNX_FILE, Engine, open_engine
from dcal_core.deploy.export import ExportError
from dcal_core.deploy.pair_job import compare_to_file
from dcal_core.deploy.pair_sources import listed_pairs
from dcal_core.deploy.predictor import Predictor
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.paint import encoded, enlarged, painted_pair, scale_ends, sheet, wrapped
from dcal_core.markdown import Markdown, table
from dcal_core.runs import WEIGHTS_FILE, RunFolder
from dcal_core.storage import disk_errors, write_bytes
from dcal_core.verification.protocol import twin_pairs

TITLE = "Put the verifier to use"
BATCHES = (1, 32)  # faces
LETTERS = 150  # in a line above four pictures
ROUNDS = 8  # of each batch; the median counts


def pack_run(session: Session) -> Path:
    """The session's model as a packed folder beside its run."""
    open_data(session.config, ("validation",))  # draws the faces anew where they are drawn and were deleted
    folder = session.folder.path / "packed"
    return pack_measured(RunFolder.around(session.trained), folder, session.config.data_root)


def pairs_to_show(data: TwinData) -> dict[str, list[str]]:
    """Two files of the test split for each kind of pair: one person's, and co-twins' where there are any."""
    index = data["test"].index
    pairs = twin_pairs(index)
    found = {}
    for kind, genuine in (("one person", True), ("co-twins", False)):
        for place in np.flatnonzero(pairs.genuine == genuine)[:1]:
            found[kind] = [str(index.paths[side[place]]) for side in (pairs.a, pairs.b)]
    return found


def show_answer(session: Session, predictor: Predictor, files: Sequence[str], name: str) -> None:
    """Print the answer to two pictures, and draw both with what tells them apart below a notebook's cell."""
    text = predictor.sentence(answer := predictor.verify(*files))
    print(*[text, *answer.doubts], sep="\n")
    if answer.error:
        return
    view = pair_view(predictor, files, tuple(Path(file).name for file in files))
    painted, peak = painted_pair(view, view.map(MAP), MAPS[MAP].signed)
    pictures = [*map(enlarged, view.faces), *painted]
    lines = wrapped(text, LETTERS).split("\n")
    file = session.folder.figures / f"{name}.png"
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, encoded(sheet(pictures, lines, MAPS[MAP].signed, scale_ends(MAP, peak))))
    show_picture(file)


def write_pairs(session: Session, data: TwinData, most: int = 500) -> Path:
    """A CSV file of pairs of test images, evenly over all of them."""
    index = data["test"].index
    pairs = twin_pairs(index)
    file = session.folder.path / "pairs.csv"
    with disk_errors(file), file.open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("image_a", "image_b"))
        for place in np.unique(np.linspace(0, len(pairs) - 1, most).astype(int)):
            rows.writerow((index.paths[pairs.a[place]], index.paths[pairs.b[place]]))
    return file


def verify_list(predictor: Predictor, pairs: Path) -> Path:
    """The answers to a CSV file of pairs, as a CSV file beside it."""
    output = pairs.with_name("results.csv")
    for file in output.parent.glob(f"{output.name}*"):  # with the note of how far an earlier list has come
        file.unlink()
    source = listed_pairs(pairs.read_bytes(), str(pairs), pairs.parent)
    compare_to_file(predictor, source, output, 0, source.count)
    return output


def results_table(results: Path, most: int = 5) -> Markdown:
    """The first rows of a file of answers, and how often each verdict is given."""
    with results.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    shown = [[Path(row[name]).name if name.startswith("image") else row[name] for name in names] for row in rows[:most]]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("same", "undecided", "different")}
    line = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
    return Markdown(f"{len(rows):,} pairs: {line}.\n\n{table(names, shown)}")


def export_forms(session: Session, folder: Path) -> dict[str, tuple[Engine, Path]]:
    """A packed model, and the same in ONNX and in ONNX of 8 bits where the packages for that are installed: what runs
    each, and its file. Prints how far the scores of 8 bits differ, and what they cost in accuracy."""
    engine = open_engine(folder)
    found = {"PyTorch": (engine, folder / WEIGHTS_FILE)}
    data = open_data(session.config, ("train", "validation"))
    faces = spread(data["validation"].images, FACES)
    exported = session.folder.path / "exported"
    exported.mkdir(exist_ok=True)
    exact, small = folder / ONNX_FILE, exported / "model_int8.onnx"
    if exact.is_file():
        found["ONNX"] = open_engine(exact), exact
    try:
        print(write_int8(engine, small, faces, data))
        found["ONNX, 8 bits"] = open_engine(small), small
    except ExportError as reason:
        print(f"Not exported: {reason}")
    return found


def times_table(engines: Mapping[str, tuple[Engine, Path]]) -> Markdown:
    """How fast each engine describes drawn noise of its model's size and compares it, and how large its file is."""
    rows = []
    for name, (engine, file) in engines.items():
        size = engine.about["image_size"]
        faces = np.random.default_rng(0).integers(0, 256, (max(BATCHES), size, size, 3), dtype=np.uint8)
        taken = [median_s(engine.encode, faces[:batch]) for batch in BATCHES]
        described = engine.encode(faces)
        pairs_s = len(faces) / median_s(engine.compare_pairs, described, described[::-1])
        times = [f"{1000 * one:.1f}" for one in taken]
        rows.append(
            [name, *times, f"{BATCHES[1] / taken[1]:,.0f}", f"{pairs_s:,.0f}", f"{file.stat().st_size / 1e6:.1f}"]
        )
    heads = ["form", *(f"{batch} at once, ms" for batch in BATCHES), "faces/s", "pairs/s", "MB"]
    return Markdown(table(heads, rows))


def median_s(act, *given) -> float:
    """Seconds of a call, the median of several."""
    act(*given)
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        act(*given)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))
