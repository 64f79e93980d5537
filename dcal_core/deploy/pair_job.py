"""Many pairs to one CSV file: each distinct image encoded once, results appended block by block, resumed after a kill.

Beside `results.csv` stand `results.csv.json`, which says what made it and how far it is, and, until it is finished,
`results.csv.cache`, the descriptors. M distinct images of a share; P pairs; D numbers in a descriptor.
"""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from dcal_core.deploy.answers import SAME_LOOK, decimal, told
from dcal_core.deploy.cache import Described
from dcal_core.deploy.pair_sources import PairSource
from dcal_core.deploy.predictor import Predictor, error_of
from dcal_core.errors import ConfigError
from dcal_core.progress import progress_line
from dcal_core.storage import disk_errors, read_json, write_text
from dcal_core.verification.comparisons import SCORE_DECIMALS, rounded
from dcal_core.verification.verdicts import VERDICTS, verdicts

COLUMNS = (
    "image_a",
    "image_b",
    "verdict",
    "score",
    "log10_lr",
    "log10_lr_unrelated",
    "inside",
    "reasons",
    "doubts",
    "error",
)
ROWS = 5000  # pairs that are written together
IN_MEMORY = 512 * 2**20  # bytes of descriptors above which they go to a file
AT_ONCE = 64 * 2**20  # bytes of descriptors that are compared at once
INSIDE = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, eq=False)
class Table:
    """The images of a share: rows [M, D]; of each what a result says of it, whether it has a descriptor, and the number
    of its look."""

    rows: np.ndarray
    described: list
    usable: np.ndarray
    looks: np.ndarray


def share_of(count: int, part: int, parts: int) -> tuple[int, int]:
    """The first pair of one of several shares, which follow one another, and the one behind its last."""
    return count * (part - 1) // parts, count * part // parts


def share_file(output: Path, part: int, parts: int) -> Path:
    """The file of a share: results.csv -> results.03-of-16.csv, so that names sort as the shares follow."""
    width = len(str(parts))
    return output.with_name(f"{output.stem}.{part:0{width}d}-of-{parts}{output.suffix}")


def encode_here(predictor: Predictor, root: Path, names: Sequence[str], batch: int) -> Iterator[tuple[int, Described]]:
    """Images below a folder, each with its place among the names, encoded by this process."""
    for start in progress_line(range(0, len(names), batch), desc="encoding", unit="batch", file=sys.stderr):
        some = names[start : start + batch]
        yield from enumerate(predictor.describe([root / name for name in some], some, batch), start)


Encode = Callable[[Predictor, Path, Sequence[str], int], Iterator[tuple[int, Described]]]  # gives places in any order


def compare_all(
    predictor: Predictor, source: PairSource, output: TextIO, begin: int, end: int, encode: Encode = encode_here
) -> int:
    """Write the results of pairs `begin` to `end` to an open file, with headings; returns how many have no answer."""
    csv.writer(output).writerow(COLUMNS)
    unanswered = 0
    for lines, _ in blocks(predictor, source, begin, end, encode):
        csv.writer(output).writerows(lines)
        output.flush()
        unanswered += sum(bool(line[-1]) for line in lines)
    return unanswered


