"""The page of a pair: whole in itself, with everything that a reader needs, and names as text."""

import html
import re

import numpy as np
import pytest
import torch
from tiny_models import SIZE, make_images, make_model

from dcal_core.data.landmarks import DRAWN
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.paint import scale_ends
from dcal_core.explain.pair_page import NOT_MEASURED, RATIO, pair_page
from dcal_core.explain.regions import WHOSE_SIDES, face_regions, view_statistics

ODD = '<b>Zoë\'s</b> & "co"/a.png'
ANSWER = "score 0.15: two people; 30 times likelier for two people than for one\nIn truth: two people, co-twins."
TRUST = {
    "data": "SYNTHETIC",
    "pairs": 31,
    "families": 31,
    "maps": {"rollout": {"insertion": {"value": 0.1, "low": 0.0, "high": 0.2}, "untrustworthy": True}},
}


@pytest.fixture(scope="module")
def view():
    faces = (make_images(2) * 255).to(torch.uint8)
    return PairView(make_model(readout="tokens"), faces, (ODD, "b.png"), np.zeros((2, SIZE, SIZE), bool))


@pytest.fixture(scope="module")
def statistics(view):
    return view_statistics(view, face_regions(DRAWN, SIZE))


def test_a_page_shows_all_maps_the_verdict_and_the_parts(view, statistics):
    page = pair_page(view, "SYNTHETIC", ANSWER, statistics, ["b.png is small."], TRUST)
    text = html.unescape(page)
    for wanted in ("SYNTHETIC", ANSWER, RATIO, "b.png is small.", WHOSE_SIDES, "31 co-twin pairs of 31 families"):
        assert wanted in text
    assert text.index("b.png is small.") < text.index(ANSWER)
    for name in view.kinds:
        low, high = scale_ends(name, abs(view.map(name)).max())
        assert f"<h2>{MAPS[name].title}</h2>" in page and low in text and high in text
    assert page.count("<img") == 2 + 3 * len(view.kinds)
    assert "Trust it for: nothing: it hardly changes" in text
    share = statistics["distinctive"]["all"][1]["regions"]["left cheek"]["share"]
    assert "<td>left cheek</td>" in page and f"<td>{share:.0%}</td>" in page


def test_a_page_needs_nothing_from_outside(view, statistics):
    page = pair_page(view, "SYNTHETIC", ANSWER, statistics)
    bare = re.sub(r'src="data:image/(png|jpeg);base64,[^"]*"', "", page)
    assert NOT_MEASURED in bare and "`" not in bare and len(page) < 700_000
    assert not any(outside in bare for outside in ("<script", "http", "src=", "href=", "url(", "@import"))
    assert "width=device-width" in page


def test_names_are_text(view, statistics):
    page = pair_page(view, "<i>mine</i>", "score <1>", statistics, ["<u>"])
    for raw in ("<b>", "<i>", "<u>", "<1>"):
        assert raw not in page
    assert ODD in html.unescape(page)
