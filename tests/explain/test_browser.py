import base64
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from scipy.ndimage import binary_dilation
from tiny_browser import FAMILIES, IMAGES, KNOWN, make_browser
from tiny_models import DEPTH, GRID, HEADS

from dcal_core.explain import browser as module
from dcal_core.explain.browser import Browser
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.controls import lights
from dcal_core.explain.paint import FRAME, OPACITY, SCALES, SIDE, contoured, framed, overlaid

CELL = SIDE // GRID


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The folder in which the twins are drawn once."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture
def browser(twins):
    return make_browser(twins)


def shown(browser: Browser) -> list[np.ndarray]:
    """The two pictures as a front end would decode them."""
    sources = [re.search(r'src="data:image/png;base64,([^"]+)"', html.value)[1] for html in browser.controls.pictures]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def composed(browser: Browser, name: str, opacity=OPACITY, marks=True, **choice) -> list[np.ndarray]:
    """What should be shown, from what the view says: values lie at the middles of patches, and linear between them."""
    view = browser.explorer.view(*browser.pair)
    maps, pictures = view.map(name, **choice), []
    peak = np.abs(maps).max()
    middles, places = (np.arange(GRID) + 0.5) * CELL - 0.5, np.arange(SIDE)
    for side in range(2):
        face = Image.fromarray(view.faces[side]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grey = np.asarray(face) @ (0.299, 0.587, 0.114)
        rows = np.array([np.interp(places, middles, row) for row in maps[side] / peak])
        value = np.array([np.interp(places, middles, column) for column in rows.T]).T
        value = value if MAPS[name].signed else value.clip(min=0)
        colour = SCALES[MAPS[name].signed]((value + 1) / 2 if MAPS[name].signed else value)
        cover = opacity * np.abs(value)[..., None]
        picture = (1 - cover) * grey[..., None] + cover * 255 * colour[..., :3]
        if marks and view.marks is not None:
            mask = Image.fromarray(view.marks[side]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            mask, square = np.asarray(mask), np.ones((3, 3))
            wide, wider = (binary_dilation(mask, square, iterations=n) for n in (2, 3))
            picture[wider & ~mask], picture[wide & ~mask] = 0, 255
        pictures.append(picture)
    return pictures


def check(browser: Browser, *given, **choice) -> None:
    for picture, expected in zip(shown(browser), composed(browser, *given, **choice), strict=True):
        off = np.abs(picture - expected)
        assert off.max() <= 3 and (off <= 1.01).mean() > 0.95  # colours have 256 steps, fp32 may fall on another


# ---- pictures


def test_a_map_colours_by_value_and_covers_by_size():
    face = np.full((8, 8, 3), 100, np.uint8)
    values = np.array([[2.0, 0.0], [1.0, 0.0]])  # a patch is 4 px, so its middle lies between the second and third
    picture = overlaid(face, values, peak=2.0, signed=False, opacity=0.5)
    last, middle = (255 * np.array(colormaps["viridis"](at)[:3]) for at in (1.0, 0.5))
    assert (picture[:, 6:] == 100).all()
    np.testing.assert_allclose(picture[:2, :2], np.broadcast_to(50 + 0.5 * last, (2, 2, 3)), atol=0.51)
    np.testing.assert_allclose(picture[6:, :2], np.broadcast_to(75 + 0.25 * middle, (2, 2, 3)), atol=0.51)
    assert len(np.unique(picture[0, :, 0])) > 4  # no edge where one patch ends
    signed = overlaid(face, np.array([[-1.0, 1.0], [0.0, 0.0]]), peak=1.0, signed=True, opacity=1.0)
    for column, at in ((0, 0.0), (7, 1.0)):
        np.testing.assert_allclose(signed[0, column], 255 * np.array(SCALES[True](at)[:3]), atol=0.51)


def test_a_mark_stays_visible_under_the_strongest_colour():
    face = np.full((8, 8, 3), 180, np.uint8)
    face[3:5, 3:5] = 20
    picture = overlaid(face, np.ones((2, 2)), peak=1.0, signed=False, opacity=OPACITY)
    assert (picture[0, 0].astype(int) - picture[4, 4] > 50).all()


@pytest.mark.parametrize(("side", "grid"), [(SIDE, 14), (40, 3)])
def test_a_frame_stays_inside_its_patch(side, grid):
    grey = np.full((side, side, 3), 100, np.uint8)
    patch = grid + 2  # row 1, column 2
    inside = np.arange(side) * grid // side
    inside = (inside == 1)[:, None] & (inside == 2)
    solid, dashed = (framed(grey, patch, grid, dashed)[..., 0] for dashed in (False, True))
    core = ~binary_dilation(~inside, np.ones((3, 3)), iterations=FRAME, border_value=1)
    assert ((solid != 100) == (inside & ~core)).all() and set(solid[inside & ~core]) == {0, 255}
    drawn = dashed != 100
    assert (dashed[drawn] == solid[drawn]).all() and 0.3 < drawn.sum() / (solid != 100).sum() < 0.7


def test_marks_are_outlined_and_not_covered():
    grey, marks = np.full((40, 40, 3), 100, np.uint8), np.zeros((20, 20), bool)
    marks[8:10, 8:10] = True  # 16 to 20 of the picture
    picture = contoured(grey, marks)[..., 0]
    assert (picture[16:20, 16:20] == 100).all() and (picture[:13] == 100).all()
    assert picture[18, 12:24].tolist() == [100, 0, 255, 255, 100, 100, 100, 100, 255, 255, 0, 100]


# ---- the order of pairs


def test_the_next_pair_walks_this_order_and_begins_again(browser):
    pairs, order = browser.explorer.scored.pairs, browser.explorer.order
    assert browser.pair == (pairs.a[order[0]], pairs.b[order[0]])
    for turn in (1, 2, 3, len(order) - 1, len(order)):
        browser.turn, place = turn - 1, order[turn % len(order)]
        browser.controls.next.click()
        assert browser.pair == (pairs.a[place], pairs.b[place])
        assert tuple(face.value for face in browser.controls.faces) == browser.pair
        assert browser.controls.family.value == pairs.family[place]
        assert browser.controls.number.value.startswith(f"Pair {turn % len(order) + 1} of {len(order)}, the most")
    browser.controls.previous.click()
    assert browser.pair == (pairs.a[order[-1]], pairs.b[order[-1]])
    assert browser.controls.number.value.startswith(f"Pair {len(order)} of")
    browser.controls.faces[0].value = browser.controls.faces[1].value
    assert browser.controls.number.value == "A pair of your choice"


# ---- controls


def test_each_control_changes_the_picture_as_the_view_says(browser):
    c = browser.controls
    check(browser, "distinctive")
    for name in browser.explorer.view(*browser.pair).kinds:
        c.kind.value = name
        check(browser, name)
        assert (c.layer.disabled, c.head.disabled) == ("layer" not in MAPS[name].by, "head" not in MAPS[name].by)
    c.kind.value, c.layer.value = "rollout", 0
    check(browser, "rollout", layer=0)
    c.kind.value, c.head.value = "cls_attention", HEADS - 1
    check(browser, "cls_attention", layer=0, head=HEADS - 1)
    c.opacity.value = 0.25
    check(browser, "cls_attention", 0.25, layer=0, head=HEADS - 1)
    c.marks.value = False
    check(browser, "cls_attention", 0.25, False, layer=0, head=HEADS - 1)
    assert c.status.value == ""


def test_any_two_images_of_a_family_can_be_chosen(browser):
    c = browser.controls
    assert len(c.family.options) == FAMILIES and len(c.layer.options) == DEPTH and len(c.head.options) == 1 + HEADS
    c.family.value = 2
    images = browser._images_of(2)
    assert browser.pair == (images[0], images[IMAGES])  # of one and of the other
    assert [value for _, value in c.faces[0].options] == images.tolist()
    assert "two people, co-twins" in c.verdict.value and not c.marks.disabled
    check(browser, "distinctive")
    c.faces[1].value = int(images[1])
    assert browser.pair == (images[0], images[1])
    assert "the same person" in c.verdict.value.split("<br>")[1] and c.marks.disabled
    check(browser, "distinctive")
    c.faces[0].value = int(images[1])  # shown as the second: they change places
    assert browser.pair == (images[1], images[0]) == tuple(face.value for face in c.faces)
    check(browser, "distinctive")


def test_every_change_draws_once(browser, monkeypatch):
    drawn = []
    draw = browser._composed
    monkeypatch.setattr(browser, "_composed", lambda: drawn.append(1) or draw())
    c = browser.controls
    changes = [
        lambda: c.next.click(),
        lambda: setattr(c.family, "value", 2 if c.family.value != 2 else 1),
        lambda: setattr(c.faces[0], "value", c.faces[0].options[1][1]),
        lambda: setattr(c.faces[0], "value", c.faces[1].value),
        lambda: setattr(c.kind, "value", "match"),
        lambda: setattr(c.kind, "value", "cls_attention"),
        lambda: setattr(c.layer, "value", 0),
        lambda: setattr(c.head, "value", 1),
        lambda: setattr(c.opacity, "value", 0.5),
        lambda: setattr(c.marks, "value", False),
        lambda: setattr(c.side, "value", 1),
        lambda: setattr(c.row, "value", 3),
        lambda: setattr(c.column, "value", 2),
        lambda: setattr(c.patches[0], "index", 5),
    ]
    for number, change in enumerate(changes, 1):
        change()
        assert len(drawn) == number, number


def test_a_pressed_patch_and_its_match_are_framed(browser):
    c, before = browser.controls, shown(browser)
    matches = browser.explorer.view(*browser.pair).matches
    for side in range(2):
        c.patches[side].index = 6
        assert c.patch == (side, 6) and (c.row.value, c.column.value) == (2, 3) and c.patches[side].index is None
        match = matches[side, 6]
        expected = [framed(before[side], 6, GRID, False), framed(before[1 - side], match, GRID, True)]
        assert [(p == q).all() for p, q in zip(shown(browser)[:: 1 - 2 * side], expected, strict=True)] == [True, True]
        assert f"is most like row {match // GRID + 1}, column {match % GRID + 1}" in c.found.value
    c.patches[1].index = 6  # again
    assert c.patch is None and all((p == q).all() for p, q in zip(shown(browser), before, strict=True))


def test_a_patch_can_be_chosen_without_a_mouse(browser):
    c, before = browser.controls, shown(browser)
    assert c.row.disabled and c.column.disabled
    c.side.value, c.row.value, c.column.value = 0, 3, 4
    assert not c.row.disabled and c.patch == (0, 11)
    assert (shown(browser)[0] == framed(before[0], 11, GRID, False)).all()


def test_patches_under_the_mouse_light_their_matches():
    style = lights("mine", np.array([[2, 0], [1, 1]]))
    pattern = (
        r"\.mine:has\(\.twin-(\w+) \.\S+ label:nth-child\((\d)\):hover\) \.twin-(\w+) \.\S+ label:nth-child\((\d)\)"
    )
    assert re.findall(pattern, style) == [
        ("first", "1", "second", "3"),
        ("first", "2", "second", "1"),
        ("second", "1", "first", "2"),
        ("second", "2", "first", "2"),
    ]
    assert lights("mine", None) == ""


def test_a_model_without_patches_is_browsed_without_matches(twins, monkeypatch):
    monkeypatch.setattr(PairView, "matches", None)
    browser = make_browser(twins)
    browser.controls.patches[0].index = 6
    assert "keeps no patches" in browser.controls.found.value and browser.controls.lights.value == ""
    check(browser, "distinctive")


# ---- two files of one's own


def own_files(browser, folder, *makes):
    """Files of two drawn faces, each after a change, with their paths typed."""
    images = browser._images_of(1)[[0, IMAGES]]
    for number, (image, make, text) in enumerate(zip(images, makes, browser.controls.own, strict=True)):
        file = folder / f"mine <{number}>.png"
        with Image.open(browser.explorer.index.paths[image]) as face:
            make(face.convert("RGB")).save(file)
        text.value = f" {file} "
    return images


def as_it_is(face):
    return face


def test_two_files_of_ones_own_are_compared_as_the_families_are(browser, tmp_path):
    images, c = own_files(browser, tmp_path, as_it_is, as_it_is), browser.controls
    c.compare.click()
    assert c.status.value == "" and c.number.value == "A pair of your choice" and c.marks.disabled
    known = browser.explorer.view(*images)
    assert browser.view.score == pytest.approx(known.score, abs=1e-5)
    assert (browser.view.faces == known.faces).all() and browser.view.marks is None
    assert "mine &lt;0&gt;.png" in c.pictures[0].value and "images given" in c.verdict.value
    assert KNOWN.sentence(known.score) in c.verdict.value and "In truth" not in c.verdict.value
    c.save.click()
    (saved,) = browser.folder.iterdir()
    assert "mine_0" in saved.name
    saved.unlink()
    c.next.click()
    assert browser.own is None and "In truth" in c.verdict.value


@pytest.mark.parametrize(
    ("makes", "said"),
    [
        ((as_it_is, lambda face: Image.new("RGB", (40, 40))), "No verdict: .*is of one colour"),
        ((lambda face: face.point(lambda value: 100 + value // 64), as_it_is), "No verdict: .*has almost no contrast"),
    ],
)
def test_files_that_show_no_face_have_no_verdict(browser, tmp_path, makes, said):
    own_files(browser, tmp_path, *makes)
    before = browser.controls.verdict.value
    browser.controls.compare.click()
    assert re.search(said, browser.controls.status.value) and browser.controls.verdict.value == before
    assert browser.own is None


def test_one_file_twice_or_none_or_a_misspelt_one_is_said(browser, tmp_path):
    c = browser.controls
    c.compare.click()
    assert "Upload two photographs first, or type the paths of two image files." in c.status.value
    own_files(browser, tmp_path, as_it_is, as_it_is)
    c.own[1].value = c.own[0].value
    c.compare.click()
    assert "one file or its copy" in c.status.value
    c.own[1].value = str(tmp_path / "none.png")
    c.compare.click()
    assert "none.png: there is no such file" in c.status.value


def upload(browser, side, name, content):
    """What a front end sends."""
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    browser.controls.uploads[side].value = (file | {"last_modified": datetime.now(UTC)},)


def test_uploads_are_compared_as_files_are(browser):
    c = browser.controls
    images = browser._images_of(1)[[0, IMAGES]]
    for side, image in enumerate(images):
        upload(browser, side, "IMG 1.png", Path(browser.explorer.index.paths[image]).read_bytes())
        assert "IMG 1.png is uploaded, and will be deleted when the kernel ends." in c.status.value
        assert c.uploads[side].value == () and c.own[side].value.endswith("IMG 1.png")  # both are called the same
    c.compare.click()
    assert c.status.value == "" and "images given" in c.verdict.value and "IMG 1.png" in c.pictures[1].value
    known = browser.explorer.view(*images)
    assert browser.view.score == pytest.approx(known.score, abs=1e-5) and (browser.view.faces == known.faces).all()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("black.png", "black", "black.png is of one colour: it shows no face."),
        ("twice.png", "first", "are one file or its copy: give two pictures."),
        ("notes.txt", b"no image", "notes.txt: not an image"),
        ("empty.jpg", b"", "empty.jpg: the file is empty"),
        ("../../out.png", b"", "out.png: the file is empty"),
    ],
)
def test_uploads_go_through_the_gate(browser, name, content, said):
    c = browser.controls
    first = Path(browser.explorer.index.paths[0]).read_bytes()
    black = io.BytesIO()
    Image.new("RGB", (40, 40)).save(black, "PNG")
    upload(browser, 0, "first.png", first)
    upload(browser, 1, name, {"first": first, "black": black.getvalue()}.get(content, content))
    assert Path(c.own[1].value).parent == Path(browser.uploaded.name, "second")
    c.compare.click()
    assert re.search(said, c.status.value) and browser.own is None


def test_an_upload_that_cannot_be_kept_is_said(browser):
    upload(browser, 0, f"{'x' * 300}.png", b"")
    assert "This went wrong" in browser.controls.status.value and browser.controls.own[0].value == ""


def test_doubts_come_before_the_score(browser, tmp_path):
    own_files(browser, tmp_path, as_it_is, lambda face: face.resize((60, 40)))
    browser.controls.compare.click()
    verdict = browser.controls.verdict.value
    assert 0 < verdict.index("is not square: 60 x 40 px") < verdict.index("score ")


# ---- words


def test_a_grey_control_says_why(browser):
    c = browser.controls
    assert c.hints.value == c.hint() != ""
    for control, name in ((c.layer, "Layer"), (c.head, "Head"), (c.row, "Row and column"), (c.marks, "Outline")):
        assert (f"{name}: " in c.hints.value) == control.disabled
    c.kind.value, c.side.value = "cls_attention", 0
    assert "Layer" not in c.hints.value and "Head" not in c.hints.value and "Row" not in c.hints.value


def test_without_an_evaluation_there_is_no_verdict(twins):
    browser = make_browser(twins, rule=None, label="photographs")
    assert "not known before an evaluation" in browser.controls.verdict.value and browser.controls.marks.disabled
    check(browser, "distinctive")


def test_names_and_labels_are_text(twins):
    browser = make_browser(twins, label="<b>real</b>")
    assert "&lt;b&gt;real" in browser.controls.verdict.value


def test_pictures_and_colours_are_described(browser):
    browser.controls.kind.value = "match"
    first, second = browser.controls.pictures
    name = browser.explorer.view(*browser.pair).names[1]
    assert f'alt="second image, {name}, under the map: Matching patches"' in second.value
    legend = browser.controls.legend.value
    assert legend.startswith("two people: -") and "one person: +" in legend and MAPS["match"].meaning in legend


def test_a_map_of_nothing_is_said(browser, monkeypatch):
    monkeypatch.setattr(browser.explorer.view(*browser.pair), "map", lambda name: np.zeros((2, GRID, GRID), np.float32))
    browser._draw()
    assert "This map is zero everywhere." in browser.controls.legend.value


def test_a_thorough_map_says_first_that_it_takes_time(browser):
    said = []
    browser.controls.status.observe(lambda change: said.append(change["new"]), names="value")
    browser.controls.kind.value = "occlusion"
    assert len(said) == 2 and "Computing" in said[0] and said[1] == ""


def test_what_goes_wrong_is_shown_and_the_browser_goes_on(browser, monkeypatch):
    monkeypatch.setattr(browser.explorer, "images", SimpleNamespace(size=32, batch=lambda pair: 1 / 0))
    browser.explorer.view.cache_clear()
    browser.controls.family.value = 2
    assert "This went wrong: ZeroDivisionError: division by zero" in browser.controls.status.value
    monkeypatch.undo()
    browser.controls.next.click()
    assert "Pair 2" in browser.controls.number.value
    check(browser, "distinctive")


# ---- saving and showing


def test_a_saved_view_holds_the_pictures_and_what_they_mean(browser):
    c = browser.controls
    c.kind.value, c.head.value, c.patches[0].index = "cls_attention", 1, 6
    c.save.click()
    (file,) = browser.folder.iterdir()
    assert (
        file.name.endswith(f"_cls_attention_layer{DEPTH}_head2_first_row2_column3.png") and str(file) in c.status.value
    )
    with Image.open(file) as saved:
        saved = np.asarray(saved)
    for picture in shown(browser):
        places = np.argwhere((saved[:, :, None] == picture[0, 0]).all(-1).any(-1))
        assert any((saved[y : y + SIDE, x : x + SIDE] == picture).all() for y, x in places if saved.shape[1] - x > SIDE)
    assert len(np.unique(saved[:60].reshape(-1, 3), axis=0)) > 1  # the lines above


def test_a_view_that_cannot_be_saved_is_said(browser, tmp_path):
    (tmp_path / "occupied").write_text("a file where a folder should be")
    browser.folder = tmp_path / "occupied"
    browser.controls.save.click()
    assert "This went wrong: StorageError" in browser.controls.status.value


@pytest.mark.parametrize("there", [True, False])
def test_the_widget_is_displayed_only_where_someone_is(browser, monkeypatch, tmp_path, there):
    displayed = []
    monkeypatch.setattr(module, "display", lambda data, raw: displayed.append(data))
    monkeypatch.setattr(module, "is_interactive", lambda: there)
    (tmp_path / "sheet.png").write_bytes(b"picture")
    browser.show(tmp_path / "sheet.png")
    (data,) = displayed
    assert base64.b64decode(data["image/png"]) == b"picture" and data["text/plain"] == "Twin attention maps"
    assert ("application/vnd.jupyter.widget-view+json" in data) == there
    json.dumps(data)


def test_every_list_begins_with_an_option_chosen_and_none_is_worth_none(browser):
    c = browser.controls
    for control in (c.family, *c.faces, c.kind, c.layer, c.head, c.side):
        assert control.index is not None and control.label, control.description
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        assert None not in values, control.description  # see NOTHING
    assert (c.head.label, c.side.label) == ("mean of all", "none")
