"""`twins benchmark`: a trained run, or pretrained weights, on the published face benchmarks that are there."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from dcal_core.commands.evaluate import code_of, device_name
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.scored_model import model_to_benchmark
from dcal_core.config.shared import Config
from dcal_core.data.benchmarks.low_quality import read_ijbs, read_tinyface
from dcal_core.data.benchmarks.packed_pairs import FILES, benchmark_roots, find_files, pair_files
from dcal_core.data.benchmarks.template_sets import TemplateSet, read_ijb
from dcal_core.data.twins import DataError
from dcal_core.environment import banner, fit_device, input_roots, output_root, scratch_root
from dcal_core.errors import ConfigError
from dcal_core.markdown import table
from dcal_core.models.files import load_model
from dcal_core.models.verifier import Verifier
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import WEIGHTS_FILE, RunFolder
from dcal_core.storage import digest, disk_errors
from dcal_core.verification.benchmarks.pooling import FaceFiles, pool
from dcal_core.verification.benchmarks.protocols import identify, people_of, score_templates, verify
from dcal_core.verification.benchmarks.rates import FEWEST
from dcal_core.verification.benchmarks.ten_folds import fold_pairs, open_pair_sets
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.intervals import mean_share
from dcal_core.verification.report import write_json

TEMPLATES = {  # the file by which a benchmark of templates is known, and what reads it
    "ijbb_face_tid_mid.txt": read_ijb,
    "ijbc_face_tid_mid.txt": read_ijb,
    "probe_img_ID_pairs.mat": read_tinyface,
    "cs6_metadata.csv": read_ijbs,
}


def benchmark_pairs(
    model: Verifier, files: dict[str, Path], mode: str, config: Config, device: str, readings: Sequence[str]
) -> Iterator[tuple]:
    """(reading, benchmark, figures) of each .bin file, by title."""
    sets = open_pair_sets(files, model.image_size, scratch_root() / "decoded")
    features = encode_images(model, sets.images, config.encode_batch, device, flip="F1" in mode)
    for reading in readings:
        found, measure = fold_pairs(model, features, sets, device, reading)
        for title, folds in found.items():
            estimate = mean_share(folds.right, folds.fold, config.bootstrap_draws)
            spread = {"std": float(folds.accuracies.std()), "threshold": float(folds.thresholds.mean())}
            about = {"measure": measure, "interval": "over folds: pairs of a .bin file name no people"}
            yield reading, title, {"accuracy": estimate | spread, "counts": {"pairs": len(folds.right)}} | about


def benchmark_templates(
    model: Verifier, templates: TemplateSet, mode: str, config: Config, device: str, readings: Sequence[str]
) -> Iterator[tuple]:
    """(reading, benchmark, figures) of each protocol of a benchmark of templates."""
    images = FaceFiles(tuple(templates.files), model.image_size, landmarks=templates.landmarks)
    encoded = encode_images(model, images, config.encode_batch, device, flip="F1" in mode)
    features = pool(model, encoded, templates, norms="N1" in mode, detections="D1" in mode)
    about = {"interval": "over people"}
    for reading in readings:
        if len(pairs := templates.pairs):
            scores = score_templates(model, features, pairs[:, 0], pairs[:, 1], device, reading)
            figures = verify(scores, pairs, people_of(templates.templates, pairs), config.bootstrap_draws)
            yield reading, f"{templates.title} 1:1", figures | about
        for title, search in templates.searches.items():
            found = identify(
                model, features, search, templates.present, config.bootstrap_draws, device=device, reading=reading
            )
            yield reading, f"{templates.title} {title}", found | about


def cell(estimate: dict) -> str:
    """A figure as tables have it, in %, with its interval; * for one that rests on few false matches."""
    if estimate["value"] is None:
        return estimate["reason"]
    few = "*" if estimate.get("false_matches", FEWEST) < FEWEST else ""
    interval = ""
    if estimate["low"] is not None:
        interval = f" ({100 * estimate['low']:.2f} to {100 * estimate['high']:.2f})"
    return f"{100 * estimate['value']:.2f}{few}{interval}"


def tables(results: dict[str, dict]) -> Iterator[str]:
    """A Markdown table of the benchmarks with the same figures, for all figures that there are."""
    rows = {}  # names of figures -> rows
    for reading, benchmarks in results.items():
        for title, figures in benchmarks.items():
            shown = {name: cell(one) for name, one in figures.items() if isinstance(one, dict) and "value" in one}
            rows.setdefault(tuple(shown), []).append([title, reading, *shown.values()])
    for names, found in rows.items():
        words = [name.replace("_", " ").replace("tar at far", "TAR at FAR") for name in names]
        yield table(["benchmark", "reading", *(word.replace("tpir at fpir", "TPIR at FPIR") for word in words)], found)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = read_options("benchmark", arguments)
    given, params_dir = given_parameters(options)
    config, folder, trained = model_to_benchmark(given, params_dir)
    print(banner("Face benchmarks"))
    roots = benchmark_roots(config)
    files = pair_files(config)
    listings = find_files(roots, list(TEMPLATES))
    if not (files or listings):
        raise DataError(
            f"no face benchmark below {' and '.join(map(str, roots)) or 'data'}: give a folder as benchmarks_root with "
            f"one of {FILES}, {', '.join(TEMPLATES)}."
        )
    sets = [TEMPLATES[name](file) for name, file in listings.items()]  # refuses before anything is encoded
    model = (load_model(trained) if trained else new_model(config, input_roots())).eval()
    weights = trained / WEIGHTS_FILE if trained else Path(config.weights)
    device = fit_device()
    model = model.to(device)
    readings = (options.reading,) if options.reading else model.readings
    if not set(readings) <= set(model.readings):
        raise ConfigError(f"--reading {options.reading}: the model offers {', '.join(model.readings)}.")
    results = {reading: {} for reading in readings}
    found = [benchmark_templates(model, one, options.mode, config, device, readings) for one in sets]
    if files:
        found.insert(0, benchmark_pairs(model, files, options.mode, config, device, readings))
    for reading, title, figures in chain.from_iterable(found):
        results[reading][title] = figures
    run = RunFolder.around(trained) if trained else None
    about = {
        "model": f"{run.path.name}/{weights.relative_to(run.path).as_posix()}" if run else weights.name,
        "sha256": digest(weights),
        "trained_on": run.data() if run else "",
        "code": code_of(""),
        "device": device_name(),
        "mode": options.mode,
        "draws": config.bootstrap_draws,
    }
    file = folder.benchmarks if trained else output_root() / "benchmarks" / f"{weights.stem}.json"
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, about | {"readings": results})
    print("", *tables(results), f"In %, with 95 % intervals; * fewer than {FEWEST} false matches.", sep="\n\n")
    print(f"{weights}{', trained on ' + about['trained_on'] if trained else ''}, mode {options.mode}: {file}")
    return 0
