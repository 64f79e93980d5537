"""What attention.ipynb and the commands on single pairs share: a trained run's model, its pairs, and files of maps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dcal_core.audit.gate import Gate
from dcal_core.commands.session import Session
from dcal_core.config.shared import Config
from dcal_core.data.images import ImageStore
from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.data.locate import find_images
from dcal_core.data.occlusion import OccludedImages
from dcal_core.data.roots import find_data, read_indexes
from dcal_core.data.splits import SYNTHETIC, TwinData, drawn_root
from dcal_core.data.twins import DataError
from dcal_core.environment import fit_device
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.comparison import compare_groups, quick_maps
from dcal_core.explain.explorer import Explorer
from dcal_core.explain.pair_figures import write_pair
from dcal_core.explain.regions import face_regions
from dcal_core.explain.sensitivity import measure_sensitivity
from dcal_core.explain.sensitivity_figures import draw_sensitivity, example, limits
from dcal_core.explain.trust import counted, in_sentences, measure_maps
from dcal_core.models.files import load_model
from dcal_core.runs import DECISION_FILE, RunFolder, weights_hash
from dcal_core.storage import read_json, write_text
from dcal_core.verification.decision import DecisionRule, read_rule
from dcal_core.verification.protocol import Pairs, some_of_each_family

TITLE = "Where does the verifier look?"


def trained_model(session: Session) -> torch.nn.Module:
    """The session's model, on the GPU where one is fit."""
    return load_model(session.trained).to(fit_device())


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
    if not data["test"].index.co_twins:
        print("Two people, drawn, stand wherever co-twins would.")
    gate = partial(gate_of, session, data.as_drawn)
    return Explorer(trained_model(session), data, rule_of(session), session.config.encode_batch, gate)


def regions_of(drawn: bool, size: int) -> dict[str, np.ndarray]:
    """The parts of an aligned face of `size` pixels, as drawings or as photographs have them."""
    return face_regions(DRAWN if drawn else ARCFACE, size)


def compare_kinds(model: torch.nn.Module, images: ImageStore, pairs: Pairs, drawn: bool, co_twins: bool = True) -> dict:
    """Every quick map of the model, on same-person pairs against co-twins, or against unrelated people."""
    first = PairView(model, images.batch([pairs.a[0], pairs.b[0]]), ("", ""))
    maps = quick_maps(model, images, pairs, [name for name in first.kinds if MAPS[name].quick])
    return compare_groups(maps, pairs, regions_of(drawn, model.image_size), co_twins)


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


def write_view(
    session: Session, view: PairView, label: str, answer: str, given: Sequence[str] | None = None
) -> list[Path]:
    """Write the page, pictures and statistics of a pair, and return the files.

    given: for images that the user gives, what must be said before the score; their files have a folder of their own.
    """
    folder = session.folder.explained / "images" if given is not None else session.folder.explained
    measured = session.folder.faithfulness
    trust = read_json(measured) if measured.is_file() else None
    regions = regions_of(SYNTHETIC in label, view.faces.shape[1])
    return write_pair(folder, view, label, regions, answer, given or (), trust)


def trust_of(session: Session, explorer: Explorer) -> dict:
    """`measure_maps` of the session's model on its test families, with its weights and, for the report, sentences."""
    config = session.config
    found = measure_maps(explorer.model, explorer.data, config.pairs_per_family, seed=config.seed)
    return {"weights": weights_hash(session.trained), "sentences": in_sentences(found)} | found


def trust_title(trust: dict) -> str:
    """The title of the figure of faithfulness: which data, and how much of it."""
    return f"How far each map can be believed ({trust['data']}): {counted(trust)}"


def gate_of(session: Session, drawn: bool) -> Gate:
    """The gate that checks the user's pictures before the session's model compares them."""
    run = RunFolder.around(session.trained)
    people = set(run.people()) if run.trained_on.is_file() else set()
    return Gate(DRAWN if drawn else ARCFACE, people, training_images(session.config, people, drawn), session.config.fit)


def training_images(config: Config, people: set[str], drawn: bool) -> list[Path] | None:
    """The images of the people that a model was trained on; None if their data set is missing or not whole."""
    try:
        root = drawn_root(config) if drawn else find_data(config.data_root)
        if root is None or not people:
            return None
        index, _ = read_indexes(root, quiet=True)
        places = zip(index.person_of, find_images(index, root), strict=True)
        return [Path(file) for person, files in places if index.people[person] in people for file in files]
    except DataError:
        return None


# ---- the limit of detection


@dataclass(frozen=True, eq=False)
class Faces:
    """N images of people to plant marks into; family_of: of each image; landmarks: of all of them; notes: what is known
    against them."""

    label: str
    images: ImageStore | OccludedImages
    person_of: np.ndarray
    family_of: np.ndarray
    landmarks: np.ndarray
    notes: tuple[str, ...] = ()


def faces_of_test(data: TwinData) -> Faces:
    """The test families."""
    split = data["test"]
    person_of = split.index.person_of
    return Faces(data.label, split.images, person_of, split.index.family_of[person_of], split.landmarks)


def sensitivity_of(session: Session, model: torch.nn.Module, faces: Faces) -> dict:
    """The limit of detection of the session's model, with its verdict's where it was evaluated."""
    rule = read_rule(session.trained)
    people = (faces.person_of, faces.family_of, faces.landmarks)
    threshold = rule.threshold if rule else None
    found = measure_sensitivity(model, faces.images, *people, threshold, session.config.seed)
    about = {"data": faces.label, "weights": weights_hash(session.trained), "notes": list(faces.notes)}
    return about | {"sentences": limits(found)} | found


def sensitivity_figure(result: dict, faces: Faces) -> Figure:
    """The figure of a limit of detection; the marks by size are shown on the first image."""
    (face,) = faces.images.batch([0]).numpy()
    title = (
        f"How small a mark is seen ({result['data']}): {result['people']:,} people of {result['families']:,} families"
    )
    return draw_sensitivity(result, example(face, faces.landmarks, result["diameters"]), title)
