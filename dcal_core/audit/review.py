"""Reviewing an audit: a widget with the images of each finding and a button to keep or drop each one.

`draw_findings` draws the same as figures, for notebooks that run without a user.
"""

import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ipywidgets import HTML, Button, Dropdown, HBox, Image, Layout, ToggleButtons, VBox
from matplotlib.figure import Figure
from PIL import Image as Pillow
from PIL import ImageDraw

from dcal_core.audit.facts import Entry
from dcal_core.audit.findings import Audit
from dcal_core.audit.kinds import KINDS, Finding
from dcal_core.data.decoding import Unreadable, decode, read_file
from dcal_core.data.exclusions import FILE, match_exclusions, read_exclusions, refuse_unknown, write_exclusions
from dcal_core.data.twins import name_some
from dcal_core.environment import output_root
from dcal_core.lettering import as_written
from dcal_core.storage import DamagedError, read_json, write_text

SIDE = 224  # px, of a picture
SLOTS = 6  # pictures side by side
KEEP = "keep"
DROP = "drop"
STATE = "review.json"  # beside the list: which pages have been looked at, and the marks that are not written yet


def face(entry: Entry, fit: str) -> np.ndarray:
    """An image of the index as RGB [SIDE, SIDE, 3] uint8, made square as for training; a grey square with the reason if
    it cannot be shown."""
    fault = entry.fault or ("no such file" if not entry.places else "")
    if not fault:
        try:
            return decode(read_file(Path(entry.places[0])), SIDE, fit).transpose(1, 2, 0)
        except Unreadable as error:
            fault = str(error)
    plain = Pillow.new("RGB", (SIDE, SIDE), "lightgrey")
    lines = [fault[start : start + 24] for start in range(0, min(len(fault), 120), 24)]
    ImageDraw.Draw(plain).text((8, 8), "\n".join(lines), fill="black")
    return np.asarray(plain)


def picture(entry: Entry, fit: str) -> bytes:
    """The face of an entry as PNG."""
    out = io.BytesIO()
    Pillow.fromarray(face(entry, fit)).save(out, "PNG")
    return out.getvalue()


