# Use the library that is installed, or attached as a folder with dcal_core and params in it.
import importlib.util
import sys
from hashlib import sha256
from pathlib import Path

_found = importlib.util.find_spec("dcal_core")
_package = Path(_found.origin).parent if _found and _found.origin else None
for _depth in range(1, 7) if _package is None else ():
    for _file in sorted(Path("/kaggle/input").glob("*/" * _depth + "dcal_core/__init__.py")):
        _package = _package or _file.parent
if _package is None:
    raise ModuleNotFoundError(
        "dcal_core is not here: attach the dataset that holds it (Add Input), or install it by pip install."
    )
sys.path.insert(0, str(_package.parent))
PARAMS_DIR = next(path / "params" for path in (_package, _package.parent) if (path / "params").is_dir())
_texts = [path.read_text(encoding="utf-8") for path in sorted(_package.glob("**/*.py"))]
CORE_HASH = sha256("".join(_texts).encode()).hexdigest()[:8]
_other = "" if CORE_HASH == "BUILT_WITH" else ", other than BUILT_WITH, with which this notebook was built"
print(f"dcal_core {CORE_HASH} (in {_package.parent}{_other})")

from dcal_core.config.recipes import check_given

check_given(given, PARAMS_DIR)  # a misspelt name or an impossible value stops the notebook here
