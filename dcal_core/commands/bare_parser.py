"""The command line of a command that takes no parameters of a run."""

import argparse

from dcal_core.installation import program_name


def bare_parser(
    command: str, description: str, example: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """A parser without options. example: what to type after the command, for its help."""
    program = f"{program_name()} {command}"
    return kind(
        prog=program,
        description=description,
        epilog=f"example:\n  {program} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
