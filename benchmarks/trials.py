"""Rows of recipes, each trained with several seeds and scored: every run once, several in parallel, resumed after a
stop."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from dcal_core.commands.catalogue import COMMANDS
from dcal_core.commands.options import command_parser
from dcal_core.commands.train import train_run
from dcal_core.config.shared import Config
from dcal_core.data.processes import end_with_parent
from dcal_core.data.splits import Split, open_data
from dcal_core.environment import fit_device, gpu_verdict, output_root
from dcal_core.errors import ConfigError, UserError
from dcal_core.models.files import load_model
from dcal_core.progress import progress_line
from dcal_core.runs import RunFolder
from dcal_core.storage import read_json, write_text
from dcal_core.training.checkpoints import Run
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import score_pairs, twin_pairs


@dataclass(frozen=True)
class Row:
    """One recipe. changes: parameters that differ from the preset's. against: its reference row, or "". main: a row
    that more is asked of than of the others."""

    name: str
    meaning: str
    changes: dict = field(default_factory=dict)
    against: str = ""
    main: bool = False


@dataclass(frozen=True)
class Trial:
    """One training run: a row with a seed, as parameters that name its folder; `test`, the fingerprint
    of the index of test people, names the people it is scored on, and "" none: only validation families are looked at.
    """

    row: str
    seed: int
    config: Config
    test: str

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir)

    def result(self) -> dict | None:
        """The result of `run_trial`, or None if it has not ended or had other parameters or test people."""
        file = self.folder / "trial.json"
        found = read_json(file) if file.is_file() else {}
        same = found.get("fingerprint") == self.config.fingerprint() and self.test in ("", found.get("test"))
        return found if same else None

    def scores(self) -> np.ndarray:
        """The scores of all test pairs, [P]."""
        return np.load(self.folder / "scores.npy", allow_pickle=False)


def exit_status(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run or resume a command on rows; returns its exit status, 1 if a run fails."""
    try:
        command(arguments)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def parser_of_rows(
    command: str, description: str, rows: tuple[Row, ...], preset: str, seeds: int, example: str
) -> argparse.ArgumentParser:
    """The options of a command on rows, a module of benchmarks; it may add its own."""
    parser = command_parser(f"python -m benchmarks.{command}", description, example, COMMANDS["train"].shown)
    parser.set_defaults(preset=preset)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"some of {', '.join(row.name for row in rows)}")
    parser.add_argument("--seeds", type=int, default=seeds, help="seeds of the main rows")
    jobs = 1 if gpu_verdict()[0] else os.cpu_count()
    parser.add_argument("--jobs", type=int, default=jobs, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=output_root() / command, help="where runs and results go")
    return parser


def chosen_rows(names: list[str] | None, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of these names, all if none are given; raises ConfigError."""
    known = [row.name for row in rows]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--rows {name}: takes some of {', '.join(known)}.")
    return tuple(row for row in rows if not names or row.name in names)


def plan(rows: tuple[Row, ...], base: Config, test: str, root: Path, seeds: int, few: int) -> list[Trial]:
    """All runs, seed by seed from that of `base`, main rows first, so that a first table is early; raises
    ConfigError."""
    found = []
    for row in sorted(rows, key=lambda row: not row.main):
        for seed in range(base.seed, base.seed + (seeds if row.main else few)):
            folder = (root / row.name / f"seed{seed}").resolve()
            config = base.replace(**row.changes, seed=seed, run_dir=str(folder))
            found.append(Trial(row.name, seed, config, test))
    mains = {row.name for row in rows if row.main}
    return sorted(found, key=lambda trial: (trial.row not in mains, trial.seed))


def run_trial(trial: Trial, threads: int) -> dict:
    """Train unless that is done and, for a trial with test people, encode them and score all their pairs; writes
    scores.npy, trial.json and log.txt to the trial's folder.

    At top level, since worker processes import it.
    """
    torch.set_num_threads(threads)
    config = trial.config
    folder = trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        run_folder = RunFolder(folder)
        run_folder.lock()  # another process may run the same trials
        data = open_data(config, ("train", "validation", "test") if trial.test else ("train", "validation"))
        run, progress = train_run(config, run_folder, data)
        result = {"row": trial.row, "seed": trial.seed, "fingerprint": config.fingerprint(), "data": data.label}
        result |= {"test": trial.test, "batches": progress.batch, "validation_eer": progress.best_eer}
        result["validation"] = [
            [line["batch"], line["validation/eer"]] for line in run.history() if "validation/eer" in line
        ]
        (folder / "trial.json").unlink(missing_ok=True)  # it may be of other test people
        if trial.test:
            result["eer"] = score_test(run, data["test"], config.encode_batch)
    write_text(folder / "trial.json", json.dumps(result, indent=1))  # last: its presence marks the trial as done
    return result


def score_test(run: Run, split: Split, encode_batch: int) -> float:
    """Write the scores of all pairs of test people to scores.npy in a run's folder, and return their EER."""
    device = fit_device()
    model = load_model(run.folder.best).to(device)
    features = encode_images(model, split.images, encode_batch, device, progress=False)
    pairs = twin_pairs(split.index)
    scores = score_pairs(model, features, pairs, device=device)
    np.save(run.folder.path / "scores.npy", scores)
    return equal_error_rate(scores, pairs.genuine)[0]


def draw_data(trials: list[Trial]) -> None:
    """Draw and decode the twins of every trial beforehand, so that two processes never draw the same."""
    seen = set()
    for trial in trials:
        config = trial.config
        data = (config.data_root, config.image_size, config.fit, config.synthetic_families, config.synthetic_images)
        data += (config.synthetic_difficulty, config.synthetic_test_families, config.synthetic_test_seed)
        if data not in seen:
            open_data(config)
        seen.add(data)


def run_all(trials: list[Trial], jobs: int) -> None:
    """Run the missing trials, some in parallel; raises the first failure once the running ones have ended."""
    threads = max(1, os.cpu_count() // jobs)
    left = [trial for trial in trials if trial.result() is None]
    print(f"{len(trials)} runs, {len(trials) - len(left)} of them done; {jobs} at a time on {threads} threads each.")
    draw_data(left)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        futures = {pool.submit(run_trial, trial, threads): trial for trial in left}
        for future in progress_line(as_completed(futures), desc="runs", total=len(left), unit="run"):
            trial = futures[future]
            try:
                found = future.result()
            except Exception as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"{trial.folder} failed ({error}): log.txt in it says more; run it again.") from error
            eer = f"EER {found['eer']:.1%}" if "eer" in found else f"validation EER {found['validation_eer']:.1%}"
            print(f"{trial.row}, seed {trial.seed}: {eer}")


def over_seeds(values: list[float]) -> dict[str, float | None]:
    """The mean of [S] values with its 95 % interval by Student's t, whose ends are None for one value."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"value": mean, "low": None, "high": None}
    reach = float(np.std(values, ddof=1) / math.sqrt(len(values)) * t.ppf(0.975, len(values) - 1))
    return {"value": mean, "low": mean - reach, "high": mean + reach}
