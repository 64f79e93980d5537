"""Faces that are set by hand: five points of a photograph, in `landmarks.csv`, where no face is found or a wrong one.

A row names an image as an exclusion list does, then gives x and y of TEMPLATE's landmarks in their order, px of the
upright photograph. Any image viewer shows them; in a notebook `Pointer` takes five clicks.
"""

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ipywidgets import HTML, Button, HBox, Layout, Text, VBox
from PIL import ImageDraw

from dcal_core.audit.alignment import apply, similarity_transform
from dcal_core.audit.facts import Entry
from dcal_core.data.decoding import Unreadable, open_upright, read_file
from dcal_core.data.exclusions import match_exclusions, read_rows
from dcal_core.data.landmarks import TEMPLATE
from dcal_core.data.twins import DataError, name_some
from dcal_core.palette import GREEN
from dcal_core.storage import write_text

LANDMARKS = "landmarks.csv"
POINTS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")  # of the picture
HEADER = ("image", *(f"{point} {axis}".replace(" ", "_") for point in POINTS for axis in "xy"))
MISFIT = 16.0  # px of 112; faces turned by up to 75 degrees stay below, two points that are swapped do not
SHOWN = 640  # px, the longer side of a photograph to click into
CLICK = (  # tells the hidden field where the picture was clicked, and when, so that no two clicks are the same
    "const place = this.getBoundingClientRect();"
    "const field = this.closest('.twins-pointer').querySelector('input');"
    "field.value = [(event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height,"
    " event.timeStamp];"
    "field.dispatchEvent(new Event('input', {bubbles: true}))"
)


def check_points(points: np.ndarray, size: tuple[int, int], where: str) -> None:
    """DataError for points [5, 2] that lie outside a picture of a width and a height, or as those of no face do."""
    if not ((points > -1) & (points < size)).all():
        raise DataError(f"{where}: points outside the picture of {size[0]} x {size[1]} px: correct them.")
    spread = np.ptp(points, axis=0).max()
    fitted = apply(similarity_transform(points, TEMPLATE), points) if spread else np.inf
    if not np.sqrt(((fitted - TEMPLATE) ** 2).sum(1).mean()) <= MISFIT:
        raise DataError(
            f"{where}: the points lie as those of no face do: give {', '.join(POINTS)}, left and right of the picture."
        )


def read_points(file: Path, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """The points [5, 2] of each image that a file names, by the entries' names; DataError for anything else than such a
    file of these images."""
    found = {}
    places = {}
    for (image, *numbers), where in read_rows(file, HEADER):
        if image in found:
            raise DataError(f"{where}: image {image!r:.200} is listed twice: keep one row.")
        try:
            found[image] = np.array(numbers, float).reshape(len(POINTS), 2)
        except ValueError:
            raise DataError(f"{where}: not an image and {2 * len(POINTS)} numbers: write {','.join(HEADER)}.") from None
        places[image] = where
    matched, unknown = match_exclusions(list(found), [entry.path for entry in entries], file)
    if unknown:
        raise DataError(
            f"{file}: names {name_some(unknown, 'image', 'images')} that the index lacks: delete these rows."
        )
    for image, number in matched.items():
        try:
            size = open_upright(read_file(Path(entries[number].places[0]))).size
        except (Unreadable, IndexError):
            continue  # the audit and the alignment say so
        check_points(found[image], size, places[image])
    return {entries[number].name: found[image] for image, number in matched.items()}


def write_points(file: Path, points: Mapping[str, np.ndarray]) -> None:
    """Write the points [5, 2] of images, sorted by name, whole or not at all."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows([image, *np.round(found, 1).ravel()] for image, found in sorted(points.items()))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, out.getvalue())


class Pointer:
    """Takes five clicks into each photograph and keeps them in a file; `box` is the widget to display.

    entries: the photographs to click into; those that the file has are left out.
    """

    def __init__(self, entries: Sequence[Entry], every: Sequence[Entry], file: Path):
        self.file = file
        self.points = read_points(file, every) if file.exists() else {}
        self.entries = [entry for entry in entries if entry.name not in self.points]
        self.number = 0
        self.clicked: list[tuple[float, float]] = []
        self.picture = HTML()
        self.status = HTML()
        self.field = Text(layout=Layout(display="none"))
        back = Button(description="Undo", tooltip="take the last click back, or go to the photograph before")
        skip = Button(description="Skip", tooltip="leave this photograph without a face")
        self.field.observe(lambda change: self._click(change["new"]), names="value")
        back.on_click(lambda _: self._back())
        skip.on_click(lambda _: self._turn_to(self.number + 1))
        self.box = VBox([self.status, self.picture, HBox([back, skip]), self.field])
        self.box.add_class("twins-pointer")
        self._turn_to(0)

    def _turn_to(self, number: int) -> None:
        self.number = number
        self.clicked = []
        self._show()

    def _back(self) -> None:
        if self.clicked:
            self.clicked.pop()
            self._show()
        elif self.number:
            self._turn_to(self.number - 1)

    def _show(self, said: str = "") -> None:
        if self.number >= len(self.entries):
            self.picture.value = ""
            self.status.value = html.escape(
                f"Done: {len(self.points):,} faces set by hand, in {self.file}. Align again to use them."
            )
            return
        entry = self.entries[self.number]
        self.photograph = open_upright(read_file(Path(entry.places[0])))
        shown = self.photograph.copy()
        shown.thumbnail((SHOWN, SHOWN))
        draw = ImageDraw.Draw(shown)
        for x, y in self.clicked:
            draw.circle((x * shown.width, y * shown.height), 4, outline=GREEN, width=2)
        out = io.BytesIO()
        shown.save(out, "JPEG", quality=90)
        data = base64.b64encode(out.getvalue()).decode()
        self.picture.value = (
            f'<img src="data:image/jpeg;base64,{data}" width="{shown.width}" alt="{html.escape(entry.name)}" '
            f'draggable="false" style="cursor: crosshair; max-width: none" onclick="{CLICK}">'
        )
        wanted = f"click the {POINTS[len(self.clicked)]}, as you see it"
        self.status.value = html.escape(f"{said}{self.number + 1} of {len(self.entries)}: {entry.name}: {wanted}")

    def _click(self, value: str) -> None:
        """Take a click, `x,y,time` with x and y as shares of the picture."""
        x, y, _ = map(float, value.split(","))
        self.clicked.append((x, y))
        if len(self.clicked) < len(POINTS):
            self._show()
            return
        entry = self.entries[self.number]
        points = np.array(self.clicked) * self.photograph.size - 0.5
        try:
            check_points(points, self.photograph.size, entry.name)
            self.points[entry.name] = points
            write_points(self.file, self.points)
        except (OSError, ValueError) as error:  # a handler's error would only show in a log
            self.clicked = []
            self._show(f"Not kept: {error} Again: ")
            return
        self._turn_to(self.number + 1)
