"""A byte of a checkpoint that has changed, a file cut short or missing: it is named, set aside, and the one before it
used."""

import pytest
from disturbed import STEPS, assert_identical

LONG = pytest.mark.faults


def flip(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(file) -> None:
    file.unlink()


def newest(run):
    return run.folder.checkpoint(run.saved_batch())


@pytest.mark.parametrize(
    ("damage", "most"), [(flip, 2), *(pytest.param(damage, 99, marks=LONG) for damage in (flip, cut, remove))]
)
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_it_used(bench, tally, damage, most):
    stopped = bench.stopped_at(STEPS - 1)
    for name in sorted(file.name for file in newest(stopped).iterdir())[:most]:
        run = stopped.copy(bench.new_place())
        checkpoint = newest(run)
        damage(checkpoint / name)
        left = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
        session = run.session(start=STEPS - 2)
        assert session.status == 0 and run.finished, session.complained
        sentence = next(line for line in session.said.splitlines() if "is damaged" in line)
        assert name in sentence and str(checkpoint) in sentence and "The checkpoint before it is used." in sentence
        aside = checkpoint.with_name(f"{checkpoint.name}.damaged1")
        assert {file.name: file.read_bytes() for file in aside.iterdir()} == left
        assert_identical(run, bench.undisturbed, apart_from=r"\.damaged1/")
        tally(f"a file of a checkpoint damaged ({damage.__name__})", damaged=1, redone=1, runs=1, identical=1)
        run.drop()


def test_where_every_checkpoint_is_damaged_no_session_starts_over_unasked(bench):
    run = bench.stopped_at(3)
    for checkpoint in run.folder.saved:
        flip(checkpoint / "model.safetensors")
    metrics = run.folder.metrics.read_bytes()
    for _ in range(2):
        with run.begun():
            pass
        session = run.sessions[-1]
        assert session.status == 1 and session.batches == [] and "Traceback" not in session.complained
        assert "resume=false starts fresh" in session.complained
    assert run.folder.metrics.read_bytes() == metrics
