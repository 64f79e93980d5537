"""Each part in a process of its own: a failure, a GPU that no longer answers or a part without end harms no other."""

import os
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.gpu.job import Job, Stopped
from benchmarks.gpu.parts import PARTS
from benchmarks.speed.report import device_name, line
from dcal_core.data.processes import end_with_parent
from dcal_core.environment import fit_precision, gpu_verdict

GRACE_S = 10  # that a process which has measured everything gets to end by itself


@dataclass(frozen=True)
class Machine:
    """What a process of its own finds: whether a GPU works, in words, the device's name and its fastest precision."""

    gpu: bool
    verdict: str
    device: str
    precision: str

    @classmethod
    def here(cls) -> "Machine":
        """The machine as this process finds it; RuntimeError where CUDA refuses the process."""
        return cls(*gpu_verdict(), device_name(), fit_precision("auto"))


def look() -> tuple[str, Machine]:
    """How to start a process that can use the GPU, and what it finds; this process itself leaves the GPU alone, or none
    that it forks could use it."""
    try:
        with get_context("fork").Pool(1) as pool:  # with everything imported
            return "fork", pool.apply(Machine.here)
    except RuntimeError as error:
        print(f"A forked process cannot use the GPU, so each part starts anew ({error}).")
        with get_context("spawn").Pool(1) as pool:
            return "spawn", pool.apply(Machine.here)


def work(name: str, job: Job, results: Connection) -> None:
    """What a part's process does: send every row as it is measured, and at last how the part has ended, and why."""
    os.setsid()  # so that whatever it starts can be ended with it
    end_with_parent()
    ended = ("done", "")
    try:
        for row in PARTS[name].rows(job):
            print(line(row), flush=True)
            results.send(row)
    except Stopped as stop:
        ended = stop.args
    except Exception as error:
        traceback.print_exc()
        ended = ("failed", f"{type(error).__name__}: {' '.join(str(error).split()):.300}")
    results.send(ended)


def measure(name: str, job: Job, method: str) -> dict:
    """The rows of a part, and how it has ended: done, cut short, left out or failed, and why."""
    context = get_context(method)
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, job, sender))
    began = time.monotonic()
    process.start()
    sender.close()
    rows = []
    ended = None
    try:
        while ended is None:
            if not results.poll(job.left):
                ended = ("cut short", f"its time was over after {time.monotonic() - began:.0f} s.")
            elif isinstance(found := results.recv(), tuple):
                ended = found
                process.join(GRACE_S)
            else:
                rows.append(asdict(found) | {"met": found.met})
    except EOFError:
        process.join()
        ended = ("failed", f"its process ended with exit status {process.exitcode}.")
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return {
        "ended": ended[0],
        "why": ended[1],
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
