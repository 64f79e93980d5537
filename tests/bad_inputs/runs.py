"""Damaged runs to go on with, with judges of what is sealed and what is not."""

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import nn

from bad_inputs.folders import PICKLE, Changes, file_changes, files_of, put, unseals
from bad_inputs.indexes import parsed
from bad_inputs.mutations import damaged, spoilt_json
from bad_inputs.trial import Kind, quiet
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import read_config
from dcal_core.runs import RunFolder
from dcal_core.storage import SUMS
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.resume import open_run, people_behind
from dcal_core.training.transfer import load_matching, shapes_of

DATA, SEED = "the people and images", 3
OLDER, NEWEST = "run/checkpoints/last/00000003", "run/checkpoints/last/00000007"


class Parts:
    """A model, an objective and an optimiser, as small as they can be."""

    def __init__(self):
        torch.manual_seed(0)
        self.model, self.objective = nn.Linear(3, 2), nn.Linear(2, 1)
        self.model.architecture = {"backbone": "a linear layer"}
        self.modules = {"model": self.model, "objective": self.objective}
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.1)
        self.objective(self.model(torch.randn(4, 3))).sum().backward()
        self.optimizer.step()


def write_run(folder: Path, older: bool = True) -> None:
    """A run of ten batches with its last checkpoints, and a model of an earlier one."""
    parts, run = Parts(), Run(RunFolder(folder / "run"), DCALConfig(seed=SEED), DATA)
    run.remember("faces", ["10", "11"])
    for batch in range(1, 11):
        run.log(batch=batch, loss=1.0 / batch)
    for batch in (3, 7) if older else (7,):
        run.save_last(parts.modules, parts.optimizer, None, Progress(batch=batch), {})
    earlier = Run(RunFolder(folder / "earlier"), DCALConfig(seed=SEED + 1), DATA)
    earlier.remember("faces", ["10", "11"])
    earlier.save_model(earlier.folder.best, parts.model)


