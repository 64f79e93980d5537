"""Broken and hostile pictures: each gives an answer, none ends the process, and memory stays bounded."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs.pictures import BY_HAND, SOUND, face, write
from tiny_predictor import picture, predictor

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
ALL = 1000
MEASURED = """
import resource, sys
sys.path[:0] = ["tests"]
from deploy.test_hostile_pictures import answered
answered(range(int(sys.argv[1])), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
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


def answered(seeds, folder: str) -> tuple[int, int]:
    """Ask about each picture; returns how many have a verdict and how many an error."""
    judge = predictor()
    counts = [0, 0]
    for seed in seeds:
        place = Path(folder) / str(seed)
        place.mkdir()
        write(place, hostile(seed))
        answer = judge.verify(place / "face.jpg", picture(1))
        assert bool(answer.error) != bool(answer.verdict)
        counts[bool(answer.error)] += 1
    return tuple(counts)


def test_hostile_pictures_give_answers(tmp_path):
    verdicts, errors = answered(range(120), str(tmp_path))
    assert errors >= len(BY_HAND) and verdicts > 0


@pytest.mark.faults
def test_a_thousand_of_them_take_bounded_memory(tmp_path):
    command = [sys.executable, "-c", MEASURED, str(ALL), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST_MB
