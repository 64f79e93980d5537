"""evaluate.ipynb and `twins evaluate`: score verifiers on the same test people and write a report."""

import math
import platform
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import dcal_core
from dcal_core.commands.chosen import folders_to_compare
from dcal_core.commands.known import known_of_model, sensitivity_picture
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, begin_with_trained, other_trained
from dcal_core.config.shared import Config
from dcal_core.data.drawn.synthetic import marks_of
from dcal_core.data.splits import SYNTHETIC, TwinData
from dcal_core.environment import fit_device, gpu_verdict
from dcal_core.errors import UserError
from dcal_core.installation import commit, program_name
from dcal_core.models.files import load_model
from dcal_core.models.verifier import Verifier
from dcal_core.runs import RunFolder, weights_hash
from dcal_core.storage import DamagedError, read_json, write_bytes
from dcal_core.verification import plots, report_tables
from dcal_core.verification.baseline import SFace
from dcal_core.verification.calibration import from_dict
from dcal_core.verification.conditions import conditions
from dcal_core.verification.decision import DecisionRule, rule_of_report, write_rule
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.evidence_plots import draw_evidence
from dcal_core.verification.fusion import fit_fusion
from dcal_core.verification.occlusion import draw_occlusion, draw_visibility, occlusion
from dcal_core.verification.page import answers_of, questions_of, write_page
from dcal_core.verification.protocol import Scored, pairs_of, score_pairs, unrelated_scores
from dcal_core.verification.report import System, evaluate, write_json
from dcal_core.verification.score_list import write_scores
from dcal_core.verification.statements import equal_errors, headline

TITLE = "Evaluate a twin verifier"
SPLITS = ("validation", "test")
STRANGERS = 500  # validation images whose comparisons with unrelated people calibrate against these
TABLES = {  # by the questions that they answer
    "answers": report_tables.verdict_table,
    "others": report_tables.systems_table,
    "occlusion": lambda result: "\n\n".join(map(str, report_tables.occlusion_tables(result))),
    "trust": report_tables.calibration_table,
    "twins": report_tables.security_table,
    "mistakes": report_tables.mistakes_table,
    "metrics": report_tables.metrics_table,
}


def score_systems(session: Session, data: TwinData) -> list[System]:
    """The session's run, the runs of `compare`, the baseline, and the fusion of each model's own answer, as asked."""
    others = [other_trained(folder, session.config) for folder in folders_to_compare(session.config)]
    names = short_names([RunFolder.around(one.trained).path for one in (session, *others)])
    by_model = [score_run(names[0], session, data)]
    for name, other in zip(names[1:], others, strict=True):
        by_model.append(score_run(name, other, same_people(other.open_data(SPLITS), data, name)))
    if session.config.baseline:
        about = "frozen, trained by others on unrelated people"
        by_model.append(score_model("SFace", about, SFace(), data, session.config))
    systems = [system for readings in by_model for system in readings]
    return [*systems, fuse([readings[0] for readings in by_model])] if session.config.fuse else systems


def short_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the folders' paths that differ; UserError if a folder is given twice."""
    if len(set(folders)) < len(folders):
        raise UserError("compare: names a run twice, or the evaluated run itself: leave one out.")
    depths = (["/".join(folder.parts[-depth:]) for folder in folders] for depth in count(1))
    return next(names for names in depths if len(set(names)) == len(names))


def score_run(name: str, session: Session, data: TwinData) -> list[System]:
    """A trained run on its own validation families and on the test families, a system for each reading."""
    config = session.config
    weights = weights_hash(session.trained)
    about = f"{config.backbone}, {config.image_size} px, seed {config.seed}"
    return score_model(name, about, load_model(session.trained), data, config, weights)