def draw_findings(audit: Audit, kind: str, most: int = 6) -> Figure:
    """The first `most` findings of a kind, one per row: up to six images, their names, and the suggestion."""
    findings = [finding for finding in audit.of_kind(kind) if finding.images]
    shown = findings[:most]
    entries = {entry.name: entry for entry in audit.entries}
    figure = Figure(figsize=(10, 0.3 + 2.15 * len(shown)), layout="constrained")
    more = f", the first {len(shown)} of {len(findings)}" if len(findings) > len(shown) else ""
    figure.suptitle(f"{KINDS[kind].name}: {KINDS[kind].meaning} ({audit.data}){more}", fontsize=11, x=0.01, ha="left")
    for row, finding in zip(figure.subfigures(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        left = f" (first {SLOTS} of {len(finding.images)} images)" if len(finding.images) > SLOTS else ""
        row.suptitle(finding.reason[:130] + left, fontsize=9, x=0.01, ha="left")
        for axes, name in zip(row.subplots(1, SLOTS), [*finding.images[:SLOTS], *[None] * SLOTS], strict=False):
            axes.set_axis_off()
            if name:
                axes.imshow(face(entries[name], audit.fit))
                colour = "firebrick" if name in finding.drop else "black"
                axes.set_title(f"{name}\n{DROP if name in finding.drop else KEEP}", fontsize=7, color=colour)
    return as_written(figure)


def excluded_before(audit: Audit, file: Path) -> dict[str, str]:
    """The images that an earlier list leaves out, by the audit's names; empty if there is no list. DataError if the
    list is malformed or names images that this data lacks, so that it is not overwritten."""
    if not file.exists():
        return {}
    excluded = read_exclusions(file)
    matched, unknown = match_exclusions(list(excluded), [entry.path for entry in audit.entries], file)
    refuse_unknown(unknown, file)
    return {audit.entries[number].name: excluded[row] for row, number in matched.items()}


def write_list(audit: Audit, file: Path, excluded: dict[str, str]) -> str:
    """Write an exclusion list; returns a message for the user."""
    write_exclusions(file, excluded)
    message = f"{len(excluded):,} of {len(audit.entries):,} images left out from now on, by {file}."
    if file.resolve() != output_root() / "prepare" / FILE:
        message += " Give this file to every later step as exclusions, or attach the folder as an input."
    if emptied := audit.emptied(excluded):
        message += f" No image is left of {name_some(emptied, 'person', 'people')}: take them out of both index files."
    return message


class Reviewer:
    """Browses the findings of an audit and writes the exclusion list; `box` is the widget to display.

    It goes on where the last review stopped, with its marks and, of what it has not seen, the audit's suggestions.
    Without such, it starts from the list in `file` if there is one, else from the suggestions.
    """

    def __init__(self, audit: Audit, file: Path):
        self.audit = audit
        self.file = file
        self.entries = {entry.name: entry for entry in audit.entries}
        self.state = file.with_name(STATE)
        self.excluded = excluded_before(audit, file) if file.exists() else audit.suggested()
        self.seen: set[str] = set()
        source = f"as {file} says" if file.exists() else "as suggested, not yet written"
        if self.state.exists():
            source = self._go_on(source)
        self.pages: list[tuple[Finding, tuple[str, ...]]] = []
        self.page = 0
        self.slots: list[_Slot] = []
        kinds = [kind for kind in KINDS if any(finding.images for finding in audit.of_kind(kind))]
        counted = [(f"{KINDS[kind].name} ({len(audit.of_kind(kind))})", kind) for kind in kinds]
        everything = [("all findings", ""), *counted]
        self.kind = Dropdown(options=everything, layout=Layout(width="16em"))
        self.back = Button(description="Previous")
        self.forward = Button(description="Next")
        self.write = Button(description="Write exclusion list", button_style="primary", layout=Layout(width="14em"))
        self.place = HTML()
        self.reason = HTML()
        self.row = HBox(layout=Layout(flex_flow="row wrap"))
        self.status = HTML(html.escape(f"{len(self.excluded):,} images to drop, {source}"))
        self.kind.observe(lambda change: self._choose(change["new"]), names="value")
        self.back.on_click(lambda _: self._leave_for(self.page - 1))
        self.forward.on_click(lambda _: self._leave_for(self.page + 1))
        self.write.on_click(lambda _: self._write())
        head = HBox([self.kind, self.back, self.forward, self.place])
        self.box = VBox([head, self.reason, self.row, HBox([self.write, self.status])])
        self._choose("")

    def _choose(self, kind: str) -> None:
        findings = self.audit.of_kind(kind) if kind else self.audit.findings
        self.pages = _pages(findings)
        unseen = (place for place, page in enumerate(self.pages) if _key(*page) not in self.seen)
        self._turn_to(next(unseen, 0))

    def _go_on(self, source: str) -> str:
        """Take the marks and pages of a review that was interrupted; returns where the marks are from, in words."""
        try:
            kept = read_json(self.state)
            marks, seen = kept["marks"], set(kept["seen"])
        except (DamagedError, KeyError, TypeError) as error:
            return f"{source}; {self.state} is damaged ({error}), so the review begins anew"
        if marks is not None:
            source = "as the last review left them, not yet written"
            self.excluded = {name: str(reason) for name, reason in marks.items() if name in self.entries}
        self.seen = seen
        for finding, page in _pages(self.audit.findings):
            if _key(finding, page) not in seen:
                for name in set(page).intersection(finding.drop):
                    self.excluded.setdefault(name, f"{finding.name}: {finding.reason}")
        return source

    def _keep(self, marks: dict[str, str] | None) -> None:
        """Keep that this page has been seen, and the marks that are not written yet."""
        if self.pages:
            self.seen.add(_key(*self.pages[self.page]))
        try:
            self.state.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.state, json.dumps({"seen": sorted(self.seen), "marks": marks}, indent=1))
        except (OSError, ValueError) as error:  # a handler's error would only show in a log
            self.status.value = html.escape(f"how far the review has come is not kept: {error}")

    def _leave_for(self, page: int) -> None:
        self._keep(self.excluded)
        self._turn_to(page)

    def _turn_to(self, page: int) -> None:
        last = len(self.pages) - 1
        self.page = min(max(page, 0), max(last, 0))
        self.back.disabled = self.page == 0
        self.forward.disabled = self.page >= last
        for slot in self.slots:
            slot.close()
        self.slots = []
        self.place.value = "nothing to review"
        if self.pages:
            finding, names = self.pages[self.page]
            self.place.value = f"{self.page + 1} of {len(self.pages)}"
            self.reason.value = f"<b>{html.escape(f'{finding.name} ({self.audit.data}): {finding.reason}')}</b>"
            for name in names:
                entry = self.entries[name]
                self.slots.append(_Slot(entry, picture(entry, self.audit.fit), name in self.excluded, self._decide))
        self.row.children = [slot.box for slot in self.slots]

    def _decide(self, name: str, drop: bool) -> None:
        if not drop:
            self.excluded.pop(name, None)
        elif name not in self.excluded:
            finding = self.pages[self.page][0]
            self.excluded[name] = f"{finding.name}: {finding.reason}"
        self.status.value = f"{len(self.excluded):,} images to drop, not yet written"
        self._keep(self.excluded)

    def _write(self) -> None:
        try:
            self.status.value = html.escape(write_list(self.audit, self.file, self.excluded))
            self._keep(None)
        except (OSError, ValueError) as error:  # a handler's error would only show in a log
            self.status.value = html.escape(f"not written: {error}")


def _pages(findings: Sequence[Finding]) -> list[tuple[Finding, tuple[str, ...]]]:
    """The findings with as many of their images as are shown at once."""
    starts = [(finding, start) for finding in findings for start in range(0, len(finding.images), SLOTS)]
    return [(finding, finding.images[start : start + SLOTS]) for finding, start in starts]


def _key(finding: Finding, page: tuple[str, ...]) -> str:
    """A name of a page that stays the same while its images do."""
    return f"{finding.kind}: {' '.join(page)}"


class _Slot:
    """A picture with its name and a toggle."""

    def __init__(self, entry: Entry, png: bytes, drop: bool, decide: Callable[[str, bool], None]):
        image = Image(value=png, format="png", width=SIDE, height=SIDE)
        self.title = HTML(f"{html.escape(entry.name)}<br>{html.escape(entry.split)}")
        style = {"button_width": "4.5em"}
        self.toggle = ToggleButtons(options=[KEEP, DROP], value=DROP if drop else KEEP, style=style)
        self.toggle.observe(lambda change: decide(entry.name, change["new"] == DROP), names="value")
        self.box = VBox([image, self.title, self.toggle], layout=Layout(margin="4px"))

    def close(self) -> None:
        """Free the widgets, which the browser would keep."""
        for widget in (*self.box.children, self.box):
            widget.close()
