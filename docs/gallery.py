"""Makes docs/gallery.md, one of each picture, from a trained, evaluated and explained demo run.

    python docs/gallery.py            runs/demo -> docs/gallery.md, docs/gallery/*.png

A new picture is one more line in SECTIONS.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dcal_core.data.splits import SYNTHETIC
from dcal_core.runs import RunFolder

PAGE = Path(__file__).parent / "gallery.md"
WIDEST = 1200  # px
COLOURS = 128  # of a picture: enough for charts and drawn faces, at a third of the size
START = """\
# Gallery

One of each picture, all of the demo's drawn twins: **SYNTHETIC**. `python docs/gallery.py` makes this page from a run
of `make demo`.
"""


@dataclass(frozen=True)
class Picture:
    """file: below the run's folder; of several that a `*` finds, the first by name. name: in docs/gallery."""

    file: str
    name: str
    words: str


SECTIONS = {
    "[Data](data.md)": (Picture("figures/families.png", "families", "Drawn families: images of both siblings."),),
    "Training": (
        Picture("figures/loss_curves.png", "loss_curves", "The total loss, and the losses of each branch by epoch."),
        Picture("figures/validation_curves.png", "validation_curves", "Errors on families held out from training."),
    ),
    "[Evaluation](evaluation.md)": (
        Picture("figures/scores.png", "scores", "Scores of one person and of co-twins, with the frozen threshold."),
        Picture("figures/roc.png", "roc", "ROC over a logarithmic false match rate, with its band over families."),
        Picture("figures/det.png", "det", "DET: both error rates on normal-deviate axes."),
        Picture("figures/reliability.png", "reliability", "Predicted probabilities against what was observed."),
        Picture("figures/confusable.png", "confusable", "The pairs that look most like the wrong answer."),
    ),
    "[Explanations](explanations.md)": (
        Picture("explained/*_pair_attention.png", "pair_attention", "What tells the two faces apart, patch by patch."),
        Picture(
            "explained/*_attention_rollout.png", "attention_rollout", "What each face attends to, over all layers."
        ),
        Picture("explained/*_glca_attention.png", "glca_attention", "What the global-local branch looks at."),
        Picture(
            "explained/*_discriminative_regions.png",
            "discriminative_regions",
            "How much of it lies on each part of the face.",
        ),
        Picture(
            "figures/comparison_*rollout.png", "comparison_rollout", "Maps of co-twins beside those of one person."
        ),
        Picture("figures/faithfulness.png", "faithfulness", "Whether the score depends on what a map points at."),
    ),
}


def page() -> str:
    """The page's text."""
    parts = [START]
    for title, pictures in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [f"{one.words}\n\n![{one.words} SYNTHETIC](gallery/{one.name}.png)\n" for one in pictures]
    return "\n".join(parts)


def found(run: RunFolder, picture: Picture) -> Path:
    """The picture's file in the run; exits with a sentence where it is missing."""
    files = sorted(run.path.glob(picture.file))
    if not files:
        raise SystemExit(
            f"{run.path / picture.file} is missing: run `twins train`, `twins evaluate` and `twins explain` with "
            f"-p run_dir {run} first."
        )
    return files[0]


def shrink(source: Path, to: Path) -> None:
    """Write a picture no wider than WIDEST, with few colours."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(to, optimize=True)


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of the explained demo run")
    parser.add_argument("--to", type=Path, default=PAGE, help="the page; its pictures go to a folder of its name")
    options = parser.parse_args()
    run = RunFolder(options.run)
    if run.data() != SYNTHETIC:
        raise SystemExit(f"{run} was trained on {run.data()}: the gallery shows drawn twins only.")
    sources = {one.name: found(run, one) for pictures in SECTIONS.values() for one in pictures}
    folder = options.to.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        shrink(source, folder / f"{name}.png")
    options.to.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
