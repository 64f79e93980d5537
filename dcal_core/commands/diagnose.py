"""`twins diagnose`: why a run does not learn."""

import json
from dataclasses import asdict
from pathlib import Path

from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.run_to_diagnose import run_to_diagnose
from dcal_core.commands.session import Session
from dcal_core.config.shared import Config
from dcal_core.data.enough import Needs
from dcal_core.data.roots import find_root
from dcal_core.data.splits import TwinData, open_data
from dcal_core.data.twins import SYNTHETIC, DataError
from dcal_core.diagnosis.checks import diagnose
from dcal_core.diagnosis.evidence import Evidence, gather
from dcal_core.diagnosis.figure import draw_diagnosis
from dcal_core.diagnosis.finding import Finding
from dcal_core.environment import banner, fit_device, input_roots
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.runs import RunFolder
from dcal_core.storage import write_text
from dcal_core.training.checkpoints import Run
from dcal_core.training.resume import newest_whole

FOUND = 3  # the exit status where something is found


def data_of(config: Config, folder: RunFolder) -> TwinData:
    """The data that a run was trained on; DataError where they are not here."""
    label = folder.data()
    if label != SYNTHETIC and find_root(config) is None:
        raise DataError(
            f"the run was trained on {label}, which is not to be found: attach that dataset, or give data_root."
        )
    data = open_data(config, ("train", "validation"), Needs.of(config))
    if data["train"].index.fingerprint() != newest_whole(folder, own=False).facts.get("data"):
        raise DataError(
            f"{data.root} holds other people or images than {label}, which the run in {folder} was trained on: give "
            "that as data_root."
        )
    return data


def told(findings: list[Finding], unchecked: list[str]) -> str:
    """The findings as text, each with its figure and cure, and what could not be checked."""
    lines = []
    for number, finding in enumerate(findings, 1):
        kind = "symptom" if finding.symptom else "cause"
        lines += [
            f"{number}. {finding.name} ({kind}; panel {finding.panel})",
            f"   {finding.sentence}",
            f"   Measured {finding.value:.3g}, limit {finding.limit:.3g}. Cure: {finding.cure}.",
        ]
    if not findings:
        lines.append("Nothing found that would keep this run from learning.")
    return "\n".join([*lines, *(f"Not checked: {reason}" for reason in unchecked)])


def figures_of(evidence: Evidence) -> dict:
    """What was measured, as plain JSON values."""

    def plain(one) -> dict:
        return {"auc": one.auc, "families": one.families} | ({} if one.families < 2 else {"error": one.error})

    return {
        "co_twins": {
            split: {name: plain(one.twins) for name, one in of.items()} for split, of in evidence.scores.items()
        },
        "strangers": {
            split: {name: plain(one.people) for name, one in of.items()} for split, of in evidence.scores.items()
        },
        "before_training": {name: plain(one) for name, one in evidence.likeness.items()},
        "linear_comparison": plain(evidence.linear),
        "gains": {name: plain(one) for name, one in evidence.gains.items()},
        "moved": evidence.moved,
        "without_gradient": evidence.dead_parts,
        "settled": evidence.settled,
    }


def write_diagnosis(session: Session, evidence: Evidence, findings: list[Finding]) -> list[Path]:
    """Write diagnosis.json and the figure into the run's folder, and return the files."""
    label = evidence.data.label
    result = {
        "data": label,
        "batch": evidence.progress.batch,
        "findings": [asdict(finding) for finding in findings],
        "not_checked": evidence.unchecked,
        "measured": figures_of(evidence),
    }
    write_text(session.folder.diagnosis, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return [session.folder.diagnosis, session.keep(draw_diagnosis(evidence, findings, label), "diagnosis")]


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status: 0 where nothing is found, FOUND where something is."""
    given, params_dir = given_parameters(read_options("diagnose", arguments))
    config, folder = run_to_diagnose(given, params_dir)
    print(banner("Why does a run not learn?"))
    session = Session(config, folder)
    evidence = gather(Run(folder, config, ""), recipe_of(config), data_of(config, folder), input_roots(), fit_device())
    findings = diagnose(evidence)
    print(
        f"{folder}, {evidence.progress.batch} batches ({evidence.data.label})",
        told(findings, evidence.unchecked),
        sep="\n\n",
    )
    print("Files:", *write_diagnosis(session, evidence, findings), sep="\n  ")
    return FOUND if findings else 0
