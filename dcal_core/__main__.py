"""`python -m dcal_core <command>`: what the notebooks do, from a shell."""

import importlib
import sys

from dcal_core.config import UserError

COMMANDS = {  # name: module and function, imported when asked for, and what it does
    "prepare": ("dcal_core.prepare", "main", "check the data and write what to leave out"),
    "train": ("dcal_core.recipes", "main", "train a preset's model; also what torchrun starts"),
    "evaluate": ("dcal_core.evaluation", "main", "report on a trained run, alone or beside others"),
    "explain": ("dcal_core.explanation", "main", "show where a trained run looks, and how far to believe it"),
    "ablation": ("dcal_core.ablation.command", "main", "train with parts left out, and say what each is worth"),
    "bench": ("dcal_core.bench.measure", "main", "measure speed and memory against a plain vision transformer"),
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
