"""Trackers that work, fail, are missing or are out of reach: training goes on, and one line says what happened."""

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from accelerate import PartialState
from wandb.cli import cli as wandb_cli

from dcal_core.config.dcal import DCALConfig
from dcal_core.runs import RunFolder
from dcal_core.training import tracking
from dcal_core.training.tracking import Tracker, open_tracker

DEMO = RunFolder(Path("demo"))
NAMES = ["wandb", "mlflow", "tensorboard"]


class Recorder:
    """A tracker that keeps its calls and fails at those named."""

    def __init__(self, *failing: str):
        self.failing, self.calls = failing, []

    def call(self, action, *arguments):
        self.calls.append((action, *arguments))
        if action in self.failing:
            raise ConnectionResetError("the server\nis gone")

    def store_init_configuration(self, values):
        self.call("store_init_configuration", values)

    def log(self, values, step):
        self.call("log", values, step)

    def finish(self):
        self.call("finish")


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    """An empty folder, no network, no keys; what the code sets in the environment is undone."""
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # noted, so that it is put back in any case
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_NOTEBOOK_NAME", "test.ipynb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(tracking, "reachable", lambda host, port: False)
    monkeypatch.chdir(tmp_path)
    PartialState(cpu=True)  # training has one by then, and Accelerate's trackers ask for it


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.strip()]


# ---- a tracker that is there


def test_figures_go_to_the_tracker():
    recorder = Recorder()
    tracker = Tracker(recorder)
    tracker.log({"loss": 1.0}, 10)
    tracker.finish()
    assert recorder.calls == [("log", {"loss": 1.0}, 10), ("finish",)]


@pytest.mark.parametrize("action", ["log", "finish"])
def test_a_tracker_that_raises_is_left_with_one_line(capsys, action):
    recorder = Recorder(action)
    tracker = Tracker(recorder)
    for step in (10, 20):
        tracker.log({"loss": 1.0}, step)
        tracker.finish()
    assert [call[0] for call in recorder.calls] == (["log"] if action == "log" else ["log", "finish"])
    (line,) = lines(capsys)
    assert "ConnectionResetError" in line and "training goes on" in line and "metrics.jsonl" in line


@pytest.mark.parametrize("action", ["log", "finish"])
def test_a_tracker_that_hangs_is_left_with_one_line(monkeypatch, capsys, action):
    monkeypatch.setattr(tracking, "LOG_WAIT_S", 0.1)
    monkeypatch.setattr(tracking, "FINISH_WAIT_S", 0.1)
    recorder, never = Recorder(), threading.Event()
    monkeypatch.setattr(recorder, action, lambda *_, **__: never.wait(60))
    tracker = Tracker(recorder, cure=" Later: wandb sync here")
    began = time.monotonic()
    for step in (10, 20):
        tracker.log({"loss": 1.0}, step)
    tracker.finish()
    assert time.monotonic() - began < 5
    (line,) = lines(capsys)
    assert "TimeoutError: no answer within 0.1 s" in line and "Later: wandb sync here" in line
    never.set()


def test_a_tracker_that_hangs_while_it_opens_costs_one_line(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "OPEN_WAIT_S", 0.1)
    never = threading.Event()
    monkeypatch.setattr(tracking, "wandb_tracker", lambda *_: never.wait(60))
    assert open_tracker(DCALConfig(tracker="wandb"), DEMO, "").tracker is None
    (line,) = lines(capsys)
    assert "No tracking by wandb (TimeoutError" in line
    never.set()


def test_all_calls_come_from_one_thread():
    threads = []
    recorder = SimpleNamespace(log=lambda *_, **__: threads.append(threading.get_ident()))
    tracker = Tracker(recorder)
    for step in range(3):
        tracker.log({}, step)
    assert len(threads) == 3 and len({*threads}) == 1 and threads[0] != threading.get_ident()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])  # TensorBoard's log is where the run is
