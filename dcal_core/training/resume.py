"""Which run to go on with: its own, an attached one, one named; and what to do where the model has changed."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from dcal_core.config.shared import Config
from dcal_core.distributed import main_only
from dcal_core.errors import ConfigError, quoted
from dcal_core.models.files import DECISION_FILE, WEIGHTS_FILE
from dcal_core.storage import (
    CURE,
    UNFINISHED,
    DamagedError,
    check_seal,
    disk_errors,
    flush,
    free_name,
    mend,
    read_json,
    read_sums,
    sealed_folder,
)
from dcal_core.training.checkpoints import STARTED_FROM, Run, identity, newest_whole, people_in, saved_in

LISTED = 5  # parameters that a message names
LEAST_SHARE = 0.5  # of a model's weights that an earlier one must have for it to start from them
Shapes = dict[str, tuple[int, ...]]


def open_run(
    folder: Path,
    config: Config,
    data: str,
    input_roots: list[Path],
    shapes: Shapes,
    check_source: Callable[[Path], object] = lambda weights: None,
) -> Run:
    """The run to train in: the newest of those in `folder`, attached or named by resume_from that agree in parameters
    and data, or a new one, which may start from an earlier one's weights; raises ConfigError, DamagedError.

    data: a fingerprint of what is trained on. shapes: of the model's tensors, by name. check_source: called with the
    folder of the weights that a new run is to start from, to refuse them before anything is moved. With resume=false
    what is there is neither continued nor overwritten. A run with other decisive parameters or other data is never
    continued.
    """
    folder, wanted = Path(folder).resolve(), identity(config, data)
    if not config.resume:
        move_aside(folder)
        return Run(folder, config, data)
    mend(folder / "checkpoints")
    own = newest_whole(folder, own=True)
    agrees = own is None or wanted.items() <= own[1].items()
    source = find_source(config.resume_from, folder, agrees)
    from_itself = source is not None and source.is_relative_to(folder)
    if not from_itself:
        refuse_other_parameters(folder, config)
    if not (agrees or from_itself):
        raise ConfigError(
            f"the run in {folder} was trained on other people or images, or not with what its config.json says: attach "
            f"those again to go on, or give resume_from={folder} to start a new run from its weights, resume=false to "
            "start fresh (either way the old run is moved aside), or another run_dir."
        )
    found = [(own[1]["batch"], own[0])] if own and agrees else []
    named = [source] if source and saved_in(source) else []
    found += [(facts["batch"], checkpoint) for checkpoint, facts in attached_runs(named + input_roots, wanted)]
    fitting = [one for one in found if not mismatches(shapes, shapes_in(one[1]))]
    batch, checkpoint = max(fitting or found, key=lambda one: one[0], default=(0, None))  # its own, where level
    if fitting and own and checkpoint == own[0]:
        finished = ", finished: nothing is left to train (resume=false starts fresh)" if own[1]["finished"] else ""
        print(f"Going on from {folder}, {batch} batches done{finished}.")
    elif fitting:
        if own and own[1]["batch"] >= batch:  # of another model
            move_aside(folder)
        print(f"Going on from the attached run {checkpoint.parents[2]}, {batch} batches done.")
        copy_run(checkpoint, folder)
    elif weights := checkpoint or start_of(folder, config, source):
        if checkpoint:
            print(f"{checkpoint} holds another model than this one: its training cannot go on.")
        refuse_stranger(shapes, weights)
        check_source(weights)
        if own or weights.is_relative_to(folder):
            aside = move_aside(folder)
            weights = aside / weights.relative_to(folder) if weights.is_relative_to(folder) else weights
        return Run(folder, config, data, weights_from=weights)
    return Run(folder, config, data)


def start_of(folder: Path, config: Config, source: Path | None) -> Path | None:
    """The model that a new run starts from: the one named, or the one that an interrupted start had; raises
    ConfigError, DamagedError."""
    note = folder / STARTED_FROM
    if source is None and note.is_file() and (config.resume_from or not differences(folder, config)):
        source = Path(str(read_json(note).get("weights")))  # it ended before its first checkpoint
        if not source.is_dir():
            raise ConfigError(f"{note} names {source} to start from, which is gone: restore it, or give resume=false.")
    if source is None:
        print(f"No earlier run in {folder} or attached: starting fresh.")
        return None
    return weights_of(source)


def weights_of(source: Path) -> Path:
    """The folder of the model in a run, its newest checkpoint's, or of the model that is there itself; raises
    DamagedError."""
    saved = newest_whole(source, own=False)
    if saved is None:
        check_seal(source)
    return saved[0] if saved else source


def find_source(given: str, folder: Path, agrees: bool) -> Path | None:
    """The folder of a run or of a model that resume_from names, or None; raises ConfigError.

    None too where it names something in the new run's own folder, and the run there, which agrees in its parameters or
    has no checkpoint yet, has started from that: the same command is given again.
    """
    source = Path(given).resolve()
    try:
        source.exists()
    except OSError as error:  # a name too long for any file
        raise ConfigError(f"resume_from={given:.100}: {error.strerror}: correct it.") from None
    if not given or (source.is_relative_to(folder) and (folder / STARTED_FROM).is_file() and agrees):
        return None
    if source.parent.name == "last" and (source / "progress.json").is_file():
        source = source.parents[2]  # of a checkpoint to its run
    if not saved_in(source) and not (source / "model.safetensors").is_file():
        raise ConfigError(
            f"resume_from={given}: neither a run with a checkpoint nor a model is there: name a run's folder, such as "
            "runs/demo, or one of those in its checkpoints, or leave resume_from out."
        )
    return source


def refuse_other_parameters(folder: Path, config: Config) -> None:
    """Raises ConfigError where the run in a folder has checkpoints of other decisive parameters, unless a new run is
    to start from them."""
    starts_from_it = config.resume_from and Path(config.resume_from).resolve().is_relative_to(folder)
    if saved_in(folder) and not starts_from_it and (differ := differences(folder, config)):
        raise ConfigError(
            f"the run in {folder} was trained with other parameters ({differ}): give those again to go on, "
            f"resume_from={folder} to start a new run from its weights, resume=false to start fresh (either way the "
            "old run is moved aside), or another run_dir."
        )


def differences(folder: Path, config: Config) -> str:
    """The decisive parameters in which the run in a folder differs from the config, in words; empty if in none."""
    if not (Path(folder) / "config.json").exists():
        return ""
    before, now = read_json(Path(folder) / "config.json"), config.as_dict()
    decisive = [f.name for f in dataclasses.fields(Config) if f.metadata["result"]]
    differ = [f"{n}: {quoted(before.get(n))} then, {quoted(now[n])} now" for n in decisive if before.get(n) != now[n]]
    more = f" and {len(differ) - LISTED} more" if len(differ) > LISTED else ""
    return ", ".join(differ[:LISTED]) + more


@main_only
def move_aside(folder: Path) -> Path:
    """Give the run in a folder another name, if there is one, and return it: starting fresh never deletes."""
    folder = Path(folder)
    if not (folder / "config.json").is_file() and not saved_in(folder):
        return folder
    aside = free_name(folder.with_name(f"{folder.name}.old"))
    folder.rename(aside)
    print(f"The run that was in {folder} is now in {aside}.")
    return aside


def attached_runs(roots: list[Path], wanted: dict[str, str]) -> Iterator[tuple[Path, dict]]:
    """The newest whole checkpoint of each run below the roots, such as the output of an earlier notebook version, that
    agrees with what is wanted; names the runs that it passes over."""
    folders = {file.parents[3] for root in roots for file in Path(root).glob("**/checkpoints/last/*/progress.json")}
    for folder in sorted(folders):
        try:
            found = newest_whole(folder, own=False)
        except DamagedError as error:
            print(error)
            continue
        if found and wanted.items() <= found[1].items():
            yield found
        elif found:
            print(f"Passed over {folder}: a run with other parameters or other data.")


def copy_run(checkpoint: Path, folder: Path) -> None:
    """Copy a run to where it can be written: each of its models whole or not at all, and the checkpoint to go on from
    after the rest. Without the permissions, since inputs are read-only."""
    source = checkpoint.parents[2]
    models = [path for path in checkpoint.parents[1].iterdir() if path.is_dir() and path.suffix != UNFINISHED]
    with disk_errors(folder):
        for file in source.rglob("*"):
            if file.is_file() and checkpoint.parents[1] not in file.parents:
                (copy := folder / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    for one in [*(model for model in models if model.name != "last"), checkpoint]:
        with sealed_folder(folder / one.relative_to(source)) as copy:
            for file in one.iterdir():
                flush(shutil.copyfile(file, copy / file.name))
    mend(folder / "checkpoints")  # what a kill had left half done there


def shapes_of(model: nn.Module) -> Shapes:
    """The shape of each tensor of a model, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_in(folder: Path) -> Shapes:
    """The shape of each tensor in a folder's model.safetensors, whose header alone is read; raises DamagedError."""
    file = folder / "model.safetensors"
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} is damaged: {error}; {CURE}.") from None


