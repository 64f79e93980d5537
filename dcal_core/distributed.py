"""Several processes that train one model together, one GPU each: which one this is, gathering, and starting them.

Without torchrun there is one process, and gathering changes nothing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dcal_core.environment import STARTED, gpu_verdict, on_end_request
from dcal_core.errors import UserError

PATIENT = timedelta(hours=2)  # how long processes wait for the one that draws or decodes images, or validates
OUTCOMES = "DCAL_OUTCOMES"  # the variable with the folder in which each launched process leaves how it ended
MEETING = timedelta(minutes=3)  # after which processes that cannot reach one another give up
ENDED = "dcal_core: the end of process "  # with its number: all that it has printed stands before this in the stream


class LaunchError(UserError):
    """Training in several processes ended because one of them failed.

    kind: the name of its error's class, "" if it was killed. values: what that error tells besides its message.
    expected: whether it is one of ours, which says what is wrong.
    """

    def __init__(self, message: str, kind: str = "", values: dict | None = None, expected: bool = False):
        super().__init__(message)
        self.kind = kind
        self.values = values or {}
        self.expected = expected


def launched() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_torchelastic_launched()


def join() -> None:
    """Join the other processes that torchrun has started, if it has started this one; only process 0 prints."""
    if not launched():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # before anything is put on the first GPU
    on_gpus, _ = gpu_verdict()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENT)
    meet("cuda" if on_gpus else "cpu")
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends


def meet(device: str) -> None:
    """Add up one number over all processes. GPUs that cannot reach one another would hang for PATIENT otherwise."""
    group = dist.new_group(timeout=MEETING)
    total = torch.ones(1, device=device)
    dist.all_reduce(total, group=group)
    assert total.item() == world_size()
    dist.destroy_process_group(group)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; process 0 alone writes."""
    return dist.get_rank() if dist.is_initialized() else 0


class Gather(torch.autograd.Function):
    """The rows of all processes; going back, every process takes its rows' gradients from the losses of all."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        rows = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(rows, own.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def gather(own: Tensor) -> Tensor:
    """The rows of all processes in the order of their numbers, [B, ...] -> [processes x B, ...], differentiable.

    Each process then computes the whole loss, so its gradient arrives here once per process; distributed training
    averages over them, which leaves the gradient of the whole batch.
    """
    return Gather.apply(own) if world_size() > 1 else own


def broadcast(value):
    """The value that process 0 has, in every process."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def main_only(function: Callable) -> Callable:
    """Makes process 0 alone run a function that writes; in the others it does nothing."""

    @wraps(function)
    def guarded(*arguments, **keywords):
        return None if rank() else function(*arguments, **keywords)

    return guarded


@contextmanager
def main_first():
    """Process 0 runs the block first, then the others, who find what it has written."""
    if rank():
        barrier()
    yield
    if not rank():
        barrier()


def launched_by_us() -> bool:
    """Whether `launch` has started this process, and so will tell how it has ended."""
    return launched() and OUTCOMES in os.environ


def leave_outcome(error: Exception | None = None) -> None:
    """Tell the process that launched this one how it ends; without torchrun, do nothing.

    torchrun's own error files hold a text alone, and nothing after a clean end.
    """
    if not launched_by_us():
        return
    outcome = {"time": time.time(), "failed": error is not None}
    if error is not None:
        outcome |= {"kind": type(error).__name__, "message": str(error), "values": getattr(error, "values", {})}
        outcome["expected"] = isinstance(error, UserError)
    number = os.environ.get("RANK", "0")  # the group may have been left already
    file = Path(os.environ[OUTCOMES]) / f"{number}.json"
    file.with_suffix(".new").write_text(json.dumps(outcome))
    file.with_suffix(".new").rename(file)
    print(f"{ENDED}{number}.\n", end="", file=sys.stderr, flush=True)


def read_outcomes(folder: Path) -> list[dict]:
    """How the launched processes have ended so far, in the order of their ends."""
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return sorted(found, key=lambda outcome: outcome["time"])


def launch(command: Sequence[str], processes: int) -> None:
    """Run `python -m dcal_core <command>` in several processes by torchrun, and print what they print as it comes.

    Raises LaunchError with the error of the process that failed first; the others are ended.
    """
    with tempfile.TemporaryDirectory(prefix="dcal_outcomes_") as folder:
        exit_status = _run_group(command, processes, Path(folder))
        outcomes = read_outcomes(Path(folder))
    for outcome in outcomes:
        if outcome["failed"]:
            reason = f"{outcome['kind']}: {outcome['message']}"
            told = (outcome["kind"], outcome["values"], outcome["expected"])
            raise LaunchError(f"one of {processes} processes failed: {reason}", *told)
    if exit_status and len(outcomes) < processes:  # one of them was killed
        raise LaunchError(f"one of {processes} processes failed: see the lines above (exit status {exit_status})")


def _pass_on(lines: Iterable[str], processes: int, outcomes: Path) -> None:
    """Print the lines of several processes until one of them has failed, or all have ended: what follows is torchrun's
    account of how the others ended."""
    ended = set()
    over = False
    for line in lines:
        text, *ends = re.split(rf"{ENDED}(\d+)\.", line)  # perhaps behind another process's progress line
        if text and not over:
            print(text, end="", flush=True)
        ended |= {number for number in ends if number.isdecimal()}
        failed = any(json.loads((outcomes / f"{number}.json").read_text())["failed"] for number in ended)
        over = failed or len(ended) == processes


def _run_group(command: Sequence[str], processes: int, outcomes: Path) -> int:
    """Run the processes and pass on their lines until they have ended; returns torchrun's exit status."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    home = str(Path(__file__).parents[1])  # of this very dcal_core, which a notebook may have written
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "DCAL_STARTED": str(STARTED),
        OUTCOMES: str(outcomes),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with subprocess.Popen(
        [*torchrun, "-m", "dcal_core", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # an interrupt comes to this process, which passes it on to all of them
    ) as group:
        ask_to_end = partial(os.killpg, group.pid, signal.SIGTERM)  # they save, and end by themselves
        try:
            with on_end_request(lambda why: ask_to_end()):
                _pass_on(group.stdout, processes, outcomes)
        except BaseException:
            ask_to_end()
            raise
    return group.returncode
