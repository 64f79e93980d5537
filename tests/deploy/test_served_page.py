"""The page: what it answers to pictures and to anything else, and the server under several users at once."""

import base64
import http.client
import io
import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape

import pytest
import tiny
import torch
from PIL import Image
from tiny_predictor import data_of, picture, predictor

from benchmarks.page import ask, data_url
from dcal_core.commands import serve
from dcal_core.deploy import page
from dcal_core.deploy.cache import FeatureCache
from dcal_core.deploy.page_answer import MOST_MB, reply
from dcal_core.deploy.ranges import SEEN
from dcal_core.errors import ConfigError

SCRIPT = "<img src=x onerror=alert(1)>"


def two(first: bytes, second: bytes) -> str:
    """Two files as the page sends them."""
    return f"{data_url(first)} {data_url(second)}"


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels of one colour, in a file of 1 MB or so."""
    rows = zlib.compressobj(9)
    row = b"\0" + bytes(50_000 // 8)
    packed = b"".join(rows.compress(row) for _ in range(2_000)) + rows.flush()
    return chunk(b"IHDR", (50_000).to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])) + chunk(b"IDAT", packed) + chunk(b"IEND")


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG, the first of them after the signature."""
    start = b"\x89PNG\r\n\x1a\n" if kind == b"IHDR" else b""
    return start + len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def test_two_pictures_get_verdict_ratios_range_and_what_was_not_checked():
    found = reply(predictor(), two(data_of(picture(0)), data_of(picture(0, 23))))
    assert "The same person" in found and "than for co-twins" in found and "than for unrelated people" in found
    assert "was not measured for this model" in found and "unedited photographs" in found
    assert "PyTorch only" in found and "%)" not in found.replace("left:", "")
    judge = predictor(range={"limits": {"sharpness": {"low": 1e9, "low_because": SEEN}}, "about": ""}, label=SCRIPT)
    outside = reply(judge, two(data_of(picture(0)), data_of(picture(3))))
    assert (
        "Outside" in outside
        and "picture 1 is blurred" in outside
        and escape(SCRIPT) in outside
        and SCRIPT not in outside
    )


def test_a_page_without_its_package_says_how_to_install_it(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with refused(ConfigError, "the page needs gradio, which is not installed: pip install -r requirements-page.txt"):
        page.page_of(predictor())


def test_the_place_on_the_scale_is_that_of_the_ratio():
    judge = predictor()
    same = reply(judge, two(data_of(picture(0)), data_of(picture(0, 23))))
    other = reply(judge, two(data_of(Image.new("L", (24, 24), 0)), data_of(picture(0))))
    assert "left:50." not in same and "No answer" in other
    mirrored = picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    nothing = reply(judge, two(data_of(picture(0)), data_of(mirrored)))
    assert "Undecided" in nothing and "class='ratio'" not in nothing and "mirrors the other" in nothing


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "give two pictures"),
        (None, "give two pictures"),
        ({"path": "/etc/passwd"}, "give two pictures"),
        ("data:,AAAA " * 3, "give two pictures"),
        ("data:image/png;base64,%%% data:image/png;base64,AAAA", "picture 1: not the file of a picture"),
        ("/etc/passwd /etc/passwd", "picture 1: the file is empty"),
        (two(b"no picture", data_of(picture(0))), "picture 1: not an image"),
        (two(data_of(picture(0)), data_of(picture(1))[:200]), "picture 2: cannot be decoded"),
        (two(data_of(picture(0)), bytes(MOST_MB * 2**20 + 1)), f"picture 2: more than {MOST_MB} MB"),
        (two(bomb(), data_of(picture(0))), "2500000000 pixels"),
    ],
)
def test_whatever_is_no_picture_is_answered_politely(given, reason):
    found = reply(predictor(), given)
    assert "No answer" in found and reason in found