def mismatches(ours: Shapes, theirs: Shapes) -> dict[str, str]:
    """Every tensor in which two models differ, by name: missing from theirs, unexpected in theirs, or reshaped."""
    found = {name: "missing" for name in ours if name not in theirs}
    found |= {name: "unexpected" for name in theirs if name not in ours}
    reshaped = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    return found | {name: f"reshaped, {list(theirs[name])} then, {list(ours[name])} now" for name in reshaped}


def listing(differ: dict[str, str]) -> str:
    """A line for each tensor in which two models differ."""
    return "".join(f"\n  {name}: {how}" for name, how in sorted(differ.items(), key=lambda one: one[1]))


def refuse_stranger(ours: Shapes, folder: Path) -> None:
    """Raises ConfigError where the model in a folder has too little in common with ours to start from."""
    theirs = shapes_in(folder)
    differ = mismatches(ours, theirs)
    common = sum(math.prod(shape) for name, shape in ours.items() if name not in differ)
    share = common / sum(math.prod(shape) for shape in ours.values())
    if share < LEAST_SHARE:
        raise ConfigError(
            f"{folder} has {share:.0%} of this model's weights, too little to start from: give the parameters that it "
            f"was trained with, or resume=false without resume_from to start fresh (nothing is lost).{listing(differ)}"
        )


