"""What may happen to the files of a run, and how its sealed folders and its list of people are judged."""

import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from bad_inputs.indexes import parsed
from bad_inputs.mutations import damaged
from bad_inputs.trial import EXECUTED
from dcal_core.config.dcal import DCALConfig
from dcal_core.storage import SUMS, seal

PICKLE = f"cos\nsystem\n(S'touch {EXECUTED}'\ntR.".encode()
SPECIAL = {"folder": os.mkdir, "pipe": os.mkfifo, "missing": id, "link": lambda file: file.symlink_to("nowhere")}
Changes = dict[str, bytes | str]  # a file of the run: its other content, or what stands in its place


def put(folder: Path, changes: Changes) -> None:
    """Change files of a run; "resealed" as another name makes the checksums fit again."""
    for name, content in changes.items():
        if name in DCALConfig.model_fields or name == "resealed":
            continue
        file = folder / name
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        file.write_bytes(content) if isinstance(content, bytes) else SPECIAL[content](file)
    if "resealed" in changes:
        seal(folder / changes["resealed"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def unseals(sound: dict[str, bytes], name: str, content: bytes | str) -> bool | None:
    """Whether a change breaks a sealed folder: any does, but of white space in the checksums there is no telling."""
    if name.endswith(SUMS) and isinstance(content, bytes) and content.split() == sound[name].split():
        return None
    return content != sound.get(name)


def file_changes(sound: dict[str, bytes], inside: str) -> st.SearchStrategy[Changes]:
    """One file in a folder damaged, lost, added, or replaced by another one."""
    names = sorted(name for name in sound if name.startswith(inside))
    other = st.sampled_from(["folder", "missing", "link", *[sound[name] for name in names], PICKLE, b""])
    change = st.sampled_from(names).flatmap(
        lambda name: st.builds(lambda content: {name: content}, damaged(sound[name]) | damaged(sound[name]) | other)
    )
    added = st.builds(
        lambda name, content: {f"{inside}/{name}": content},
        st.sampled_from(["model.pt", ".hidden", "SHA256SUMS.1", "extra.json"]),
        st.binary(max_size=9),
    )
    return change | change | added


def judge_people(file: Path) -> bool:
    """Whether a file does not say on which data and people a model was trained."""
    try:
        facts = parsed(file)
        data, people = facts["data"], facts["people"]
        return not (isinstance(data, str) and isinstance(people, list) and people and all(map(is_name, people)))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return True


def is_name(person: object) -> bool:
    return isinstance(person, str) and bool(person)
