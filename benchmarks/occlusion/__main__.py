"""`python -m benchmarks.occlusion`: train the preset with several seeds and compare its readings behind occluders, on
families drawn for this alone."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.ablation.effects import as_markdown, effects
from benchmarks.trials import Row, Trial, chosen_rows, exit_status, parser_of_rows, plan, run_all
from dcal_core.commands.options import given_parameters
from dcal_core.config.recipes import load
from dcal_core.config.shared import OCCLUDERS, Config
from dcal_core.data.splits import Split, TwinData, open_data
from dcal_core.environment import banner, fit_device
from dcal_core.markdown import table
from dcal_core.models.files import load_model
from dcal_core.models.verifier import Features, Verifier
from dcal_core.runs import RunFolder
from dcal_core.storage import write_text
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.fusion import fit_fusion
from dcal_core.verification.occlusion import CLEAR, COVERED, groups_of_pairs, seen_visibility
from dcal_core.verification.protocol import Pairs, score_pairs, twin_pairs

FRESH = {"synthetic_test_families": 120, "synthetic_test_seed": 2029}  # on which no parameter was chosen
PRESET, BLIND, ALONE = "preset", "blind", "alone"
TRAINED = (
    Row(PRESET, "as preset", main=True),
    Row(BLIND, "trained without visibility", {"visibility": False}),
    Row(
        ALONE,
        "the embedding alone, trained behind the same occluders",
        {"softmax_weight": 1.0, "local_weight": 0.0, "visibility": False},
    ),
)
READ = (  # what is compared: the readings of these runs
    Row("global", "global"),
    Row("local", "local", against="global"),
    Row("fused", "fused", against="global"),
    Row("local_unweighed", "local, visibility left out in testing", against="local"),
    Row("unweighed", "fused, visibility left out in testing", against="fused"),
    Row(BLIND, "fused, visibility left out in training too", against="fused"),
    Row(ALONE, "the embedding alone, trained without places", against="fused"),
)


@dataclass(frozen=True, eq=False)
class Reading:
    """The scores of all test pairs [P] by one reading of a run; what `effects` asks of a trial."""

    row: str
    seed: int
    values: np.ndarray

    def result(self) -> bool:
        return True

    def scores(self) -> np.ndarray:
        return self.values


def main(arguments: list[str]) -> int:
    """Run or resume the comparison; returns the exit status."""
    return exit_status(compare, arguments)


def compare(arguments: list[str]) -> None:
    """Train the chosen rows, and write the EER of each reading without and with occluders."""
    parser = parser_of_rows("occlusion", __doc__, TRAINED, "oaml_demo", seeds=3, example=f"--rows {PRESET}")
    parser.add_argument("--few", type=int, default=3, help="seeds of the others")
    options = parser.parse_args(arguments)
    print(banner("Occlusion"))
    rows = chosen_rows(options.rows, TRAINED)
    given, params_dir = given_parameters(options)
    base = load(given.pop("preset"), params_dir, FRESH | given)
    data = open_data(base, ("test",))
    trials = plan(rows, base, data["test"].index.fingerprint(), options.folder, options.seeds, options.few)
    run_all(trials, options.jobs)
    report(trials, base, data, options.folder)


def report(trials: list[Trial], base: Config, data: TwinData, folder: Path) -> None:
    """Print the comparison and write it to occlusion.json and occlusion.md in the folder."""
    test = data["test"]
    pairs = twin_pairs(test.index)
    readings, visibility = [], []
    for trial in trials:
        model = load_model(RunFolder(trial.folder).best).to(fit_device())
        readings += read(trial, model, test, pairs)
        if trial.row == PRESET:
            visibility.append(seen(model, test, base))
    rows = tuple(row for row in READ if any(one.row == row.name for one in readings))
    found, tables = [], []
    for name, part in groups_of_pairs(test.images, pairs.a, pairs.b).items():
        if name not in (CLEAR, COVERED, *(f"{kind} only" for kind in test.images.kinds)):
            continue
        chosen = [replace(one, values=one.values[part]) for one in readings]
        compared = effects(rows, chosen, pairs.take(np.flatnonzero(part)), base.bootstrap_draws)
        found.append({"pairs": name, "count": int(part.sum()), "rows": compared})
        tables.append(f"Pairs with {name}, {int(part.sum()):,}\n\n{as_markdown(compared)}")
    about = {"data": data.label, "test_families": len(test.index.families), "parameters": base.as_dict()}
    about |= {"groups": found, "visibility": visibility}
    text = "\n\n".join([*tables, "IoU of the visible and of the hidden places", overlaps(visibility)])
    write_text(folder / "occlusion.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
    write_text(folder / "occlusion.md", text + "\n")
    print(f"\n{data.label}, {len(test.index.families)} unseen families\n\n{text}\n\nTables and JSON: {folder}")


def read(trial: Trial, model: Verifier, test: Split, pairs: Pairs) -> list[Reading]:
    """The readings of a trained run; without visibility the weights of the fusion are fitted anew."""
    device = fit_device()
    features = encode(model, test, trial.config)
    if trial.row != PRESET:
        reading = "global" if trial.row == ALONE else "fused"
        return [Reading(trial.row, trial.seed, score_pairs(model, features, pairs, device=device, reading=reading))]
    found = {name: score_pairs(model, features, pairs, device=device, reading=name) for name in model.readings}
    validation = open_data(trial.config, ("validation",))["validation"]
    known = twin_pairs(validation.index)
    of_known = encode(model, validation, trial.config)
    model.visibility = False
    fitted, tested = (
        np.stack([score_pairs(model, *given, device=device, reading=name) for name in ("global", "local")], axis=1)
        for given in ((of_known, known), (features, pairs))
    )
    model.visibility = True
    found["local_unweighed"] = tested[:, 1]
    found["unweighed"] = fit_fusion(fitted, known.genuine, known.family).fuse(tested)
    return [Reading(name, trial.seed, scores) for name, scores in found.items()]


def encode(model: Verifier, split: Split, config: Config) -> Features:
    """The features of a split's images."""
    return encode_images(model, split.images, config.encode_batch, fit_device(), progress=False)


def seen(model: Verifier, test: Split, config: Config) -> list[dict]:
    """How well a model sees what is hidden, by kind of occluder, and of kinds that it was not trained on."""
    family = test.index.family_of[test.index.person_of]
    new = [kind for kind in OCCLUDERS if kind not in config.kinds]
    found = []
    for kinds in (test.images.kinds, new):
        if kinds:
            images = replace(test.images, kinds=tuple(kinds))
            visible = encode(model, replace(test, images=images), config).parts["visible"].numpy()
            found += seen_visibility(visible, images, family, config.bootstrap_draws)[len(kinds) == 1 :]
    return found


def overlaps(visibility: list[list[dict]]) -> str:
    """The IoU by kind of occluder, mean over seeds, as a table."""
    rows = []
    for of_kind in zip(*visibility, strict=True):
        means = [np.mean([run[rate]["value"] for run in of_kind]) for rate in ("visible", "hidden", "all_visible")]
        rows.append([of_kind[0]["images"], *(f"{mean:.2f}" for mean in means)])
    return table(["images with", "visible", "hidden", "visible, if all is taken for visible"], rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
