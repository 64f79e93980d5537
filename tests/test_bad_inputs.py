"""Malformed inputs of every kind end in one sentence: never in a traceback, in silence, or in a harmed file.

`PYTHONPATH=. python tests/test_bad_inputs.py` writes the table of them into docs/bad-inputs.md.
"""

import functools
from pathlib import Path

import pytest
from bad_inputs.faces import FACES
from bad_inputs.indexes import INDEXES
from bad_inputs.lists import LISTS
from bad_inputs.parameters import PARAMETERS, PRESETS
from bad_inputs.pictures import IMAGES
from bad_inputs.runs import RUNS
from bad_inputs.trained import TRAINED
from bad_inputs.trial import Kind, Tally, tally_of
from bad_inputs.weights import WEIGHTS

KINDS = [INDEXES, LISTS, IMAGES, PRESETS, PARAMETERS, RUNS, TRAINED, WEIGHTS, FACES]
PAGE = Path(__file__).parents[1] / "docs/bad-inputs.md"
BEGIN, END = "<!-- bad inputs: made by tests/test_bad_inputs.py -->", "<!-- end of bad inputs -->"
LEAST = {INDEXES: 40, LISTS: 20, IMAGES: 30, PRESETS: 15, PARAMETERS: 25, RUNS: 40, TRAINED: 40, WEIGHTS: 40, FACES: 40}
HEADING = "| input | such as | by hand | generated | refused | tracebacks | accepted | harmed |"


@functools.cache
def tally(kind: Kind) -> Tally:
    """The inputs of a kind are tried once, for all tests."""
    return tally_of(kind)


kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@kinds
def test_no_malformed_input_ends_in_a_traceback(kind):
    assert not tally(kind).tracebacks, "\n".join(tally(kind).tracebacks)


@kinds
def test_no_malformed_input_is_accepted_in_silence(kind):
    assert not tally(kind).accepted, "\n".join(tally(kind).accepted)


@kinds
def test_no_malformed_input_harms_a_file_or_has_its_code_run(kind):
    assert not tally(kind).harmed, "\n".join(tally(kind).harmed)


@kinds
def test_no_input_takes_long_or_much_memory(kind):
    assert not tally(kind).heavy, "\n".join(tally(kind).heavy)


@kinds
def test_every_refusal_is_one_sentence_with_the_object_and_a_cure(kind):
    assert not tally(kind).poor, "\n".join(tally(kind).poor)


@kinds
def test_inputs_without_fault_are_accepted(kind):
    assert not tally(kind).sound_refused, "\n".join(tally(kind).sound_refused)


@kinds
def test_enough_malformed_inputs_are_tried_and_all_are_refused(kind):
    found = tally(kind)
    assert (found.by_hand, found.generated) == (len(kind.by_hand), kind.count)
    assert found.refused == found.by_hand + found.generated >= LEAST[kind]


def row(kind: Kind) -> str:
    """A kind's line of the table."""
    found = tally(kind)
    counts = found.by_hand, found.generated, found.refused
    faults = (len(names) for names in (found.tracebacks, found.accepted, found.harmed))
    return f"| {' | '.join(map(str, (kind.name, found.example.replace('|', '/'), *counts, *faults)))} |"


def table() -> str:
    """What became of the inputs, as Markdown between its marks."""
    return "\n".join([BEGIN, HEADING, "|---|---|" + "---:|" * 6, *map(row, KINDS), END])


def test_the_page_holds_this_table():
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN in text and END in text, f"mark the place of the table in {PAGE}"
    assert table() in text, "not current: PYTHONPATH=. python tests/test_bad_inputs.py writes it"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if begun and ended:
        PAGE.write_text(before + table() + after, encoding="utf-8")
    else:
        print(table())
