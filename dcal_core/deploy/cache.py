"""Descriptors that were computed before, by the content of the picture: in memory and, if asked for, in a file."""

import contextlib
import json
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from dcal_core.storage import DamagedError, StorageError

MEMORY = 256 * 2**20  # bytes of descriptors
WAIT_S = 60  # for another process that writes to the file


@dataclass(frozen=True, eq=False)
class Described:
    """A picture as a model knows it.

    row: its descriptor [D] float32, None with an error. look: the same for pictures whose faces have the same pixels,
    or mirrored ones. measures, doubts: as of `ReadFace`; reasons: why it lies outside the validated range. error: why
    it cannot be compared, "" where it can.
    """

    row: np.ndarray | None = None
    look: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    error: str = ""

    def without_row(self) -> "Described":
        """All but the descriptor."""
        return replace(self, row=None)


class FeatureCache:
    """The pictures that a predictor described last; safe to use from several threads and, its file, processes.

    most: bytes of descriptors in memory. file: an SQLite database that keeps all of them; None: memory only.
    """

    def __init__(self, most: int = MEMORY, file: Path | None = None):
        self.most = most
        self.file = file
        self.size = 0
        self.kept: OrderedDict[str, Described] = OrderedDict()
        self.lock = threading.RLock()
        self.base = None
        if file is not None:
            with self._errors():
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                self.base = sqlite3.connect(file, timeout=WAIT_S, check_same_thread=False)
                self.base.execute("PRAGMA journal_mode=WAL")
                self.base.execute("CREATE TABLE IF NOT EXISTS pictures (key TEXT PRIMARY KEY, row BLOB, about TEXT)")

    def get(self, key: str) -> Described | None:
        """What is kept under a key."""
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
            if self.base is None:
                return None
            with self._errors():
                found = self.base.execute("SELECT row, about FROM pictures WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            described = restored(*found)
            self._keep(key, described)
            return described

    def put(self, described: dict[str, Described]) -> None:
        """Keep pictures by their keys."""
        with self.lock:
            for key, one in described.items():
                self._keep(key, one)
            if self.base is None:
                return
            rows = [(key, *stored(one)) for key, one in described.items()]
            with self._errors(), self.base:
                self.base.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", rows)

    def is_empty(self) -> bool:
        """Whether nothing is kept, in memory and in the file."""
        with self.lock:
            if self.kept or self.base is None:
                return not self.kept
            with self._errors():
                return not self.base.execute("SELECT EXISTS (SELECT 1 FROM pictures)").fetchone()[0]

    def close(self) -> None:
        """Let go of the file."""
        if self.base is not None:
            self.base.close()

    def _keep(self, key: str, described: Described) -> None:
        if (old := self.kept.pop(key, None)) is not None:
            self.size -= weight(old)
        self.kept[key] = described
        self.size += weight(described)
        while self.size > self.most and len(self.kept) > 1:
            self.size -= weight(self.kept.popitem(last=False)[1])

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"{self.file} cannot be used ({error}): give another cache, or free it.") from None
            raise DamagedError(f"{self.file} is damaged ({error}): delete it, it can be made again.") from None


def stored(described: Described) -> tuple[bytes | None, str]:
    """A picture as bytes of its descriptor and JSON of all else."""
    about = {name: value for name, value in asdict(described.without_row()).items() if name != "row"}
    return None if described.row is None else described.row.tobytes(), json.dumps(about)


def restored(row: bytes | None, about: str) -> Described:
    """A picture from what `stored` made of it."""
    return Described(None if row is None else np.frombuffer(row, np.float32), **json.loads(about))


def weight(described: Described) -> int:
    """Bytes of a descriptor, and some for what is known beside it."""
    return 2000 + (0 if described.row is None else described.row.nbytes)