def compare_to_file(
    predictor: Predictor, source: PairSource, output: Path, begin: int, end: int, encode: Encode = encode_here
) -> int:
    """The same to a file, going on where an earlier call with the same pairs and model was interrupted.

    Returns how many pairs of the whole file have no answer. ConfigError where the file is of something else;
    StorageError.
    """
    state_file = output.with_name(f"{output.name}.json")
    job = {
        "pairs": source.identity,
        "from": begin,
        "to": end,
        "label": predictor.label,
        "model": predictor.engine.about["provenance"],
        "faces_found": predictor.reader.finds,
        "unchecked": predictor.unchecked,
    }
    state = begun(output, state_file, job)
    if state is None:
        state = {"rows": 0, "bytes": 0}
        write_note(state_file, state, job)  # before the file, which no later call would take for its own without it
    elif 0 < state["rows"] < end - begin:
        print(f"{output}: going on after {state['rows']:,} pairs.", file=sys.stderr)
    with disk_errors(output), open(output, "r+b" if output.exists() else "xb") as binary:
        binary.truncate(state["bytes"])
        binary.seek(state["bytes"])
        with open(binary.fileno(), "w", encoding="utf-8", newline="", closefd=False, errors="surrogateescape") as text:
            writer = csv.writer(text)
            if not state["bytes"]:
                writer.writerow(COLUMNS)
            done = state["rows"]
            for lines, finished in blocks(predictor, source, begin + done, end, encode):
                writer.writerows(lines)
                text.flush()
                os.fsync(binary.fileno())
                write_note(state_file, {"rows": finished - begin, "bytes": os.fstat(binary.fileno()).st_size}, job)
    with open(output, encoding="utf-8", newline="", errors="surrogateescape") as text:
        return sum(bool(row[-1]) for row in csv.reader(text)) - 1  # the headings


def write_note(state_file: Path, state: dict, job: dict) -> None:
    """Say beside a file how far it is, and of what."""
    write_text(state_file, json.dumps(state | {"job": job}, indent=1) + "\n")


def begun(output: Path, state_file: Path, job: dict) -> dict | None:
    """How far a file is, None if it is not begun; ConfigError if it is of another job, or shorter than noted."""
    if not state_file.is_file():
        if output.exists() and output.stat().st_size > 0:
            raise ConfigError(f"{output} is there already, and no {state_file.name} beside it: name another file.")
        output.unlink(missing_ok=True)
        return None
    state = read_json(state_file)
    if differing := changes(state.get("job", {}), job):
        raise ConfigError(
            f"{output} was made {', and '.join(differing)}: delete it and {state_file.name}, or name another file."
        )
    if state["bytes"] and (not output.is_file() or output.stat().st_size < state["bytes"]):
        raise ConfigError(f"{output} is shorter than {state_file.name} notes: delete both to begin again.")
    if output.is_file() and not begins_as_results(output):
        raise ConfigError(f"{output} does not begin as results do, so it is another file: name another one.")
    return state


def begins_as_results(file: Path) -> bool:
    """Whether a file begins with the headings of results, or is cut off within them."""
    headings = ",".join(COLUMNS).encode() + b"\r\n"
    with disk_errors(file), open(file, "rb") as binary:
        return headings.startswith(binary.read(len(headings)))


def changes(before: dict, now: dict) -> list[str]:
    """How one job differs from another, as clauses that follow "was made"."""
    different = {name for name in now if before.get(name) != now[name]}
    found = []
    if different & {"pairs", "from", "to"}:
        counts = [f"{job.get('to', 0) - job.get('from', 0):,}" for job in (before, now)]
        found.append(f"from another list of pairs ({counts[0]} then, {counts[1]} now)")
    if different & {"model", "label"}:
        found.append("with another model")
    if different & {"faces_found", "unchecked"}:
        found.append("with another way to find faces (--aligned, or the packages that find them)")
    return found


def blocks(
    predictor: Predictor, source: PairSource, begin: int, end: int, encode: Encode
) -> Iterator[tuple[list[tuple], int]]:
    """The result rows of pairs `begin` to `end`, ROWS at a time, each with the number of the pair behind its last."""
    if begin >= end:
        return
    needed = np.zeros(len(source.names), dtype=bool)
    for pair in source.places(begin, end):
        needed[list(pair)] = True
    chosen = np.flatnonzero(needed)
    table = table_of(predictor, source, chosen, encode)
    place_of = np.full(len(needed), -1)
    place_of[chosen] = np.arange(len(chosen))
    pairs = source.places(begin, end)
    for start in progress_line(range(begin, end, ROWS), desc="comparing", unit=f"{ROWS} pairs", file=sys.stderr):
        stop = min(start + ROWS, end)
        some = np.array([next(pairs) for _ in range(start, stop)])
        yield lines_of(predictor, source, table, some, place_of[some]), stop