@functools.cache
def sound_run() -> dict[str, bytes]:
    """The files of an undamaged run."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        write_run(Path(folder))
        return files_of(Path(folder))


def lay_out_run(folder: Path, changes: Changes) -> None:
    """The run, with its older checkpoint where asked for; where resume_from is given, the earlier run alone."""
    for name, content in sound_run().items():
        left_out = name.startswith("run" if "resume_from" in changes else OLDER)
        if "older" in changes or not left_out:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    put(folder, {name: content for name, content in changes.items() if name != "older"})


def resume(folder: Path, changes: Changes) -> str | None:
    """What training does before its first step; the printed sentence where it goes on with an older checkpoint."""
    given = {"seed": SEED} | {name: value for name, value in changes.items() if name in DCALConfig.model_fields}
    config, parts, printed = read_config(given, "the given parameters"), Parts(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        run = open_run(RunFolder(folder / "run"), config, DATA, [], shapes_of(parts.model))
    if run.weights_from:
        people_behind(run.weights_from)
        load_matching(parts.model, run.weights_from)
        return None
    progress, _ = run.restore(parts.modules, parts.optimizer, None)
    return printed.getvalue().splitlines()[0] if progress.batch == 3 else None


def judge_metrics(content: bytes) -> bool | None:
    """Whether a file of figures has a line that is none; its last may be cut short by a kill, just before its end
    too."""
    *lines, last = content.split(b"\n")
    for line in filter(None, lines):
        try:
            figures = json.loads(line.decode())
            if type(figures["batch"]) is not int or figures["batch"] < 0:
                return True
        except (ValueError, TypeError, LookupError, RecursionError):
            return True
    return None if last.endswith(b"}") else False


def run_is_damaged(folder: Path, changes: Changes) -> bool | None:
    """The judge of runs to go on with."""
    if "resume_from" in changes or "seed" in changes or "resealed" in changes:
        return True
    name, content = next(iter(changes.items()))
    if name.startswith(NEWEST):
        return unseals(sound_run(), name, content)
    if name == "run/metrics.jsonl":
        return judge_metrics(content) if isinstance(content, bytes) else True
    if name == "run/config.json":
        try:
            kept, wanted = parsed(folder / name), json.loads(sound_run()[name])
            default = DCALConfig().as_dict()
            return any(kept.get(n, default[n]) != wanted[n] for n in DCALConfig.decisive()) if kept else None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return True
    return True


def resealed(changes: Changes) -> Changes:
    """Changes to the newest checkpoint with the checksums made to fit."""
    return {f"{NEWEST}/{name}": content for name, content in changes.items()} | {"resealed": NEWEST}


def progress_with(**facts) -> bytes:
    return json.dumps(json.loads(sound_run()[f"{NEWEST}/progress.json"]) | facts).encode()


def lines_with(line: bytes) -> Changes:
    return {"run/metrics.jsonl": b'{"batch": 1}\n' + line + b'\n{"batch": 3}\n'}


def bad_runs() -> dict[str, Changes]:
    """Runs that Hypothesis would not damage so."""
    flipped = bytes([sound_run()[f"{NEWEST}/model.safetensors"][-1] ^ 1])
    weights = sound_run()[f"{NEWEST}/model.safetensors"]
    sums = sound_run()[f"{NEWEST}/{SUMS}"]
    older = {"older": "", "run/metrics.jsonl": b'{"batch": 1, "loss": 1.0}\n'}
    best = {"resume_from": "earlier/checkpoints/best"}
    return {
        "one bit of the weights": {f"{NEWEST}/model.safetensors": weights[:-1] + flipped},
        "one bit, with an older checkpoint": {f"{NEWEST}/model.safetensors": weights[:-1] + flipped} | older,
        "no checksums, with an older checkpoint": {f"{NEWEST}/{SUMS}": "missing"} | older,
        "a folder in place of the weights": {f"{NEWEST}/model.safetensors": "folder"},
        "a dangling link in place of the weights": {f"{NEWEST}/model.safetensors": "link"},
        "a pipe in place of the weights": {f"{NEWEST}/model.safetensors": "pipe"},
        "a file in place of the checkpoint": {NEWEST: b""},
        "a pickle added": {f"{NEWEST}/optimizer.pt": PICKLE},
        "checksums that lead elsewhere": {f"{NEWEST}/{SUMS}": sums + b"0" * 64 + b"  ../../../config.json\n"},
        "a pickle for weights, resealed": resealed({"model.safetensors": PICKLE}),
        "a pickle for progress, resealed": resealed({"progress.json": PICKLE}),
        "no optimiser, resealed": resealed({"optimizer.safetensors": "missing"}),
        "the weights as optimiser, resealed": resealed({"optimizer.safetensors": weights}),
        "progress of a list, resealed": resealed({"progress.json": b"[]"}),
        "progress in NaN, resealed": resealed({"progress.json": progress_with(seconds=float("nan"))}),
        "progress below 0, resealed": resealed({"progress.json": progress_with(batch=-1)}),
        "progress in text, resealed": resealed({"progress.json": progress_with(batch="7")}),
        "progress of other data, resealed": resealed({"progress.json": progress_with(data="others")}),
        "other parameters": {"seed": 4},
        "other parameters and no list of the old": {"seed": 4, "run/config.json": "missing"},
        "parameters in a folder": {"run/config.json": "folder"},
        "parameters nested deeply": {"run/config.json": b'{"a":' * 100_000},
        "figures of a list": lines_with(b"[1]"),
        "figures cut short in the middle": lines_with(b'{"batch": 2, "lo'),
        "figures without a batch": lines_with(b'{"loss": 2}'),
        "figures of a batch in words": lines_with(b'{"batch": "two"}'),
        "figures that are not UTF-8": lines_with(b'{"batch": 2, "a": "\xff"}'),
        "figures nested deeply": lines_with(b'{"a":' * 100_000 + b"}"),
        "figures in a folder": {"run/metrics.jsonl": "folder"},
        "resume_from nowhere": {"resume_from": "nowhere"},
        "resume_from a file": {"resume_from": "earlier/config.json"},
        "resume_from a run without checkpoint": {"resume_from": "earlier"},
        "resume_from a long name": {"resume_from": "a" * 5_000},
        "resume_from with a NUL": {"resume_from": "a\0b"},
        "resume_from a damaged model": best | {"earlier/checkpoints/best/model.safetensors": b""},
        "resume_from without people": best | {"earlier/trained_on.json": b'{"data": "faces"}'},
        "resume_from with no person": best | {"earlier/trained_on.json": b'{"data": "faces", "people": []}'},
        "resume_from with a number of people": best | {"earlier/trained_on.json": b'{"data": "a", "people": 7}'},
        "resume_from with people in one text": best | {"earlier/trained_on.json": b'{"data": "a", "people": "10"}'},
        "resume_from without a list of people": best | {"earlier/trained_on.json": "missing"},
        "resume_from with a list of people that is damaged": best | {"earlier/trained_on.json": b'{"data": "a'},
    }


def run_words(changes: Changes) -> tuple[str, ...]:
    """A refusal names the file that was changed, its folder, or the parameter."""
    return tuple(word for name in changes for word in (Path(name).name, Path(NEWEST).name, name.partition("/")[0]))


RUNS = Kind(
    name="runs to go on with",
    by_hand=bad_runs(),
    generated=st.one_of(
        file_changes(sound_run(), NEWEST),
        spoilt_json(json.loads(sound_run()["run/config.json"])).map(lambda content: {"run/config.json": content}),
        damaged(sound_run()["run/metrics.jsonl"]).map(lambda content: {"run/metrics.jsonl": content}),
    ),
    count=100,
    lay_out=lay_out_run,
    malformed=run_is_damaged,
    use=resume,
    names=run_words,
    example="one bit of the weights",
)
