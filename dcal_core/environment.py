"""Where a notebook runs: inputs, outputs, secrets, time left, and whether the GPU works."""

import os
import platform
import queue
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dcal_core.errors import ConfigError

KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")
STARTED = float(os.environ.get("DCAL_STARTED", time.monotonic()))  # of the session, also for a process started in it
SECRET_WAIT_S = 15
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN")
SHORTEST_SECRET = 6  # characters; anything shorter is found in ordinary words


def on_kaggle() -> bool:
    """Whether this is a Kaggle notebook, by the variable that Kaggle's own code reads."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def is_interactive() -> bool:
    """Whether someone can press a button: in a notebook with a front end that could also ask for input.

    There is nobody under papermill, `nbconvert --execute` or in Kaggle's batch runs.
    """
    from IPython import get_ipython  # half a second, and no worker process needs it

    kernel = getattr(get_ipython(), "kernel", None)
    # A private attribute, yet nothing else tells a browser from papermill in all front ends.
    return bool(getattr(kernel, "_allow_stdin", False)) and os.environ.get("KAGGLE_KERNEL_RUN_TYPE") != "Batch"


def input_roots(data_root: str = "") -> list[Path]:
    """Folders to search for data, weights and earlier runs: the one given, else Kaggle's inputs, else `data`; a link is
    among them even where it leads nowhere."""
    if data_root:
        return [Path(data_root).expanduser()]
    return [root for root in (KAGGLE_INPUT, Path("data")) if root.is_dir() or root.is_symlink()]


def output_root() -> Path:
    """The folder that is kept when the session ends."""
    return KAGGLE_WORKING if on_kaggle() else Path("runs").resolve()


def scratch_root() -> Path:
    """The folder for drawn faces and decoded images, which can be made again; on Kaggle not a part of the output."""
    return Path(tempfile.gettempdir()) / "dcal" if on_kaggle() else output_root() / "scratch"


def gpu_verdict() -> tuple[bool, str]:
    """Whether the GPU can run a kernel, and a line that tells; a retired P100 is "available", yet its first kernel
    fails."""
    import torch  # takes seconds, and much is refused before it is needed

    if not torch.cuda.is_available():
        return False, "no GPU" + (": choose Settings > Accelerator > GPU T4 x2" if on_kaggle() else "")
    name = torch.cuda.get_device_name(0)
    major, minor = torch.cuda.get_device_capability(0)
    try:
        torch.ones(8, device="cuda").add_(1).sum().item()
    except RuntimeError as error:
        built = ", ".join(torch.cuda.get_arch_list())
        return False, (
            f"{name} (sm_{major}{minor}) cannot run this PyTorch's kernels, built for {built} "
            f"({str(error).partition(chr(10))[0]}): choose GPU T4 x2, or install a cu126 build of PyTorch"
        )
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return True, f"{torch.cuda.device_count()} x {name}, {memory:.0f} GiB, sm_{major}{minor}, runs kernels"


def fit_device() -> str:
    """The device to compute on: the GPU where one works."""
    return "cuda" if gpu_verdict()[0] else "cpu"


def fit_precision(wanted: str) -> str:
    """The precision to compute in: the one wanted or, for `auto`, the hardware's fastest; raises ConfigError.

    A T4 claims bf16, but emulates it at a tenth of its fp16 speed.
    """
    if not gpu_verdict()[0]:
        if wanted == "fp16":
            raise ConfigError("precision=fp16 needs a GPU that works: give auto, which takes fp32 here.")
        return "fp32" if wanted == "auto" else wanted
    if wanted != "auto":
        return wanted
    import torch

    return "bf16" if torch.cuda.get_device_capability(0) >= (8, 0) else "fp16"


def banner(title: str) -> str:
    """The first lines of a notebook's output: what it is and what it runs on."""
    import torch

    build = [Path(path).read_text().strip() for path in ("/etc/git_commit", "/etc/build_date") if Path(path).is_file()]
    place = f"Kaggle image {' '.join(build) or 'of unknown build'}" if on_kaggle() else platform.platform(terse=True)
    return f"{title}\n{place}, Python {platform.python_version()}, torch {torch.__version__}\n{gpu_verdict()[1]}"


def secret(name: str) -> str | None:
    """A secret from the environment or from Kaggle's Add-ons > Secrets, or None; waits a few seconds at most."""
    if os.environ.get(name):
        return os.environ[name]
    if not on_kaggle():
        return None

    def ask() -> str:
        from kaggle_secrets import UserSecretsClient

        return UserSecretsClient().get_secret(name)

    try:
        return TimedThread().call(SECRET_WAIT_S, ask)
    except Exception as error:  # five unrelated types, by what is missing: secret, token, network
        print(f"The Kaggle secret {name} cannot be read ({type(error).__name__}): add it under Add-ons > Secrets.")
        return None


class TimedThread:
    """A thread for all calls to something that may hang, so that it keeps neither training nor the process from ending.
    One thread for all calls, since MLflow knows a run only in the thread that started it."""

    def __init__(self):
        self.jobs = queue.SimpleQueue()
        self.thread = None

    def call(self, wait_s: float, function: Callable, *arguments, **keywords):
        """Return or raise what the function does; TimeoutError if that takes longer than wait_s seconds."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.work, daemon=True)  # Python's own executors wait for theirs
            self.thread.start()
        answer = Future()
        self.jobs.put((answer, partial(function, *arguments, **keywords)))
        if not wait([answer], wait_s).done:
            raise TimeoutError(f"no answer within {wait_s:g} s")
        return answer.result()

    def work(self) -> None:
        while True:
            answer, call = self.jobs.get()
            try:
                answer.set_result(call())
            except BaseException as error:  # it is raised where the call was made
                answer.set_exception(error)


def redacted(error: Exception) -> str:
    """The type and message of an error on one line, with every secret in it replaced by its name."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for name in SECRETS:
        if len(os.environ.get(name, "")) >= SHORTEST_SECRET:
            text = text.replace(os.environ[name], f"<{name}>")
    return text


def reachable(host: str, port: int, wait_s: float = 5.0) -> bool:
    """Whether a server takes a connection."""
    try:
        socket.create_connection((host, port), timeout=wait_s).close()
    except OSError:
        return False
    return True


class TimeBudget:
    """The wall time of a session, counted from its start; `reserve_s` is kept for a last validation and save."""

    def __init__(self, hours: float, started: float = STARTED):
        self.end = started + hours * 3600
        self.reserve_s = 0.0

    def need(self, seconds: float) -> None:
        """Reserve one and a half times the seconds that validating and saving took."""
        self.reserve_s = max(self.reserve_s, 1.5 * seconds)

    def used_up(self) -> bool:
        """Whether only the reserve is left."""
        return time.monotonic() > self.end - self.reserve_s


@contextmanager
def on_end_request(action: Callable[[str], object]) -> Iterator[None]:
    """Inside the block, call `action` with the reason where the system asks this process to end (SIGTERM) or someone
    interrupts it (Ctrl-C, a notebook's stop button), instead of ending at once; a second interrupt does end it."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handler
        yield
        return
    owner = os.getpid()

    def interrupt(*_) -> None:
        if os.getpid() != owner:  # a worker, which its owner ends
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(RuntimeError):  # in the midst of another print
            print("\nInterrupted: saves and ends after this step; interrupt again to end at once.", flush=True)
        action("Interrupted")

    handlers = {signal.SIGTERM: lambda *_: action("The system has asked this process to end"), signal.SIGINT: interrupt}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
        del handlers[signal.SIGINT]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
