"""Which files of dcal_core a notebook needs: those that its script imports, and those that they import."""

import ast
import re
from functools import cache
from pathlib import Path

NAMED = re.compile(r"(dcal_core(?:\.\w+)+)(?::\w+)?")  # in a string: a module, perhaps with a name in it
CELLS = Path(__file__).parent / "cells"  # what the builder adds to every notebook


class BuildError(Exception):
    """A notebook cannot be built; the message names the file and the cure."""


def read(path: Path) -> str:
    """The text of a UTF-8 file; line ends become \\n, so that a Windows checkout builds the same."""
    return path.read_text(encoding="utf-8")


@cache
def names_in(text: str) -> set[str]:
    """All names that a module's text defines or imports, at least."""
    return {getattr(node, kind, None) for node in ast.walk(ast.parse(text)) for kind in ("id", "name", "asname")}


def files_behind(name: str, root: Path) -> set[Path]:
    """The file of the module that a dotted name leads to, and of each package above it."""
    files = set()
    folder = root
    parts = name.split(".")
    for i, part in enumerate(parts):
        package = folder / part / "__init__.py"
        module = folder / f"{part}.py"
        if module.is_file():
            if set(parts[i + 1 : i + 2]) <= names_in(read(module)):
                return files | {module}
            where = module.relative_to(root).as_posix()
            raise BuildError(f"no {parts[i + 1]} in {where}; correct the import or add it")
        if not package.is_file():
            if files and part in names_in(read(folder / "__init__.py")):
                return files  # a name that the package itself defines
            raise BuildError(f"no {module.relative_to(root).as_posix()}; correct the import or add the file")
        files.add(package)
        folder = package.parent
    return files


def imported_files(source: str, place: str, root: Path) -> set[Path]:
    """The dcal_core files that a source imports, at its top or inside functions, or names in a string of its own, such
    as "dcal_core.recipes.dcal:DCALRecipe" in a table; `place` is its path in messages.

    The commands that `__main__.py` names do not count: a notebook needs its own one alone.
    """
    files = set()
    tables = not place.endswith("__main__.py")
    try:
        for node in ast.walk(ast.parse(source)):
            if tables and isinstance(node, ast.Constant) and (named := NAMED.fullmatch(str(node.value))):
                files |= files_behind(named[1], root)
            if isinstance(node, ast.Import | ast.ImportFrom):
                if getattr(node, "level", 0):
                    raise BuildError("relative import; write `from dcal_core... import ...`")
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for name in (prefix + alias.name for alias in node.names):
                    files |= files_behind(name, root) if name.split(".")[0] == "dcal_core" else set()
    except SyntaxError as error:
        raise BuildError(f"{place}:{error.lineno}: {error.msg}; correct the syntax") from error
    except BuildError as error:
        raise BuildError(f"{place}:{node.lineno}: {error}") from None
    return files


def core_files(script: Path, root: Path) -> list[Path]:
    """Every dcal_core file that a script needs, directly or through another, in order of path.

    With training goes `__main__.py`, by which it starts each of several processes.
    """
    found = imported_files(read(script), script.relative_to(root).as_posix(), root)
    if found:
        found |= imported_files(read(CELLS / "use.py"), "use.py", root)
    if root / "dcal_core/commands/train.py" in found:
        found.add(root / "dcal_core/__main__.py")
    pending = list(found)
    while pending:
        path = pending.pop()
        new = imported_files(read(path), path.relative_to(root).as_posix(), root) - found
        found |= new
        pending += new
    return sorted(found)
