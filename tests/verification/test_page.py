import copy
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from dcal_core.verification.bootstrap import replicate, summarise
from dcal_core.verification.page import FIGURES, answers_of, questions_of, write_page
from dcal_core.verification.words import (
    CO_TWINS,
    METRICS,
    difference_in_words,
    duration_text,
    estimate_in_words,
    metric_name,
    number_text,
)

ATTACK = "<script>alert('x')</script>\"&"


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def group(pairs, ours, other):
    eer = {"DCAL": estimate(ours, ours / 2, 2 * ours), "SFace": estimate(other, other / 2, 2 * other)}
    difference = {"a": "DCAL", "b": "SFace", "metric": "eer", "better": None, **estimate(ours - other, -0.5, 0.1)}
    return {"pairs": pairs, "counts": {"genuine": 30, "impostor": 70}, "eer": eer, "differences": [difference]}


UNRESOLVED = {"value": None, "reason": "not resolvable with 31 families"}


def metrics(eer=0.032):
    rates = {f"{kind}_at_fmr_{fmr}": estimate(0.9, 0.8, 0.95) for kind in ("tar", "fnmr") for fmr in (0.1, 0.05)}
    return {
        **{name: estimate(0.9, 0.85, 0.95) for name in METRICS},
        **rates,
        "fmr": estimate(0.036, 0.006, 0.19),
        "fnmr": estimate(0.012, 0.004, 0.039),
        "eer": estimate(eer, eer / 2, 2 * eer),
        "tar_at_fmr_0.01": UNRESOLVED,
        "counts": {"genuine": 1736, "impostor": 1984, "families": 31, "draws": 1000},
    }


@pytest.fixture
def result():
    share = estimate(0.5, 0.4, 0.6)
    answers = {"same": estimate(0.931, 0.9, 0.96), "undecided": share, "different": share}
    return {
        "data": "SYNTHETIC",
        "co_twins": True,
        "terms": CO_TWINS._asdict(),
        "synthetic": True,
        "system": {"name": "demo", "about": "small", "size": 821_987},
        "weights": "7dc2640b283f8ad0",
        "sensitivity": ["A single mark is seen from 5.1 px & more."],
        "split": "test",
        "created": "2026-01-31 12:34 UTC",
        "device": "CPU (x86_64)",
        "seconds": {"training": 490.0, "evaluation": 41.2},
        "model": "demo/checkpoints/best",
        "command": "twins evaluate --preset 'my own'",
        "code": "c0de",
        "fingerprint": "f1n9e4",
        "threshold": {"value": 0.512, "source": "equal error rate of 18 validation families", "eer": 0.002},
        "metrics": metrics(),
        "metrics_per_family": metrics(0.031),
        "calibration": {
            "cllr": estimate(0.2, 0.1, 0.3),
            "cllr_min": estimate(0.15, 0.1, 0.2),
            "cllr_cal": estimate(0.05, 0.02, 0.1),
            "devpav": estimate(0.1, 0.05, 0.2) | {"bold": 0.3},
            "misleading": {"one_person": estimate(0.02, 0.01, 0.04), "impostors": estimate(0.03, 0.02, 0.05)},
            "ece": {"prior": [-1.0, 1.0], "ratios": [0.1, 0.2], "none": [0.3, 0.3]},
            "others": {"isotonic": estimate(0.3, 0.2, 0.4)},
            "against_unrelated": {
                "families": 18,
                "cllr": estimate(0.1, 0.05, 0.2),
                "misleading": {"one_person": estimate(0.01, 0.0, 0.04), "impostors": estimate(0.04, 0.02, 0.05)},
            },
            "kind": "logistic",
        },
        "verdict": {
            "thresholds": {"different_below": 0.4, "same_from": 0.6, "error": 0.1, "source": "18 validation families"}
            | {"families": 18},
            "genuine": answers,
            "impostor": answers,
            "wrong": share,
        },
        "security": [
            {"fmr": 0.01, "threshold": 0.3, "unrelated_fmr": share, "twin_fmr": share, "fnmr": share},
            {"fmr": 0.001, "threshold": None, "unrelated_fmr": UNRESOLVED, "twin_fmr": UNRESOLVED, "fnmr": UNRESOLVED},
        ],
        "systems": [{"name": "DCAL", "metrics": metrics()}, {"name": "SFace", "metrics": metrics(0.249)}],
        "differences": [
            {"a": "DCAL", "b": "SFace", "metric": "eer", "better": "a", **estimate(-0.217, -0.26, -0.17)},
        ],
        "occlusion": {
            "images": {"mask": 124},
            "groups": [group("no occluder", 0.02, 0.2), group("an occluder", 0.063, 0.4)],
            "visibility": [
                {"images": "mask", "count": 124} | dict.fromkeys(("visible", "hidden", "all_visible"), share)
            ],
        },
        "confusable": [
            {"images": [0, 9], "people": ["1", "2"], "score": 0.91, "genuine": False, "matched": True}
            | {"paths": ["/data/1/1a.jpg", "/data/2/2b.jpg"]}
        ],
        "conditions": ["2 images were lost."],
        "maps": ["The best map & another."],
        "images": "Validated range of images: sharpness at least 0.3.",
    }


