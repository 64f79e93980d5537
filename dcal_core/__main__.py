"""`python -m dcal_core <command>`: what the notebooks do, from a shell."""

import importlib
import sys

from dcal_core.errors import UserError

COMMANDS = {  # name: module and function, imported when asked for, and what it does
    "prepare": ("dcal_core.commands.prepare", "main", "check the data and write what to leave out"),
    "train": ("dcal_core.commands.train", "main", "train a preset's model; also what torchrun starts"),
    "evaluate": ("dcal_core.commands.evaluate", "main", "report on a trained run, alone or beside others"),
    "explain": ("dcal_core.commands.explain", "main", "show where a trained run looks, and how far to believe it"),
}


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names with the others; returns the exit status, 1 with a sentence for
    what the user can mend."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python -m dcal_core <command> [options]; <command> --help says more")
        for name, (_, _, meaning) in COMMANDS.items():
            print(f"  {name:<10}{meaning}")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    module, function, _ = COMMANDS[arguments[0]]
    try:
        return getattr(importlib.import_module(module), function)(arguments[1:])
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