def table_of(predictor: Predictor, source: PairSource, chosen: np.ndarray, encode: Encode = encode_here) -> Table:
    """The chosen images of a source, each read and encoded once."""
    batch = predictor.batch_for(len(source.names))  # of all images, so that shares give the same digits
    described = [Described()] * len(chosen)
    rows = None
    for place, one in encode(predictor, source.root, [source.names[place] for place in chosen], batch):
        if rows is None and one.row is not None:
            rows = matrix(len(chosen), len(one.row))
        if one.row is not None:
            rows[place] = one.row
        described[place] = one.without_row()
    _, looks = np.unique([one.look for one in described], return_inverse=True)
    usable = np.array([not one.error for one in described])
    return Table(np.zeros((len(chosen), 1), np.float32) if rows is None else rows, described, usable, looks)


def matrix(images: int, width: int) -> np.ndarray:
    """Room for descriptors [M, D], in a file without a name where it is large."""
    if images * width * 4 <= IN_MEMORY:
        return np.zeros((images, width), np.float32)
    with tempfile.TemporaryFile() as file:
        file.truncate(images * width * 4)
        return np.memmap(file, np.float32, "r+", shape=(images, width))


def lines_of(predictor: Predictor, source: PairSource, table: Table, named: np.ndarray, places: np.ndarray) -> list:
    """The result rows of pairs [P, 2], by their places among the names and in the table."""
    known = table.described
    names = [[source.names[place] for place in side] for side in named.T]
    a, b = places.T
    right = table.usable[a] & table.usable[b]
    scores = np.full(len(a), np.nan)
    scores[right] = scores_of(predictor, table.rows, a[right], b[right])
    right &= np.isfinite(scores)
    same = table.looks[a] == table.looks[b]
    judged = np.where(right, scores, 0.0)
    verdict = verdicts(judged, predictor.rule.thresholds)
    verdict[same] = 0
    ratios = [decimal(one, judged) for one in (predictor.rule.calibration, predictor.rule.strangers)]
    said = ~(same | ~right)
    texts = [
        [f"{value:.4f}" if shown else "" for value, shown in zip(values.tolist(), said.tolist(), strict=True)]
        if values is not None
        else [""] * len(a)
        for values in ratios
    ]
    lines = []
    for n, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        first, second = names[0][n], names[1][n]
        if not right[n]:
            why = error_of(first, second, known[i], known[j]) or "the model gives these pictures no finite score"
            lines.append((first, second, "", "", "", "", "", "", "", why))
            continue
        reasons = doubts = ""
        if known[i].reasons or known[j].reasons:
            reasons = "; ".join(told(first, known[i].reasons) + told(second, known[j].reasons))
        if known[i].doubts or known[j].doubts or same[n]:
            found = [f"{first} {one}" for one in known[i].doubts] + [f"{second} {one}" for one in known[j].doubts]
            doubts = "; ".join([*found, *([SAME_LOOK] if same[n] else [])])
        inside = None if predictor.limits is None else not reasons
        score = f"{scores[n]:.{SCORE_DECIMALS}f}"
        lines.append(
            (first, second, VERDICTS[verdict[n]], score, texts[0][n], texts[1][n], INSIDE[inside], reasons, doubts, "")
        )
    return lines


def scores_of(predictor: Predictor, rows: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scores [P] of rows by their places, always so many at once, since digits may depend on it."""
    at_once = max(1, min(4096, AT_ONCE // (4 * rows.shape[1])))
    found = np.empty(len(a))
    for start in range(0, len(a), at_once):
        some = slice(start, start + at_once)
        filled = np.resize(a[some], at_once), np.resize(b[some], at_once)
        scores = predictor.engine.compare_pairs(rows[filled[0]], rows[filled[1]])
        found[some] = scores[: len(found[some])]
    return rounded(found)
