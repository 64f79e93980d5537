"""Experiment trackers, which may fail, hang, be missing or out of reach without ending a run."""

import json
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from accelerate.tracking import MLflowTracker, WandBTracker

from dcal_core.config.shared import Config
from dcal_core.environment import TimedThread, reachable, redacted, secret
from dcal_core.runs import RunFolder

OPEN_WAIT_S = 60  # how long a tracker may take
LOG_WAIT_S = 20
FINISH_WAIT_S = 120
API_WAIT_S = 10  # how long wandb may take to say which teams a key belongs to
# Else MLflow tries for minutes.
MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Tracker:
    """Passes metrics on to one of the trackers, or to none; the first failure or time-out is printed once and
    ends the tracking. run_id: with it a later session continues the curves."""

    def __init__(self, tracker=None, thread: TimedThread | None = None, run_id: str = "", cure: str = ""):
        self.tracker = tracker
        self.thread = thread or TimedThread()
        self.run_id = run_id
        self.cure = cure

    def attempt(self, wait_s: float, action: str, *arguments, **keywords) -> None:
        """Call the tracker, if there is one that still works."""
        try:
            if self.tracker is not None:
                self.thread.call(wait_s, getattr(self.tracker, action), *arguments, **keywords)
        except Exception as error:  # a tracker may raise anything, and training is worth more than its curves
            print(f"Tracking ended ({redacted(error)}); training goes on, metrics.jsonl has every figure.{self.cure}")
            self.tracker = None

    def log(self, figures: dict[str, float], step: int) -> None:
        self.attempt(LOG_WAIT_S, "log", figures, step=step)

    def finish(self) -> None:
        self.attempt(FINISH_WAIT_S, "finish")


def open_tracker(config: Config, folder: RunFolder, run_id: str, batch: int = 0) -> Tracker:
    """The tracker that the config names, its mode chosen before its first call; prints one line if it cannot be had.
    run_id: of an earlier session of this run with the same tracker, or empty. batch: where training goes on."""
    if config.tracker == "none":
        return Tracker()
    kind, _, earlier = run_id.partition(":")
    earlier = earlier if kind == config.tracker else ""
    thread = TimedThread()
    opening = {
        "wandb": partial(wandb_tracker, config, folder.path.name, earlier),
        "mlflow": partial(mlflow_tracker, config, folder.path.name, earlier),
        "tensorboard": partial(tensorboard_tracker, folder.tensorboard, batch),
    }
    try:
        opened, own_id, cure = thread.call(OPEN_WAIT_S, opening[config.tracker])
    except Exception as error:  # as above
        print(f"No tracking by {config.tracker} ({redacted(error)}); metrics.jsonl has every figure.")
        return Tracker()
    tracker = Tracker(opened, thread, f"{config.tracker}:{own_id}", cure)
    if not earlier:
        tracker.attempt(LOG_WAIT_S, "store_init_configuration", config.as_dict())
    return tracker


def wandb_tracker(config: Config, run_name: str, run_id: str) -> tuple[WandBTracker, str, str]:
    """A wandb run, online with a key and a network, else offline, since a failed online start would spoil the offline
    one too; with its id, and what to do with it later."""
    key = secret("WANDB_API_KEY")
    online = bool(key) and reachable("api.wandb.ai", 443)
    if key:
        os.environ["WANDB_API_KEY"] = key
    os.environ.setdefault("WANDB_NOTEBOOK_NAME", "train.ipynb")  # else it asks Kaggle for the name, and may wait 40 s
    os.environ.setdefault("WANDB_SILENT", "true")
    tracker = WandBTracker(
        config.tracker_project,
        name=run_name,
        id=run_id or None,
        entity=wandb_entity(config.wandb_entity) if online else None,
        mode="online" if online else "offline",
        resume="allow" if online else None,
        settings={"init_timeout": OPEN_WAIT_S / 2},  # its own limit first: what hangs would hang again when it exits
    )
    tracker.start()
    append = "--append " if run_id and find_spec("wandb.sync") else ""  # older versions would replace the run
    entity = f"--entity {config.wandb_entity} " if config.wandb_entity and not online else ""
    later = f"wandb sync {append}{entity}{os.path.dirname(tracker.run.dir)}"
    if not online:
        why = "no network" if key else "no key in the secret WANDB_API_KEY"
        left_out = f" without wandb_entity={config.wandb_entity}" if entity else ""
        print(f"wandb runs offline{left_out} ({why}); later: {later}")
    return tracker, tracker.run.id, f" Later: {later}"


def wandb_entity(team: str) -> str | None:
    """The team, if the key belongs to it; else None, the key's own default entity, with a line that says so."""
    if not team:
        return None
    import wandb  # which a run without it does not need

    try:
        viewer = wandb.Api(timeout=API_WAIT_S).viewer
        if team == viewer.entity or team in viewer.teams:
            return team
        why = f"is no member of wandb_entity={team}"
    except Exception as error:  # of the network, of the server, of another version of wandb
        why = f"could not be looked up in wandb_entity={team} ({redacted(error)})"
    print(f"The key in WANDB_API_KEY {why}, so this run goes to its own default entity.")
    return None


def mlflow_tracker(config: Config, run_name: str, run_id: str) -> tuple[MLflowTracker, str, str]:
    """An MLflow run, on a server that answers or in a local folder or database; with its id."""
    server = urlparse(config.mlflow_uri)
    if server.scheme.startswith("http") and not reachable(server.hostname, server.port or 80):
        raise ConnectionError(f"no MLflow server at {config.mlflow_uri}")
    os.environ["MLFLOW_TRACKING_URI"] = config.mlflow_uri  # the tracker takes no address
    for name, value in MLFLOW_PATIENCE.items():
        os.environ.setdefault(name, value)
    tracker = MLflowTracker(config.tracker_project, run_id=run_id or None, run_name=run_name)
    tracker.start()
    return tracker, tracker.active_run.info.run_id, ""


class TensorBoardLog:
    """A log for TensorBoard. Accelerate's tracker would leave a further, empty run beside it for the parameters."""

    def __init__(self, folder: Path, batch: int):
        from torch.utils.tensorboard import SummaryWriter  # which few runs need

        # TensorBoard drops what a session that was killed has logged behind the checkpoint.
        self.writer = SummaryWriter(folder, purge_step=batch + 1 if batch else 0)

    def store_init_configuration(self, values: dict) -> None:
        self.writer.add_text("parameters", f"```json\n{json.dumps(values, indent=1)}\n```")
        self.writer.flush()

    def log(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self) -> None:
        self.writer.close()


def tensorboard_tracker(folder: Path, batch: int) -> tuple[TensorBoardLog, str, str]:
    """A TensorBoard log in the run's folder, which goes on at a batch; the folder's name is its id."""
    try:
        return TensorBoardLog(folder, batch), folder.name, ""
    except ImportError as error:
        raise ImportError(f"{error}: pip install tensorboard") from None
