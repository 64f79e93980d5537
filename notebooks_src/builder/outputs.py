"""The outputs that the notebooks are built with: those of a demo run, so that their first reader sees a result.

    python -m notebooks_src.builder.outputs runs/demo     a run of `make demo`, whose outputs are then kept

`notebooks_src/outputs` holds them: <notebook>.json by the id of the cell, which is a hash of its source, so that no
cell shows what another has printed; and every picture as a small file, which the JSON names.
"""

import argparse
import base64
import io
import json
import platform
from pathlib import Path

from notebooks_src.builder.closure import read
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "outputs"
WIDTHS = range(640, 240, -20)  # px; the widest that is small enough is taken
COLOURS = 32  # of a PNG
QUALITY = 45  # of a JPEG
MOST_KB = 14  # a picture
TAG = "picture"  # of the cells that show theirs: a notebook has no room for all
KINDS = ("image/png", "text/markdown", "text/plain")  # of what is displayed, the best first
NOTE = (
    "*The outputs are those of `make demo`, on drawn twins, until you run this notebook yourself. Some pictures are "
    "left out to keep the file small: a run shows all of them.*"
)


def kept_outputs(folder: Path, notebook: str) -> dict[str, list[dict]]:
    """The outputs kept for a notebook, with their pictures, by the id of the cell; {} if there are none."""
    file = folder / f"{notebook}.json"
    kept = json.loads(read(file)) if file.is_file() else {}
    for output in (output for outputs in kept.values() for output in outputs):
        for kind, shown in output.get("data", {}).items():
            if kind.startswith("image/"):
                output["data"][kind] = base64.b64encode((folder / shown).read_bytes()).decode()
    return kept


def small(png: bytes) -> tuple[str, bytes]:
    """A picture as PNG or JPEG, whichever is smaller, as wide as is small enough; its format, and its file."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for width in WIDTHS:
        resized = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        files = {"png": io.BytesIO(), "jpeg": io.BytesIO()}
        resized.quantize(COLOURS, dither=Image.Dither.NONE).save(files["png"], "PNG", optimize=True)
        resized.save(files["jpeg"], "JPEG", quality=QUALITY, optimize=True)
        form = min(files, key=lambda form: files[form].tell())
        if files[form].tell() <= MOST_KB * 1000:
            break
    return form, files[form].getvalue()


def printed(cell: dict, home: Path) -> list[dict]:
    """What an executed cell has printed, without progress lines and without this machine's folders and name."""
    text = "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
    text = "".join(line for line in text.splitlines(keepends=True) if line.strip() and "%|" not in line)
    text = text.replace(f"{home}/", "").replace(platform.platform(terse=True), platform.system())
    return [{"name": "stdout", "output_type": "stream", "text": text}] if text else []


def displayed(cell: dict, name: str, folder: Path) -> list[dict]:
    """What an executed cell has displayed, the pictures of tagged cells kept in a folder under names that begin with
    `name`."""
    outputs = []
    for data in (output["data"] for output in cell["outputs"] if "data" in output):
        kind = next(kind for kind in KINDS if kind in data)
        shown = "".join(data[kind])
        if kind == "image/png":
            if TAG not in cell["metadata"].get("tags", []):
                continue
            form, picture = small(base64.b64decode(shown))
            kind = f"image/{form}"
            shown = f"{name}-{cell['id']}-{len(outputs)}.{form}"
            (folder / shown).write_bytes(picture)
        outputs.append({"data": {kind: shown}, "metadata": {}, "output_type": "display_data"})
    return outputs


def keep(run: Path, folder: Path = FOLDER) -> int:
    """Keep the outputs of the notebooks executed in a run's folder; returns the bytes of their pictures."""
    executed = {path.stem: json.loads(read(path)) for path in sorted(run.glob("*.ipynb"))}
    if not executed:
        raise SystemExit(f"{run} holds no executed notebooks: make demo leaves them in runs/demo.")
    home = run.resolve().parents[1]
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, notebook in executed.items():
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        cells = [cell for cell in cells if "core" not in cell["metadata"].get("tags", [])]
        kept = {cell["id"]: printed(cell, home) + displayed(cell, name, folder) for cell in cells}
        kept = {cell: outputs for cell, outputs in kept.items() if outputs}
        text = json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep the outputs of a demo run for the notebooks.")
    parser.add_argument("run", type=Path, help="folder of a run that make demo has trained, evaluated and explained")
    print(f"{FOLDER}: {keep(parser.parse_args().run) // 1000} KB of pictures")
