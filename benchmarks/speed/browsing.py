"""Rows on the attention browser: how long the kernel takes to answer a control, at the demo's size."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.subjects import Setting
from benchmarks.speed.timing import Row, Spread, alternate
from dcal_core.config.recipes import load
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.images import open_images
from dcal_core.data.splits import SYNTHETIC, Split, TwinData
from dcal_core.data.twins import read_index
from dcal_core.explain.browser import Browser
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.explorer import Explorer
from dcal_core.installation import presets_folder
from dcal_core.recipes.catalogue import new_model

FAMILIES, IMAGES = 8, 4
LIMIT_MS = 150  # what is answered sooner feels immediate
OFTEN = 3  # times as many rounds


def demo_browser(folder: Path) -> Browser:
    """The browser over a few drawn twins, with the demo's model before any training."""
    config = load("demo", presets_folder(), {})
    drawn = {"families": FAMILIES, "images_per_person": IMAGES, "size": config.image_size, "difficulty": 0.5, "seed": 0}
    generate(folder, split="test", **drawn, workers=1)
    index = read_index(folder / "test_dataset_infor.json", folder / "test_twin_pairs.json", "test")
    index = replace(index, paths=tuple(folder / path for path in index.paths))
    images = open_images(index.paths, config.image_size, folder / "cache", 0.0)
    torch.manual_seed(0)
    model = new_model(config, [], pretrained=False).eval()
    return Browser(Explorer(model, TwinData(folder, SYNTHETIC, {"test": Split(index, images)})), folder)


def touches(browser: Browser) -> dict[str, Callable[[], None]]:
    """For each control what changes it, by name. Those of images and maps find nothing computed before."""
    c = browser.controls

    def turn(control, name: str, values) -> Callable[[], None]:
        values = cycle(values)
        return lambda: setattr(control, name, next(values))

    def anew(work: Callable[[], None]) -> Callable[[], None]:
        return lambda: (browser.explorer.view.cache_clear(), work())

    quick = [kind for _, kind in c.kind.options if MAPS[kind].quick]
    return {
        "next pair": anew(c.next.click),
        "family": anew(turn(c.family, "value", [family for _, family in c.family.options])),
        "image": anew(
            lambda: setattr(c.faces[0], "value", next(i for _, i in c.faces[0].options if i not in browser.pair))
        ),
        **{f"map: {MAPS[kind].title}": anew(turn(c.kind, "value", [kind])) for kind in quick},
        "layer": turn(c.layer, "value", [0, 1]),
        "head": turn(c.head, "value", [0, 1]),
        "opacity": turn(c.opacity, "value", [0.2, 0.4, 0.6]),
        "outlines": turn(c.marks, "value", [False, True]),
        "patch pressed": turn(c.patches[0], "index", range(c.row.max)),
    }


def browsing_rows(setting: Setting) -> Iterator[Row]:
    """Milliseconds from a control's change to the new pictures, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        browser = demo_browser(Path(folder))
        seconds = alternate(touches(browser), OFTEN * setting.repeats, warmups=1)
    for name, figures in seconds.items():
        milliseconds = 1000 * np.asarray(figures)
        note = f"at most {milliseconds.max():.0f}"
        yield Row(f"attention browser, {name}", Spread.of(milliseconds), "ms", goal=LIMIT_MS, note=note)
