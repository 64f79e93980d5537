"""Many pairs to one file: as `verify` has them, each image encoded once, the same bytes after kills and by shares."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from tiny_predictor import ColourEngine, picture, predictor, written

from dcal_core.data.twins import DataError
from dcal_core.deploy import pair_job
from dcal_core.deploy.pair_job import COLUMNS, compare_all, compare_to_file, share_file, share_of
from dcal_core.deploy.pair_sources import folder_pairs, listed_pairs
from dcal_core.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listed(tmp_path):
    """A list of 66 pairs of 12 files, of which one is broken."""
    files = written(tmp_path, 12)
    files[7].write_bytes(b"broken")
    pairs = list(combinations([file.name for file in files], 2))
    content = "image_a,image_b\r\n" + "".join(f"{a},{b}\r\n" for a, b in pairs)
    return listed_pairs(content.encode(), "pairs.csv", tmp_path), pairs


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def all_of(source, judge=None, begin=0, end=None) -> str:
    out = io.StringIO(newline="")
    compare_all(judge or predictor(), source, out, begin, source.count if end is None else end)
    return out.getvalue()


def test_results_are_those_of_single_answers(listed, tmp_path):
    source, pairs = listed
    judge = predictor()
    rows = rows_of(all_of(source, judge))
    assert [(row["image_a"], row["image_b"]) for row in rows] == pairs and tuple(rows[0]) == COLUMNS
    assert judge.engine.encoded <= 16  # each once, and a batch filled up
    for row in rows:
        answer = predictor().verify(tmp_path / row["image_a"], tmp_path / row["image_b"])
        assert bool(row["error"]) == bool(answer.error) == ("007.png" in row["image_a"] + row["image_b"])
        if not answer.error:
            assert float(row["score"]) == pytest.approx(answer.score, abs=0.02) and row["verdict"] == answer.verdict
            assert float(row["log10_lr"]) == pytest.approx(answer.log10_lr, abs=1e-2)


def test_shares_joined_are_the_whole(listed, tmp_path):
    source, _ = listed
    whole = all_of(source)
    for parts in (2, 5):
        texts = [all_of(source, None, *share_of(source.count, part, parts)) for part in range(1, parts + 1)]
        head = ",".join(COLUMNS) + "\r\n"
        assert head + "".join(text.removeprefix(head) for text in texts) == whole
    assert sum(end - begin for begin, end in (share_of(7, part, 3) for part in (1, 2, 3))) == 7
    assert share_file(Path("x/results.csv"), 3, 16) == Path("x/results.03-of-16.csv")


def test_a_job_goes_on_after_every_interruption(listed, tmp_path, monkeypatch, capsys):
    source, _ = listed
    monkeypatch.setattr(pair_job, "ROWS", 10)
    whole = all_of(source)
    output = tmp_path / "results.csv"

    class Stop(Exception):
        pass

    class Stopping(ColourEngine):
        left = 2

        def compare_pairs(self, a, b):
            self.left -= 1
            if self.left < 0:
                raise Stop
            return super().compare_pairs(a, b)

    for turn in range(3):
        judge = predictor()
        judge.engine = Stopping()
        with pytest.raises(Stop):
            compare_to_file(judge, source, output, 0, source.count)
        noted = json.loads((tmp_path / "results.csv.json").read_text())
        assert noted["rows"] == 20 * (turn + 1)
        with output.open("ab") as file:
            file.write(b"half a li")  # as a kill leaves it
        assert ("going on after" in capsys.readouterr().err) == (turn > 0)
    compare_to_file(predictor(), source, output, 0, source.count)
    assert "results.csv: going on after 60 pairs." in capsys.readouterr().err
    assert output.read_bytes().decode() == whole
    before = output.stat().st_mtime_ns
    compare_to_file(predictor(), source, output, 0, source.count)  # nothing is left to do
    assert output.read_bytes().decode() == whole and output.stat().st_mtime_ns >= before


def test_files_of_other_jobs_are_not_touched(listed, tmp_path):
    source, _ = listed
    output = tmp_path / "results.csv"
    output.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        compare_to_file(predictor(), source, output, 0, source.count)
    assert output.read_text() == "mine"
    output.unlink()
    compare_to_file(predictor(), source, output, 0, source.count)
    for judge, end, what in (
        (predictor(provenance={"weights": "1" * 64}), source.count, "with another model: delete"),
        (predictor(), 5, r"from another list of pairs \(66 then, 5 now\): delete"),
        (predictor(label="SYNTHETIC"), source.count, "with another model: delete"),
    ):
        with pytest.raises(ConfigError, match=f"was made {what}"):
            compare_to_file(judge, source, output, 0, end)
    output.write_bytes(output.read_bytes()[:50])
    with pytest.raises(ConfigError, match="shorter"):
        compare_to_file(predictor(), source, output, 0, source.count)


@pytest.mark.parametrize("left", [None, b"", b"image_a,ima", (",".join(COLUMNS) + "\r\na.png,b.p").encode()])
def test_a_job_goes_on_after_a_kill_in_its_first_block(left, listed, tmp_path, monkeypatch):
    source, _ = listed
    output = tmp_path / "results.csv"

    def killed(*_):
        assert output.exists() and json.loads((tmp_path / "results.csv.json").read_text())["rows"] == 0
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pair_job, "blocks", killed)
        compare_to_file(predictor(), source, output, 0, source.count)
    output.unlink()
    if left is not None:
        output.write_bytes(left)
    assert compare_to_file(predictor(), source, output, 0, source.count) == 11  # those with the broken image
    assert output.read_bytes().decode() == all_of(source)


def test_a_file_that_took_the_place_of_results_is_not_touched(listed, tmp_path, monkeypatch):
    source, _ = listed
    output = tmp_path / "results.csv"
    compare_to_file(predictor(), source, output, 0, source.count)
    output.write_bytes(b"mine" * 10_000)
    with pytest.raises(ConfigError, match="another file"):
        compare_to_file(predictor(), source, output, 0, source.count)
    assert output.read_bytes() == b"mine" * 10_000


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "holds no pair"),
        (b"image_a,image_b\n", "holds no pair"),
        (b"a.png,b.png\na.png\n", "line 2"),
        (b"a.png,b.png,c.png\n", "line 1"),
        (b"a.png,\n", "line 1"),
        (b'a.png,"b.png\n', "not CSV"),
        ("ä.png,b.png\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_malformed_list_is_refused(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        listed_pairs(content, "pairs.csv", tmp_path)


def test_names_of_all_kinds_are_kept(tmp_path):
    names = ["a, b.png", 'c "d".png', "ä.png", "x\ny.png"]
    for number, name in enumerate(names):
        picture(number).save(tmp_path / name)
    text = io.StringIO(newline="")
    csv.writer(text).writerows(combinations(names, 2))
    source = listed_pairs(b"\xef\xbb\xbf" + text.getvalue().encode(), "pairs.csv", tmp_path)
    rows = rows_of(all_of(source))
    assert [(row["image_a"], row["image_b"]) for row in rows] == list(combinations(names, 2))
    assert not any(row["error"] for row in rows)


def test_a_folder_gives_all_pairs_or_those_with_a_gallery(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "gallery/deep").mkdir(parents=True)
    own, others = written(tmp_path / "own", 4), written(tmp_path / "gallery/deep", 3)
    (tmp_path / "own/notes.txt").write_text("no image")
    source = folder_pairs(tmp_path / "own")
    assert source.count == 6 and source.names == [str(file) for file in own]
    assert list(source.places(0, 6)) == list(combinations(range(4), 2))
    assert list(source.places(2, 4)) == [(0, 3), (1, 2)]
    source = folder_pairs(tmp_path / "own", tmp_path / "gallery")
    assert source.count == 12 and source.names == [str(file) for file in own + others]
    assert list(source.places(0, 12)) == [(a, b) for a in range(4) for b in range(4, 7)]
    assert len(rows_of(all_of(source))) == 12
    for folder in (tmp_path / "none", tmp_path / "own/empty"):
        with pytest.raises(DataError):
            folder_pairs(folder)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = ["tests"]
from tiny_predictor import predictor
from dcal_core.deploy import pair_job
from dcal_core.deploy.pair_sources import listed_pairs
pair_job.ROWS = int(sys.argv[3])
file = Path(sys.argv[1])
source = listed_pairs(file.read_bytes(), str(file), file.parent)
pair_job.compare_to_file(predictor(), source, Path(sys.argv[2]), 0, source.count)
"""


@pytest.mark.faults
def test_a_hundred_thousand_pairs_survive_three_kills(tmp_path):
    files = written(tmp_path, 400)
    random = np.random.default_rng(0)
    pairs = [(files[a].name, files[b].name) for a, b in random.integers(0, len(files), (100_000, 2))]
    (tmp_path / "pairs.csv").write_text("".join(f"{a},{b}\n" for a, b in pairs))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "pairs.csv")]
    subprocess.run([*command, str(tmp_path / "whole.csv"), "5000"], check=True, cwd=ROOT)
    output = tmp_path / "killed.csv"
    for least in (2_000, 20_000, 60_000):
        with subprocess.Popen([*command, str(output), "500"], cwd=ROOT) as process:
            noted = tmp_path / "killed.csv.json"
            while not (noted.is_file() and json.loads(noted.read_text())["rows"] >= least):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
    subprocess.run([*command, str(output), "500"], check=True, cwd=ROOT)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