def score_model(name: str, about: str, model: Verifier, data: TwinData, config: Config, weights="") -> list[System]:
    """A model on the validation and the test families, a system for each of its readings, from one encoding."""
    device = fit_device()
    model = model.to(device)
    scored = {reading: {} for reading in model.readings}
    strangers = None
    for split in SPLITS:
        index = data[split].index
        pairs = pairs_of(index)
        features = encode_images(model, data[split].images, config.encode_batch, device, flip=config.flip_fusion)
        if split == "validation" and index.co_twins:
            strangers = unrelated_scores(model, features, index, STRANGERS, device=device, reading=model.readings[0])
        for reading in model.readings:
            scores = score_pairs(model, features, pairs, device=device, reading=reading)
            scored[reading][split] = Scored(index, pairs, scores)
    visible = features.parts["visible"].numpy() if "visible" in features.parts else None
    if "found" in features.parts:
        about += f"; it found a face in {int(features.parts['found'].sum()):,} of {len(features):,} test images"
    size = sum(weight.numel() for weight in model.parameters())
    systems = []
    for number, (reading, of_splits) in enumerate(scored.items()):
        unrelated = None
        if index.co_twins and not number:  # the report asks it of a model's own answer alone, and it takes longest
            unrelated = unrelated_scores(model, features, index, device=device, reading=reading)
        own_name = f"{name}, {reading}" if number else name
        own_about = about if len(scored) == 1 else f"{about}; its reading {reading}"
        own = {"unrelated": unrelated, "strangers": None if number else strangers}
        own |= {"weights": weights, "size": size, "visible": visible}
        systems.append(System(own_name, own_about, **of_splits, **own))
    return systems


def same_people(other: TwinData, data: TwinData, folder: str) -> TwinData:
    """The data of another run, whose images may be of another size; UserError if its test people differ."""
    if other["test"].index.fingerprint() != data["test"].index.fingerprint():
        raise UserError(
            f"compare={folder}: that run is tested on other people or images: compare runs of one data set."
        )
    return other


def fuse(systems: list[System]) -> System:
    """Fuse systems by logistic regression on the validation families; UserError unless these are the same for all."""
    if len({system.validation.index.fingerprint() for system in systems}) > 1 or len(systems) < 2:
        raise UserError("fuse=true: takes two systems or more with the same validation families: runs of one seed.")
    parts = ("validation", "test", "unrelated") if systems[0].unrelated else ("validation", "test")
    scores = {part: np.stack([getattr(one, part).scores for one in systems], axis=1) for part in parts}
    pairs = systems[0].validation.pairs
    fusion = fit_fusion(scores["validation"], pairs.genuine, pairs.family)
    weights = ", ".join(f"{w:.2f} {one.name}" for w, one in zip(fusion.weight, systems, strict=True))
    fused = {part: replace(getattr(systems[0], part), scores=fusion.fuse(scores[part])) for part in parts}
    return System("fused", f"weights of the standardised scores: {weights}", **{"unrelated": None} | fused)


def evaluate_systems(session: Session, data: TwinData, systems: list[System], command: str, library: str = "") -> dict:
    """The result of the first system, compared with the others. command: what was called, with its parameters. library:
    hash of the library inside a notebook."""
    config = session.config
    options = {"draws": config.bootstrap_draws, "root": data.root}  # the same draws in every report, whatever the seed
    result = evaluate(systems, data.label, error=config.verdict_error, calibration=config.calibration, **options)
    if config.occluded_share:
        result["occlusion"] = occlusion(systems, data["test"].images, config.bootstrap_draws)
    run = RunFolder.around(session.trained)
    model = f"{run.path.name}/{session.trained.relative_to(run.path).as_posix()}"  # not where it is on this machine
    return result | {
        "synthetic": data.synthetic or run.data() == SYNTHETIC,
        "created": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "seconds": {"training": seconds_of_training(run), "evaluation": round(time.monotonic() - session.began, 1)},
        "device": device_name(),
        "model": model,
        "command": command,
        "code": code_of(library),
        "fingerprint": config.fingerprint(),
        "lists": {name: data[name].index.fingerprint() for name in SPLITS},
        "conditions": conditions(config, data, systems),
        **known_of_model(session),
    }


def seconds_of_training(run: RunFolder) -> float | None:
    """How long a run has been trained, by its newest checkpoint; None without one, as in a run that was thinned out."""
    try:
        seconds = read_json(run.saved[0] / "progress.json").get("seconds") if run.saved else None
    except DamagedError:  # the model is whole, and a checkpoint is not needed to evaluate it
        return None
    return round(seconds, 1) if isinstance(seconds, float) and 0 < seconds < math.inf else None


def code_of(library: str) -> str:
    """The version of the code, its commit in a checkout, the hash of a notebook's library, and what it ran on."""
    hashes = {"commit": commit(), "library": library}
    parts = [f"{name} {value}" for name, value in hashes.items() if value]
    runs_on = f"Python {platform.python_version()}", f"PyTorch {torch.__version__}"
    return ", ".join([f"dcal_core {dcal_core.__version__}", *parts, *runs_on])


def device_name() -> str:
    """What the scores were computed on."""
    return torch.cuda.get_device_name(0) if gpu_verdict()[0] else f"CPU ({platform.machine()})"


