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
from dcal_core.data.splits import Split, open_data
from dcal_core.environment import fit_device
from dcal_core.errors import UserError
from dcal_core.models.files import load_model
from dcal_core.progress import progress_line
from dcal_core.runs import RunFolder
from dcal_core.storage import read_json, write_text
from dcal_core.training.checkpoints import Run
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import score_pairs, twin_pairs


@dataclass(frozen=True)
class Trial:
    """One training run: a row of the ablation with a seed, as parameters that name its folder; `test`, the fingerprint
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
        run_folder.lock()  # another ablation may run beside this one
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
        data += (config.synthetic_difficulty,)
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
            eer = f"EER {found['eer']:.1%}" if "eer" in found else f"validation EER {found['validation_eer']:.1%}"
            print(f"{trial.row}, seed {trial.seed}: {eer}")
