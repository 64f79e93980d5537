"""Why a path names nothing: a name that only looks the same, a link that leads nowhere, a mark that is part of it;
which texts can be written at all; and how to get a package that is not installed."""

import difflib
import os
import unicodedata
from pathlib import Path


def is_writable_text(text: str) -> bool:
    """Whether a text can be a file's name or content: no NUL, and no lone surrogate, which JSON can spell."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def lacks(what: str, package: str, extra: str) -> str:
    """The sentence that something needs a package which one of the extras installs."""
    return f"{what} needs {package}, which is not installed: {install(extra)}."


def install(extra: str) -> str:
    """How the packages of an extra are installed, as a clause."""
    return f'pip install -r requirements-{extra}.txt, or pip install -e ".[{extra}]" in a checkout'


def cause(path: str | Path) -> str:
    """What is wrong with a path that names nothing, as a clause to end a message with; "" where nothing is seen, or
    where the path names something."""
    if os.path.exists(path):
        return ""
    text = str(path)
    path = Path(os.path.abspath(path))
    broken = [part for part in (path, *path.parents) if os.path.islink(part) and not os.path.exists(part)]
    if broken:
        return f"{broken[0]} is a link to {os.readlink(broken[0])}, which is not there"
    if found := same_looking(path):
        return f"there is {found}, which differs in {difference(str(path), str(found))}"
    if text.strip("'\"") != text:
        return "the quotation marks are part of the name: leave them out"
    if hidden := [letter for letter in text if unicodedata.category(letter) in ("Cf", "Cc")]:
        return f"the name holds U+{ord(hidden[0]):04X}, which cannot be seen"
    folder = next((part for part in path.parents if os.path.isdir(part)), None)
    if folder is None or folder == Path(folder.anchor):
        return ""
    name = path.relative_to(folder).parts[0]
    if near := difflib.get_close_matches(name, names_in(folder), n=1):
        return f"{folder} holds {near[0]!r}"
    return "" if folder == path.parent else f"{folder} holds no {name!r}"


def because(path: str | Path) -> str:
    """`cause` with a semicolon, to stand behind the path or a reason in a sentence."""
    return f"; {found}" if (found := cause(path)) else ""


def same_looking(path: Path) -> Path | None:
    """The path that exists and is the given one but for capitals, Unicode form, blanks, quotation marks or \\ for /."""
    found = Path(path.anchor)
    for part in str(path).replace("\\", "/").removeprefix(path.anchor).split("/"):
        if os.path.exists(found / part):  # False too for a name that is too long, where Path.exists raises
            found /= part
            continue
        fitting = [name for name in names_in(found) if plain(name) == plain(part)]
        if len(fitting) != 1:
            return None
        found /= fitting[0]
    return found


def names_in(folder: Path) -> list[str]:
    """The names in a folder, none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def plain(name: str) -> str:
    """A name as the eye takes it."""
    visible = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFKC", visible).casefold().strip("'\" ")


def difference(given: str, found: str) -> str:
    """In what two same-looking names differ, in words."""
    forms = {
        "the Unicode form of its letters (NFC and NFD)": lambda name: unicodedata.normalize("NFC", name),
        "capital letters": str.casefold,
        "\\ in place of /": lambda name: name.replace("\\", "/"),
    }
    for words, form in forms.items():
        if form(given) == form(found):
            return words
    return "letters that look alike, blanks or quotation marks"
