"""The controls of the browser and their layout, without what they do.

Patches are clicked on the pictures, or chosen by the controls below them. The match of the patch under the mouse is
outlined by CSS alone, without asking the kernel.
"""

from uuid import uuid4

import numpy as np
from ipywidgets import (
    HTML,
    Box,
    Button,
    Checkbox,
    Dropdown,
    FileUpload,
    FloatSlider,
    HBox,
    IntSlider,
    Layout,
    RadioButtons,
    Text,
    VBox,
)

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.paint import OPACITY, SIDE

FACES = ("first", "second")
NOTHING = -1  # no head or face chosen; a list with an option of value None begins blank in some sessions (ipywidgets)
STYLE = """<style>
.twin-browser .twin-face { position: relative; width: SIDEpx; height: SIDEpx; margin: 0 16px 0 0; flex: none }
.twin-browser .twin-face img { width: SIDEpx; height: SIDEpx; max-width: none; display: block }
.twin-browser .twin-face .widget-html, .twin-browser .twin-face .widget-html-content { margin: 0; line-height: 0 }
.twin-browser .twin-patches { position: absolute; inset: 0; width: auto; height: auto; margin: 0 }
.twin-browser .twin-patches > label, .twin-browser .twin-patches input { display: none }
.twin-browser .twin-patches .widget-radio-box { position: absolute; inset: 0; margin: 0 !important; padding: 0;
    display: grid; grid-template: repeat(GRID, 1fr) / repeat(GRID, 1fr); gap: 0 }
.twin-browser .twin-patches .widget-radio-box label { width: auto; height: auto; min-width: 0; min-height: 0;
    margin: 0; padding: 0; font-size: 0; line-height: 0; cursor: crosshair }
.twin-browser .twin-patches .widget-radio-box label:hover { box-shadow: inset 0 0 0 2px white, inset 0 0 0 4px black }
</style>"""
# In JupyterLab 4 arrow keys leave a list that is not open (jupyter-widgets/ipywidgets#3912).
BY_KEYBOARD = (
    "By keyboard: Tab goes on to the next control, Space opens a list, arrow keys move within it, Enter chooses."
)
# A larger message ends the connection to the kernel, without a word (tornado's websocket_max_message_size).
BY_UPLOAD = "Jupyter takes uploads of up to 10 MB; of a larger photograph, type the path."
LIT = "{ outline: 3px dashed white; outline-offset: -4px; box-shadow: inset 0 0 0 5px black }"


def lights(name: str, matches: np.ndarray | None) -> str:
    """The CSS that outlines the match of the patch under the mouse, in the browser of class `name`; matches: [2, P]."""
    if matches is None:
        return ""
    rules = [
        f".{name}:has(.twin-{here} label:nth-child({at}):hover) .twin-{there} label:nth-child({match})"
        for here, there, found in zip(FACES, FACES[::-1], matches, strict=True)
        for at, match in enumerate(found + 1, 1)
    ]
    rules = [rule.replace(" label", " .widget-radio-box label") for rule in rules]
    return f"<style>{', '.join(rules)} {LIT}</style>"


