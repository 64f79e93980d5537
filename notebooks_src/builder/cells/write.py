# A cell that begins with "# ==== dcal_core/..." is not run: its files are written to CORE_DIR.
import re
import tempfile
from pathlib import Path

_core_home = tempfile.TemporaryDirectory(prefix="dcal_core_")  # removed when the kernel exits
CORE_DIR = Path(_core_home.name)
PARAMS_DIR = CORE_DIR / "params"
core_hashes, core_pieces = {}, {}


def write_core(cell):
    """Write the files of a cell, each under a line `# ==== path hash`; a piece of one under `path 2/5 hash`."""
    for part in re.split("^# ==== (?=dcal_core/|params/)", cell, flags=re.M)[1:]:
        head, _, text = part.partition("\n")
        path, *about = head.split()
        pieces = core_pieces.setdefault(path, {})
        pieces[int(about[0].split("/")[0]) if len(about) > 1 else 1] = text.strip("\n")
        gaps = [("\n\n" if piece[:1] == " " else "\n\n\n") + piece for _, piece in sorted(pieces.items())]
        text = "".join(gaps).strip("\n")
        (CORE_DIR / path).parent.mkdir(parents=True, exist_ok=True)
        (CORE_DIR / path).write_text(text + "\n" * bool(text), encoding="utf-8", newline="\n")
        for bytecode in (CORE_DIR / path).parent.glob(f"__pycache__/{Path(path).stem}.*"):
            bytecode.unlink()  # Python tells an edit by second and size, and both may be the same
        core_hashes[path] = about[-1:]


def core_cell(lines):
    is_core = re.match("# ==== (dcal_core|params)/", lines[0] if lines else "")
    return [f"write_core({''.join(lines)!r})\n"] if is_core else lines


get_ipython().input_transformers_cleanup.insert(0, core_cell)  # first, so that nothing tidies the text
