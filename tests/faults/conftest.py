"""The drawn twins, the undisturbed run that all others are compared with, and the table at the end."""

import itertools
import os
import subprocess
import sys
import time
from collections import defaultdict

import pytest
import yaml
from disturbed import ROOT, VALUES, Fault, SmallRun
from tiny import drawn_twins

TABLE: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # kind of fault -> counts
# SIGKILLs, those that left something half written, SIGTERMs, full disks, damaged files, steps begun again,
# runs, and those of them that ended as the undisturbed one.
COLUMNS = ("kills", "inside", "SIGTERMs", "no room", "damaged", "redone", "runs", "identical")


class Bench:
    """Makes runs that share their data, and keeps the undisturbed one and how long it took."""

    def __init__(self, folder):
        self.folder, self.numbers = folder, itertools.count()
        twins = drawn_twins(folder / "twins")
        self.preset = folder / "small.yaml"
        self.preset.write_text(yaml.safe_dump(VALUES | {"data_root": str(twins)}))
        (folder / "scratch").mkdir()
        self.new_run().finish()  # which decodes the images
        began = time.monotonic()
        self.undisturbed = self.new_run()
        self.undisturbed.finish()
        self.span_s = time.monotonic() - began

    def new_run(self, place=None) -> SmallRun:
        return SmallRun(place or self.new_place(), self.preset, self.folder / "scratch")

    def new_place(self):
        return self.folder / f"run{next(self.numbers)}"

    def stopped_at(self, batch: int) -> SmallRun:
        """A run that was killed as it began a batch."""
        run = self.new_run()
        assert run.session(fault=Fault(batch=batch)).status == -9 and run.saved_batch() == batch
        return run


@pytest.fixture(scope="session")
def environment():
    """What every process here is started with: one thread, no GPU, not on Kaggle, dcal_core and these files found."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("KAGGLE_", "DCAL_"))]:
            patch.delenv(name)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "faults"])))
        yield


@pytest.fixture(scope="session")
def bench(environment, tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def command():
    """Starts `python -m dcal_core train` in a run's place, as a shell does."""

    def start(run: SmallRun, *arguments: str) -> subprocess.Popen:
        words = [sys.executable, "-m", "dcal_core", "train", "-f", str(run.preset), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, cwd=run.place, start_new_session=True, **pipes)

    return start


@pytest.fixture
def tally():
    """Adds counts to a row of the table."""

    def add(kind: str, **counts: int) -> None:
        assert set(counts) <= set(COLUMNS)
        for name, count in counts.items():
            TABLE[kind][name] += count

    return add


def pytest_terminal_summary(terminalreporter):
    if not TABLE:
        return
    rows = TABLE | {"all": {name: sum(row.get(name, 0) for row in TABLE.values()) for name in COLUMNS}}
    terminalreporter.section("disturbed runs")
    terminalreporter.write_line(" " * 52 + "".join(f"{name:>10}" for name in COLUMNS))
    for kind, row in rows.items():
        terminalreporter.write_line(f"{kind:52}" + "".join(f"{row.get(name, ''):>10}" for name in COLUMNS))
