"""Work shared out to processes; their number changes no result."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def in_processes(work: Callable, *items: Iterable, workers: int) -> Iterator:
    """The results of `work` for the items, in their order; one worker is this process."""
    if workers == 1:
        yield from map(work, *items)
        return
    # Spawn, because a child forked from a process with CUDA or threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        yield from pool.map(work, *items, chunksize=4)


def end_with_parent() -> None:
    """Make a worker end with the process that started it, even if that is killed, as it would wait for work for ever,
    and not before it, at an interrupt that both get, with a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent_process().join()
    os._exit(1)
