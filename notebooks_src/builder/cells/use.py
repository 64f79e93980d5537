# Use the library written above, or an installed checkout that holds exactly the same modules.
import importlib.util
import sys
from hashlib import sha256

_modules, _edited = {}, ""
for _path in sorted([*CORE_DIR.glob("dcal_core/**/*.py"), *PARAMS_DIR.glob("*.yaml")]):
    _name, _text = _path.relative_to(CORE_DIR).as_posix(), _path.read_text(encoding="utf-8")
    if core_hashes.get(_name) != [sha256(_text.encode()).hexdigest()[:12]]:
        _edited += f", edited: {_name}"
    if _path.suffix == ".py":
        _modules[_name] = _text
CORE_HASH = sha256("".join(_modules.values()).encode()).hexdigest()[:8]

_found = importlib.util.find_spec("dcal_core")
_home = Path(_found.origin).parents[1] if _found and _found.origin else CORE_DIR
_there = {path: (_home / path).read_text(encoding="utf-8") for path in _modules if (_home / path).is_file()}
_where = f"checkout in {_home}"
if _home == CORE_DIR or _there != _modules:
    sys.path.insert(0, str(CORE_DIR))
    _where = "embedded"
for _name in [name for name in sys.modules if name.split(".")[0] == "dcal_core"]:
    del sys.modules[_name]  # after an edit, running this cell again imports the new code
print(f"dcal_core {CORE_HASH} ({_where}{_edited})")

from dcal_core.config.recipes import check_given

check_given(given, PARAMS_DIR)  # a misspelt name or an impossible value stops the notebook here
