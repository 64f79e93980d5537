"""A browser over a few drawn twins and a tiny random model, for its tests without and with a front end."""

from dataclasses import replace
from pathlib import Path

from tiny_models import SIZE, make_model

from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.images import open_images
from dcal_core.data.splits import Split, TwinData
from dcal_core.data.twins import read_index
from dcal_core.explain.browser import Browser
from dcal_core.explain.explorer import Explorer
from dcal_core.verification.decision import DecisionRule
from dcal_core.verification.verdicts import Thresholds

FAMILIES, IMAGES = 3, 3
KNOWN = DecisionRule("SYNTHETIC", "", 3, 0.5, Thresholds(0.4, 0.6), 0.05, None)


def drawn_twins(root: Path, label: str = "SYNTHETIC") -> TwinData:
    """3 families of drawn twins with 3 images of each person."""
    drawn = {"families": FAMILIES, "images_per_person": IMAGES, "size": SIZE, "difficulty": 0.5, "seed": 0}
    generate(root, split="test", **drawn, workers=1)
    index = read_index(root / "test_dataset_infor.json", root / "test_twin_pairs.json", "test")
    index = replace(index, paths=tuple(root / path for path in index.paths))
    return TwinData(root, label, {"test": Split(index, open_images(index.paths, SIZE, root / "cache", 0.0))})


def make_browser(folder: Path, model=None, rule: DecisionRule | None = KNOWN, label: str = "SYNTHETIC") -> Browser:
    """A browser that knows what scores mean and where the drawn twins differ."""
    explorer = Explorer(model or make_model(readout="tokens"), drawn_twins(folder / "twins", label), rule)
    return Browser(explorer, folder / "views")
