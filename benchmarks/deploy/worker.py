"""One form of a model in a process of its own, which does what it is told, so that several can take turns.

It reads one JSON object a line: {"batch": N} times N random faces, {"faces": FILE, "rows": FILE} describes faces on the
disk, {"peak": true} tells its largest memory; and answers each with one.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH = 32  # faces at once, of those on the disk


class Worker:
    """A form, and the process that runs it; RuntimeError with its last words where that has ended."""

    def __init__(self, folder: Path, form: str, size: int, environment: dict[str, str]):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.deploy.worker", str(folder), form, str(size)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def ask(self, **what) -> dict:
        """What it answers."""
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError((self.process.stderr.read().strip().splitlines() or ["it ended"])[-1])
        return json.loads(answer)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def largest() -> int:
    """The most memory that this process ever held, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(folder: str, form: str, size: str) -> None:
    """Answer until the input ends."""
    from benchmarks.deploy.forms import FORMS

    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    encode = FORMS[form][1](Path(folder))
    random = np.random.default_rng(0)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {}
        if "batch" in asked:
            faces = random.integers(0, 256, (asked["batch"], int(size), int(size), 3), dtype=np.uint8)
            began = time.perf_counter()
            encode(faces)
            answer = {"seconds": time.perf_counter() - began}
        elif "faces" in asked:
            faces = np.load(asked["faces"], mmap_mode="r")
            parts = np.split(faces, range(BATCH, len(faces), BATCH))
            np.save(asked["rows"], np.concatenate([encode(np.ascontiguousarray(part)) for part in parts]))
        else:
            answer = {"bytes": largest()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
