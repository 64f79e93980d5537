"""`twins <command>`, the same as `python -m dcal_core <command>`: what the notebooks do, from a shell."""

import importlib
import sys

import dcal_core
from dcal_core.errors import UserError
from dcal_core.installation import program_name

COMMANDS = {  # name: module and function, imported when asked for, and what it does
    "prepare": ("dcal_core.commands.prepare", "main", "check the data and write what to leave out"),
    "train": ("dcal_core.commands.train", "main", "train a preset's model; also what torchrun starts"),
    "evaluate": ("dcal_core.commands.evaluate", "main", "report on a trained run, alone or beside others"),
    "explain": ("dcal_core.commands.explain", "main", "show where a trained run looks, and how far to believe it"),
}


def usage() -> str:
    """One line of usage and one for each command."""
    lines = [f"usage: {program_name()} <command> [options]; <command> --help says more; --version"]
    lines += [f"  {name:<10}{meaning}" for name, (_, _, meaning) in COMMANDS.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names with the others; returns the exit status, 1 with a sentence for
    what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else ""
    if name == "--version":
        print(f"twins {dcal_core.__version__}")
        return 0
    if name not in COMMANDS:
        print(usage())
        return 0 if name in ("-h", "--help") else 2
    module, function, _ = COMMANDS[name]
    try:
        return getattr(importlib.import_module(module), function)(arguments[1:])
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
