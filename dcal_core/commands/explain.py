"""Where a trained verifier looks: maps of a pair and of many pairs, and how far to believe them (attention.ipynb)."""

import json
from pathlib import Path

import numpy as np
import torch

from dcal_core.audit.gate import Gate, open_picture
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.config.shared import Config
from dcal_core.data.images import ImageStore, open_images
from dcal_core.data.locate import find_images, find_indexes
from dcal_core.data.pair_lists import families_of_pairs, read_pairs
from dcal_core.data.splits import SYNTHETIC, drawn_root, read_indexes
from dcal_core.data.twins import DataError
from dcal_core.environment import gpu_verdict, input_roots, scratch_root
from dcal_core.errors import ConfigError
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.comparison import compare_groups, comparison_table, draw_comparison, mean_face, quick_maps
from dcal_core.explain.explorer import Explorer
from dcal_core.explain.pair_figures import stem_of, write_figure, write_pair
from dcal_core.explain.regions import ARCFACE, DRAWN, face_regions
from dcal_core.explain.trust import conclusions, draw_faithfulness, faithfulness_table, measure_maps
from dcal_core.models.files import load_model
from dcal_core.runs import DECISION_FILE, RunFolder
from dcal_core.storage import write_text
from dcal_core.verification.decision import DecisionRule, read_rule
from dcal_core.verification.protocol import Pairs, some_of_each_family

TITLE = "Where does the verifier look?"
SHOWN = 6  # confusing pairs whose files are written


def trained_model(session: Session) -> torch.nn.Module:
    """The session's model, on the GPU where one is fit."""
    return load_model(session.trained).to("cuda" if gpu_verdict()[0] else "cpu")


def rule_of(session: Session) -> DecisionRule | None:
    """What a score of the session's model means; before an evaluation None, and a line says so."""
    rule = read_rule(session.trained)
    if rule is None:
        print(
            f"No {session.trained / DECISION_FILE}, so scores come without a verdict: run evaluate first to have them."
        )
    return rule


def open_explorer(session: Session) -> Explorer:
    """The session's model on its test families."""
    data = session.open_data(("test",))
    return Explorer(trained_model(session), data, rule_of(session), session.config.encode_batch)


def regions_of(drawn: bool, size: int) -> dict[str, np.ndarray]:
    """The parts of an aligned face of `size` pixels, as drawings or as photographs have them."""
    return face_regions(DRAWN if drawn else ARCFACE, size)


def compare_kinds(model: torch.nn.Module, images: ImageStore, pairs: Pairs, drawn: bool) -> dict:
    """Every quick map of the model, on same-person pairs against co-twins."""
    first = PairView(model, images.batch([pairs.a[0], pairs.b[0]]), ("", ""))
    maps = quick_maps(model, images, pairs, [name for name in first.kinds if MAPS[name].quick])
    return compare_groups(maps, pairs, regions_of(drawn, model.image_size))


def sampled(explorer: Explorer, config: Config) -> Pairs:
    """`pairs_per_family` pairs of each kind from each test family."""
    pairs = explorer.scored.pairs
    places = [some_of_each_family(pairs, genuine, config.pairs_per_family, config.seed) for genuine in (True, False)]
    return pairs.take(np.concatenate(places))


def write_result(folder: Path, name: str, result: dict) -> Path:
    """Write a result as JSON, and return the file."""
    file = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return file


def write_view(folder: Path, view: PairView, label: str, answer: str) -> list[Path]:
    """Write the pictures and the statistics of a pair, and return the files."""
    return write_pair(folder, view, "", label, regions_of(SYNTHETIC in label, view.faces.shape[1]), answer)


def gate_of(session: Session, drawn: bool) -> Gate:
    """What looks at pictures that the user gives before the session's model compares them."""
    run = RunFolder.around(session.trained)
    people = set(run.people()) if run.trained_on.is_file() else set()
    return Gate(DRAWN if drawn else ARCFACE, people, training_images(session.config, people, drawn))


def training_images(config: Config, people: set[str], drawn: bool) -> list[Path] | None:
    """The images of the people that a model was trained on; None where their data set is not here or not whole."""
    try:
        root = drawn_root(config) if drawn else find_indexes(input_roots(config.data_root))
        if root is None or not people:
            return None
        index, _ = read_indexes(root)
        places = zip(index.person_of, find_images(index, root), strict=True)
        return [Path(file) for person, files in places if index.people[person] in people for file in files]
    except DataError:
        return None


