"""Wrong uses of the command line end in one sentence, before anything is drawn, decoded or written.

`PYTHONPATH=.:tests python tests/test_wrong_uses.py` writes the table into docs/bad-inputs.md, and how long a process
takes to answer, on a machine that does nothing else.
"""

import functools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pytest
from bad_inputs.trial import quiet
from bad_inputs.uses import AT_ONCE, USES, WITH_TORCH, Answer, answer_to, lay_out

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/bad-inputs.md"
BEGIN, END = "<!-- wrong uses: made by tests/test_wrong_uses.py -->", "<!-- end of wrong uses -->"
TIMES, TIMES_END = "<!-- times: made by tests/test_wrong_uses.py -->", "<!-- end of times -->"
LONGEST = 260  # characters of a sentence in the table


@functools.cache
def answers() -> dict[str, Answer]:
    """The answer to each use, all in one folder, which stays as it is."""
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(os.path.realpath(place))
        with quiet():
            lay_out(folder)
        os.chdir(folder)
        try:
            return {use: answer_to(use, folder) for use in USES}
        finally:
            os.chdir(home)


REFUSED = (1, 2, 3)  # 3 of verify, whose 1 and 2 are answers
uses = pytest.mark.parametrize("use", USES)


@uses
def test_a_wrong_use_ends_in_one_sentence_and_writes_nothing(use):
    answer = answers()[use]
    assert answer.status in REFUSED, answer
    assert USES[use] in answer.sentence, answer
    assert "Traceback" not in answer.printed and answer.untouched, answer


def test_enough_uses_are_tried():
    assert len(USES) >= 60


def test_what_is_refused_at_once_needs_no_torch():
    """In a process of its own, since here torch is imported."""
    at_once = [shlex.split(use) for use, answer in answers().items() if answer.when == AT_ONCE]
    assert len(at_once) >= 60
    code = (
        "import sys\nfrom dcal_core.__main__ import main\n"
        f"for use in {at_once!r}:\n"
        "    try: main(use)\n"
        "    except SystemExit: pass\n"
        "print('imported', sorted({'torch', 'timm', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            lay_out(Path(folder))
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported []", done.stderr


def row(use: str, answer: Answer) -> str:
    sentence = answer.sentence if len(answer.sentence) <= LONGEST else answer.sentence[:LONGEST] + " …"
    return f"| {f'`{use}`' if use else 'nothing'} | {answer.when} | {sentence.replace('|', '/')} |"


def table() -> str:
    """The answers as Markdown between its marks, those without torch first."""
    found = answers()
    rows = [row(use, found[use]) for when in (AT_ONCE, WITH_TORCH) for use in found if found[use].when == when]
    return "\n".join([BEGIN, "| typed after `twins` | refused | answer |", "|---|---|---|", *rows, END])


def test_the_page_holds_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert table() in text, "not current: PYTHONPATH=.:tests python tests/test_wrong_uses.py writes it"


def seconds(use: str, folder: Path) -> float:
    """How long a process of its own takes to answer."""
    began = time.monotonic()
    command = [sys.executable, "-m", "dcal_core", *shlex.split(use)]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode in REFUSED, (use, done)
    return time.monotonic() - began


def times() -> str:
    """How long the answers of each kind take, as Markdown between its marks."""
    taken = {AT_ONCE: [], WITH_TORCH: []}
    with tempfile.TemporaryDirectory() as place:
        with quiet():
            lay_out(Path(place))
        for use, answer in answers().items():
            taken[answer.when].append(seconds(use, Path(place)))
    parts = [
        f"{when}: {len(some)} uses, median {median(some):.1f} s, longest {max(some):.1f} s"
        for when, some in taken.items()
    ]
    return "\n".join(
        [
            TIMES,
            f"Measured on {os.cpu_count()} CPU cores, from a process's start to its end: {'; '.join(parts)}.",
            TIMES_END,
        ]
    )


def replaced(text: str, new: str, begin: str, end: str) -> str:
    """A page with another text between two marks, marks included."""
    before, _, rest = text.partition(begin)
    return before + new + rest.partition(end)[2]


if __name__ == "__main__":
    page = replaced(PAGE.read_text(encoding="utf-8"), table(), BEGIN, END)
    PAGE.write_text(replaced(page, times(), TIMES, TIMES_END), encoding="utf-8")
