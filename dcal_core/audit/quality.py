"""How good the faces of photographs are: how sure the detector was, how sharp, how large and how far turned they are.

The thresholds are parameters; the faces that miss one are a finding, which suggests to drop them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dcal_core.audit.aligned_copy import Record
from dcal_core.audit.kinds import Finding
from dcal_core.audit.measures import spanned, turned
from dcal_core.config.shared import Config
from dcal_core.data.decoding import open_upright
from dcal_core.lettering import as_written
from dcal_core.palette import BLUE, VERMILION

SHOWN = 6  # faces of each measure, the worst


class Measure(NamedTuple):
    """A measure of a face: the kind of its finding; the parameter that is its threshold, and whether that is the most
    (else the least) that passes; its name on a figure; its value for a record, None where it has none."""

    kind: str
    parameter: str
    is_most: bool
    name: str
    of: Callable[[Record], float | None]

    def judge(self, records: Sequence[Record], limit: float) -> tuple[list[tuple[float, Record]], int]:
        """The values of aligned faces with their records, the worst first, and how many of them miss the limit."""
        valued = [(self.of(record), record) for record in records if record.landmarks]
        valued = [pair for pair in valued if pair[0] is not None]
        valued.sort(key=lambda pair: -pair[0] if self.is_most else pair[0])
        return valued, sum(value > limit if self.is_most else value < limit for value, _ in valued)


MEASURES = (
    Measure("unsure", "face_score", False, "confidence of the detector", lambda record: record.score),
    Measure("blurred", "face_sharpness", False, "sharpness", lambda record: record.sharpness),
    Measure("small_face", "face_px", False, "px across", lambda record: spanned(np.array(record.landmarks))),
    Measure("turned", "face_turn_deg", True, "degrees turned", lambda record: turned(np.array(record.landmarks))),
)


def quality_findings(records: Mapping[str, Sequence[Record]], config: Config) -> Iterator[Finding]:
    """For each measure and split the faces that miss the threshold, the worst first. records: by split."""
    for measure in MEASURES:
        limit = getattr(config, measure.parameter)
        for split, of_split in records.items():
            valued, missing = measure.judge(of_split, limit)
            if missing:
                reason = (
                    f"{missing:,} of {len(valued):,} faces of {split} {'above' if measure.is_most else 'below'} "
                    f"{measure.parameter}={limit:g} ({measure.name}), the worst first, at {valued[0][0]:.3g}"
                )
                bad = [record for _, record in valued[:missing]]
                images = tuple(record.image for record in bad)
                yield Finding(measure.kind, reason, tuple(dict.fromkeys(r.person for r in bad)), images, images)


def draw_quality(target: Path, records: Mapping[str, Sequence[Record]], config: Config, label: str) -> Figure:
    """A row for each measure: all faces and the threshold, then the worst faces, red if they miss it."""
    figure = Figure(figsize=(10, 1.8 * len(MEASURES)), layout="constrained")
    title = f"All faces by each measure, and the worst ({label}); dashes: the threshold, red: beyond it"
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(MEASURES), 1 + SHOWN, squeeze=False, width_ratios=[2.2] + [1] * SHOWN)
    for (chart, *pictures), measure in zip(grid, MEASURES, strict=True):
        limit = getattr(config, measure.parameter)
        valued, missing = measure.judge([record for split in records.values() for record in split], limit)
        chart.hist([value for value, _ in valued], bins=30, color=BLUE)
        chart.axvline(limit, color=VERMILION, linestyle="--")
        chart.set_xlabel(f"{measure.name}; {measure.parameter}={limit:g}", fontsize=7)
        chart.set_ylabel("faces", fontsize=7)
        chart.tick_params(labelsize=6)
        for number, axes in enumerate(pictures):
            axes.set_axis_off()
            if number < len(valued):
                value, record = valued[number]
                axes.imshow(open_upright((target / record.file).read_bytes()))
                colour = VERMILION if number < missing else "black"
                axes.set_title(f"{record.image}\n{value:.3g}", fontsize=6, color=colour)
    return as_written(figure)