def explain_files(session: Session, files: list[Path]) -> list[Path]:
    """Explain two aligned face images, as files; DataError, with the reason, for two that cannot be compared."""
    model = trained_model(session)
    label = label_of_given(session)
    pictures = [open_picture(file, model.image_size) for file in files]
    found = gate_of(session, SYNTHETIC in label).look(*pictures)
    print("".join(f"{sentence}\n" for sentence in [*found.doubts, *found.unchecked]), end="")
    if found.stops:
        raise DataError(f"No verdict: {' '.join(found.stops)}")
    faces = torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])
    view = PairView(model, faces, tuple(picture.name for picture in pictures))
    rule = rule_of(session)
    answer = rule.sentence(view.score) if rule else f"score {view.score:.2f}"
    print(answer)
    return write_view(session.folder.explained / "images", view, label, answer)


def label_of_given(session: Session) -> str:
    """The label of images that the user gives, whose people are unknown."""
    return f"images given, model trained on {RunFolder.around(session.trained).data()}"


def explain_lists(session: Session, same: Path, twins: Path) -> list[Path]:
    """Compare listed pairs of one person with listed pairs of co-twins, as files in a folder named after the lists;
    DataError for a pair that is in both."""
    lists = [read_pairs(same), read_pairs(twins)]
    first, second = ({tuple(sorted(map(str, pair))) for pair in one} for one in lists)
    if both := sorted(first & second):
        raise DataError(
            f"{same} and {twins}: {len(both)} {'pair' if len(both) == 1 else 'pairs'} in both lists, first "
            f"{' and '.join(both[0])}: a pair shows one person or two."
        )
    joined = [pair for one in lists for pair in one]
    paths, place = np.unique([str(path) for pair in joined for path in pair], return_inverse=True)
    images = open_images(list(paths), session.config.image_size, scratch_root() / "decoded", max_lost_share=0.0)
    a, b = place.reshape(-1, 2).T
    genuine = np.repeat([True, False], [len(one) for one in lists])
    pairs = Pairs(a, b, genuine, families_of_pairs(joined))
    label = label_of_given(session)
    comparison = compare_kinds(trained_model(session), images, pairs, SYNTHETIC in label)
    folder = session.folder.explained / "lists" / stem_of((str(same), str(twins)))
    return write_comparison(folder, folder, comparison, images, label)


def write_comparison(folder: Path, figures: Path, comparison: dict, images: ImageStore, label: str) -> list[Path]:
    """Print how the two kinds of pairs differ, and write it to one folder and its figures to another."""
    files = [write_result(folder, "comparison", {"data": label} | comparison)]
    face = mean_face(images)
    for name in comparison["maps"]:
        files.append(write_figure(figures / f"comparison_{name}.png", draw_comparison(comparison, name, face, label)))
    print(f"\n{comparison_table(comparison, 'distinctive')}\n")
    return files


def explain_test(session: Session) -> list[Path]:
    """Explain the test families, as files: confusing pairs, both kinds of pairs compared, and how far to trust maps."""
    explorer = open_explorer(session)
    config = session.config
    files = []
    for turn in range(min(SHOWN, len(explorer.order))):
        pair = explorer.confusing(turn)
        files += write_view(session.folder.explained, explorer.view(*pair), explorer.label, explorer.judged(*pair))
    comparison = compare_kinds(explorer.model, explorer.images, sampled(explorer, config), explorer.data.synthetic)
    explained, figures = session.folder.explained, session.folder.figures
    files += write_comparison(explained, figures, comparison, explorer.images, explorer.label)
    trust = measure_maps(explorer.model, explorer.data, config.pairs_per_family, seed=config.seed)
    files.append(write_result(session.folder.explained, "faithfulness", trust))
    files.append(session.keep(draw_faithfulness(trust["maps"], trust_title(trust)), "faithfulness"))
    print(faithfulness_table(trust["maps"]), *conclusions(trust["maps"]), sep="\n\n")
    return files


def trust_title(trust: dict) -> str:
    """The title of the figure of faithfulness: which data, and how much of it."""
    counted = f"{trust['pairs']:,} co-twin pairs of {trust['families']:,} families"
    return f"How far each map can be believed ({trust['data']}): {counted}"


def main(arguments: list[str]) -> int:
    """What attention.ipynb does, without its browser."""
    options = read_options("explain", arguments)
    given, params_dir = given_parameters(options)
    if (options.same is None) != (options.twins is None):
        raise ConfigError("--same and --twins are lists to be compared: give both.")
    session = begin_with_trained(TITLE, given, params_dir)
    if options.images:
        files = explain_files(session, options.images)
    elif options.same:
        files = explain_lists(session, options.same, options.twins)
    else:
        files = explain_test(session)
    print("Files:", *files, sep="\n  ")
    return 0
