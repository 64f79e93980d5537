"""The browser of twin attention maps: any two images of a family, their score, and where the model looks."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import display

from dcal_core.data.twins import DataError
from dcal_core.environment import is_interactive
from dcal_core.explain import paint
from dcal_core.explain.catalogue import MAPS, Map, PairView
from dcal_core.explain.controls import FACES, NOTHING, Controls, lights
from dcal_core.explain.explorer import Explorer
from dcal_core.explain.pair_figures import stem_of
from dcal_core.storage import disk_errors, write_bytes


class Browser:
    """Two images of a family with a map over each; `controls.box` is the widget, `show` displays it.

    folder: for saved views.
    """

    def __init__(self, explorer: Explorer, folder: Path):
        self.explorer = explorer
        self.folder = Path(folder)
        self.turn = 0
        self.own = None  # two files of one's own: their view, what its score means, and what comes before it
        self.uploaded = TemporaryDirectory(prefix="twins_")  # deleted when the kernel ends
        self.updating = False
        self.pair = explorer.confusing(0)
        names = explorer.index.families
        families = [(", ".join(names[f]), int(f)) for f in np.unique(explorer.scored.pairs.family)]
        self.controls = Controls(families, self.view.kinds, self.view.depth, self.view.pairs.grid)
        self._attach()
        self._show_pair()

    @property
    def view(self) -> PairView:
        """The pair that is shown."""
        return self.own[0] if self.own else self.explorer.view(*self.pair)

    @property
    def kind(self) -> Map:
        """The kind of map that is chosen."""
        return MAPS[self.controls.kind.value]

    @property
    def label(self) -> str:
        """What the data of the pair that is shown is called."""
        return f"images given, model shown with {self.explorer.label}" if self.own else self.explorer.label

    def show(self, stand_in: Path) -> None:
        """Display the browser if a person can use it; where no kernel answers, the PNG `stand_in` is shown."""
        shown = {"text/plain": "Twin attention maps", "image/png": base64.b64encode(stand_in.read_bytes()).decode()}
        if is_interactive():
            shown = self.controls.box._repr_mimebundle_() | shown
        display(shown, raw=True)

    # ---- what the controls do

    def _attach(self) -> None:
        c = self.controls
        drawn = (c.kind, c.layer, c.head, c.opacity, c.side, c.row, c.column, c.marks)
        works = {c.family: self._choose_family} | dict.fromkeys(c.faces, self._choose_image)
        works |= dict.fromkeys(drawn, self._draw)
        works |= {patches: lambda side=side: self._press(side) for side, patches in enumerate(c.patches)}
        works |= {upload: lambda side=side: self._upload(side) for side, upload in enumerate(c.uploads)}
        for control, work in works.items():
            control.observe(lambda _, work=work: self._handle(work), names="value")
        c.next.on_click(lambda _: self._handle(lambda: self._turn_to(self.turn + 1)))
        c.previous.on_click(lambda _: self._handle(lambda: self._turn_to(self.turn - 1)))
        c.compare.on_click(lambda _: self._handle(self._compare))
        c.save.on_click(lambda _: self._handle(self._save))

    def _handle(self, work: Callable[[], None]) -> None:
        """Do what a control asks for, unless the browser itself has changed it."""
        if self.updating:
            return
        try:
            self._say("")
            work()
        except Exception as error:  # ipywidgets would only log it
            self._say(f"This went wrong: {type(error).__name__}: {error}")

    @contextmanager
    def _updating(self) -> Iterator[None]:
        self.updating = True
        try:
            yield
        finally:
            self.updating = False

    def _say(self, text: str) -> None:
        self.controls.status.value = f'<div role="status">{escape(text)}</div>' if text else ""

    def _choose_family(self) -> None:
        people = self.explorer.index.person_of
        images = self._images_of(self.controls.family.value)
        second = np.argmax(people[images] != people[images[0]]) or 1  # a co-twin's first image where there is one
        self.pair = int(images[0]), int(images[second])
        self._show_pair()

    def _choose_image(self) -> None:
        chosen = tuple(face.value for face in self.controls.faces)
        self.pair = self.pair[::-1] if chosen[0] == chosen[1] else chosen  # the other's image: they change places
        self._show_pair()

    def _turn_to(self, turn: int) -> None:
        self.turn = turn % len(self.explorer.order)
        self.pair = self.explorer.confusing(self.turn)
        self._show_pair()

    def _upload(self, side: int) -> None:
        """Keep an uploaded file, and put its path where one may also be typed."""
        c = self.controls
        (given,) = c.uploads[side].value
        file = Path(self.uploaded.name, FACES[side], Path(given["name"]).name.strip())
        file.parent.mkdir(exist_ok=True)
        write_bytes(file, given["content"])
        c.own[side].value = str(file)
        with self._updating():
            c.uploads[side].value = ()  # so that it can be uploaded again
        self._say(f"{file.name} is uploaded, and will be deleted when the kernel ends.")

    def _compare(self) -> None:
        paths = [text.value.strip() for text in self.controls.own]
        if not all(paths):
            self._say("Upload two photographs first, or type the paths of two image files.")
            return
        try:
            self.own = self.explorer.given([Path(path).expanduser() for path in paths])
        except DataError as reason:
            self._say(str(reason))
            return
        self._show_view()

    def _press(self, side: int) -> None:
        c = self.controls
        pressed = (side, c.patches[side].index)
        before = c.patch
        with self._updating():
            c.patches[side].index = None  # so that it can be clicked again
            c.side.value = NOTHING if pressed == before else side
            row, column = divmod(pressed[1], c.row.max)
            c.row.value = row + 1
            c.column.value = column + 1
        self._draw()

    def _save(self) -> None:
        c = self.controls
        chosen = [f"{name}{value + 1}" for name, value in self._choice().items() if value is not None]
        patch = [] if c.patch is None else [f"{FACES[c.patch[0]]}_row{c.row.value}_column{c.column.value}"]
        file = self.folder / ("_".join([stem_of(self.view.names), self.kind.file_name, *chosen, *patch]) + ".png")
        lines = [f"{' and '.join(self.view.names)} ({self.label})", *self._said(), self._title()]
        with disk_errors(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            pictures, peak = self._composed()
            picture = paint.sheet(pictures, lines, self.kind.signed, paint.scale_ends(c.kind.value, peak))
            file.write_bytes(paint.encoded(picture))
        self._say(f"Saved as {file}.")

    # ---- what is drawn

    def _images_of(self, family: int) -> np.ndarray:
        index = self.explorer.index
        return np.flatnonzero(index.family_of[index.person_of] == family)

    def _show_pair(self) -> None:
        c = self.controls
        index = self.explorer.index
        with self._updating():
            c.family.value = int(index.family_of[index.person_of[self.pair[0]]])
            options = tuple((self.explorer.name(image), int(image)) for image in self._images_of(c.family.value))
            for face, image in zip(c.faces, self.pair, strict=True):
                if face.options != options:
                    face.options = options
                face.value = image
        self.own = None
        self._show_view()

    def _said(self) -> list[str]:
        """What is said of the pair that is shown, line by line."""
        if not self.own:
            return self.explorer.judged(*self.pair).split("\n")
        _, answer, notes = self.own
        return [*notes, answer]

    def _show_view(self) -> None:
        c = self.controls
        *lines, last = self._said()
        c.verdict.value = "<br>".join(map(escape, [*lines, f"{last} ({self.label})"]))
        c.lights.value = lights(c.name, self.view.matches)
        here = not self.own and self.pair == self.explorer.confusing(self.turn)
        count = f"Pair {self.turn + 1:,} of {len(self.explorer.order):,}, the most misleading scores first"
        c.number.value = count if here else "A pair of your choice"
        self._draw()

    def _choice(self) -> dict[str, int | None]:
        """The layer and the head, if the map takes them."""
        values = {name: getattr(self.controls, name).value for name in self.kind.by}
        return {name: None if value == NOTHING else value for name, value in values.items()}

    def _title(self) -> str:
        parts = [f"{name} {getattr(self.controls, name).label}" for name in self.kind.by]
        return ", ".join([self.kind.title, *parts])

    def _composed(self) -> tuple[list[np.ndarray], float]:
        """Both pictures, and the size of the value with the last colour, the same for both."""
        c = self.controls
        view = self.view
        maps = view.map(c.kind.value, **self._choice())
        pictures, peak = paint.painted_pair(view, maps, self.kind.signed, c.opacity.value, c.marks.value)
        if c.patch and view.matches is not None:
            side, patch = c.patch
            pictures[side] = paint.framed(pictures[side], patch, c.row.max, dashed=False)
            pictures[1 - side] = paint.framed(pictures[1 - side], view.matches[side, patch], c.row.max, dashed=True)
        return pictures, peak

    def _draw(self) -> None:
        c = self.controls
        view = self.view
        kind = self.kind
        c.layer.disabled = "layer" not in kind.by
        c.head.disabled = "head" not in kind.by
        c.row.disabled = c.column.disabled = c.side.value == NOTHING
        c.marks.disabled = view.marks is None
        c.hints.value = c.hint()
        if not kind.quick:
            self._say("Computing: this map encodes both faces once for each patch.")
        pictures, peak = self._composed()
        if not kind.quick:
            self._say("")
        for shown, picture, face, name in zip(c.pictures, pictures, FACES, view.names, strict=True):
            shown.value = paint.image_tag(picture, f"{face} image, {name}, under the map: {self._title()}")
        low, high = paint.scale_ends(c.kind.value, peak)
        words = kind.meaning if peak else "This map is zero everywhere."
        bar = paint.colour_bar(kind.signed, (low, high), paint.SIDE // 2)
        c.legend.value = f"{low} {bar} {high}<br>{escape(words)}"
        c.found.value = self._found()

    def _found(self) -> str:
        """The chosen patch and its match, in words."""
        matches = self.view.matches
        if matches is None:
            return "This model keeps no patches that could be compared."
        if self.controls.patch is None:
            return "Press a patch of either face, or choose one here: its like in the other face is marked."
        side, patch = self.controls.patch
        places = [divmod(place, self.controls.row.max) for place in (patch, matches[side, patch])]
        here, there = (f"row {row + 1}, column {column + 1}" for row, column in places)
        return (
            f"{here.capitalize()} of the {FACES[side]} image (solid frame) is most like {there} of the other (dashes)."
        )
