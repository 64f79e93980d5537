"""Forms take turns in processes of their own, and the table holds what they answer."""

import os

import numpy as np
import pytest

from benchmarks.deploy.__main__ import time_forms
from benchmarks.deploy.table import BEGIN, END, goals, ratio, table, with_table
from benchmarks.deploy.worker import Worker


class Told:
    """Stands for a process: its seconds, one an asking; a RuntimeError where one is None."""

    def __init__(self, log, name, seconds):
        self.log, self.name, self.seconds = log, name, iter(seconds)

    def ask(self, batch):
        self.log.append((self.name, batch))
        seconds = next(self.seconds)
        if seconds is None:
            raise RuntimeError("no compiler")
        return {"seconds": seconds}


def test_forms_take_turns_and_one_that_fails_is_left_out():
    log = []
    workers = {"eager": Told(log, "eager", [9, 2, 4, 9, 8]), "compiled": Told(log, "compiled", [9, 1, None])}
    found = time_forms(workers, {1: 2, 32: 1})
    assert found["eager"] == {"seconds": {1: [2, 4], 32: [8]}}
    assert found["compiled"]["failed"] == "no compiler" and log.count(("compiled", 32)) == 0
    assert log[:4] == [("eager", 1), ("compiled", 1)] * 2


def test_the_table_shows_ratios_of_the_same_round():
    def form(one, many, size, cost=None):
        found = {"seconds": {1: one, 32: many}, "bytes": size, "peak": 5e8}
        return found | (
            {"eer": 0.1, "eer_cost": {"value": cost, "low": -0.01, "high": 0.02}} if cost is not None else {}
        )

    forms = {
        "eager": form([0.2, 0.4, 0.2], [4.0, 8.0, 4.0], 9e6, 0.0),
        "ONNX int8": form([0.1, 0.1, 0.1], [2.0, 2.0, 2.0], 2e6, 0.006),
        "compiled": {"failed": "no compiler"},
    }
    assert ratio(forms, "ONNX int8", 1).tolist() == [2, 4, 2]
    assert goals(forms) == (
        "fastest: ONNX int8, 2.00 times (goal 1.6: met); int8: 0.22 of the size (goal 0.33: met); "
        "+0.60 points of EER (goal 0.5: MISSED)."
    )
    subject = {"subject": "a", "int8": "dynamic", "nodes": {"MatMulInteger": 3}, "forms": forms}
    about = {"device": "CPU", "threads": 2, "instructions": [], "date": "today", "load": [1.0, 2.0]}
    text = table(about | {"subjects": [subject]})
    assert "| ONNX int8 | 100.0 / 100.0 | 2.00 (2.00 to 3.00) | 8 | 2.00 (2.00 to 3.00) | 2.0 | 500 | +0.60" in text
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", text) == f"a\n{BEGIN}\n{text.strip()}\n{END}\nb"
    assert "| compiled | failed: no compiler |" in text and "instructions for 8 bits: none" in text


@pytest.mark.faults
def test_a_process_that_ends_says_why(tmp_path):
    worker = Worker(tmp_path, "ONNX", 32, os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."})
    with pytest.raises(RuntimeError, match="there is no such file"):
        worker.ask(batch=1)
    worker.end()


@pytest.mark.faults
def test_the_worker_answers_on_a_small_model(tmp_path):
    from benchmarks.deploy.subjects import Subject, write_forms

    about, _ = write_forms(Subject("tiny", values={"backbone": "hybrid_tiny", "image_size": 32}), tmp_path)
    faces = np.zeros((3, 32, 32, 3), np.uint8)
    np.save(tmp_path / "faces.npy", faces)
    rows = {}
    for form in ("eager", "ONNX", "ONNX int8"):
        worker = Worker(tmp_path, form, about["size"], os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."})
        assert worker.ask(batch=2)["seconds"] > 0
        worker.ask(faces=str(tmp_path / "faces.npy"), rows=str(tmp_path / "rows.npy"))
        rows[form] = np.load(tmp_path / "rows.npy")
        assert worker.ask(peak=True)["bytes"] > 2**24
        worker.end()
    np.testing.assert_allclose(rows["ONNX"], rows["eager"], atol=1e-4)
    assert 0 < np.abs(rows["ONNX int8"] - rows["eager"]).max() < 0.5
