"""The attention browser as someone uses it, by mouse and by keyboard."""

import re

import pytest

pytestmark = pytest.mark.browser
GRID, DEPTH = 4, 3  # of the tiny model
PATCH = ".widget-radio-box label"


def test_the_pictures_are_there_and_not_their_stand_in(page):
    face, patch = (
        page.page.locator(f".twin-second {part}").bounding_box() for part in ("img", PATCH + ":nth-child(1)")
    )
    assert face["width"] == face["height"] >= 280 and patch["width"] == pytest.approx(face["width"] / GRID)
    assert (patch["x"], patch["y"]) == pytest.approx((face["x"], face["y"]))
    first, second = (page.page.locator(f".twin-{name}").bounding_box() for name in ("first", "second"))
    assert first["y"] == second["y"] and first["x"] + first["width"] < second["x"]
    assert page.page.locator(".jp-OutputArea img:not(.twin-browser img)").count() == 0
    bars = (
        "boxes => boxes.filter(b => /auto|scroll/.test(getComputedStyle(b).overflow) && b.scrollWidth > b.clientWidth)"
    )
    assert page.page.locator(".twin-browser, .twin-browser *").evaluate_all(bars) == []


def test_every_control_by_keyboard(page):
    """First of those that change anything, so that each list stands where it begins."""
    keyboard, focused = page.page.keyboard, "() => document.activeElement.closest('.jupyter-widgets')?.innerText"
    down = ("Space", "ArrowDown", "Enter")
    up = ("Space", "ArrowUp", "Enter")
    at_end = page.control("Family").evaluate("list => list.selectedIndex == list.options.length - 1")
    acts = {"Family": up if at_end else down, "First image": down, "Second image": down, "Map": ("Space", "C", "Enter")}
    acts |= {"Opacity": ("ArrowRight",), "Layer": down, "Head": down, "Outline what truly differs": ("Space",)}
    acts |= {"Patch of": down, "Row": ("ArrowRight",), "Column": ("ArrowRight",)}
    done = []
    page.control("Family").focus()
    while len(done) < len(acts):
        name = page.page.evaluate(focused).split("\n")[0]
        if name in acts and name not in done:  # a slider is two: its handle and its number
            page.changed(lambda name=name: page.press(*acts[name]))
            done.append(name)
        keyboard.press("Tab")
    assert done == list(acts)
    page.control("Next confusing pair").focus()
    page.changed(lambda: keyboard.press("Enter"))
    page.page.get_by_text("Pair 2 of").wait_for()
    page.control("Save PNG").focus()
    keyboard.press("Space")
    page.page.get_by_text("Saved as").wait_for()


def choose_next(page, label: str) -> None:
    """Choose the option after the one that is chosen, or the first."""
    control = page.control(label)
    chosen, count = control.evaluate("list => [list.selectedIndex, list.options.length]")
    page.changed(lambda: control.select_option(index=(chosen + 1) % count))


def test_every_control_by_mouse(page):
    page.changed(page.control("Next confusing pair").click)
    page.page.get_by_text("most misleading scores").wait_for()
    for label in ("First image", "Second image", "Family"):
        choose_next(page, label)
    assert "two people, co-twins" in page.text() and "SYNTHETIC" in page.text()
    page.changed(lambda: page.control("Patch of").select_option(index=0))
    page.changed(lambda: page.control("Map").select_option(label="What tells them apart"))
    page.changed(page.control("Outline what truly differs").click)
    assert page.control("Layer").is_disabled() and page.control("Head").is_disabled()
    page.changed(lambda: page.control("Map").select_option(label="CLS attention"))
    page.changed(lambda: page.control("Layer").select_option(label=f"1 of {DEPTH}"))
    page.changed(lambda: page.control("Head").select_option(index=2))
    page.changed(
        lambda: page.page.locator(".twin-browser .noUi-base").first.click(position={"x": 10, "y": 2})
    )  # opacity
    page.changed(lambda: page.control("Map").select_option(label="What tells them apart, thorough"))
    page.control("Save PNG").click()
    page.page.get_by_text("Saved as").wait_for()
    assert len(list(page.folder.glob("views/*_what_tells_them_apart_thorough.png"))) == 1


def test_pairs_are_turned_back_and_own_files_are_compared(page):
    page.changed(page.control("Next confusing pair").click)
    number = int(re.search(r"Pair (\d+) of", page.text())[1])
    page.changed(page.control("Previous").click)
    page.page.get_by_text(f"Pair {number - 1} of").wait_for()
    files = sorted(page.folder.glob("twins/test/*/*.png"))
    for label, file in (("Your file", files[0]), ("Another file", files[-1])):
        page.page.locator(".twin-browser .widget-text", has_text=label).locator("input").fill(str(file))
    page.changed(page.control("Compare these files").click)
    page.page.get_by_text("images given").wait_for()
    page.page.get_by_text("A pair of your choice").wait_for()
    page.page.locator(".twin-browser .widget-text", has_text="Another file").locator("input").fill(str(files[0]))
    page.control("Compare these files").click()
    page.page.get_by_text("one file or its copy").wait_for()
    page.changed(page.control("Next confusing pair").click)
    page.page.get_by_text(f"Pair {number} of").wait_for()


def test_uploaded_photographs_are_compared(page, tmp_path):
    def uploaded(button, file):
        with page.page.expect_file_chooser() as chooser:
            page.control(button).click()
        chooser.value.set_files(file)
        page.page.get_by_text(f"{file.name} is uploaded").wait_for()

    files = sorted(page.folder.glob("twins/test/*/*.png"))
    uploaded("Upload yours", files[1])
    uploaded("Upload another", files[-2])
    page.changed(page.control("Compare these files").click)
    page.page.get_by_text("images given").wait_for()
    uploaded("Upload another", files[1])  # the same file again
    page.control("Compare these files").click()
    page.page.get_by_text("one file or its copy").wait_for()
    page.changed(page.control("Next confusing pair").click)


def test_a_patch_under_the_mouse_lights_its_match_and_a_pressed_one_frames_it(page):
    patches = {name: page.page.locator(f".twin-{name} {PATCH}") for name in ("first", "second")}
    lit = "labels => labels.flatMap((label, n) => getComputedStyle(label).outlineStyle == 'dashed' ? [n] : [])"
    assert patches["first"].count() == GRID**2
    for here, there in (("first", "second"), ("second", "first")):
        before = page.pictures()
        patches[here].nth(5).hover()
        found = patches[there].evaluate_all(lit)
        assert len(found) == 1 and patches[here].evaluate_all(lit) == [] and page.pictures() == before
        pressed = page.changed(patches[here].nth(5).click)
        assert all(old != new for old, new in zip(before, pressed, strict=True))
        row, column = (place + 1 for place in divmod(found[0], GRID))
        said = f"Row 2, column 2 of the {here} image (solid frame) is most like row {row}, column {column} of the other"
        page.page.get_by_text(said).wait_for()
        assert page.changed(patches[here].nth(5).click) == before  # pressed again


def test_nothing_was_complained_about(page):
    assert page.complaints == []
