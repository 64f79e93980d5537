"""Training and scoring the rows of the ablation: each run once, several in parallel, resumed after a stop."""

import contextlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.ablation.rows import Row
from dcal_core.commands.train import train_run
from dcal_core.config.shared import Config
from dcal_core.data.processes import end_with_parent
from dcal_core.data.splits import open_data
from dcal_core.environment import fit_device
from dcal_core.errors import UserError
from dcal_core.models.files import load_model
from dcal_core.progress import progress_line
from dcal_core.runs import RunFolder
from dcal_core.storage import read_json, write_text
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import score_pairs, twin_pairs


@dataclass(frozen=True)
class Trial:
    """One training run: a row of the ablation with a seed, as parameters that name its folder; `test`, the fingerprint
    of the index of test people, names the people it is scored on."""

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
        wanted = (self.config.fingerprint(), self.test)
        return found if (found.get("fingerprint"), found.get("test")) == wanted else None

    def scores(self) -> np.ndarray:
        """The scores of all test pairs, [P]."""
        return np.load(self.folder / "scores.npy", allow_pickle=False)


def plan(rows: tuple[Row, ...], base: Config, test: str, root: Path, seeds: int, few: int) -> list[Trial]:
    """All runs, seed by seed, main rows first, so that a first table is early; raises ConfigError."""
    found = []
    for row in sorted(rows, key=lambda row: not row.main):
        for seed in range(seeds if row.main else few):
            folder = (root / row.name / f"seed{seed}").resolve()
            config = base.replace(**row.changes, seed=seed, run_dir=str(folder))
            found.append(Trial(row.name, seed, config, test))
    mains = {row.name for row in rows if row.main}
    return sorted(found, key=lambda trial: (trial.row not in mains, trial.seed))


def run_trial(trial: Trial, threads: int) -> dict:
    """Train unless that is done, encode the test people and score all their pairs; writes scores.npy, trial.json and
    log.txt to the trial's folder.

    At top level, since worker processes import it.
    """
    torch.set_num_threads(threads)
    config = trial.config
    folder = trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        run_folder = RunFolder(folder)
        run_folder.lock()  # another ablation may run beside this one
        data = open_data(config)
        run, progress = train_run(config, run_folder, data)
        device = fit_device()
        model = load_model(run.folder.best).to(device)
        features = encode_images(model, data["test"].images, config.encode_batch, device, progress=False)
        pairs = twin_pairs(data["test"].index)
        scores = score_pairs(model, features, pairs, device=device)
    (folder / "trial.json").unlink(missing_ok=True)  # it may be of other test people
    np.save(folder / "scores.npy", scores)
    result = {"row": trial.row, "seed": trial.seed, "fingerprint": config.fingerprint(), "data": data.label}
    result |= {"test": data["test"].index.fingerprint(), "batches": progress.batch}
    result |= {"eer": equal_error_rate(scores, pairs.genuine)[0], "validation_eer": progress.best_eer}
    write_text(folder / "trial.json", json.dumps(result, indent=1))  # last: its presence marks the trial as done
    return result


def draw_data(trials: list[Trial]) -> None:
    """Draw and decode the twins of every trial beforehand, so that two processes never draw the same."""
    seen = set()
    for trial in trials:
        config = trial.config
        data = (config.image_size, config.synthetic_families, config.synthetic_images, config.synthetic_difficulty)
        if data not in seen:
            open_data(config)
        seen.add(data)


def run_all(trials: list[Trial], jobs: int, threads: int) -> None:
    """Run the missing trials, some in parallel; raises the first failure once the running ones have ended."""
    left = [trial for trial in trials if trial.result() is None]
    print(f"{len(trials)} runs, {len(trials) - len(left)} of them done; {jobs} at a time on {threads} threads each.")
    draw_data(left)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        futures = {pool.submit(run_trial, trial, threads): trial for trial in left}
        for future in progress_line(as_completed(futures), desc="ablation", total=len(left), unit="run"):
            trial = futures[future]
            try:
                found = future.result()
            except Exception as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"{trial.folder} failed ({error}): log.txt in it says more; run it again.") from error
            print(f"{trial.row}, seed {trial.seed}: EER {found['eer']:.1%}")
