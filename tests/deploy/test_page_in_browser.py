"""The page in Chromium, served by the command and as a Space: by mouse, by keyboard and on a telephone."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tiny
from tiny_predictor import RULE, packed

from dcal_core.deploy.page import drawn_examples
from dcal_core.deploy.page_answer import MOST_MB
from dcal_core.deploy.space import write_space

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_S = 120
LISTENS_ONLY = """
import os, sys
OWN = ("127.0.0.1", "::1", "localhost")
def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in OWN:
        with open(os.environ["OUTSIDE"], "a") as file:
            print(arguments[1], file=file)
sys.addaudithook(note)
UNUSED = "wandb accelerate mlflow jupytext papermill nbconvert ipywidgets ipykernel tensorboard".split()
sys.modules.update(dict.fromkeys(UNUSED) if "SPACE" in os.environ else {})
sys.meta_path[:] = [one for one in sys.meta_path if not getattr(one, "__module__", "").startswith("__editable___dcal")]
"""  # run at the start of the server: writes down whom it contacts, and hides what a Space lacks

IN_SIGHT = """() => {
  const at = document.querySelector(".verdict").getBoundingClientRect();
  return at.top >= 0 && at.bottom <= innerHeight;
}"""

BOXES = "slots => slots.map(slot => slot.getBoundingClientRect().toJSON())"


def new_model(folder: Path) -> Path:
    """A packed model of random weights."""
    folder.mkdir(parents=True)
    return packed(folder, tiny.model_of(tiny.dcal_config()).eval(), decision=RULE)


@contextmanager
def served(kind: str, folder: Path):
    """The page's server; gives its address."""
    (folder / "start").mkdir()
    (folder / "start/sitecustomize.py").write_text(LISTENS_ONLY)
    environment = os.environ | {"OUTSIDE": str(folder / "outside"), "GRADIO_TEMP_DIR": str(folder / "temporary")}
    if kind == "space":
        space = write_space(new_model, folder / "space")
        command, place = ["app.py"], space
        environment |= {"SPACE": "1", "PYTHONPATH": f"{folder / 'start'}:{space}"}
    else:
        command, place = ["-m", "dcal_core", "serve", str(new_model(folder / "model"))], folder
        environment |= {"PYTHONPATH": f"{folder / 'start'}:{ROOT}"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "7941"} if kind == "space" else {}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-u", *command], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = server.stdout.readline()
        assert (address := re.search(r"http://\S+", line)), (line, (folder / "log").read_text()[-2000:])
        yield address[0]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module", params=["serve", "space"])
def site(request, tmp_path_factory):
    """A served page: its address and folder, and a browser."""
    pytest.importorskip("gradio", reason="pip install -e '.[page]'")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    folder = tmp_path_factory.mktemp(request.param)
    with served(request.param, folder) as address, sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield address, folder, chromium
        chromium.close()


@contextmanager
def opened(site, width: int = 1200):
    """The page in a new tab; afterwards nothing was complained of, and nobody else contacted."""
    address, folder, chromium = site
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(1000 * WAIT_S)
    complaints, hosts = [], set()
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: hosts.add(urlsplit(asked.url).hostname))
    page.goto(address)
    page.locator(".example").first.wait_for()
    yield page
    page.close()
    assert complaints == [] and hosts - {None} == {"127.0.0.1"}
    assert not (folder / "outside").exists(), (folder / "outside").read_text()
    assert [file for _, _, files in os.walk(folder / "temporary") for file in files] == []


def own(pair: int, side: int) -> dict:
    """A picture as a person would choose it, in which the detector finds a face."""
    return {"name": "own.png", "mimeType": "image/png", "buffer": drawn_examples()[pair][1][side]}


@pytest.mark.parametrize("width", [1200, 420])
def test_an_example_is_answered_in_sight(site, width):
    with opened(site, width) as page:
        assert page.locator(".label").inner_text() == "SYNTHETIC model, which knows drawn faces only"
        page.locator(".example").nth(1).click()
        page.locator(".answer .two img").nth(1).wait_for()
        page.wait_for_function(IN_SIGHT)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        first, second = page.locator(".slot").evaluate_all(BOXES)  # both at once: the page may still scroll
        assert first["y"] == second["y"] and first["right"] < second["x"]
        text = page.locator(".answer").inner_text()
        assert "likelier" in text and "Validated range" in text and "Where they differ" in text


def test_own_pictures_by_keyboard_and_one_of_them_changed(site):
    with opened(site) as page:
        button = page.locator(".compare")
        for number in (0, 1):
            assert button.is_disabled()
            page.locator(".slot input").nth(number).set_input_files([own(0, number)])
            page.locator(".slot img").nth(number).wait_for()
        button.focus()
        page.keyboard.press("Enter")
        first = page.locator(".answer figure:nth-child(2) img").get_attribute("src")
        page.locator(".slot input").nth(1).set_input_files([own(3, 1)])
        page.wait_for_timeout(300)
        button.click()
        page.wait_for_function("old => document.querySelector('.answer figure:nth-child(2) img').src != old", arg=first)


def test_what_is_no_picture_or_too_large_is_said(site):
    with opened(site) as page:
        page.locator(".slot input").nth(0).set_input_files([own(0, 0)])
        page.locator(".slot input").nth(1).set_input_files([{**own(0, 1), "buffer": bytes(MOST_MB * 2**20 + 1)}])
        page.get_by_text(f"give a picture of at most {MOST_MB} MB").wait_for()
        assert page.locator(".compare").is_disabled()
        page.locator(".slot input").nth(1).set_input_files([{**own(0, 1), "buffer": b"text, not a picture"}])
        page.locator(".compare:enabled").click()
        page.get_by_text("No answer").wait_for()
        assert "picture 2: not an image" in page.locator(".answer").inner_text()
