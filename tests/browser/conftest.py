"""The attention browser in a notebook, opened by Chromium in today's JupyterLab and in Kaggle's."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LABS = {"today": Path(sys.executable), "kaggle": ROOT / ".venv-kaggle/bin/python"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CELL = """\
from pathlib import Path
from PIL import Image
from tiny_browser import make_browser
Image.new("RGB", (60, 40)).save("sheet.png")
browser = make_browser(Path.cwd())
browser.show(Path("sheet.png"))
"""
WAIT_S = 180  # for a server, and for a kernel that imports PyTorch on a busy machine


def missing(python: Path) -> str | None:
    """Why a JupyterLab cannot be opened, or None."""
    if not python.is_file():
        return "Kaggle's JupyterLab is not installed: make test-browser"
    if CHROMIUM is None:
        return "there is no Chromium: apt install chromium"
    there = subprocess.run([python, "-c", "import jupyterlab"], capture_output=True).returncode == 0
    return None if there else "JupyterLab is not installed: pip install -r tests/requirements.txt"


@contextmanager
def served(python: Path, folder: Path):
    """JupyterLab on an empty configuration, with a notebook of one cell; gives the notebook's address."""
    code = {"cell_type": "code", "id": "one", "metadata": {}, "execution_count": None, "outputs": [], "source": CELL}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [code], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "work").mkdir()
    (folder / "work/twins.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")}
    paths = f"{ROOT}:{ROOT / 'tests/explain'}"
    environment = os.environ | places | {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": paths}
    options = [f"--port={port}", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder / 'work'}"]
    options += ["--ServerApp.token=", "--ServerApp.password=", "--LabApp.news_url=None"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([python, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, folder / "log")
        yield f"{address}/lab/tree/twins.ipynb"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers."""
    until = time.monotonic() + WAIT_S
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


class Page:
    """A page that shows the browser, and what it has complained about."""

    def __init__(self, page):
        self.page, self.complaints = page, []
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def control(self, label: str):
        """The control of this description: a list, a slider's handle, a box to tick or a button."""
        named = self.page.locator(".twin-browser .jupyter-widgets", has=self.page.get_by_text(label, exact=True))
        button = self.page.locator(".twin-browser button", has_text=label)
        return button.or_(named.last.locator("select, .noUi-handle, input[type=checkbox]")).first

    def pictures(self) -> list[str]:
        """The sources of both pictures."""
        return self.page.locator(".twin-face img").evaluate_all("images => images.map(image => image.src)")

    def changed(self, act) -> list[str]:
        """The sources after an act that changes the first or the second picture."""
        before = self.pictures()
        act()
        script = "old => [...document.querySelectorAll('.twin-face img')].some((image, n) => image.src != old[n])"
        self.page.wait_for_function(script, arg=before)
        self.page.get_by_text("| Idle").wait_for()  # the other picture is there too
        return self.pictures()

    def press(self, *keys: str) -> None:
        """Press keys one after the other, slowly: the page does not hear when a list, a window of its own, is ready."""
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(700 if key == "Space" else 100)

    def text(self) -> str:
        """All that the browser says."""
        return self.page.locator(".twin-browser").inner_text()


@pytest.fixture(scope="module", params=LABS)
def page(request, tmp_path_factory):
    """The browser, shown by a notebook's cell."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium")
    if reason := missing(LABS[request.param]):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(request.param)
    with served(LABS[request.param], folder) as address, sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = Page(chromium.new_page(viewport={"width": 1280, "height": 1000}))
        page.folder = folder / "work"
        page.page.set_default_timeout(1000 * WAIT_S)
        page.page.goto(address)
        page.page.get_by_text("| Idle").wait_for()
        page.page.locator(".jp-CodeCell .jp-InputArea-editor").first.click()
        page.page.keyboard.press("Shift+Enter")
        page.page.locator(".twin-face img").nth(1).wait_for()
        yield page
        chromium.close()
