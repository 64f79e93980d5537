"""All that is shown of one pair, as files: pictures, and the figures behind them."""

import json
import os
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dcal_core.explain.charts import draw_regions
from dcal_core.explain.figures import draw_contact_sheet, draw_view
from dcal_core.explain.statistics import view_statistics
from dcal_core.explain.views import PairView
from dcal_core.storage import UNFINISHED, disk_errors, write_text

PICTURES = {"attention_rollout": ("rollout",), "glca_attention": ("selection", "glca_attention")}  # where the model can
LONGEST = 100  # bytes of a file name that each image's name may take


def stem_of(names: tuple[str, str]) -> str:
    """What the files of a pair are called, from its images' names: folder and file of each, and of their characters
    those that every file system takes."""
    parts = ["_".join(Path(name).with_suffix("").parts[-2:]) for name in names]
    safe = [re.sub(r"[^\w-]+", "_", part).strip("_").encode()[:LONGEST].decode(errors="ignore") for part in parts]
    return "_".join(part or "image" for part in safe)


def write_pair(
    folder: Path, view: PairView, title: str, label: str, regions: dict[str, np.ndarray], answer: str | None = None
) -> list[Path]:
    """Write what a model has to say about a pair, and return the files, the statistics last: when they are there, all
    are.

    `<stem>_pair_attention.png` (what tells the two apart), `_attention_rollout.png`, `_glca_attention.png` (only of a
    model that has such), `_discriminative_regions.png`, `_attention_stats.json`. label: what the data is called;
    regions: as `face_regions`; answer: what the score means, in words. Existing files are replaced; StorageError where
    they cannot be written.
    """
    stem, title = stem_of(view.names), f"{title} ({label}): {answer or f'score {view.score:.2f}'}"
    figures = {"pair_attention": draw_contact_sheet([view], "distinctive", [title])}
    figures |= {
        ending: draw_view(view, names, title) for ending, names in PICTURES.items() if set(names) <= set(view.kinds)
    }
    figures["discriminative_regions"] = draw_regions(view, "distinctive", regions, title)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = [_write_picture(folder / f"{stem}_{ending}.png", figure) for ending, figure in figures.items()]
    found = {"data": label, "images": list(view.names), "score": view.score, "answer": answer}
    found["maps"] = view_statistics(view, regions)
    write_text(folder / f"{stem}_attention_stats.json", json.dumps(found, indent=1, allow_nan=False))
    return [*files, folder / f"{stem}_attention_stats.json"]


def _write_picture(file: Path, figure: Figure) -> Path:
    """Put a figure into a file's place as PNG, whole or not at all; raises StorageError."""
    new = file.with_name(file.name + UNFINISHED)
    try:
        with disk_errors(file):
            figure.savefig(new, format="png", dpi=110)
            os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    return file
