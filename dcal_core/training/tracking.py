"""Experiment trackers that can fail, be missing or be out of reach without ending a run."""

import os
from urllib.parse import urlparse

from accelerate.tracking import MLflowTracker, WandBTracker

from dcal_core.config import Config
from dcal_core.environment import reachable, secret


def in_one_line(error: Exception) -> str:
    """The type and the message of an error, which may have several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Tracker:
    """Passes figures on to a tracker of Accelerate's, or to none; the first failure is said once and ends the
    tracking."""

    def __init__(self, tracker=None):
        self.tracker = tracker

    def attempt(self, action: str, *arguments, **keywords) -> None:
        """Call the tracker, if there is one that still works."""
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, action)(*arguments, **keywords)
        except Exception as error:  # a tracker may raise anything, and training is worth more than its curves
            print(f"Tracking ended ({in_one_line(error)}); training goes on, metrics.jsonl has every figure.")
            self.tracker = None

    def log(self, figures: dict[str, float], step: int) -> None:
        """Record figures at a step."""
        self.attempt("log", figures, step=step)

    def finish(self) -> None:
        """Close the tracker."""
        self.attempt("finish")


def open_tracker(config: Config, run_name: str, run_id: str) -> Tracker:
    """The tracker that the config asks for, its mode chosen before its first call; prints one line where it falls
    short."""
    if config.tracker == "none":
        return Tracker()
    try:
        tracker = {"wandb": wandb_tracker, "mlflow": mlflow_tracker}[config.tracker](config, run_name, run_id)
    except Exception as error:  # as above
        print(f"No tracking by {config.tracker} ({in_one_line(error)}); metrics.jsonl has every figure.")
        tracker = None
    opened = Tracker(tracker)
    opened.attempt("store_init_configuration", config.as_dict())
    return opened


def wandb_tracker(config: Config, run_name: str, run_id: str) -> WandBTracker:
    """A wandb run, online with a key and a network, else offline: a failed online start would spoil the offline one
    too."""
    key = secret("WANDB_API_KEY")
    online = bool(key) and reachable("api.wandb.ai", 443)
    if key:
        os.environ["WANDB_API_KEY"] = key
    os.environ.setdefault("WANDB_NOTEBOOK_NAME", "train.ipynb")  # else it asks Kaggle for the name, and may wait 40 s
    os.environ.setdefault("WANDB_SILENT", "true")
    tracker = WandBTracker(
        config.tracker_project,
        name=run_name,
        id=run_id,
        entity=config.wandb_entity or None,
        mode="online" if online else "offline",
        resume="allow" if online else None,
    )
    tracker.start()
    if not online:
        why = "no network" if key else "no key in the secret WANDB_API_KEY"
        print(f"wandb runs offline ({why}); later: wandb sync {os.path.dirname(tracker.run.dir)}")
    return tracker


def mlflow_tracker(config: Config, run_name: str, run_id: str) -> MLflowTracker:
    """An MLflow run, on a server that answers or in a local folder or database."""
    server = urlparse(config.mlflow_uri)
    if server.scheme.startswith("http") and not reachable(server.hostname, server.port or 80):
        raise ConnectionError(f"no MLflow server at {config.mlflow_uri}")
    os.environ["MLFLOW_TRACKING_URI"] = config.mlflow_uri  # the tracker takes no address
    tracker = MLflowTracker(config.tracker_project, run_name=run_name)
    tracker.start()
    return tracker
