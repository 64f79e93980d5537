"""Shows that the tests see what people get wrong: makes plausible mistakes in a copy of the project, one at a time.

    python tests/mutations.py                all of them; exit status 1 if the tests miss one
    python tests/mutations.py NAME [NAME]    only these
    python tests/mutations.py --list         their names, after a check that each still fits the code

For each mistake the tests of the changed file run until the first failure: its own test file, those beside it, then all
others that import it. At the end the tests that failed run once without a mistake: a test that fails anyway shows
nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDER_TESTS = "tests/test_build_notebooks.py"
DRIFT = f"{BUILDER_TESTS}::test_the_committed_notebooks_are_current"  # sees any change at all, mistake or not
LIMIT = 900  # seconds for a group of tests
TABLE = Path(__file__).with_suffix(".diff")  # a name and a file, then the old lines (-) and the new (+)


@dataclass(frozen=True)
class Mistake:
    """One mistake: `old` in a file becomes `new`."""

    name: str
    file: str
    old: str
    new: str

    def wrong(self, root: Path) -> str:
        """The file's text with the mistake; SystemExit unless the old text stands in it exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise SystemExit(f"{self.name}: {self.file} holds {text.count(self.old)} times, not once: {self.old}")
        return text.replace(self.old, self.new)

    def tests(self, root: Path) -> list[list[str]]:
        """The test files that belong to the changed file: its own, those beside that, others that import it."""
        if not self.file.startswith("dcal_core/"):
            return [[BUILDER_TESTS]]
        inner = Path(self.file).relative_to("dcal_core")
        module = ".".join(Path(self.file).with_suffix("").parts)
        imports = re.compile(rf"^\s*(from {module} import|import {module}\b)", re.MULTILINE)
        own = root / "tests" / inner.with_name(f"test_{inner.name}")
        groups = [], [], []
        for file in sorted(root.glob("tests/**/test_*.py"), key=lambda file: file.stat().st_size):
            known = file == own or imports.search(file.read_text(encoding="utf-8"))
            beside = file.parent == own.parent and (known or len(inner.parts) > 1)
            if known or beside:
                groups[0 if file == own else 1 if beside else 2].append(file.relative_to(root).as_posix())
        return [group for group in groups if group]


def read_mistakes() -> list[Mistake]:
    """The mistakes in the table."""
    found = []
    for block in TABLE.read_text(encoding="utf-8").strip().split("\n\n"):
        head, *lines = block.split("\n")
        name, file = head.split()
        old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
        found.append(Mistake(name, file, old, new))
    return found


def copy_tracked(folder: Path) -> None:
    """Copy the tracked files as they stand in the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not just deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def first_failures(root: Path, tests: list[str], *options: str) -> list[str]:
    """The tests that fail, without their parameters; RuntimeError where pytest itself does not run."""
    command = [sys.executable, "-m", "pytest", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, f"--deselect={DRIFT}", *options, *tests],
            cwd=root,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return [f"no end within {LIMIT} s"]
    found = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", done.stdout, re.MULTILINE)
    if bool(done.returncode) != bool(found):
        raise RuntimeError(f"pytest ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return list(dict.fromkeys(found))


def main(arguments: list[str]) -> None:
    """Try the mistakes, print a line for each and end with status 1 where one is missed."""
    mistakes = read_mistakes()
    for mistake in mistakes:
        mistake.wrong(ROOT)
    if arguments == ["--list"]:
        print("\n".join(mistake.name for mistake in mistakes))
        return
    if unknown := set(arguments) - {mistake.name for mistake in mistakes}:
        raise SystemExit(f"no mistake is called {', '.join(sorted(unknown))}: --list names them.")
    mistakes = [mistake for mistake in mistakes if mistake.name in arguments or not arguments]
    missed = 0
    failed = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        root = Path(name)
        copy_tracked(root)
        for mistake in mistakes:
            file = root / mistake.file
            right = file.read_text(encoding="utf-8")
            file.write_text(mistake.wrong(root), encoding="utf-8")
            began = time.monotonic()
            found = next(filter(None, (first_failures(root, tests, "-x") for tests in mistake.tests(root))), [])
            missed += not found
            failed |= dict.fromkeys(found)
            caught = found[0].removeprefix("tests/") if found else "SURVIVED"
            print(f"| {mistake.name} | {caught} | {time.monotonic() - began:.0f} s |", flush=True)
            file.write_text(right, encoding="utf-8")
        anyway = first_failures(root, [test for test in failed if "::" in test]) if failed else []
    print(f"{len(mistakes)} mistakes, {missed} survived.")
    if anyway:
        print(f"These tests fail without a mistake too, so they show nothing: {', '.join(anyway)}")
    sys.exit(bool(missed or anyway))


if __name__ == "__main__":
    main(sys.argv[1:])
