"""The text of a library file as cells hold it, whole or cut at its definitions."""

import ast
import hashlib
import re
from pathlib import Path

from notebooks_src.builder.closure import BuildError, read


def digest(text: str, length: int) -> str:
    """The first hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def core_text(path: Path, root: Path) -> str:
    """The text of a file to embed, without its last line end."""
    text = read(path)
    name = path.relative_to(root).as_posix()
    body = text.strip("\n")
    if text != body + "\n" * bool(body):  # writing it trims these
        raise BuildError(f"{name}: does not begin with text and end with exactly one newline; correct its ends")
    if found := re.search("^# ==== (dcal_core|params)/", text, re.MULTILINE):
        raise BuildError(f"{name}: a line begins with `{found[0]}`, which marks a file in a cell; change it")
    return body


def first_line(node: ast.AST, lines: list[str]) -> int:
    """The line, from 0, at which a definition begins, with its decorators and the comments above it."""
    first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])]) - 1
    while first and (not lines[first - 1] or lines[first - 1].lstrip().startswith("#")):
        first -= 1
    while not lines[first]:
        first += 1
    return first


def definitions(text: str, opened: set[str]) -> dict[str, int]:
    """The first line of each function, class and value of a module, and of each method of opened classes, by name.

    What stands above the first one, the docstring and the imports, is called "imports".
    """
    lines = text.split("\n")
    found = {"imports": 0}
    for node in ast.parse(text).body:
        first = first_line(node, lines)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: first for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = first
        if isinstance(node, ast.ClassDef) and node.name in opened:
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}": first_line(method, lines) for method in methods}
    return found


def cut(path: Path, pieces: list[list[str]], root: Path) -> list[str]:
    """A file's text in pieces; each begins at the first of the definitions that it names."""
    text = core_text(path, root)
    where = path.relative_to(root).as_posix()
    named = [name for piece in pieces for name in piece]
    found = definitions(text, {name.split(".")[0] for name in named if "." in name})
    if named != list(found):
        absent = [f"{name} is left out" for name in found if name not in named]
        unknown = [f"{name} is not there" for name in named if name not in found]
        wrong = ", ".join(absent + unknown) or "the order is another"
        raise BuildError(f"pieces of {where}: {wrong}; name each once, in this order: {', '.join(found)}")
    lines = text.split("\n")
    starts = [*(found[names[0]] for names in pieces), None]
    texts = ["\n".join(lines[first:end]).strip("\n") for first, end in zip(starts, starts[1:], strict=False)]
    if "".join(("\n\n" if part[:1] == " " else "\n\n\n") + part for part in texts).strip("\n") != text:
        raise BuildError(f"pieces of {where}: blank lines are not as formatted; run `ruff format`")
    return texts
