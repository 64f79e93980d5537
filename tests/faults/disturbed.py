"""A small run of `python -m dcal_core train` with disturbed sessions, and how it is compared with an
undisturbed one.

Sessions are children forked from a process that has imported everything already, so that one takes half a second
instead of eight; each calls the command's own function. Nothing in them is replaced: what is added only looks.
"""

import errno
import json
import multiprocessing
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tiny

from dcal_core.runs import RunFolder
from dcal_core.storage import SUMS, check_seal

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["dcal_core.commands.train", "dcal_core.recipes.dcal", "pytest"]
)  # whose import takes seconds
STEPS = 12
VALUES = tiny.VALUES | {
    "validation_share": 0.4,
    "steps_per_epoch": 4,
    "pwca_partner": "mix",
    "epochs": 3,  # the best model is that of the first epoch, then that of the last
    "seed": 11,
    "lr": 1e-3,
    "ema_decay": 0.5,
    "save_minutes": 0,  # a checkpoint after every step
    "checkpoint_every": 1,
    "time_budget_hours": 1000,
}
LONGEST_S = 120  # for anything that is waited for


# ---- what befalls a session


def kill() -> None:
    """End at once, as a machine that is taken away does."""
    os.kill(os.getpid(), signal.SIGKILL)


def let_no_file_grow() -> None:
    """A quota that is used up: from here on no file takes another byte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill_disk() -> None:
    """Use up all room of the disk that the current folder is on."""
    size = 1 << 20
    with open("filler", "ab", buffering=0) as filler:
        while size:
            try:
                filler.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2


@dataclass(frozen=True)
class Fault:
    """What befalls a session as it begins its n-th file operation below a folder, or as it begins a batch; with
    neither, the operations are printed."""

    action: Callable[[], None] = kill
    operation: int | None = None
    batch: int | None = None
    below: str = "runs/small"


class Operations:
    """An audit hook that counts the file operations below a folder, names them, and lets a fault befall at one."""

    def __init__(self, folder: Path, fault: Fault):
        self.folder, self.fault, self.count = f"{folder}/{fault.below}", fault, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
            return
        path = str(arguments[0])
        within_tree = event in ("os.remove", "os.rmdir") and not path.startswith("/")  # as shutil.rmtree names them
        if within_tree or path.startswith(self.folder):
            self.count += 1
            if self.fault.operation is None:
                os.write(1, f"operation {self.count} {event} {path.removeprefix(self.folder)}\n".encode())
            elif self.count == self.fault.operation:
                self.fault.action()


def watch_batches(fault: Fault | None) -> None:
    """Print each batch as its step begins."""
    from dcal_core.training.loop import Trainer

    step = Trainer.step

    def watched(trainer):
        if fault and fault.batch == trainer.progress.batch:
            fault.action()
        os.write(1, f"\nbatch {trainer.progress.batch}\n".encode())
        step(trainer)

    Trainer.step = watched


def train(folder: Path, arguments: list[str], out, err, fault: Fault | None) -> None:
    """What the forked child does."""
    import torch

    from dcal_core.commands import train as recipes

    os.chdir(folder)
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), number)
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(1)
    watch_batches(fault)
    if fault and fault.batch is None:
        sys.addaudithook(Operations(folder, fault))
    sys.exit(recipes.main(arguments))


# ---- runs


@dataclass
class Session:
    """What is known of a session that has ended: its exit status and what it printed."""

    status: int
    said: str
    complained: str
    batches: list[int] = field(init=False)

    def __post_init__(self):
        self.batches = [int(number) for number in re.findall(r"\bbatch (\d+)$", self.said, re.MULTILINE)]


def read_pipe(pipe) -> str:
    """All that has been written into a pipe whose writers have ended."""
    parts = [b"first"]
    while parts[-1]:
        readable, _, _ = select.select([pipe], [], [], 20)
        assert readable, "a process that the session started has outlived it"
        parts.append(os.read(pipe.fileno(), 1 << 16))
    pipe.close()
    return b"".join(parts[1:]).decode(errors="replace")


class SmallRun:
    """A run in a folder of its own, session by session; `arguments` are those of `python -m dcal_core train`.

    scratch: a folder of decoded images to share, or None.
    """

    def __init__(self, place: Path, preset: Path, scratch: Path | None):
        self.place = place
        self.preset = preset
        self.folder = RunFolder(place / "runs" / "small")
        self.sessions: list[Session] = []
        (place / "runs").mkdir(parents=True)
        if scratch:
            (place / "runs" / "scratch").symlink_to(scratch)

    @contextmanager
    def begun(self, *arguments: str, fault: Fault | None = None) -> Iterator:
        """The process of a session, for what is done to it from outside; it is waited for and added to the sessions."""
        pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]  # they hold more than is printed, so nothing waits
        command = ["-f", str(self.preset), *arguments]
        process = FORKS.Process(target=train, args=(self.place, command, *(w for _, w in pipes), fault))
        process.start()
        for _, writer in pipes:
            writer.close()
        yield process
        process.join(LONGEST_S)
        assert process.exitcode is not None, f"a session did not end within {LONGEST_S} s"
        self.sessions.append(Session(process.exitcode, *(read_pipe(reader) for reader, _ in pipes)))

    @contextmanager
    def watched(self, *arguments: str, fault: Fault | None = None, start: int | None = None) -> Iterator:
        """The same, and it must begin where the newest checkpoint stands (or at `start`, where that is another), say
        so, and leave things whole."""
        start, half_done = self.saved_batch() if start is None else start, self.half_done
        with self.begun(*arguments, fault=fault) as process:
            yield process
        session = self.sessions[-1]
        assert self.saved_batch() >= start
        if session.batches:
            assert session.batches == list(range(start, session.batches[-1] + 1)), session.said
            assert (f"{start} batch" if start else "starting fresh") in session.said
            for path in half_done:
                assert not path.match("checkpoints/*.new") or f"Removed {path}" in session.said

    def session(self, *arguments: str, fault: Fault | None = None, start: int | None = None) -> Session:
        """A session to its end, watched like that."""
        with self.watched(*arguments, fault=fault, start=start):
            pass
        return self.sessions[-1]

    def saved_batch(self) -> int:
        """Where the newest checkpoint stands, or 0; it and the one before it, and the best model, must be whole."""
        saved = self.folder.saved
        best = self.folder.best
        for folder in [*saved[:2], best if best.exists() else best.with_name("best.old")]:
            if folder.exists():
                check_seal(folder)
        return int(saved[0].name) if saved else 0

    def operations(self, *arguments: str, **fault) -> list[str]:
        """The file operations of a session that nothing befalls."""
        with self.begun(*arguments, fault=Fault(**fault)):
            pass
        return re.findall(r"^operation \d+ (.*)$", self.sessions.pop().said, re.MULTILINE)

    def reached(self, batch: int) -> bool:
        """Whether a checkpoint of this batch or a later one is there, asked while a session goes on."""
        return any(int(folder.name) >= batch for folder in self.folder.saved)

    @property
    def finished(self) -> bool:
        return self.saved_batch() == STEPS

    @property
    def half_done(self) -> list[Path]:
        """What was being written when the session ended."""
        return [path for end in ("new", "old") for path in self.folder.path.rglob(f"*.{end}")]

    @property
    def redone(self) -> int:
        """Steps that were begun again."""
        batches = [batch for session in self.sessions for batch in session.batches]
        return len(batches) - len(set(batches))

    def finish(self, *arguments: str) -> None:
        """A session that nothing befalls: it finishes the run."""
        session = self.session(*arguments)
        assert session.status == 0 and self.finished, session.said + session.complained

    def drop(self) -> None:
        """Remove it, since hundreds of them would fill a disk."""
        shutil.rmtree(self.place)

    def copy(self, place: Path) -> "SmallRun":
        """The same in another folder, from where it stands."""
        shutil.copytree(self.place, place, symlinks=True)
        twin = object.__new__(SmallRun)
        twin.__dict__ |= self.__dict__ | {"place": place, "folder": RunFolder(place / "runs" / "small"), "sessions": []}
        return twin


# ---- comparing


def contents(run: RunFolder, apart_from: str) -> dict[str, bytes]:
    """What a run has left, file by file, but for what the clock decides: who has locked it, the seconds of training and
    the name of the tracker's run, and the checksum of the file that holds them."""
    files = [file for file in run.path.rglob("*") if file.is_file() and file != run.lock_file]
    names = {str(file.relative_to(run.path)): file for file in files}
    found = {name: file.read_bytes() for name, file in names.items() if not re.search(apart_from, name)}
    for name, content in found.items():
        if name.endswith("progress.json"):
            facts = {key: value for key, value in json.loads(content).items() if key not in ("seconds", "tracker_run")}
            found[name] = json.dumps(facts).encode()
        elif name.startswith("checkpoints/last") and name.endswith(SUMS):
            found[name] = re.sub(rb".*progress\.json\n", b"", content)
    return found


def assert_identical(run: SmallRun, undisturbed: SmallRun, apart_from: str = r"(?!)") -> None:
    """That two runs have left the same files, bit for bit, but for those whose names a pattern matches."""
    ours, theirs = contents(run.folder, apart_from), contents(undisturbed.folder, apart_from)
    assert sorted(ours) == sorted(theirs), set(ours) ^ set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def wait_for(condition: Callable[[], object], alive: Callable[[], bool] = lambda: True) -> bool:
    """Wait until something holds; False where a process ends before."""
    end = time.monotonic() + LONGEST_S
    while not condition():
        if not alive():
            return False
        assert time.monotonic() < end, f"waited for more than {LONGEST_S} s"
        time.sleep(0.001)
    return True
