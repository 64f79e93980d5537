"""Which kind of data set a folder is, and who is in it: four index files, a folder for each person, or records."""

from collections.abc import Sequence
from pathlib import Path

from dcal_core.config.shared import Config
from dcal_core.data import people_folders
from dcal_core.data.locate import INDEX_FILES, PARTS, folders_below, refuse_what_hides_data, search_indexes
from dcal_core.data.people_folders import MANY, find_people, index_people, looks_like_people, read_people
from dcal_core.data.records import ENDING, open_records, people_in_records
from dcal_core.data.twins import DataError, TwinIndex, name_some, read_index
from dcal_core.environment import input_roots
from dcal_core.missing import because, names_in


def find_data(data_root: str) -> Path | None:
    """The folder of the index files below `data_root` or, where that is empty, below the inputs; else the folder of the
    records or of people's folders in `data_root`; else None.

    DataError if there are several, or what may be a data set and cannot be used.
    """
    roots = input_roots(data_root)
    if root := search_indexes(roots):
        return root
    if data_root and (root := find_records(roots[0]) or find_people(roots[0])):
        return root
    refuse_what_hides_data(roots)
    return None


def find_root(config: Config) -> Path | None:
    """The folder of the data that is given or attached, else None; DataError if `data_root` is given and is no data
    set, and as `find_data`."""
    root = find_data(config.data_root)
    if root is None and config.data_root:
        there = Path(config.data_root).expanduser()
        what = f"no such folder{because(config.data_root)}"
        if there.is_dir():
            what = f"no {INDEX_FILES[0]} or records in it or below, and no folder of a person with images inside"
            what += f"; it holds {len(names_in(there)):,} files and folders"
        raise DataError(f"data_root={config.data_root}: {what}: correct it, or leave it out to search the inputs.")
    return root


def find_records(root: Path) -> Path | None:
    """The folder of the one file of records with an index, at or below `root`; DataError for several."""
    found = [file for folder, files in folders_below([root]) for file in records_among(folder, files)]
    if len(found) > 1:
        raise DataError(f"{root} holds {name_some(list(map(str, found)), 'file', 'files')} of records: keep one there.")
    return found[0].parent if found else None


def records_among(folder: Path, files: Sequence[str]) -> list[Path]:
    """The files of records with an index."""
    return [folder / name for name in files if name.endswith(ENDING) and f"{name.removesuffix(ENDING)}.idx" in files]


def folders_not_taken() -> str:
    """A sentence on folders among the inputs that look like people's, which are only taken where they are given; ""
    without any."""
    found = looks_like_people(input_roots())
    return (
        f" {found} holds {MANY} folders of images or more: if they are people, give it as data_root." if found else ""
    )


def has_indexes(root: Path) -> bool:
    """Whether a data set is index files, and not folders of people."""
    return (root / INDEX_FILES[0]).exists()


def knows_co_twins(root: Path) -> bool:
    """Whether a data set says who is whose co-twin."""
    return has_indexes(root) or people_folders.knows_co_twins(root)


def read_indexes(root: Path, quiet: bool = False) -> tuple[TwinIndex, TwinIndex]:
    """The train and the test index of a folder of either kind; quiet: without a word on what is left out of it."""
    if not has_indexes(root):
        if files := records_among(root, names_in(root)):
            return index_people(root, {"train": people_in_records(open_records(str(files[0])))}, {}, quiet)
        return read_people(root, quiet)
    train, test = ([root / f"{split}_{part}.json" for part in PARTS] for split in ("train", "test"))
    return read_index(*train, "train"), read_index(*test, "test")