def draw_report(result: dict, systems: list[System], data: TwinData) -> Iterator[tuple[str, Figure]]:
    """Each figure of the report with its name."""
    first = systems[0]
    scores, genuine, family = first.test.labelled
    yield "scores", plots.draw_histogram(scores, genuine, family, first.threshold, data.label)
    yield "roc", plots.draw_roc(scores, genuine, family, data.label)
    yield "det", plots.draw_det({one.name: one.test.scores for one in systems}, genuine, family, data.label)
    if len(systems) > 1:
        yield "systems", plots.draw_systems(result)
    if "occlusion" in result:
        yield "occlusion", draw_occlusion(result)
    if "visibility" in result.get("occlusion", {}):
        yield "visibility", draw_visibility(first.visible, data["test"].images, data.label)
    if "fitted" in result["calibration"]:
        llr = from_dict(result["calibration"]["fitted"]).llr(scores)
        yield from draw_evidence(llr, genuine, family, first.test.pairs.even_weights(), data.label).items()
    if result["calibration"].get("reliability"):
        yield "reliability", plots.draw_reliability(result["calibration"], genuine, family, data.label)
    marks = None
    if data.synthetic and result["co_twins"]:
        images = data["test"].images
        marks = [marks_of(data.root, pair["paths"], images.size) for pair in result["confusable"]]
    yield "confusable", plots.draw_confusable(result, data["test"].images, marks)


def answered(result: dict) -> Iterator[str]:
    """The questions of the report's page, each with its answer and its table, for a shell."""
    answers = answers_of(result) | {"limits": [*result["conditions"], result["images"]]}
    for name, question in questions_of(result).items():
        yield f"## {question}"
        answer = answers.get(name, "")
        yield from [answer] if isinstance(answer, str) else [f"- {one}" for one in answer]
        if name in TABLES:
            yield str(TABLES[name](result))


def write_report(
    session: Session, result: dict, pictures: dict[str, Path], system: System, data: TwinData
) -> list[Path]:
    """Write report.json, report.html and scores.csv to the run's folder, and the decision rule to the model's."""
    rule = rule_of_report(result)
    files = [session.folder.report, session.folder.report_page, session.folder.scores]
    write_json(files[0], result)
    if "sensitivity" in result:
        pictures = pictures | {"sensitivity": sensitivity_picture(session)}
    write_page(files[1], result, pictures, notebooks_beside(session.folder))
    write_scores(files[2], [system.validation, system.test], rule, data.root)
    return files + keep_rule(session, rule)


def notebooks_beside(run: RunFolder) -> list[str]:
    """The notebooks that `make demo` leaves in a run's folder, as pages; some of them after this one."""
    names = ("train", "evaluate", "attention")
    return [f"{name}.html" for name in names] if (run.path / "evaluate.ipynb").is_file() else []


def keep_rule(session: Session, rule: DecisionRule) -> list[Path]:
    """Write the decision rule into the model's folder; an attached model, read-only, is copied to the run's first."""
    if session.config.flip_fusion:
        print("No decision rule is kept: its thresholds would be those of flip fusion, which only evaluation does.")
        return []
    model = session.trained
    run = RunFolder.around(model)
    if run.path == session.folder.path:
        return [write_rule(rule, model, model)]
    described = {
        session.folder.config: run.config.read_bytes(),
        session.folder.trained_on: run.trained_on.read_bytes(),
    }
    if any(file.is_file() and file.read_bytes() != content for file, content in described.items()):
        print(f"{session.folder} is the folder of another run, so no decision rule is kept: give another run_dir.")
        return []
    for file, content in described.items():
        write_bytes(file, content)
    print(f"{run} is attached and stays as it is: its model is copied to {session.folder}, with the decision rule.")
    return [write_rule(rule, model, session.folder.best)]


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    given, params_dir = given_parameters(read_options("evaluate", arguments))
    session = begin_with_trained(TITLE, given, params_dir)
    data = session.open_data(SPLITS)
    systems = score_systems(session, data)
    command = f"{program_name()} {shlex.join(['evaluate', *arguments])}"
    result = evaluate_systems(session, data, systems, command)
    pictures = {name: session.keep(figure, name) for name, figure in draw_report(result, systems, data)}
    print("", *filter(None, answered(result)), "## In short\n", sep="\n\n")
    print(headline(result), equal_errors(result), sep="\n")
    print("Report:", *write_report(session, result, pictures, systems[0], data))
    return 0