def test_maps_of_both_faces_are_those_of_the_model():
    torch.manual_seed(0)
    config = tiny.dcal_config()
    judge = predictor(image_size=tiny.SIZE)
    judge.engine.model = tiny.model_of(config).eval()
    judge.engine.encode = lambda faces: faces.reshape(len(faces), -1)[:, :12].astype("float32")
    found = reply(judge, two(data_of(picture(0)), data_of(picture(3))))
    faces = [part.split('"')[0] for part in found.split('src="data:image/jpeg;base64,')[1:]]
    assert len(faces) == 2 and "picture 1: What tells them apart" in found
    assert all(Image.open(io.BytesIO(base64.b64decode(face))).size == (336, 336) for face in faces)


def test_without_pytorch_the_page_answers_too():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dcal_core.deploy import page, page_answer\n"
        "assert 'give two pictures' in page_answer.reply(None, '')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=__file__.rpartition("/tests/")[0])


def test_the_gallery_shows_drawn_pairs_of_both_kinds_with_the_truth():
    pairs = page.drawn_examples()
    assert [truth for truth, _ in pairs] == ["one person", "twins"] * 2
    assert len({png for _, pair in pairs for png in pair}) == 6  # each family's first picture is in both of its pairs
    form = page.form_html(predictor())
    assert form.count("class='example'") == 4 and page.OF_DRAWINGS in form and "`" not in form and "{" not in form


def test_the_head_has_error_rate_interval_and_mark():
    known = {"weights": "0" * 64, "evaluated": {"families": 31, "eer": {"value": 0.02, "low": 0.01, "high": 0.03}}}
    head = page.head_html(predictor(label="SYNTHETIC", provenance=known))
    assert "2.0 % (1.0 to 3.0 %)" in head and "31 families" in head and "knows drawn faces only" in head
    assert "is not known" in page.head_html(predictor())


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)])
def test_only_loopback_is_this_machine_alone(host, own):
    assert serve.is_loopback(host) == own
    assert serve.parser_of_serve().parse_args([]).host == serve.LOOPBACK


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A served page: its address, the folder for its temporary files, its predictor, and itself."""
    pytest.importorskip("gradio", reason="pip install -e '.[page]'")
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        judge = predictor(cache=FeatureCache(most=0))
        served = page.start(judge, serve.LOOPBACK)
        yield served.local_url.rstrip("/"), folder, judge, served
        served.close()


def test_sixteen_users_at_once_get_the_answers_of_one(server):
    address, folder, judge, served = server
    given = [two(data_of(picture(n)), data_of(picture(n + 1))) for n in range(4)]
    expected = [reply(judge, one) for one in given]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda turn: ask(address, given[turn % 4]), range(32)))
    assert found == expected * 8
    assert len(judge.cache.kept) == 1  # what was asked last
    (session,) = served.state_holder.session_data.values()
    kept = repr(session.config_values)
    assert not any(one in kept for pair in given for one in pair.split())
    assert [file for _, _, files in os.walk(folder) for file in files] == []


def status(address: str, path: str, body: bytes = b"", **headers) -> int:
    """The status of a request; a body of another length than is announced does not come."""
    sent = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    sent.putrequest("POST", path)
    for name, value in headers.items():
        sent.putheader(name.replace("_", "-"), value)
    sent.endheaders(body)
    return sent.getresponse().status


def test_large_requests_and_uploads_are_refused(server):
    address, folder, *_ = server
    asked = partial(status, address, "/gradio_api/call/compare", Content_Type="application/json")
    assert asked(Content_Length=page.MOST_BODY + 1) == 413
    assert asked(Transfer_Encoding="chunked") == 413
    assert asked(b"{}", Content_Length=2) == 422  # Gradio's own answer to what is too little
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabcdef\r\n--x--\r\n'
    kind = {"Content_Type": "multipart/form-data; boundary=x", "Content_Length": len(form)}
    assert status(address, "/gradio_api/upload", form, **kind) >= 400
    assert [file for _, _, files in os.walk(folder) for file in files] == []
