"""A page on this machine, or as a Space: two photographs in a browser, and what a predictor says of them.

Pictures travel as text in one request, not as uploads, so no file is written. Gradio keeps a session's last values in
memory: those of one session, and the pictures are taken out of them with the answer. The predictor's cache is another
matter: `FeatureCache(most=0)`. The browser and the server contact no other host.
"""

import base64
import io
import os
from functools import partial
from html import escape
from pathlib import Path

from PIL import Image

from dcal_core.data.drawn.drawing import draw
from dcal_core.data.drawn.genomes import family, nuisance
from dcal_core.data.twins import SYNTHETIC
from dcal_core.deploy.answers import DRAWN
from dcal_core.deploy.page_answer import MOST_MB, reply
from dcal_core.deploy.predictor import Predictor
from dcal_core.errors import ConfigError
from dcal_core.missing import lacks
from dcal_core.verification.words import estimate_in_words

TITLE = "One person, or two twins?"
ASSETS = Path(__file__).parent / "assets"
MOST_BODY = 2 * MOST_MB * 2**20 * 4 // 3 + 2**16  # bytes of a request: two pictures in base64
WAITING = 64  # requests in the queue; the next one is asked to come again
GALLERY_SEED = 2026  # no preset draws its faces with it; none is blurred beyond the demo's validated range
GALLERY_PX = 192
TO_ANSWER = "() => document.querySelector('.twins.answer').scrollIntoView({ behavior: 'smooth' })"
PRIVATE = "Pictures are compared in the memory of the machine that serves this page; no file is written, none is kept."
OF_DRAWINGS = "drawn faces, to try the page; they say nothing about a model of photographs"


class BodyLimit:
    """Refuses a request whose body is larger than `most` bytes, or whose size is not known beforehand."""

    def __init__(self, app, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        if b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > self.most:
            from starlette.responses import PlainTextResponse

            message = f"Two pictures of at most {MOST_MB} MB each are taken."
            return await PlainTextResponse(message, 413)(scope, receive, send)
        await self.app(scope, receive, send)


def head_html(predictor: Predictor) -> str:
    """What this is, how often it errs, and its mark if it knows drawn faces only."""
    measured = predictor.engine.about["provenance"].get("evaluated", {})
    figures = "How often it errs is not known."
    if measured.get("eer"):
        eer = estimate_in_words(measured["eer"], "%")
        figures = f"Equal error rate {eer}, 95 % interval, on {measured['families']} families that it had not seen."
    mark = f"<p><span class='label'>{DRAWN}</span></p>" if SYNTHETIC in predictor.label else ""
    return f"<div class='twins'><h1>{TITLE}</h1>{mark}<p class='small'>{escape(figures)} {PRIVATE}</p></div>"


def form_html(predictor: Predictor) -> str:
    """Places for two pictures, the button, and the gallery of drawn twins."""
    slots = "".join(
        f"<label class='slot'><span>Picture {number}<br><small>choose, drop or paste</small></span>"
        f"<img hidden alt='picture {number}'><input type='file' accept='image/*' aria-label='Picture {number}'></label>"
        for number in (1, 2)
    )
    examples = "".join(
        f"<button type='button' class='example'><span>{''.join(_image(one) for one in pair)}</span>{truth}</button>"
        for truth, pair in drawn_examples()
    )
    about = "drawn faces" if SYNTHETIC in predictor.label else OF_DRAWINGS
    return (
        f"<div class='twins'><div class='two pair' data-most-mb='{MOST_MB}'>{slots}</div>"
        "<button type='button' class='compare' disabled>Compare</button><p class='note' role='alert'></p>"
        f"<h2>Examples</h2><p class='small'>{SYNTHETIC}: {about}.</p><div class='examples'>{examples}</div></div>"
    )


def drawn_examples(families: int = 2) -> list[tuple[str, list[bytes]]]:
    """Pairs of drawn pictures, as PNG, with what they show in truth: one person and co-twins of each family."""
    found = []
    for k in range(families):
        twins = family(GALLERY_SEED, "test", k, 0.5)
        for truth, siblings in (("one person", (0, 0)), ("twins", (0, 1))):
            poses = [nuisance(GALLERY_SEED, "test", k, sibling, turn) for turn, sibling in enumerate(siblings)]
            drawn = [draw(twins[sibling], pose, GALLERY_PX) for sibling, pose in zip(siblings, poses, strict=True)]
            found.append((truth, [_png(picture) for picture in drawn]))
    return found


def _png(picture) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def _image(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def answer_and_forget(predictor: Predictor, given: str) -> tuple[str, None]:
    """The answer to two pictures, HTML, and what takes their place."""
    return reply(predictor, given), None


def page_of(predictor: Predictor):
    """The page as a `gradio.Blocks`; ConfigError without the package gradio."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it as it is imported
    try:
        import gradio
    except ImportError:
        raise ConfigError(lacks("the page", "gradio", "page")) from None
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.HTML(head_html(predictor), apply_default_css=False)
        script = (ASSETS / "page.js").read_text(encoding="utf-8")
        pictures = gradio.HTML(html_template=form_html(predictor), js_on_load=script, apply_default_css=False)
        result = gradio.HTML(apply_default_css=False)
        answer = partial(answer_and_forget, predictor)
        answered = pictures.submit(answer, pictures, [result, pictures], api_name="compare", concurrency_limit=1)
        answered.then(None, js=TO_ANSWER)
    return page


def start(predictor: Predictor, host: str | None = None, port: int | None = None):
    """Serve the page from a thread of its own, and return its `gradio.Blocks`.

    host, port: None takes GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, else this machine alone and the first free port
    from 7860 on. ConfigError if they cannot be had.
    """
    page = page_of(predictor)
    import gradio
    from starlette.middleware import Middleware

    plain = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # others are downloaded
    try:
        page.queue(max_size=WAITING).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=plain,
            css=(ASSETS / "page.css").read_text(encoding="utf-8"),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            state_session_capacity=1,
            max_file_size=1,  # byte: nothing is uploaded
            app_kwargs={"middleware": [Middleware(BodyLimit, most=MOST_BODY)]},
        )
    except OSError as error:
        raise ConfigError(f"the page cannot be served ({error}): give another --port or --host.") from None
    return page