def test_a_later_session_goes_on_with_its_run_and_not_with_another_trackers(monkeypatch, name):
    asked = []
    monkeypatch.setattr(tracking, f"{name}_tracker", lambda *given: asked.append(given[-1]) or (Recorder(), "id", ""))
    later = open_tracker(DCALConfig(tracker=name), DEMO, f"{name}:earlier")
    assert later.tracker.calls == []  # the parameters are there, and MLflow takes none twice
    open_tracker(DCALConfig(tracker=name), DEMO, "another:earlier")
    assert asked == ["earlier", ""]


def test_no_secret_stands_in_what_a_failure_says(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    failing = SimpleNamespace(log=lambda *_, **__: (_ for _ in ()).throw(ValueError("key 0123456789abcdef is bad")))
    Tracker(failing).log({}, 1)
    (line,) = lines(capsys)
    assert "0123456789" not in line and "<WANDB_API_KEY>" in line


def test_an_interruption_is_not_swallowed(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(recorder, "call", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        Tracker(recorder).log({}, 1)


def test_no_tracker_takes_figures_silently(capsys):
    tracker = open_tracker(DCALConfig(tracker="none"), DEMO, "id")
    assert tracker.tracker is None
    tracker.log({"loss": 1.0}, 10)
    tracker.finish()
    assert lines(capsys) == []


# ---- opening


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_recorded_first(monkeypatch, name):
    recorder, config = Recorder(), DCALConfig(tracker=name)
    monkeypatch.setattr(tracking, f"{name}_tracker", lambda *_: (recorder, "new", ""))
    tracker = open_tracker(config, DEMO, "")
    assert tracker.run_id == f"{name}:new"
    assert tracker.tracker is recorder and recorder.calls == [("store_init_configuration", config.as_dict())]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_cannot_be_opened_costs_one_line(monkeypatch, capsys, name):
    def fail(*_):
        raise RuntimeError("refused\nby the server")

    monkeypatch.setattr(tracking, f"{name}_tracker", fail)
    tracker = open_tracker(DCALConfig(tracker=name), DEMO, "id")
    tracker.log({"loss": 1.0}, 10)
    tracker.finish()
    (line,) = lines(capsys)
    assert name in line and "RuntimeError" in line and "refused" in line


def test_a_tracker_that_refuses_the_parameters_costs_one_line(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "wandb_tracker", lambda *_: (Recorder("store_init_configuration"), "new", ""))
    tracker = open_tracker(DCALConfig(tracker="wandb"), DEMO, "id")
    tracker.log({"loss": 1.0}, 10)
    assert len(lines(capsys)) == 1


# ---- wandb


class StubTracker(SimpleNamespace):
    """A tracker that starts no run."""

    run = SimpleNamespace(dir="wandb/offline-run-1/files", id="some-id")

    def start(self):
        self.start_in.append(self)


class Viewer(SimpleNamespace):
    """Whose key it is, as wandb's API tells it."""

    entity = "me"
    teams = ("me", "team")


@pytest.mark.parametrize(
    ("key", "network", "mode", "resume", "entity", "why"),
    [
        ("k" * 40, True, "online", "allow", "team", ""),
        ("k" * 40, False, "offline", None, None, "no network"),
        (None, True, "offline", None, None, "no key in the secret WANDB_API_KEY"),
    ],
)
def test_wandb_is_online_only_with_a_key_and_a_network(monkeypatch, capsys, key, network, mode, resume, entity, why):
    started = []
    monkeypatch.setattr(tracking, "find_spec", lambda name: name == "wandb.sync")  # as in wandb 0.18
    monkeypatch.setattr(wandb, "Api", lambda timeout: SimpleNamespace(viewer=Viewer()))

    new = partial(StubTracker, start_in=started)
    monkeypatch.setattr(tracking, "WandBTracker", lambda project, **options: new(project=project, **options))
    monkeypatch.setattr(tracking, "secret", lambda name: key if name == "WANDB_API_KEY" else None)
    monkeypatch.setattr(tracking, "reachable", lambda host, port: network and (host, port) == ("api.wandb.ai", 443))
    config = DCALConfig(tracker="wandb", wandb_entity="team", tracker_project="twins")
    tracker, run_id, cure = tracking.wandb_tracker(config, "demo", "some-id")
    sync = "wandb sync --append " + "--entity team " * (mode == "offline") + "wandb/offline-run-1"
    assert run_id == "some-id" and cure == f" Later: {sync}"
    assert started == [tracker] and (tracker.mode, tracker.resume) == (mode, resume)
    assert (tracker.project, tracker.name, tracker.id, tracker.entity) == ("twins", "demo", "some-id", entity)
    out = capsys.readouterr().out
    assert "kkk" not in out and ("WANDB_API_KEY" in out) == (not key)
    expected = [] if mode == "online" else [f"wandb runs offline without wandb_entity=team ({why}); later: {sync}"]
    assert out.splitlines() == expected


@pytest.mark.parametrize("given", ["", "me", "team"])
def test_a_team_that_the_key_belongs_to_is_used_without_a_word(monkeypatch, capsys, given):
    monkeypatch.setattr(wandb, "Api", lambda timeout: SimpleNamespace(viewer=Viewer()))
    assert tracking.wandb_entity(given) == (given or None) and lines(capsys) == []


def test_a_key_of_another_team_takes_its_own_default_entity_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(wandb, "Api", lambda timeout: SimpleNamespace(viewer=Viewer()))
    assert tracking.wandb_entity("strangers") is None
    (line,) = lines(capsys)
    assert "is no member of wandb_entity=strangers" in line and "its own default entity" in line


def test_a_team_that_cannot_be_looked_up_costs_one_line(monkeypatch, capsys):
    def fail(timeout):
        raise ConnectionError("no answer\nfrom the server")

    monkeypatch.setattr(wandb, "Api", fail)
    assert tracking.wandb_entity("team") is None
    (line,) = lines(capsys)
    assert "wandb_entity=team (ConnectionError" in line and "its own default entity" in line


def test_the_command_to_send_a_run_later_is_one_that_this_wandb_takes(monkeypatch, tmp_path):
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    monkeypatch.setattr(tracking, "WandBTracker", lambda project, **options: StubTracker(start_in=[]))
    config = DCALConfig(tracker="wandb", wandb_entity="team")
    cures = [tracking.wandb_tracker(config, "demo", run_id)[2] for run_id in ("", "an-earlier-id")]
    for cure in cures:
        command = cure.removeprefix(" Later: wandb sync ").split()
        context = wandb_cli.sync.make_context("sync", command)  # refuses an option that it lacks
        assert context.params["entity"] == "team"


def test_wandb_without_key_and_network_keeps_its_figures_for_later(capsys, tmp_path):
    tracker = open_tracker(DCALConfig(tracker="wandb"), DEMO, "")
    kind, run_id = tracker.run_id.split(":")
    assert tracker.tracker is not None and kind == "wandb"
    tracker.log({"loss": 1.0}, 10)
    tracker.finish()
    (run,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
    assert list(run.glob("*.wandb"))
    (line,) = lines(capsys)
    assert "offline" in line and "WANDB_API_KEY" in line and f"wandb sync {run}" in line


# ---- MLflow


class Server:
    """A stand-in for the mlflow package, which keeps what it is given."""

    def __init__(self):
        self.uri, self.parameters, self.metrics, self.ended = None, {}, [], 0
        validation = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=20)
        self.utils = SimpleNamespace(validation=validation)
        self.__spec__ = None  # asked for by importlib

    def set_tracking_uri(self, uri):
        self.uri = uri

    def search_experiments(self, filter_string):
        assert "twins" in filter_string
        return []

    def create_experiment(self, name, **_):
        return f"id of {name}"

    def start_run(self, experiment_id, run_name, run_id, **_):
        assert (experiment_id, run_name) == ("id of twins", "demo")
        self.gone_on_with = run_id
        self.uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        return SimpleNamespace(info=SimpleNamespace(run_id="some-id"))

    def log_params(self, params):
        self.parameters |= params

    def log_metrics(self, metrics, step):
        self.metrics.append((step, metrics))

    def end_run(self):
        self.ended += 1


def test_mlflow_without_a_server_costs_one_line(capsys):
    tracker = open_tracker(DCALConfig(tracker="mlflow"), DEMO, "")
    assert tracker.tracker is None
    (line,) = lines(capsys)
    assert "no MLflow server at http://localhost:5000" in line


def test_mlflow_without_its_package_costs_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it raises ModuleNotFoundError
    tracker = open_tracker(DCALConfig(tracker="mlflow", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db"), DEMO, "id")
    assert tracker.tracker is None
    (line,) = lines(capsys)
    assert "mlflow" in line and ("ModuleNotFoundError" in line or "ImportError" in line)


@pytest.mark.parametrize("uri", ["http://tracking.example:5000", "sqlite:///mlflow.db"])
def test_mlflow_with_a_server_gets_parameters_and_figures(monkeypatch, capsys, uri):
    server, asked = Server(), []
    monkeypatch.setitem(sys.modules, "mlflow", server)
    monkeypatch.setattr(tracking, "reachable", lambda host, port: asked.append((host, port)) or True)
    config = DCALConfig(tracker="mlflow", mlflow_uri=uri, tracker_project="twins")
    tracker = open_tracker(config, DEMO, "")
    assert lines(capsys) == [] and tracker.tracker is not None and tracker.run_id == "mlflow:some-id"
    tracker.log({"loss": 1.0}, 10)
    tracker.finish()
    assert server.uri == uri and server.metrics == [(10, {"loss": 1.0})] and server.ended == 1
    assert server.parameters == config.as_dict()
    assert asked == ([("tracking.example", 5000)] if uri.startswith("http") else [])


# ---- TensorBoard


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard shows for a folder of logs."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={reader.SCALARS: 0})
    events.Reload()
    return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def session_of(folder: RunFolder, run_id: str, batch: int, figures: dict[int, float]) -> str:
    """One session of a run that goes on at a batch and logs figures; ends as a killed one does, and returns its id."""
    tracker = open_tracker(DCALConfig(tracker="tensorboard"), folder, run_id, batch)
    for step, loss in figures.items():
        tracker.log({"loss": loss, "lr": 0.5}, step)
    return tracker.run_id


def test_tensorboard_gets_figures_and_parameters_in_the_runs_folder(capsys, tmp_path):
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path / "run")
    tracker = open_tracker(DCALConfig(tracker="tensorboard", seed=7), folder, "")
    assert tracker.run_id == "tensorboard:tensorboard"
    tracker.log({"loss": 1.0}, 10)
    tracker.log({"loss": float("nan"), "validation/eer": 0.25}, 20)
    tracker.finish()
    curves = logged(folder.tensorboard)
    assert curves["validation/eer"] == [(20, 0.25)] and [step for step, _ in curves["loss"]] == [10, 20]
    (file,) = folder.tensorboard.iterdir()  # one run, and none beside it for the parameters
    assert b'"seed": 7' in file.read_bytes() and lines(capsys) == []


def test_a_resumed_run_has_one_tensorboard_curve_without_doubled_steps(tmp_path):
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path / "run")
    run_id = session_of(folder, "", 0, {10: 1.0, 20: 0.9})  # killed before its first checkpoint
    run_id = session_of(folder, run_id, 0, {10: 1.1, 20: 0.8, 30: 0.7, 40: 0.6})  # saved at 30, killed at 40
    run_id = session_of(folder, run_id, 30, {40: 0.5, 50: 0.4})
    session_of(folder, run_id, 50, {60: 0.3})
    found = [(step, round(value, 3)) for step, value in logged(folder.tensorboard)["loss"]]
    assert found == [(10, 1.1), (20, 0.8), (30, 0.7), (40, 0.5), (50, 0.4), (60, 0.3)]


def test_tensorboard_without_its_package_costs_one_line_with_the_cure(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    tracker = open_tracker(DCALConfig(tracker="tensorboard"), RunFolder(tmp_path / "run"), "")
    assert tracker.tracker is None
    (line,) = lines(capsys)
    assert "No tracking by tensorboard" in line and "pip install tensorboard" in line and "metrics.jsonl" in line


def test_a_tensorboard_folder_that_cannot_be_written_costs_one_line(capsys, tmp_path):
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.tensorboard.touch()  # a file stands there
    tracker = open_tracker(DCALConfig(tracker="tensorboard"), folder, "")
    tracker.log({"loss": 1.0}, 10)
    assert tracker.tracker is None
    (line,) = lines(capsys)
    assert "tensorboard" in line and "metrics.jsonl" in line
