"""`python -m benchmarks.deploy`: each form of each model, by turns in one run, as a table and as JSON."""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.deploy.forms import FORMS
from benchmarks.deploy.subjects import NETWORKS, Subject, channels_last, of_run, write_forms
from benchmarks.deploy.table import table, with_table
from benchmarks.deploy.worker import Worker
from benchmarks.speed.report import device_name
from dcal_core.data.splits import Split
from dcal_core.deploy.engine import open_engine
from dcal_core.deploy.quantise import integer_flags
from dcal_core.verification import bootstrap
from dcal_core.verification.protocol import pairs_of


def time_forms(workers: dict[str, Worker], rounds: dict[int, int]) -> dict[str, dict]:
    """Seconds of every form at every size of a batch, in rounds that each run all of them once; "failed" with the
    reason for one that ends."""
    found = {form: {"seconds": {}} for form in workers}
    for batch, count in rounds.items():
        for turn in range(-1, count):  # the first is not counted: it compiles, and fills caches
            for form, worker in workers.items():
                if "failed" in found[form]:
                    continue
                try:
                    seconds = worker.ask(batch=batch)["seconds"]
                except RuntimeError as error:
                    found[form]["failed"] = str(error)
                    continue
                if turn >= 0:
                    found[form]["seconds"].setdefault(batch, []).append(seconds)
    return found


def add_costs(found: dict[str, dict], workers: dict[str, Worker], folder: Path, split: Split) -> None:
    """Add to each form its EER on test families less that of the eager one, with the interval over families."""
    np.save(folder / "faces.npy", channels_last(split.images, np.arange(len(split.images.images))))
    pairs = pairs_of(split.index)
    engine = open_engine(folder / "model.safetensors")
    exact = None
    for form, worker in workers.items():
        if "failed" in found[form]:
            continue
        worker.ask(faces=str(folder / "faces.npy"), rows=str(folder / "rows.npy"))
        rows = np.load(folder / "rows.npy").astype(np.float32)
        scores = engine.compare_pairs(rows[pairs.a], rows[pairs.b])
        replicates = bootstrap.replicate_eer(scores, pairs.genuine, pairs.family)
        exact = exact or replicates
        found[form]["eer"] = float(replicates.values["eer"][0])
        found[form]["eer_cost"] = bootstrap.differences(replicates, exact)["eer"]


def measure(subject: Subject, forms: list[str], rounds: dict[int, int], threads: int) -> dict:
    """Everything about one subject."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about, split = write_forms(subject, folder)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        there = [form for form in forms if (folder / FORMS[form][0]).is_file()]
        workers = {form: Worker(folder, form, about["size"], environment) for form in there}
        try:
            found = time_forms(workers, rounds)
            if split:
                add_costs(found, workers, folder, split)
            for form, worker in workers.items():
                if "failed" not in found[form]:
                    found[form]["peak"] = worker.ask(peak=True)["bytes"]
                file = folder / FORMS[form][0]
                found[form]["bytes"] = sum(
                    one.stat().st_size for one in (file, file.with_suffix(".bin")) if one.is_file()
                )
        finally:
            for worker in workers.values():
                worker.end()
    return {"subject": subject.name, **about, "forms": found}


def main(arguments: list[str]) -> int:
    """Measure, print the table, and write it and the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__)
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="trained runs, whose EER is measured too")
    parser.add_argument("--networks", nargs="*", default=[one.name for one in NETWORKS], help="those of random weights")
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", nargs=2, type=int, default=(40, 7), help="of one face, and of 32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("deploy_speed.json"), help="for the JSON")
    parser.add_argument("--page", type=Path, help="a page of Markdown, whose table is to be this one")
    options = parser.parse_args(arguments)
    subjects = [of_run(run) for run in options.runs] + [one for one in NETWORKS if one.name in options.networks]
    result = {
        "device": device_name(),
        "instructions": integer_flags(),
        "threads": options.threads,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load": [os.getloadavg()[0]],
        "subjects": [],
    }
    for subject in subjects:
        print(f"{subject.name} ...", flush=True)
        rounds = dict(zip((1, 32), options.rounds, strict=True))
        result["subjects"].append(measure(subject, options.forms, rounds, options.threads))
        result["load"].append(os.getloadavg()[0])
        options.output.write_text(json.dumps(result, indent=1))
        if options.page:
            options.page.write_text(with_table(options.page.read_text(), table(result)))
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
