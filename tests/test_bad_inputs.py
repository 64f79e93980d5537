"""Malformed inputs of every kind end in one sentence: never in a traceback, in silence, or in a harmed file.

By default all inputs by hand and a fifth of the generated ones are tried; `pytest -m faults tests/test_bad_inputs.py`
tries all. `PYTHONPATH=. python tests/test_bad_inputs.py` tries all too, and writes the table into docs/bad-inputs.md.
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
FIFTH, ALL = 5, 1
HEADING = "| input | such as | by hand | generated | refused | tracebacks | accepted | harmed |"


@functools.cache
def tally(kind: Kind, every: int) -> Tally:
    """The inputs of a kind are tried once, for all tests; of the generated ones, every so many-th."""
    return tally_of(kind, every)


kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
shares = pytest.mark.parametrize("every", [FIFTH, pytest.param(ALL, marks=pytest.mark.faults)], ids="1/{}".format)


@kinds
@shares
def test_no_malformed_input_ends_in_a_traceback(kind, every):
    assert not tally(kind, every).tracebacks, "\n".join(tally(kind, every).tracebacks)


@kinds
@shares
def test_no_malformed_input_is_accepted_in_silence(kind, every):
    assert not tally(kind, every).accepted, "\n".join(tally(kind, every).accepted)


@kinds
@shares
def test_no_malformed_input_harms_a_file_or_has_its_code_run(kind, every):
    assert not tally(kind, every).harmed, "\n".join(tally(kind, every).harmed)


@kinds
@shares
def test_no_input_takes_long_or_much_memory(kind, every):
    assert not tally(kind, every).heavy, "\n".join(tally(kind, every).heavy)


@kinds
@shares
def test_every_refusal_is_one_sentence_with_the_object_and_a_cure(kind, every):
    assert not tally(kind, every).poor, "\n".join(tally(kind, every).poor)


@kinds
@shares
def test_inputs_without_fault_are_accepted(kind, every):
    assert not tally(kind, every).sound_refused, "\n".join(tally(kind, every).sound_refused)


@kinds
@shares
def test_enough_malformed_inputs_are_tried_and_all_are_refused(kind, every):
    found = tally(kind, every)
    assert (found.by_hand, found.generated) == (len(kind.by_hand), kind.count // every)
    assert found.refused == found.by_hand + found.generated
    assert len(kind.by_hand) + kind.count >= LEAST[kind]


def row(kind: Kind, found: Tally) -> str:
    """A kind's line of the table."""
    counts = found.by_hand, found.generated, found.refused
    faults = (len(names) for names in (found.tracebacks, found.accepted, found.harmed))
    return f"| {' | '.join(map(str, (kind.name, found.example.replace('|', '/'), *counts, *faults)))} |"


def table(tallies: list[Tally]) -> str:
    """What became of the inputs of all kinds, as Markdown between its marks."""
    rows = map(row, KINDS, tallies)
    return "\n".join([BEGIN, HEADING, "|---|---|" + "---:|" * 6, *rows, END])


def without_fault(kind: Kind) -> Tally:
    """What becomes of all inputs of a kind where none leads to a fault; the example is by hand, and tried."""
    by_hand, example = len(kind.by_hand), tally(kind, FIFTH).example
    return Tally(by_hand=by_hand, generated=kind.count, refused=by_hand + kind.count, example=example)


def assert_page_holds(tallies: list[Tally]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN in text and END in text, f"mark the place of the table in {PAGE}"
    assert table(tallies) in text, "not current: PYTHONPATH=. python tests/test_bad_inputs.py writes it"
    assert f"{sum(found.by_hand + found.generated for found in tallies):,} malformed" in text.replace("\n", " ")


def test_the_page_holds_a_row_for_each_kind_of_all_its_inputs():
    assert_page_holds([without_fault(kind) for kind in KINDS])


@pytest.mark.faults
def test_the_page_holds_what_became_of_all_inputs():
    assert_page_holds([tally(kind, ALL) for kind in KINDS])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    made = table([tally(kind, ALL) for kind in KINDS])
    if begun and ended:
        PAGE.write_text(before + made + after, encoding="utf-8")
    else:
        print(made)
