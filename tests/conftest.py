"""What the tests of several folders share."""

import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from dcal_core import environment
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.errors import UserError

# On tiny tensors a second thread only waits; this process, then those that it starts.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Processes that tests start find the library by themselves, even where `make` has installed this checkout.
os.environ["PYTHONPATH"] = str(Path(__file__).parent / "not_installed")

# The files that take longest, in seconds. Two processes begin with them, and the short ones then fill both to the end.
HERE = Path(__file__).parent
LONGEST = {
    "test_notebooks.py": 82,
    "commands/test_explain.py": 38,
    "training/test_loop.py": 29,
    "test_distributed.py": 28,
    "benchmarks/gpu/test_gpu.py": 28,
    "commands/test_prepare.py": 28,
    "test_fake_gpu.py": 23,
    "test_main.py": 20,
    "benchmarks/ablation/test_runs.py": 17,
    "test_run_folder.py": 16,
    "commands/test_evaluate.py": 15,
    "benchmarks/speed/test_bench.py": 14,
    "recipes/test_a_new_system.py": 14,
    "faults/test_kills.py": 13,
    "faults/test_damage.py": 12,
    "models/test_weight_files.py": 12,
    "faults/test_no_room.py": 10,
    "test_bad_inputs.py": 10,
    "commands/test_at_chance.py": 10,
}

DEADLY = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir", "chmod")


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # one of several processes
        seconds = {HERE / name: seconds for name, seconds in LONGEST.items()}
        assert all(file.is_file() for file in seconds)
        items.sort(key=lambda item: -seconds.get(item.path, 0))


@pytest.fixture(autouse=True)
def one_thread():
    """As above also after a test of what sets the number of threads: two that share a core wait for each other."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def off_kaggle():
    """Moves, by a monkeypatch, into a folder on a machine that is not Kaggle's; its `input` stands for Kaggle's."""

    def move(patch: pytest.MonkeyPatch, folder: Path) -> None:
        patch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
        patch.setattr(environment, "KAGGLE_INPUT", folder / "input")
        patch.chdir(folder)

    return move


@pytest.fixture(scope="session")
def draw_apart(off_kaggle, tmp_path_factory):
    """Moves, by a monkeypatch, as `off_kaggle` does, and lets twins be drawn into a new folder by one process."""

    def move(patch: pytest.MonkeyPatch) -> None:
        off_kaggle(patch, tmp_path_factory.mktemp("empty"))
        scratch = tmp_path_factory.mktemp("drawn")
        patch.setattr(splits, "scratch_root", lambda: scratch)
        patch.setattr(splits, "generate", partial(generate, workers=1))

    return move


@pytest.fixture
def elsewhere(off_kaggle, monkeypatch, tmp_path):
    """An empty folder on a machine that is not Kaggle's."""
    off_kaggle(monkeypatch, tmp_path)


HOLD = """
import os, sys, time
from pathlib import Path
from dcal_core.locks import lock
lock(Path(sys.argv[1]), "the run in there")
if len(sys.argv) > 2 and not os.fork():  # such as a loader's worker, which outlives its parent for a while
    time.sleep(60)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts another process that holds the lock on a file, perhaps with a child, and waits until it does."""
    started = []

    def start(file: Path, *child: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(file), *child]
        process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def refused():
    """A context whose block must be refused by an error of exactly the given kind, in one line that ends as a sentence
    does, can be read at a glance and holds the given words, such as the file, the value and the cure."""

    @contextmanager
    def context(kind: type, *words: object):
        assert issubclass(kind, UserError)
        with pytest.raises(UserError) as refusal:
            yield
        sentence = str(refusal.value)
        assert type(refusal.value) is kind, sentence
        assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 900, sentence
        assert [word for word in map(str, words) if word not in sentence] == [], sentence

    return context


@pytest.fixture
def killed_at():
    """Calls something in another process, which is killed, without any clearing up, at its n-th call of those that
    change what is on the disk; returns whether it was killed, and not done before that."""

    def killed(number: int, work) -> bool:
        child = os.fork()
        if not child:
            calls = itertools.count()

            def deadly(function):
                return lambda *args, **keywords: os._exit(9) if next(calls) == number else function(*args, **keywords)

            for name in DEADLY:
                setattr(os, name, deadly(getattr(os, name)))
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 9

    return killed


class Malicious:
    """Its unpickling makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


FORMATS = {
    "torch": torch.save,
    "legacy torch": lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
    "pickle": lambda content, file: file.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle of text": lambda content, file: file.write_bytes(pickle.dumps(content, protocol=0)),
}


@pytest.fixture(params=FORMATS)
def attack(request, tmp_path):
    """A way to write a file whose unpickling makes another file, `touched`; shown to work on a reader that trusts."""

    class Attack:
        touched = tmp_path / "touched"

        def write(self, file: Path) -> None:
            FORMATS[request.param]({"weight": torch.zeros(2), "attack": Malicious(self.touched)}, file)

    attack = Attack()
    attack.write(tmp_path / "trusted.pt")
    if "torch" in request.param:
        torch.load(tmp_path / "trusted.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "trusted.pt").read_bytes())
    attack.touched.unlink()
    (tmp_path / "trusted.pt").unlink()
    return attack


@pytest.fixture
def no_connection(monkeypatch):
    """Lets any attempt to reach another machine fail the test, whatever the code under test makes of it."""
    reached = []

    def reach(*arguments, **keywords):
        reached.append(arguments)
        raise OSError("no network in this test")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, reach)
    yield
    assert reached == []
