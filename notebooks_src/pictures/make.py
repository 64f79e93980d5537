"""Make the picture at the top of each notebook from the figures of a demo run.

python -m notebooks_src.pictures.make runs/demo     a run of `make demo` that deploy.ipynb was run on
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from dcal_core.audit.findings import audit_images
from dcal_core.audit.review import draw_findings
from dcal_core.data.roots import read_indexes
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.splits import SYNTHETIC

HERE = Path(__file__).parent
WIDTH = 760  # px
MOST_KB = 18  # each is kept in a notebook, as text a third larger


def save(picture: Image.Image, name: str, width: int = WIDTH) -> None:
    """Keep a picture, normally as wide as a notebook's page, as JPEG of the best quality that is small enough."""
    picture = picture.convert("RGB").resize(
        (width, round(picture.height * width / picture.width)), Image.LANCZOS
    )
    for quality in range(90, 40, -5):
        picture.save(HERE / f"{name}.jpg", quality=quality, optimize=True, progressive=True)
        if (HERE / f"{name}.jpg").stat().st_size <= MOST_KB * 1000:
            return


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures side by side, scaled to the height of the first."""
    height = pictures[0].height
    pictures = [
        picture.resize((round(picture.width * height / picture.height), height))
        for picture in pictures
    ]
    joined = Image.new("RGB", (sum(picture.width for picture in pictures), height))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width
    return joined


def findings_picture(folder: Path) -> Image.Image:
    """The findings among a few drawn twins; two of their shots stand under both co-twins."""
    for split, families in (("train", 4), ("test", 2)):
        generate(
            folder,
            split=split,
            families=families,
            images_per_person=6,
            size=128,
            difficulty=0.5,
            seed=0,
            workers=1,
        )
    people = sorted((folder / "train").iterdir())
    for own, twin in (people[:2], people[2:4]):
        shutil.copy(sorted(own.iterdir())[1], sorted(twin.iterdir())[3])
    audit = audit_images(read_indexes(folder), folder, 64, SYNTHETIC)
    draw_findings(audit, "like_co_twin").savefig(folder / "findings.png", dpi=110)
    picture = Image.open(folder / "findings.png")
    width = round(picture.width * 0.34)  # of two images beside each other
    title = round(picture.height * 0.055)
    middle = (picture.height + title) // 2
    joined = Image.new("RGB", (round(picture.width * 0.86), middle), "white")
    joined.paste(picture.crop((0, 0, joined.width, title)), (0, 0))
    joined.paste(picture.crop((0, title, width, middle)), (0, title))
    joined.paste(
        picture.crop((0, middle, width, 2 * middle - title)), (joined.width // 2, title)
    )
    return joined


def main(run: Path) -> None:
    """Make all five pictures."""
    figures = {
        name: Image.open(run / f"figures/{name}.png")
        for name in ("families", "scores", "det", "answer_co-twins")
    }
    families = figures["families"]
    save(families.crop((0, 0, families.width, round(families.height * 0.53))), "train")
    save(beside(figures["scores"], figures["det"]), "evaluate")
    save(Image.open(HERE.parents[1] / "docs/front.png"), "attention", width=580)
    save(figures["answer_co-twins"], "deploy")
    with tempfile.TemporaryDirectory() as folder:
        save(findings_picture(Path(folder)), "prepare")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
