"""Several processes that train one model together, one GPU each: who am I, gathering, and starting them.

Without torchrun there is one process, and gathering changes nothing.
"""

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dcal_core.environment import ASKED, STARTED, gpu_verdict
from dcal_core.errors import UserError

PATIENT = timedelta(hours=2)  # how long processes wait for the one that draws or decodes images, or validates
FAILED = "A process failed: "  # begins the line by which a process says why it ends


class LaunchError(UserError):
    """Training in several processes ended because one of them failed."""


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
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends


def leave() -> None:
    """Leave the group of processes, if this one is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
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
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def main_only(function: Callable) -> Callable:
    """Makes process 0 alone run a function that writes; in the others it does nothing."""

    @functools.wraps(function)
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


def launch(command: Sequence[str], processes: int) -> None:
    """Run `python -m dcal_core <command>` in several processes by torchrun, and print what they print as it comes.

    Raises LaunchError with the reason of the process that failed first; the others are ended.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    home = str(Path(__file__).parents[1])  # of this very dcal_core, which a notebook may have written
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "DCAL_STARTED": str(STARTED),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    reasons, saved, over = [], False, False
    with subprocess.Popen(
        [*torchrun, "-m", "dcal_core", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # an interrupt comes to this process, which passes it on to all of them
    ) as group:
        # Asked to end, this process passes it on: they save, and end by themselves.
        before = None
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, lambda *_: os.killpg(group.pid, signal.SIGTERM))
        try:
            for line in group.stdout:
                _, failed, reason = line.partition(FAILED)  # perhaps behind another process's progress line
                reasons += [reason.strip()] if failed else []
                saved = saved or ASKED in line
                over = over or bool(reasons) or (saved and line.startswith("Traceback"))
                if not over:  # what follows is torchrun's account of how it ended the others, or was ended itself
                    print(line, end="", flush=True)
        except BaseException:
            os.killpg(group.pid, signal.SIGTERM)
            raise
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
    if group.returncode and not saved:
        reason = reasons[0] if reasons else f"see the lines above (exit status {group.returncode})"
        raise LaunchError(f"one of {processes} processes failed: {reason}")
