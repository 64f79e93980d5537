"""What may happen to a sound input on its way: bytes changed, and nodes of a JSON tree replaced."""

import copy
import json

from hypothesis import strategies as st

DEEP = 100_000


def can_be_written(text: str) -> bool:
    """Whether a text can be a file's name or content: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and text == text.encode("utf-8", "ignore").decode()


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Data with one to three bytes or stretches of it changed."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 7, 40]))
        before, piece, after = data[:place], data[place : place + length], data[place + length :]
        how = draw(st.sampled_from(["flip", "cut", "drop", "double", "insert", "zero", "swap"]))
        if how == "flip":
            data = before + bytes(byte ^ draw(st.integers(1, 255)) for byte in piece[:1]) + data[place + 1 :]
        elif how == "insert":
            data = before + draw(st.binary(min_size=1, max_size=8)) + piece + after
        else:
            pieces = {"cut": b"", "drop": after, "double": piece * 2 + after, "zero": bytes(len(piece)) + after}
            data = before + pieces.get(how, piece[::-1] + after)
    return data


EVIL_PATHS = [
    "../../10/10a.jpg", "/old/set/../10/10a.jpg", "..\\..\\10\\10a.jpg", "C:\\secret\\a.jpg", "\\\\server\\share\\a",
    "/etc/passwd", "~/a.jpg", "file:///etc/passwd", "10/", "/", "", ".", "..", "10/\0.jpg", "10/\ud800.jpg", "out/a",
    "10/" + "a" * 300, "10/\n.jpg", "10/\x1b[2J.jpg", "x/" * 3000 + "a.jpg",
]  # fmt: skip
EVIL_TEXTS = ["", "\0", "\ud800", "\n", "\x1b[31m", "a" * 100_000, "\u202e", "10", " 10", "__proto__"]

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 2**63, 0]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(EVIL_PATHS + EVIL_TEXTS),
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


def places(tree: object) -> list[tuple]:
    """The way to every node of a JSON tree, by keys and numbers."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [(), *((key, *rest) for key, child in children for rest in places(child))]


def node(tree: object, place: tuple) -> object:
    """The node of a tree at a place."""
    for key in place:
        tree = tree[key]
    return tree


def change(parent: object, key: object, how: str, value: object) -> None:
    """Change the child of a node in one way."""
    if how == "replace":
        parent[key] = value
    elif how == "wrap":
        parent[key] = [parent[key]] if isinstance(value, list) else {"": parent[key]}
    elif how == "drop":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif how == "rename" and isinstance(parent, dict):
        parent[value if isinstance(value, str) else str(value)] = parent.pop(key)
    elif isinstance(parent, list):
        parent.append(value)
    else:
        parent[str(value)] = copy.deepcopy(parent[key])


@st.composite
def restructured(draw, tree: object) -> bytes:
    """A JSON tree with one or two of its nodes replaced, dropped, doubled, renamed, wrapped or joined by others."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(root)[1:] or [(0,)]))
        how = draw(st.sampled_from(["replace", "replace", "wrap", "drop", "double", "rename", "add"]))
        if len(place) > 1 or how in ("replace", "wrap"):  # the root itself stays one
            change(node(root, place[:-1]), place[-1], how, draw(values))
    return json.dumps(root[0]).encode()


def spoilt_json(tree: object) -> st.SearchStrategy[bytes]:
    """A JSON file whose tree is of another shape, whose bytes are damaged, or that never was one."""
    return st.one_of(restructured(tree), restructured(tree), damaged(json.dumps(tree).encode()), st.binary(max_size=20))
