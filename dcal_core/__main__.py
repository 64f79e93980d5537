"""`twins <command>`, the same as `python -m dcal_core <command>`: what the notebooks do, from a shell."""

import importlib
import os
import pkgutil
import sys

import dcal_core
from dcal_core.commands.catalogue import COMMANDS
from dcal_core.errors import UserError
from dcal_core.installation import program_name


def usage() -> str:
    """One line of usage and one for each command."""
    lines = [f"usage: {program_name()} <command> [options]; <command> --help says more; --version"]
    lines += [f"  {name:<12}{command.meaning}" for name, command in COMMANDS.items()]
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
        if name and not name.startswith("-"):
            print(f"There is no command {name!r}.", file=sys.stderr)
        print(usage())
        return 0 if name in ("-h", "--help") else 2
    try:
        if refuses := COMMANDS[name].refuses:
            from dcal_core.commands.options import check_files, given_parameters, read_options  # takes 0.2 s to import

            options = read_options(name, arguments[1:])
            check_files(options)
            given, params_dir = given_parameters(options)
            pkgutil.resolve_name(f"dcal_core.commands.{refuses}")(given, params_dir)
        return importlib.import_module(f"dcal_core.commands.{name}").main(arguments[1:])
    except UserError as error:
        if "DCAL_OUTCOMES" in os.environ:  # one of several processes: its launcher says it once
            importlib.import_module("dcal_core.distributed").leave_outcome(error)
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what was saved is whole; give the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
