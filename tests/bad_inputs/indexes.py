"""Index files in JSON, with a judge that reads the documented format anew and looks for each image naively."""

import json
import os
from pathlib import Path

from hypothesis import strategies as st

from bad_inputs.mutations import EVIL_PATHS, can_be_written, spoilt_json
from bad_inputs.trial import Kind
from dcal_core.data.locate import find_indexes, resolve_paths
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import split_families
from dcal_core.data.twins import check_disjoint

PEOPLE = {"train": ("10", "11", "12", "13"), "test": ("20", "21")}
IMAGES = {
    split: {person: [f"/old/set/{person}/{person}{letter}.jpg" for letter in "ab"] for person in people}
    for split, people in PEOPLE.items()
}
PAIRS = {"train": [["10", "11"], ["13", "12"]], "test": [["20", "21"]]}
FILES = [f"{split}_{part}.json" for split in PEOPLE for part in ("dataset_infor", "twin_pairs")]
TREES = dict(zip(FILES, [IMAGES["train"], PAIRS["train"], IMAGES["test"], PAIRS["test"]], strict=True))


def write_data(folder: Path, changed: dict[str, bytes]) -> None:
    """Four index files, some of them changed (None: missing), and the images, one of them outside of the data."""
    data = folder / "data"
    for split in IMAGES.values():
        for path in (path for paths in split.values() for path in paths):
            file = data / "faces" / Path(path).parent.name / Path(path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(path)
    for name, tree in TREES.items():
        (data / name).write_text(json.dumps(tree))
    (folder / "out").mkdir()
    (folder / "out" / "a.jpg").write_text("outside")
    for name, content in changed.items():
        if isinstance(content, bytes):
            (data / name).write_bytes(content)
        elif content != "link":
            (data / name).unlink()
            {"folder": os.mkdir, "pipe": os.mkfifo, "missing": id}[content](data / name)
        else:
            (data / name).symlink_to(folder / "out")


def parsed(file: Path) -> object:
    """A JSON file as it stands, without double keys or numbers that are none; raises ValueError."""

    def unique(items: list) -> dict:
        if len(items) != len(dict(items)):
            raise ValueError
        return dict(items)

    text = file.read_bytes().decode("utf-8-sig")
    return json.loads(text, object_pairs_hook=unique, parse_constant=float.fromhex)


def parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def in_format(images: object, pairs: object) -> bool:
    """Whether two trees are a map of people to paths and a list of pairs of these people."""
    if not (isinstance(images, dict) and isinstance(pairs, list) and images and pairs):
        return False
    if not all(isinstance(paths, list) and paths for paths in images.values()):
        return False
    paths = [path for paths in images.values() for path in paths]
    if not all(isinstance(path, str) and len(parts(path)) > 1 and ".." not in parts(path) for path in paths):
        return False
    if not all(map(can_be_written, [*paths, *images])) or "" in images:
        return False
    if any(parts(path) == parts(other) for n, path in enumerate(paths) for other in paths[:n]):
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    return all(isinstance(a, str) and isinstance(b, str) and {a, b} <= set(images) and a != b for a, b in pairs)


def families(images: dict, pairs: list) -> list[set]:
    """The people of an index, by whom they are tied to."""
    found = [{person} for person in images]
    for a, b in pairs:
        tied = [family for family in found if a in family or b in family]
        found = [family for family in found if family not in tied] + [set().union(*tied)]
    return found


def all_found(images: dict, data: Path) -> bool:
    """Whether each path shares the end, folder and name at least, with just one file, and no two with the same."""
    files = [file for file in data.rglob("*") if file.is_file() and file.suffix != ".json"]
    places = []
    for path in (parts(path) for paths in images.values() for path in paths):
        tails = [len(os.path.commonprefix([path[::-1], list(file.parts[::-1])])) for file in files]
        longest = max(tails)
        if longest < 2 or tails.count(longest) > 1:
            return False
        places.append(files[tails.index(longest)])
    return len(places) == len(set(places))


def malformed(folder: Path, changed: dict[str, bytes]) -> bool:
    """The judge of index files."""
    if "pipe" in changed.values():
        return True
    try:
        train, train_pairs, test, test_pairs = (parsed(folder / "data" / name) for name in FILES)
    except (ValueError, RecursionError, OSError):
        return True
    if not (in_format(train, train_pairs) and in_format(test, test_pairs)):
        return True
    ends = {tuple(parts(path)) for paths in train.values() for path in paths}
    if set(train) & set(test) or any(tuple(parts(path)) in ends for paths in test.values() for path in paths):
        return True
    tied = families(train, train_pairs)
    if len(tied) < 2 or all(len(family) < 2 for family in tied):
        return True
    return not (all_found(train, folder / "data") and all_found(test, folder / "data"))


def use(folder: Path, changed: dict[str, bytes]) -> None:
    """What training does with a data set before it opens the images."""
    root = find_indexes([folder / "data"])
    if root is None:  # no index files: the drawn twins are taken, which a line says
        return
    train, test = read_indexes(root)
    check_disjoint(train, test)
    for index in (*split_families(train, 0.5, seed=0), test):
        index.fingerprint()
        for path in resolve_paths(index, root, max_lost_share=0.0).paths:
            assert Path(os.path.realpath(path)).is_relative_to(root), "an image outside of the data"


def train_images(**people: object) -> dict[str, bytes]:
    """The training index with some people's images replaced."""
    tree = IMAGES["train"] | {name.strip("_"): paths for name, paths in people.items()}
    return {FILES[0]: json.dumps(tree).encode()}


def train_pairs(*pairs: object) -> dict[str, bytes]:
    return {FILES[1]: json.dumps(list(pairs)).encode()}


def renamed(person: str, name: str) -> dict[str, bytes]:
    """The training index with another name for a person, in both files."""
    return {file: json.dumps(TREES[file]).replace(json.dumps(person), json.dumps(name)).encode() for file in FILES[:2]}


BY_HAND = {
    "empty file": {FILES[0]: b""},
    "white space": {FILES[0]: b" \n"},
    "not UTF-8": {FILES[0]: b'{"10": ["\xff"]}'},
    "UTF-16": {FILES[0]: json.dumps(IMAGES["train"]).encode("utf-16")},
    "white space that JSON does not know": {FILES[0]: b"\x0b" + json.dumps(IMAGES["train"]).encode()},
    "cut short": {FILES[0]: json.dumps(IMAGES["train"]).encode()[:-1]},
    "two values": {FILES[1]: json.dumps(PAIRS["train"]).encode() * 2},
    "comment": {FILES[1]: b"// pairs\n" + json.dumps(PAIRS["train"]).encode()},
    "deep nesting of lists": {FILES[1]: b"[" * 100_000},
    "deep nesting of maps": {FILES[0]: b'{"a":' * 100_000},
    "deep nesting that is closed": {FILES[1]: b"[" * 100_000 + b"]" * 100_000},
    "huge number": {FILES[1]: b"[[" + b"9" * 5_000 + b', "11"]]'},
    "NaN": {FILES[1]: b'[["10", NaN]]'},
    "person twice": {FILES[0]: json.dumps(IMAGES["train"]).replace('"11":', '"10":').encode()},
    "person without a name": renamed("12", ""),
    "person of half a surrogate pair": renamed("12", "\ud800"),
    "person named with a NUL": renamed("12", "1\0"),
    "person in both splits": {FILES[2]: json.dumps(IMAGES["test"] | {"10": ["/x/10/c.jpg"]}).encode()},
    "image in both splits": {FILES[2]: json.dumps(IMAGES["test"] | {"22": ["/old/set/10/10a.jpg"]}).encode()},
    "image of two people": train_images(_11=["/old/set/10/10a.jpg"]),
    "image that does not exist": train_images(_11=["/old/set/11/11z.jpg"]),
    "long list in place of a path": train_images(_11=[["a"] * 100_000]),
    "long path": train_images(_11=["11/" + "a" * 1_000_000, "11/" + "a" * 1_000_000]),
    "long name of a person": train_pairs(["10", "9" * 1_000_000]),
    "pair of three": train_pairs(["10", "11", "12"]),
    "pair with itself": train_pairs(["10", "10"]),
    "pair of a list": train_pairs([["10"], "11"]),
    "pair of unknown people": train_pairs(["10", "99"]),
    "one family": train_pairs(["10", "11"], ["11", "12"], ["12", "13"]),
    "file missing": {FILES[3]: "missing"},
    "folder in place of a file": {FILES[0]: "folder"},
    "pipe in place of a file": {FILES[0]: "pipe"},
    **{f"path {path[:24]!r}": train_images(_11=[path]) for path in EVIL_PATHS},
}  # fmt: skip


def names(changed: dict[str, bytes]) -> tuple[str, ...]:
    """A refusal names the file, or the split, whose name the file begins with."""
    return (*changed, "train", "test", "validation")


INDEXES = Kind(
    name="index files, JSON",
    by_hand=BY_HAND,
    generated=st.sampled_from(FILES).flatmap(
        lambda name: st.builds(lambda content: {name: content}, spoilt_json(TREES[name]))
    ),
    count=150,
    lay_out=write_data,
    malformed=malformed,
    use=use,
    names=names,
    example="pair with itself",
)
