"""Files and folders that are there whole or not at all, whatever kills the process that writes them."""

import errno
import itertools
import json
import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dcal_core.storage import (
    SUMS,
    DamagedError,
    StorageError,
    check_seal,
    disk_errors,
    free_name,
    read_json,
    recover,
    sealed_folder,
    size_of,
    write_text,
)


def fill(folder: Path, word: str) -> None:
    with sealed_folder(folder) as new:
        for name in ("weights", "facts"):
            (new / name).write_text(f"{name} {word}\n")


def word_in(folder: Path) -> str:
    """The word with which a whole folder was filled."""
    check_seal(folder)
    (word,) = {(folder / name).read_text().split()[1] for name in ("weights", "facts")}
    return word


@pytest.fixture
def sealed(tmp_path):
    fill(tmp_path / "kept" / "best", "old")
    return tmp_path / "kept" / "best"


@contextmanager
def files_no_larger_than(size: int):
    """The system itself refuses to let any file grow beyond some bytes, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- folders


def test_a_folder_is_replaced_whole_and_nothing_is_left_beside_it(sealed):
    with sealed_folder(sealed) as new:
        (new / "weights").write_text("weights new\n")
        assert word_in(sealed) == "old"
        (new / "facts").write_text("facts new\n")
    assert word_in(sealed) == "new" and os.listdir(sealed.parent) == ["best"]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(sealed, capsys, killed_at, replaced):
    words = []
    for number in itertools.count():
        shutil.rmtree(sealed.parent, ignore_errors=True)
        if replaced:
            fill(sealed, "old")
        killed = killed_at(number, lambda: fill(sealed, "new"))
        half = sorted(sealed.parent.glob("*.new"))
        recover(sealed.parent.parent)
        assert [path.name for path in sealed.parent.glob("*")] == ["best"] * sealed.exists()
        words.append(word_in(sealed) if sealed.exists() else "nothing")
        said = capsys.readouterr().out
        assert all(f"Removed {folder}, which an interruption" in said for folder in half) and bool(half) == bool(said)
        if not killed:
            break
    assert words == sorted(words, key=["nothing", "old", "new"].index)  # once it is there it stays
    assert words[0] == ("old" if replaced else "nothing") and words[-1] == "new" and len(words) > 8


def test_a_kill_while_mending_is_mended_too(sealed, tmp_path, killed_at):
    states = {}  # what the kills leave, by the names that are then there
    for number in itertools.count():
        if not killed_at(number, lambda: fill(sealed, "new")):
            break
        there = tuple(sorted(sealed.parent.rglob("*")))
        states.setdefault(there, shutil.copytree(sealed.parent, tmp_path / str(number)))
        shutil.rmtree(sealed.parent)
        fill(sealed, "old")
    mended = 0
    for state in states.values():
        for moment in range(0, 1000, 3):
            shutil.rmtree(sealed.parent)
            shutil.copytree(state, sealed.parent)
            if not killed_at(moment, lambda: recover(sealed.parent)):
                break
            recover(sealed.parent)
            assert word_in(sealed) in ("old", "new") and os.listdir(sealed.parent) == ["best"]
            mended += 1
    assert len(states) > 5 and mended > 3


def test_files_are_synced_before_the_folder_is_named_and_its_name_after(sealed, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: [done.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)])
    monkeypatch.setattr(os, "replace", lambda old, new: [done.append(("->", Path(new).name)), replace(old, new)])
    fill(sealed, "new")
    new, named = f"{sealed}.new", done.index(("->", "best"))
    assert {f"{new}/weights", f"{new}/facts", f"{new}/{SUMS}.new", new} <= set(done[:named])
    assert done.index(f"{new}/{SUMS}.new") < done.index(("->", SUMS)) < done.index(new)
    assert str(sealed.parent) in done[named:]


@pytest.mark.parametrize("failure", [OSError("no such device"), KeyboardInterrupt(), SystemExit(), ValueError()])
def test_a_failure_while_filling_leaves_the_old_folder_and_nothing_else(sealed, failure):
    with pytest.raises(type(failure)) as raised, sealed_folder(sealed) as new:
        (new / "weights").write_text("half")
        raise failure
    assert raised.value is failure
    assert word_in(sealed) == "old" and os.listdir(sealed.parent) == ["best"]


def test_mending_what_is_whole_changes_and_says_nothing(sealed, capsys):
    recover(sealed.parent)
    recover(sealed.parent / "nowhere")
    assert word_in(sealed) == "old" and capsys.readouterr().out == ""


# ---- checksums


def test_sha256sum_accepts_a_sealed_folder(sealed):
    check = ["sha256sum", "--strict", "-c", SUMS]
    done = subprocess.run(check, cwd=sealed, capture_output=True, text=True)
    assert done.returncode == 0 and sorted(done.stdout.split("\n")) == ["", "facts: OK", "weights: OK"]
    (sealed / "facts").write_text("facts odd\n")
    assert subprocess.run(check, cwd=sealed, capture_output=True).returncode == 1


def flip(folder: Path) -> None:
    content = bytearray((folder / "weights").read_bytes())
    content[3] ^= 1
    (folder / "weights").write_bytes(content)


DAMAGE = {
    "a flipped byte": (flip, "weights"),
    "cut short": (lambda folder: os.truncate(folder / "weights", 4), "weights"),
    "empty": (lambda folder: os.truncate(folder / "weights", 0), "weights"),
    "missing": (lambda folder: (folder / "facts").unlink(), "facts"),
    "one file more": (lambda folder: (folder / "more").touch(), "more"),
    "a folder more": (lambda folder: (folder / "more").mkdir(), "more"),
    "a folder in a file's place": (lambda folder: [(folder / "facts").unlink(), (folder / "facts").mkdir()], "facts"),
    "swapped": (lambda folder: os.replace(folder / "weights", folder / "facts"), "weights"),
    "no checksums": (lambda folder: (folder / SUMS).unlink(), SUMS),
    "no text": (lambda folder: (folder / SUMS).write_bytes(b"\x80\x04\xff"), SUMS),
    "other text": (lambda folder: (folder / SUMS).write_text("<html>\n"), SUMS),
    "a path": (lambda folder: (folder / SUMS).write_text("0" * 64 + "  ../../passwords\n"), SUMS),
    "no line": (lambda folder: (folder / SUMS).write_text(""), SUMS),
    "one checksum changed": (
        lambda folder: (folder / SUMS).write_text((folder / SUMS).read_text().replace("a", "b")),
        SUMS,
    ),
    "one line less": (
        lambda folder: (folder / SUMS).write_text((folder / SUMS).read_text().splitlines(True)[0]),
        "weights",
    ),
    "a folder that is not there": (shutil.rmtree, SUMS),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_any_damage_to_a_sealed_folder_is_refused_and_the_file_named(sealed, refused, kind):
    damage, name = DAMAGE[kind]
    check_seal(sealed)
    damage(sealed)
    with refused(DamagedError, sealed, name, "is damaged", "restore it"):
        check_seal(sealed)


def test_a_file_that_the_disk_cannot_read_is_named_as_damaged(sealed, refused, monkeypatch):
    opened = Path.open

    def unreadable(path, *arguments, **keywords):
        if path.name == "weights":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", unreadable)
    with refused(DamagedError, sealed / "weights", "Input/output error"):
        check_seal(sealed)


# ---- files


def test_a_kill_at_any_moment_leaves_the_old_text_or_the_new_one(tmp_path, killed_at):
    file, texts = tmp_path / "config.json", []
    for number in itertools.count():
        file.write_text("old")
        killed = killed_at(number, lambda: write_text(file, "new\n" * 10_000))
        texts.append(file.read_text())
        if not killed:
            break
    assert set(texts) == {"old", "new\n" * 10_000} and texts[0] == "old" and len(texts) >= 4
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_text_that_finds_no_room_leaves_the_old_one_alone_in_its_folder(tmp_path, refused):
    file = tmp_path / "config.json"
    file.write_text("old")
    with refused(StorageError, file, "free some space", "run_dir"), files_no_larger_than(1000):
        write_text(file, "new" * 1000)
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[1]", "a list where a dict belongs"),
        (b"null", "a NoneType where a dict belongs"),
        (b'"{}"', "a str where a dict belongs"),
        (None, "No such file"),
    ],
    ids=["cut", "empty", "deep", "deep too", "not UTF-8", "a pickle", "long number", "list", "null", "string", "none"],
)
def test_json_that_cannot_be_what_was_written_is_refused(tmp_path, refused, content, found):
    if content is not None:
        (tmp_path / "facts.json").write_bytes(content)
    with refused(DamagedError, tmp_path / "facts.json", found, "restore it"):
        read_json(tmp_path / "facts.json")


def test_json_of_the_kind_that_is_asked_for_is_read(tmp_path):
    write_text(tmp_path / "facts.json", json.dumps({"name": "é", "eer": float("inf")}))
    assert read_json(tmp_path / "facts.json") == {"name": "é", "eer": float("inf")}
    write_text(tmp_path / "facts.json", "[1]")
    assert read_json(tmp_path / "facts.json", list) == [1]


# ---- no room


def many() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(1_000_000)}


def copy_tree(folder: Path) -> None:
    (folder.parent / "source").mkdir()
    save_file(many(), folder.parent / "source" / "weights")
    with files_no_larger_than(100_000):
        shutil.copytree(folder.parent / "source", folder / "copy")


def save_tensors(folder: Path) -> None:
    with files_no_larger_than(100_000):
        save_file(many(), folder / "weights")


def write_bytes(folder: Path) -> None:
    with files_no_larger_than(100_000):
        (folder / "weights").write_bytes(bytes(1_000_000))


def write_to_a_full_device(folder: Path) -> None:
    Path("/dev/full").write_text("anything")


def exceed_a_quota(folder: Path) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize("work", [copy_tree, save_tensors, write_bytes, write_to_a_full_device, exceed_a_quota])
def test_a_full_disk_is_told_in_one_sentence_whoever_notices_it(tmp_path, refused, work):
    (tmp_path / "run").mkdir()
    with pytest.raises((OSError, SafetensorError)):
        work(tmp_path / "run")  # so this is what the system, safetensors and shutil say
    shutil.rmtree(tmp_path / "source", ignore_errors=True)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    said = ("no room", tmp_path / "run", "free some space", "run_dir", "run again to go on")
    with refused(StorageError, *said), disk_errors(tmp_path / "run"):
        work(tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.getuid() or shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_keeps_what_it_had_and_is_not_left_full(small_disk, refused):
    fill(small_disk / "best", "old")
    free = shutil.disk_usage(small_disk).free
    with refused(StorageError, small_disk / "best", "no room"), sealed_folder(small_disk / "best") as new:
        save_file(many(), new / "weights")
    assert word_in(small_disk / "best") == "old" and os.listdir(small_disk) == ["best"]
    assert shutil.disk_usage(small_disk).free == free
    fill(small_disk / "best", "new")
    assert word_in(small_disk / "best") == "new"


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        shutil.Error([("a", "b", "[Errno 13] Permission denied: 'a'")]),
        SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_place_that_cannot_be_written_is_a_sentence_too(tmp_path, refused, error):
    with refused(StorageError, f"{tmp_path} cannot be written", "run_dir"), disk_errors(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error", [OSError("of no system's"), ValueError("[Errno 28] No space left on device"), KeyboardInterrupt()]
)
def test_other_failures_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, disk_errors(tmp_path):
        raise error
    assert raised.value is error


# ---- names and sizes


def test_a_free_name_is_the_first_that_nothing_has(tmp_path):
    assert free_name(tmp_path / "run.old") == tmp_path / "run.old1"
    (tmp_path / "run.old1").mkdir()
    (tmp_path / "run.old2").touch()
    assert free_name(tmp_path / "run.old").name == "run.old3"


def test_the_size_of_a_folder_is_that_of_all_files_below_it(sealed):
    assert size_of(sealed.parent.parent) == sum(len(file.read_bytes()) for file in sealed.iterdir()) > 100
    assert size_of(sealed / "nowhere") == 0