@pytest.fixture
def figures(tmp_path):
    file = tmp_path / "figure.png"
    Image.new("RGB", (4, 3)).save(file)
    return {name: file.read_bytes() for name in FIGURES} | {"roc": file}


class Reader(HTMLParser):
    """Tags with their attributes, the text between them, and whether every tag is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open, self.isolated = [], [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] == "bdi":
            self.isolated.append(data)


@pytest.fixture
def read(tmp_path, figures):
    def write_and_read(result):
        absent = {"systems"} if len(result.get("systems", [])) < 2 else set()
        absent |= set() if "occlusion" in result else {"occlusion", "visibility"}
        drawn = {name: figures[name] for name in figures if name not in absent}
        write_page(tmp_path / "report" / "page.html", result, drawn)
        page = Reader((tmp_path / "report" / "page.html").read_text(encoding="utf-8"))
        assert page.open == []
        return page

    return write_and_read


def test_first_screen_says_how_good_how_sure_and_on_what(read, result):
    text = read(result).text
    first = text[: text.index("How far apart are one person and co-twins? In")]
    errors = "3.6 of 100 pairs of co-twins (0.6 to 19.0) are taken for one person, and 1.2 of 100 pairs of one person "
    assert f"Verification report {errors}(0.4 to 3.9) for two people." in first
    assert first.index(errors) < first.index("both are 3.2 % (1.6 to 6.4 %): the equal error rate")
    assert "31 families" in first
    assert "93.1 % 90.0 to 96.0 %" in first
    assert "0.512" in first and "equal error rate of 18 validation families" in first


def test_sections_stand_in_their_order(read, result):
    text = read(result).text
    places = [text.index("SYNTHETIC DATA"), *(text.rindex(question) for question in questions_of(result).values())]
    assert places == sorted(places)


def test_every_question_is_answered_at_once_and_can_be_jumped_to(read, result):
    page = read(result)
    answers = answers_of(result)
    for name, question in questions_of(result).items():
        if question.endswith("?") and name not in ("others", "occlusion", "maps", "sensitivity", "limits"):
            assert f"{question} {answers[name]}" in page.text
    assert f"{questions_of(result)['others']} {answers['others'][0]}" in page.text
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    anchors = links - {"report.json", "scores.csv"}
    assert anchors == {"#" + attributes["id"] for tag, attributes in page.tags if tag == "h2"} and len(anchors) == 11


def test_one_system_is_compared_with_none(read, result):
    del result["occlusion"]
    page = read(result | {"systems": result["systems"][:1], "differences": []})
    assert "other systems" not in page.text and "SFace" not in page.text


def test_without_occluders_nothing_is_said_of_them(read, result):
    with_them = read(result)
    assert (
        "an occluder 30 70 6.3 % 3.1 to 12.6 %" in with_them.text
        and "drawn over test images (124 mask)" in with_them.text
    )
    del result["occlusion"]
    page = read(result)
    assert "ccluder" not in page.text and len(page.tags) < len(with_them.tags)


def test_the_foot_names_model_code_time_and_device_but_no_folder_of_this_machine(read, result):
    foot = read(result).text.split("ROC-AUC")[-1]
    evaluated = "Evaluated 2026-01-31 12:34 UTC, in 41 s on CPU (x86_64)"
    for words in ("demo/checkpoints/best", "821,987 weights", "c0de", "Trained in 8.2 min", evaluated, "f1n9e4"):
        assert words in foot
    assert "Trained" not in read(result | {"seconds": {"training": None, "evaluation": 8000.0}}).text
    assert "in 2.2 h on" in read(result | {"seconds": {"training": None, "evaluation": 8000.0}}).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (41.2, "41 s"), (119.4, "119 s"), (121, "2.0 min"), (7199, "120.0 min"), (9000, "2.5 h")],
)
def test_a_time_is_told_in_the_unit_that_fits(seconds, text):
    assert duration_text(seconds) == text


def test_the_notebooks_beside_the_page_are_linked(tmp_path, result, figures):
    write_page(tmp_path / "page.html", result, figures, ["train.html", "evaluate.html"])
    page = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Notebooks train.html , evaluate.html" in page.text
    assert {"train.html", "evaluate.html"} <= {dict(attributes).get("href") for _, attributes in page.tags}


NAMES = ["a|b", "line\nbreak", "`tick`", "$1", "<b>bold</b>", "שלום", "\u202etxt", "a_b*c*", "--- # x", "👨‍👩‍👧"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_letters_stand_alone_on_the_page(read, result, name):
    result |= {"data": name, "model": name}
    result["systems"][1]["name"] = name
    result["confusable"][0] |= {"paths": [name, f"{name}/{name}"]}
    page = read(result)
    isolated = " ".join(page.isolated)
    assert isolated.count(name) >= 5 and "bold" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}


def test_systems_stand_side_by_side_in_the_columns_that_are_compared(tmp_path, result, figures):
    result["systems"][1]["metrics"] |= {
        name: estimate(k / 100, None, None) for k, name in enumerate(CO_TWINS.compared, 1)
    }
    write_page(tmp_path / "page.html", result, figures)
    table = (tmp_path / "page.html").read_text(encoding="utf-8").split('<h2 id="others">')[1].split("</table>")[0]
    head, row = (
        re.findall(r'<th scope="col">(.*?)</th>', table),
        re.findall(r"<td>(.*?)</td>", table.split("SFace")[-1]),
    )
    assert head == ["system", *map(metric_name, CO_TWINS.compared)]
    values = ["1.0 % (no interval)", "2.0 % (no interval)", "3.0 % (no interval)", "0.040 (no interval)"]
    assert row == [f"<bdi>{value}</bdi>" for value in values]


def test_banner_stands_on_synthetic_data_alone(read, result):
    assert "nothing about accuracy on real twins" in read(result).text
    assert "nothing about accuracy on real twins" in read(result | {"data": "ND, model trained on SYNTHETIC"}).text
    real = result | {"synthetic": False, "data": "my SYNTHETIC set"}  # a name decides nothing
    assert "nothing about accuracy on real twins" not in read(real).text


def test_a_system_that_may_be_guessing_is_called_that(read, result):
    result["metrics"]["eer"] = estimate(0.45, 0.38, 0.51)
    assert "Not shown to be better than guessing" in read(result).text
    result["metrics"]["eer"] = estimate(0.1, None, None)
    result["metrics"]["fmr"] = estimate(0.5, None, None)
    assert "cannot be told from so few families: here 50.0 of 100 pairs of co-twins (no" in read(result).text
    assert "10.0 % (no interval)" in read(result).text


def test_page_needs_nothing_but_itself(read, result):
    tags = read(result).tags
    names = {name for name, _ in tags}
    assert names.isdisjoint({"script", "link", "iframe", "object"})
    images = [attributes for name, attributes in tags if name == "img"]
    assert len(images) == len(FIGURES) and all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert not [value for _, attributes in tags for value in attributes.values() if "http:" in (value or "")]
    assert ("html", {"lang": "en"}) in tags


def poison(value):
    """The same value with every text in it, but for those that choose a branch, made an attack."""
    if isinstance(value, dict):
        return {k: v if k in ("metric", "better") else poison(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return ATTACK if isinstance(value, str) else value


def test_every_text_is_escaped(read, result):
    page = read(poison(result))
    assert "script" not in {name for name, _ in page.tags}
    assert page.text.count(ATTACK) >= 15


REQUIRED = ("data", "split", "created", "model", "code", "fingerprint", "threshold", "metrics", "metrics_per_family")
REQUIRED += ("command", "maps", "images", "synthetic", "device", "system", "weights", "seconds")
REQUIRED += ("calibration", "verdict", "confusable", "conditions", "security", "systems", "differences")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_part_is_a_sentence_and_leaves_no_file(tmp_path, result, figures, name):
    del result[name]
    with pytest.raises(ValueError, match=name):
        write_page(tmp_path / "page.html", result, figures)
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_a_missing_figure_of_a_part_is_a_sentence(tmp_path, result, figures):
    for path in (("metrics", "eer"), ("metrics_per_family", "fmr"), ("verdict", "wrong"), ("threshold", "source")):
        broken = copy.deepcopy(result)
        del broken[path[0]][path[1]]
        with pytest.raises(ValueError, match=path[1]):
            write_page(tmp_path / "page.html", broken, figures)


def test_bad_figures_are_sentences(tmp_path, result, figures):
    with pytest.raises(ValueError, match="takes the figures systems, occlusion, visibility, scores, roc"):
        write_page(tmp_path / "page.html", result, {"roc": figures["roc"]})
    with pytest.raises(ValueError, match="not a PNG"):
        write_page(tmp_path / "page.html", result, figures | {"det": b"GIF89a"})


def test_nan_is_refused(tmp_path, result, figures):
    result["threshold"]["value"] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        write_page(tmp_path / "page.html", result, figures)


def test_unresolvable_metrics_show_their_reason(read, result):
    text = read(result).text
    assert "TAR at FMR 1 % not resolvable with 31 families" in text and "FNMR at FMR" not in text
    assert "0.1 % not resolvable with 31 families" in text  # a threshold on unrelated people


def test_takes_what_summarise_gives(read, result):
    scores, genuine = [0.1, 0.4, 0.3, 0.8, 0.2, 0.9], [0, 1, 0, 1, 0, 1]
    result["metrics"] = summarise(replicate(scores, genuine, [0, 0, 1, 1, 2, 2], 0.35, draws=20))
    result["metrics_per_family"] = result["metrics"]
    result |= {"systems": [], "differences": []}
    text = read(result).text
    assert "both are 0.0 %" in text and "3 families of twins" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0324, "%", "3.2 %"),
        (-0.0189, "points", "-1.9 points"),
        (0.2, "of 100", "20.0 of 100"),
        (0.98765, "score", "0.988"),
        (0.5, "bits", "0.500 bits"),
    ],
)
def test_figures_have_their_units(value, unit, text):
    assert number_text(value, unit) == text


def test_intervals_name_the_unit_twice_and_not_thrice():
    assert estimate_in_words(estimate(0.032, 0.015, 0.05), "%") == "3.2 % (1.5 to 5.0 %)"
    assert estimate_in_words(estimate(0.9, 0.85, 0.95), "score") == "0.900 (0.850 to 0.950)"
    assert estimate_in_words(UNRESOLVED, "%") == "not resolvable with 31 families"


@pytest.mark.parametrize(
    ("better", "figures", "words"),
    [
        ("a", (-0.019, -0.033, -0.004), "EER: A is better than B by 1.9 points, 95 % interval 0.4 to 3.3 points."),
        ("b", (0.019, 0.004, 0.033), "EER: B is better than A by 1.9 points, 95 % interval 0.4 to 3.3 points."),
        (None, (0.01, -0.02, 0.03), "EER: no difference shown between A and B; A minus B is 1.0 points (-2.0 to"),
    ],
)
def test_differences_in_words(better, figures, words):
    difference = {"a": "A", "b": "B", "metric": "eer", "better": better, **estimate(*figures)}
    assert difference_in_words(difference).startswith(words)
    assert difference_in_words({"a": "A", "b": "B", "metric": "eer", **UNRESOLVED}).startswith(
        "EER, A and B: not resolvable"
    )


def test_metric_names():
    assert metric_name("fnmr_at_fmr_0.001") == "FNMR at FMR 0.1 %"
    assert not re.search("_", "".join(map(metric_name, METRICS)))
    with pytest.raises(ValueError, match="'f1' is not known"):
        metric_name("f1")


def test_the_limit_of_detection_is_there_if_it_was_measured(result, figures, tmp_path):
    write_page(tmp_path / "page.html", result, figures)
    page = (tmp_path / "page.html").read_text()
    assert '<h2 id="sensitivity">How small a difference' in page
    assert "<li>A single mark is seen from 5.1 px &amp; more.</li>" in page
    del result["sensitivity"]
    with pytest.raises(ValueError, match="takes the figures"):
        write_page(tmp_path / "page.html", result, figures)
    del figures["sensitivity"]
    write_page(tmp_path / "page.html", result, figures)
    assert "How small a difference" not in (tmp_path / "page.html").read_text()
