"""One input tried: was it refused in a sentence, what else happened, and are all files still there?"""

import contextlib
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis.strategies import SearchStrategy

from dcal_core.errors import UserError

LONGEST_S = 10  # of this process's own work; a busy machine takes longer by the clock
HANGS_S = 60
LARGEST_MB, LONGEST_MESSAGE = 500, 1500
EXECUTED = "executed"  # the file that malicious inputs make where their code is run
CURE = re.compile(
    r"\b(add|attach|choose|correct|delete|did you mean|download|drop|free|give|join|keep|leave|let|lists all|lower|make"
    r"|put|raise|remove|rename|replace|restore|resume=false|run|save|set|starts fresh|take|takes|train|try|write)\b",
    re.IGNORECASE,
)


class TooLong(BaseException):
    """An input has kept the program busy for too long; no code under test catches it."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of input: samples, how one is laid out in a folder, a judge, and the public entry that meets it."""

    name: str
    by_hand: dict[str, object]  # all of them malformed
    generated: SearchStrategy
    count: int  # malformed ones to generate
    lay_out: Callable  # (folder, sample): writes the input
    malformed: Callable  # (folder, sample) -> bool; None where there is no telling
    use: Callable  # (folder, sample) -> None where it is accepted, or the printed sentence that leaves it out
    names: Callable  # (sample) -> words of which a refusal must name one
    example: str  # the input by hand whose sentence stands in the table


@dataclass
class Tally:
    """What became of the malformed inputs of a kind, and of the sound ones that were generated between them."""

    by_hand: int = 0
    generated: int = 0
    refused: int = 0
    tracebacks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    harmed: list[str] = field(default_factory=list)
    heavy: list[str] = field(default_factory=list)  # too long or too much memory
    poor: list[str] = field(default_factory=list)  # a refusal that is no sentence with a name and a cure
    sound_refused: list[str] = field(default_factory=list)
    example: str = ""


@dataclass
class Outcome:
    """What one input led to."""

    sentence: str | None = None  # the refusal
    trace: str = ""
    harmed: bool = False
    heavy: str = ""


@contextlib.contextmanager
def time_limit(seconds: int, folder: Path):
    """Raises TooLong in the block after so many seconds, and ends what waits for a pipe in the folder."""

    def stop(*_):
        for pipe in filter(Path.is_fifo, folder.rglob("*")):
            with contextlib.suppress(OSError):  # nobody waits for it
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet():
    """Keeps output and warnings of the block from the screen; what no terminal could print raises as it would there."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def contents(folder: Path) -> Counter:
    """How often each content stands in a folder, whatever its files are called."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return Counter(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def attempt(kind: Kind, sample: object, folder: Path) -> Outcome:
    """Hand an input to its entry."""
    outcome, before, megabytes = Outcome(), contents(folder), peak_memory()
    began = time.process_time()
    try:
        with quiet(), time_limit(HANGS_S, folder):
            outcome.sentence = kind.use(folder, sample)
    except UserError as error:
        outcome.sentence = str(error)
    except TooLong:
        outcome.heavy = f"hangs for {HANGS_S} s"
    except BaseException:
        outcome.trace = traceback.format_exc(limit=-3)
    if (seconds := time.process_time() - began) > LONGEST_S:
        outcome.heavy += f" {seconds:.0f} s"
    if peak_memory() - megabytes > LARGEST_MB:
        outcome.heavy += f" {peak_memory() - megabytes} MB"
    outcome.harmed = bool(before - contents(folder)) or (folder / EXECUTED).exists()
    return outcome


def peak_memory() -> int:
    """The most memory that this process has had so far, MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def faults_of(sentence: str, words: tuple[str, ...]) -> str:
    """What a refusal lacks of one printable sentence that names its object and a cure."""
    if not sentence.isprintable():
        return "unprintable"
    if len(sentence) > LONGEST_MESSAGE:
        return f"{len(sentence)} characters"
    if not any(word in sentence for word in words):
        return f"names none of {words}"
    return "" if CURE.search(sentence) else "no cure"


def record(tally: Tally, title: str, outcome: Outcome, words: tuple[str, ...]) -> None:
    """Count the outcome of a malformed input."""
    if outcome.heavy:
        tally.heavy.append(f"{title}: {outcome.heavy}")
    if outcome.trace:
        tally.tracebacks.append(f"{title}: {outcome.trace}")
    elif outcome.sentence is None and not outcome.heavy:
        tally.accepted.append(title)
    elif outcome.sentence is not None:
        tally.refused += 1
        if fault := faults_of(outcome.sentence, words):
            tally.poor.append(f"{title}: {fault}: {outcome.sentence[:300]}")
    if outcome.harmed:
        tally.harmed.append(title)


@contextlib.contextmanager
def laid_out(kind: Kind, sample: object):
    """A folder of its own with the input in it, which is also the current folder."""
    folder, home = Path(os.path.realpath(tempfile.mkdtemp())), os.getcwd()
    try:
        os.chdir(folder)
        kind.lay_out(folder, sample)
        yield folder
    finally:
        os.chdir(home)
        shutil.rmtree(folder, ignore_errors=True)


def try_by_hand(kind: Kind, tally: Tally) -> None:
    """Try what Hypothesis would not find."""
    for name, sample in kind.by_hand.items():
        with laid_out(kind, sample) as folder:
            assert kind.malformed(folder, sample) is not False, f"the judge finds no fault with {kind.name}: {name}"
            outcome = attempt(kind, sample, folder)
            record(tally, name, outcome, kind.names(sample))
            tally.by_hand += 1
            if name == kind.example:
                tally.example = (outcome.sentence or "").replace(f"{folder}/", "")


def try_generated(kind: Kind, tally: Tally, every: int) -> None:
    """Try every so many-th of `kind.count` different malformed inputs by Hypothesis, and the sound ones that come
    between them."""
    seen = set()

    @settings(
        max_examples=kind.count // every,  # counts what is not rejected: malformed inputs
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # every one is tried once, and failures are gathered instead of shrunk
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.generated)
    def each(sample):
        title = repr(sample)
        assume(title not in seen)
        seen.add(title)
        assume(len(seen) % every == 0)  # all generators are drawn from, whatever the share
        with laid_out(kind, sample) as folder:
            verdict = kind.malformed(folder, sample)
            if verdict is None:
                reject()
            outcome = attempt(kind, sample, folder)
        if not verdict:
            if outcome.sentence is not None or outcome.trace or outcome.heavy:
                why = outcome.sentence or outcome.trace or outcome.heavy
                tally.sound_refused.append(f"{title[:300]}: {why}")
            reject()
        tally.generated += 1
        record(tally, title[:300], outcome, kind.names(sample))

    each()


def tally_of(kind: Kind, every: int) -> Tally:
    """What became of all inputs by hand of a kind, and of every so many-th generated one."""
    tally = Tally()
    try_by_hand(kind, tally)
    try_generated(kind, tally, every)
    return tally
