"""Broken and hostile pictures: each gives an answer, none ends the process, and memory stays bounded."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import tiny
import yaml
from bad_inputs.pictures import BY_HAND, SOUND, face, write
from tiny_predictor import RULE, data_of, picture, predictor

from benchmarks.page import ask, data_url
from dcal_core import Predictor
from dcal_core.__main__ import main
from dcal_core.deploy.cache import FeatureCache
from dcal_core.deploy.package import pack
from dcal_core.deploy.page import start
from dcal_core.deploy.page_answer import reply
from dcal_core.runs import WEIGHTS_FILE, RunFolder
from dcal_core.storage import read_sums
from dcal_core.verification.decision import rule_from_dict, write_rule

ROOT = Path(__file__).parents[2]
MORE = [
    face(24, "GIF", save_all=True),
    face(24, "TIFF", "I;16"),
    face(24, "PNG", "1"),
    face(24, "TIFF", "LAB"),
    face(24, "PNG", "RGBA"),
    face(24, "TIFF", "YCbCr"),
    face(64, "WEBP", "RGBA", quality=10),
]
MOST_MB = 1500  # of a process that reads hostile pictures, two at once
WITH_PYTORCH_MB = 2000  # the same with a trained network, detector, maps and page
ALL = 1000
MEASURED = """
import resource, sys
sys.path[:0] = ["tests"]
from deploy import test_hostile_pictures
counts = getattr(test_hostile_pictures, sys.argv[1])(range(int(sys.argv[2])), *sys.argv[3:])
print(*counts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def hostile(seed: int) -> bytes | str:
    """A picture by hand, or a sound one that is cut, bent, stretched or mixed with another."""
    by_hand = list(BY_HAND.values())
    if seed < len(by_hand):
        return by_hand[seed]
    chance = random.Random(seed)
    data = bytearray(chance.choice(SOUND + MORE))
    how = chance.randrange(5)
    if how == 0:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice([1, 3, 30])):
        place = chance.randrange(len(data))
        if how == 1:
            data[place] = chance.randrange(256)
        elif how == 2:
            data[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
        elif how == 3:
            data[place:place] = chance.randbytes(chance.randrange(40))
        else:
            other = chance.choice(SOUND + MORE)
            data[place:] = other[chance.randrange(len(other)) :]
            data = data or bytearray(1)
    return bytes(data)


def answered(seeds, folder: str, model: str = "") -> tuple[int, int]:
    """Ask about each picture; returns how many have a verdict and how many an error. model: a packed one, where
    one in eight pictures is searched for a face."""
    judges = [predictor()]
    if model:
        judges = [Predictor.load(model), *[Predictor.load(model, find_faces=False)] * 7]
    counts = [0, 0]
    for seed in seeds:
        place = Path(folder) / str(seed)
        place.mkdir()
        write(place, hostile(seed))
        answer = judges[seed % len(judges)].verify(place / "face.jpg", picture(1))
        assert bool(answer.error) != bool(answer.verdict)
        counts[bool(answer.error)] += 1
    return tuple(counts)


def on_a_page(seed: int) -> str:
    """A picture as the page sends it, beside a sound one."""
    data = hostile(seed)
    return f"{data_url(data) if isinstance(data, bytes) else data} {data_url(data_of(picture(1)))}"


def replied(reply_to, seeds) -> tuple[int, int]:
    """Ask a page about each picture, two at once; returns how many have a verdict and how many none."""
    with ThreadPoolExecutor(2) as users:
        found = list(users.map(lambda seed: reply_to(on_a_page(seed)), seeds))
    refused = sum("No answer" in one for one in found)
    assert all("class='verdict'" in one for one in found)
    return len(found) - refused, refused


def served(seeds, model: str) -> tuple[int, int]:
    """Ask the served page of a packed model about each picture."""
    page = start(Predictor.load(model, find_faces=False, cache=FeatureCache(most=0)), "127.0.0.1")
    address = page.local_url.rstrip("/")
    counts = replied(partial(ask, address), seeds)
    assert "class='verdict'" in ask(address, on_a_page(ALL))
    page.close()
    return counts


def measured(function: str, *given) -> list[int]:
    """Call one of the functions above with ALL seeds in a process of its own; returns its counts and the memory, MB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, function, str(ALL), *given], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return [int(word) for word in done.stdout.split()[-3:]]


def test_hostile_pictures_give_answers(tmp_path):
    verdicts, errors = answered(range(120), str(tmp_path))
    assert errors >= len(BY_HAND) and verdicts > 0
    assert replied(partial(reply, predictor()), range(120)) == (verdicts, errors)


@pytest.fixture
def trained(elsewhere, tmp_path) -> str:
    """A packed model that was trained, if not for long."""
    values = tiny.VALUES | {"validation_share": 0.4, "steps_per_epoch": 2, "epochs": 1}
    preset = tmp_path / "small.yaml"
    preset.write_text(yaml.safe_dump(values | {"data_root": str(tiny.drawn_twins(tmp_path / "twins"))}))
    assert main(["train", "-f", str(preset)]) == 0
    run = RunFolder(tmp_path / "runs/small")
    rule = RULE | {"data": "SYNTHETIC", "weights": read_sums(run.best)[WEIGHTS_FILE]}
    write_rule(rule_from_dict(rule), run.best, run.best)
    return str(pack(run, tmp_path / "model"))


@pytest.mark.faults
def test_a_thousand_of_them_take_bounded_memory(tmp_path):
    assert measured("answered", str(tmp_path))[-1] < MOST_MB


@pytest.mark.faults
def test_a_trained_model_answers_a_thousand_of_them(trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    verdicts, errors, memory = measured("answered", str(tmp_path / "pictures"), trained)
    assert verdicts > 0 and verdicts + errors == ALL and memory < WITH_PYTORCH_MB


@pytest.mark.faults
def test_a_page_answers_a_thousand_of_them(trained):
    pytest.importorskip("gradio", reason="pip install -e '.[page]'")
    verdicts, refused, memory = measured("served", trained)
    assert verdicts > 0 and verdicts + refused == ALL and memory < WITH_PYTORCH_MB
