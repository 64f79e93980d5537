"""`python -m benchmarks.page MODEL`: the page of `twins serve` under many users at once.

Each user asks again as soon as the last answer is there. Lost: what got no answer. Memory is that of the server.
"""

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dcal_core.deploy.page import drawn_examples

WAIT_S = 600
SIDES = (640, 480)  # px of a photograph from a telephone, made small


def data_url(picture: bytes) -> str:
    """The file of a picture as the page sends it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def ask(address: str, given: str) -> str:
    """The page's answer, HTML, to two pictures as data URLs with a blank between; OSError, ValueError without one."""
    body = json.dumps({"data": [given]}).encode()
    request = urllib.request.Request(f"{address}/gradio_api/call/compare", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as found:
        event = json.load(found)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/compare/{event}", timeout=WAIT_S) as found:
        text = found.read().decode()
    if not (answer := re.search(r"^event: complete\ndata: (.*)$", text, re.MULTILINE)):
        raise ValueError(f"no answer: {text[-200:]}")
    return json.loads(answer[1])[0]


def under_load(address: str, given: Sequence[str], requests: int, users: int) -> tuple[list[float], list[str]]:
    """Seconds of each answered request, and the reasons of those that were lost."""

    def one(turn: int) -> float | str:
        begun = time.perf_counter()
        try:
            found = ask(address, given[turn % len(given)])
        except (OSError, ValueError) as error:
            return str(error)
        return time.perf_counter() - begun if "verdict" in found else f"no verdict: {found[:200]}"

    with ThreadPoolExecutor(users) as pool:
        found = list(pool.map(one, range(requests)))
    return [one for one in found if isinstance(one, float)], [one for one in found if isinstance(one, str)]


def memory_mb(process: int) -> float:
    """Memory of a process, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def photographs() -> list[str]:
    """Pairs of drawn faces as large as photographs."""
    found = []
    for _, pair in drawn_examples():
        files = []
        for picture in pair:
            out = io.BytesIO()
            Image.open(io.BytesIO(picture)).resize(SIDES).save(out, "PNG")
            files.append(data_url(out.getvalue()))
        found.append(" ".join(files))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Start the page, ask, and print a line and a row as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("model", help="a packed model, or a run")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--users", type=int, default=16)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "dcal_core", "serve", options.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0].rstrip("/")
        given = photographs()
        under_load(address, given, options.users, options.users)  # warms up
        before = memory_mb(server.pid)
        begun = time.perf_counter()
        seconds, lost = under_load(address, given, options.requests, options.users)
        row = {
            "requests": options.requests,
            "users": options.users,
            "lost": len(lost),
            "why": lost[:3],
            "p50_s": float(np.percentile(seconds, 50)),
            "p95_s": float(np.percentile(seconds, 95)),
            "per_s": len(seconds) / (time.perf_counter() - begun),
            "memory_before_mb": before,
            "memory_after_mb": memory_mb(server.pid),
            "load_average": os.getloadavg()[0],
            "cpus": os.cpu_count(),
        }
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
