"""Which run to go on with: its own, an attached one, one named; and what to do where the model has changed."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from dcal_core.config.shared import Config
from dcal_core.errors import ConfigError
from dcal_core.runs import (
    DECISION_FILE,
    RunFolder,
    attached_runs,
    describe,
    find_source,
    move_aside,
    refuse_other_parameters,
)
from dcal_core.storage import (
    UNFINISHED,
    DamagedError,
    check_seal,
    disk_errors,
    flush,
    free_name,
    read_json,
    recover,
    sealed_folder,
)
from dcal_core.training.checkpoints import Checkpoint, Progress, Run
from dcal_core.training.transfer import Shapes, mismatches, refuse_stranger, shapes_in


def open_run(
    folder: RunFolder,
    config: Config,
    data: str,
    input_roots: list[Path],
    shapes: Shapes,
    check_source: Callable[[Path], object] = lambda weights: None,
) -> Run:
    """The run to train in: the newest of those in `folder`, attached or named by resume_from that agree in parameters
    and data, or a new one, which may start from an earlier one's weights; raises ConfigError, DamagedError.

    data: a fingerprint of the training data. shapes: of the model's tensors, by name. check_source: called with the
    folder of the weights that a new run is to start from, to refuse them before anything is moved. With resume=false
    nothing that exists is continued or overwritten. A run with other decisive parameters or data is never continued.
    """
    if not config.resume:
        move_aside(folder)
        return Run(folder, config, data)
    recover(folder.checkpoints)
    if not folder.saved and (folder.best / DECISION_FILE).is_file():
        move_aside(folder)  # the copy of an attached model that an evaluation has left: another run's
    own = newest_whole(folder, own=True)
    if own and config.extend and not own.facts["finished"] and own.differences(config):
        raise ConfigError(
            f"extend=true: the run in {folder} is not finished: finish it first, with the epochs that it began with."
        )
    agrees = own is None or continues(own, config, data)
    source = find_source(config.resume_from, folder, agrees)
    if source is None or not source.is_relative_to(folder.path):
        refuse_other_run(folder, config, agrees)
    candidates = [own] if own and agrees else []
    candidates += attached_checkpoints(([source] if source else []) + input_roots, config, data)
    fitting = [one for one in candidates if not mismatches(shapes, shapes_in(one.path))]
    chosen = max(fitting or candidates, key=lambda one: one.facts["batch"], default=None)  # its own, where level
    if fitting:
        run = Run(folder, config, data)
        run.extending = chosen.extends(config, data)
        return go_on(run, own, chosen)
    weights = chosen.path if chosen else start_of(folder, config, source)
    if weights is None:
        return Run(folder, config, data)
    if chosen:
        print(f"{chosen.path} holds another model than this one: its training cannot go on.")
    return start_from(Run(folder, config, data, weights), own, shapes, check_source)


def continues(checkpoint: Checkpoint, config: Config, data: str) -> bool:
    """Whether training can go on from a checkpoint, within its schedule or for more epochs after it."""
    return checkpoint.agrees(config, data) or checkpoint.extends(config, data)


def refuse_other_run(folder: RunFolder, config: Config, agrees: bool) -> None:
    """Raise ConfigError where the run in a folder is another one than the one to train."""
    refuse_other_parameters(folder, config)
    if not agrees:
        raise ConfigError(
            f"the run in {folder} was trained on other people or images, or not with what its config.json says: attach "
            f"those again to go on, or give resume_from={folder} to start a new run from its weights, resume=false to "
            "start fresh (either way the old run is moved aside), or another run_dir."
        )


def go_on(run: Run, own: Checkpoint | None, chosen: Checkpoint) -> Run:
    """The run, going on from a checkpoint of its own or from a copy of an attached one."""
    batch = chosen.facts["batch"]
    if run.extending:
        print(
            f"Extending the finished run {chosen.run} to {run.config.epochs} epochs: a new schedule, with its own "
            "warm-up, begins at its last state. The result is not that of one longer schedule."
        )
    if own and chosen.path == own.path:
        if own.facts["finished"] and not run.extending:
            print(
                f"Already finished: the run in {run.folder} has done {counted(batch)}, and nothing is left to train "
                "(resume=false starts fresh)."
            )
        else:
            print(f"Going on from {run.folder}, {counted(batch)} done.")
        return run
    if own and own.facts["batch"] >= batch:  # of another model
        move_aside(run.folder)
    print(f"Going on from the attached run {chosen.run}, {counted(batch)} done.")
    copy_run(chosen.path, run.folder)
    return run


def counted(batches: int) -> str:
    return "1 batch" if batches == 1 else f"{batches} batches"


def start_from(run: Run, own: Checkpoint | None, shapes: Shapes, check_source: Callable[[Path], object]) -> Run:
    """The run, new, starting from the weights in `weights_from`; an earlier run in its folder is moved aside."""
    weights = run.weights_from
    refuse_stranger(shapes, weights)
    check_source(weights)
    inside = weights.is_relative_to(run.folder.path)
    if own or inside:
        aside = move_aside(run.folder)
        if inside:
            run.weights_from = aside.path / weights.relative_to(run.folder.path)
    return run


def start_of(folder: RunFolder, config: Config, source: Path | None) -> Path | None:
    """The model that a new run starts from: the one named, or the one that an interrupted start had; raises
    ConfigError, DamagedError."""
    note = folder.started_from
    if source is None and note.is_file() and (config.resume_from or not config.differences(folder.parameters())):
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
    saved = newest_whole(RunFolder(source), own=False)
    if saved is None:
        check_seal(source)
    return saved.path if saved else source


def newest_whole(run: RunFolder, own: bool) -> Checkpoint | None:
    """The newest checkpoint of a run that is as it was sealed; None where there is none.

    A damaged one is named and, in a run of one's own, set aside. Where all are damaged, they stay in place, since a run
    without checkpoints would count as new, and DamagedError is raised.
    """
    damaged = []
    for checkpoint in run.saved:
        try:
            check_seal(checkpoint)
            facts = read_json(checkpoint / "progress.json")
            Progress.read(facts, checkpoint / "progress.json")
        except DamagedError as error:
            damaged.append((checkpoint, error))
            continue
        for odd, error in damaged:
            print(f"{error} The checkpoint before it is used.")
            if own:
                odd.rename(free_name(odd.with_name(f"{odd.name}.damaged")))
        return Checkpoint(checkpoint, facts)
    for _, error in damaged:
        print(error)
    if damaged:
        raise DamagedError(
            f"no checkpoint in {run} is whole: resume=false starts fresh (the run is moved aside), or restore one."
        )
    return None


def attached_checkpoints(roots: list[Path], config: Config, data: str) -> Iterator[Checkpoint]:
    """The newest whole checkpoint of each run below the roots, such as the output of an earlier notebook version, that
    agrees in parameters and data; names the runs that it passes over."""
    for folder in attached_runs(roots):
        try:
            found = newest_whole(RunFolder(folder), own=False)
            differing = found.differences(config) if found else {}
        except DamagedError as error:
            print(error)
            continue
        if found and continues(found, config, data):
            yield found
        elif found:
            why = f"other parameters ({describe(differing)})" if differing else "other people or images"
            print(f"Passed over {folder}: a run with {why}.")


def copy_run(checkpoint: Path, folder: RunFolder) -> None:
    """Copy a run to where it can be written: each of its models whole or not at all, and the checkpoint to go on from
    after the rest. Without the permissions, since inputs are read-only."""
    source = RunFolder.around(checkpoint)
    models = [path for path in source.checkpoints.iterdir() if path.is_dir() and path.suffix != UNFINISHED]
    with disk_errors(folder):
        for file in source.path.rglob("*"):
            if file.is_file() and source.checkpoints not in file.parents and file != source.lock_file:
                copy = folder.path / file.relative_to(source.path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    for model in [*(model for model in models if model != source.last), checkpoint]:
        with sealed_folder(folder.path / model.relative_to(source.path)) as copy:
            for file in model.iterdir():
                flush(shutil.copyfile(file, copy / file.name))
    recover(folder.checkpoints)  # what a kill had left half done there


def people_behind(weights: Path) -> list[str]:
    """The people that the model in a folder, or an earlier one that it started from, was trained on; raises
    ConfigError, DamagedError."""
    runs = (RunFolder(parent) for parent in weights.parents)
    run = next((run for run in runs if run.trained_on.is_file()), None)
    if run is None:
        raise ConfigError(
            f"resume_from={weights}: no trained_on.json above it says which people it was trained on: attach the whole "
            "run."
        )
    return run.people()