def take_over(model: nn.Module, folder: Path) -> None:
    """Give a new model the weights of an earlier one where name and shape agree; prints every tensor that does not,
    with advice."""
    theirs, ours = load_file(Path(folder) / "model.safetensors"), shapes_of(model)
    differ = mismatches(ours, {name: tuple(tensor.shape) for name, tensor in theirs.items()})
    taken = {name: tensor for name, tensor in theirs.items() if name not in differ}
    model.load_state_dict(taken, strict=False)
    print(f"A new run from the weights of {folder}: {len(taken)} of {len(ours)} tensors.")
    if differ:
        print(
            f"These differ; what is missing or reshaped starts anew:{listing(differ)}\nAdvice: a lower lr (a third) or "
            "a longer warmup_share keeps what was learnt; watch the first epochs' curves, and where they do not come "
            "back, start fresh with resume=false."
        )


def people_behind(weights: Path) -> list[str]:
    """The people on whom the model in a folder, or an earlier one that it started from, was trained; raises
    ConfigError, DamagedError."""
    run = next((parent for parent in weights.parents if (parent / "trained_on.json").is_file()), None)
    if run is None:
        raise ConfigError(
            f"resume_from={weights}: no trained_on.json above it says whom it was trained on: attach the whole run."
        )
    return people_in(run / "trained_on.json")


def find_trained(folder: Path, input_roots: list[Path]) -> Path:
    """The folder of the best model of this run, or of the one attached run; raises ConfigError."""
    best = Path(folder) / "checkpoints" / "best"
    if not best.is_dir():
        mend(best.parent)
    if (best / "model.json").is_file():
        return best
    attached = {file.parent for root in input_roots for file in Path(root).glob("**/checkpoints/best/model.json")}
    found = without_copies(attached) if len(attached) > 1 else [*attached]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} trained runs are attached: choose one by run_dir={found[0].parents[1]}, …")
    if not found:
        raise ConfigError(
            f"no trained model in {folder} and none attached: run train.ipynb first, for an epoch at least, attach its "
            "output (Add Input > Notebook Output), or give run_dir."
        )
    return found[0]


def without_copies(models: set[Path]) -> list[Path]:
    """Of folders that hold the same weights the one that an evaluation has left, else the first; raises
    DamagedError."""
    evaluated_first = sorted(models, key=lambda model: (not (model / DECISION_FILE).is_file(), model))
    by_weights = {read_sums(model).get(WEIGHTS_FILE): model for model in reversed(evaluated_first)}
    return sorted(by_weights.values())