class Controls:
    """All widgets, `box` around them, and the CSS class `name` that only this browser has.

    families, kinds: options of their dropdowns; depth: layers and heads of the attention; grid: g.
    """

    def __init__(self, families: list[tuple[str, int]], kinds: tuple[str, ...], depth: tuple[int, int], grid: int):
        self.name = f"twin-browser-{uuid4().hex[:8]}"
        wide = {"layout": Layout(width="26em"), "style": {"description_width": "8em"}}
        short = wide | {"layout": Layout(width="15em")}
        slide = wide | {"continuous_update": False}
        layers = [(f"{n + 1} of {depth[0]}", n) for n in range(depth[0])]
        heads = [(f"{n + 1} of {depth[1]}", n) for n in range(depth[1])]
        self.family = Dropdown(options=families, description="Family", **wide)
        self.faces = [Dropdown(description=f"{face.title()} image", **wide) for face in FACES]
        indented = Layout(width="12em", margin="2px 2px 2px 8em")
        self.previous = Button(description="Previous", layout=indented)
        self.next = Button(description="Next confusing pair", layout=Layout(width="14em"))
        self.number = HTML()
        self.kind = Dropdown(options=[(MAPS[kind].title, kind) for kind in kinds], description="Map", **wide)
        self.layer = Dropdown(options=layers[::-1], description="Layer", **short)
        self.head = Dropdown(options=[("mean of all", NOTHING), *heads], description="Head", **short)
        self.opacity = FloatSlider(OPACITY, min=0, max=1, step=0.05, description="Opacity", **slide)
        sides = [("none", NOTHING), *((f"the {face} image", side) for side, face in enumerate(FACES))]
        self.side = Dropdown(options=sides, description="Patch of", **wide)
        self.row = IntSlider(1, 1, grid, description="Row", **slide)
        self.column = IntSlider(1, 1, grid, description="Column", **slide)
        self.marks = Checkbox(True, description="Outline what truly differs", indent=False, layout=Layout(width="18em"))
        self.save = Button(description="Save PNG", layout=indented)
        self.own = [
            Text(description=f"{which} file", placeholder="path of an aligned face", **wide)
            for which in ("Your", "Another")
        ]
        self.uploads = [
            FileUpload(accept="image/*", description=f"Upload {which}", layout=Layout(width="12em"))
            for which in ("yours", "another")
        ]
        self.compare = Button(description="Compare these files", layout=indented)
        self.pictures = [HTML(), HTML()]
        self.patches = [self._patches(grid), self._patches(grid)]
        self.verdict = HTML()
        self.legend = HTML()
        self.found = HTML()
        self.hints = HTML()
        self.status = HTML()
        self.lights = HTML()
        self.box = self._arranged(grid)

    @staticmethod
    def _patches(grid: int) -> RadioButtons:
        places = [f"row {1 + patch // grid}, column {1 + patch % grid}" for patch in range(grid**2)]
        return RadioButtons(options=places, index=None).add_class("twin-patches")

    def _arranged(self, grid: int) -> VBox:
        flow = Layout(flex_flow="row wrap", overflow="visible")
        faces = []
        for name, *parts in zip(FACES, self.pictures, self.patches, strict=True):
            face = Box(parts, layout=Layout(overflow="visible"))
            faces.append(face.add_class("twin-face").add_class(f"twin-{name}"))
        rows = [
            [self.previous, self.next, self.number],
            [self.family],
            self.faces,
            [self.kind, self.opacity],
            [self.layer, self.head, self.marks],
            [self.hints],
            [self.verdict],
            faces,
            [self.legend],
            [self.side, self.save],
            [self.row, self.column],
            [self.found],
            *zip(self.own, self.uploads, strict=True),
            [self.compare, HTML(BY_UPLOAD)],
            [HTML(BY_KEYBOARD)],
            [self.status],
        ]
        style = HTML(STYLE.replace("SIDE", str(SIDE)).replace("GRID", str(grid)))
        box = VBox([*(HBox(row, layout=flow) for row in rows), style, self.lights], layout=Layout(overflow="visible"))
        return box.add_class("twin-browser").add_class(self.name)

    def hint(self) -> str:
        """Why controls are grey, in a sentence for each."""
        why = {
            "Layer": (self.layer, "this map is made of all layers, or of none"),
            "Head": (self.head, "this map is not made of single heads"),
            "Row and column": (self.row, "choose a face at “Patch of” first"),
            "Outline": (self.marks, "only of drawn co-twins is it known what truly differs"),
        }
        return " ".join(f"{name}: {words}." for name, (control, words) in why.items() if control.disabled)

    @property
    def patch(self) -> tuple[int, int] | None:
        """The chosen patch as its face and its number along the rows, from 0; None where none is chosen."""
        place = (self.row.value - 1) * self.row.max + self.column.value - 1
        return None if self.side.value == NOTHING else (self.side.value, place)
