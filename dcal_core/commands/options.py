"""What a command takes from a shell, read and checked before torch is imported."""

import argparse
from functools import partial
from pathlib import Path

from pydantic.fields import FieldInfo

from dcal_core.commands.catalogue import COMMANDS
from dcal_core.config.parameters import choices
from dcal_core.config.recipes import CLASSES, ENDINGS, check_given, class_of, nearest, needs_of_presets
from dcal_core.errors import ConfigError, quoted
from dcal_core.installation import presets_folder, program_name
from dcal_core.missing import because


class Given(argparse.Action):
    """Collects parameters: `-p name value`, `-p name=value`, `--name value` or, for a truth value, `--name`."""

    def __call__(self, parser, namespace, values, option_string=None):
        name, value = self.dest, values
        if name == "p":
            parts = values[0].split("=", 1) if len(values) == 1 else values
            if len(parts) != 2:
                parser.error(f"-p {' '.join(values)}: give one name and its value, -p name value")
            name, value = parts
        namespace.parameters += ((name, value),)


def parser_of(command: str, everything: bool = False) -> argparse.ArgumentParser:
    """The options of one of our commands. everything: the help lists all parameters."""
    known = COMMANDS[command]
    description = f"{known.meaning[0].upper()}{known.meaning[1:]}."
    program = f"{program_name()} {command}"
    parser = command_parser(program, description, known.example, known.shown, everything)
    for name, how in known.own.items():
        parser.add_argument(name, **how)
    return parser


def command_parser(
    program: str, description: str, example: str = "", shown: str = "", everything: bool = False
) -> argparse.ArgumentParser:
    """The options that every command takes; it may add its own. shown, everything: parameters that the help lists."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [--preset NAME] [options] [--PARAMETER VALUE ...]",
        description=description,
        epilog=f"presets:\n{preset_lines()}\n\nexample:\n  {program} {example}",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=34, width=118),
        allow_abbrev=False,
    )
    parser.set_defaults(parameters=())
    parser.add_argument("--help-all", action="store_true", help="list all parameters, with what they take")
    parser.add_argument("--preset", default="auto", metavar="NAME", help="one of those below, or auto")
    parser.add_argument("-f", "--file", type=Path, help="a preset of your own, in YAML")
    parser.add_argument("-p", nargs="+", action=Given, metavar=("NAME", "VALUE"), help="the same as --NAME VALUE")
    group = parser.add_argument_group("parameters")
    for name, known in known_fields().items():
        meaning = meaning_of(known) if everything or name in shown.split() else argparse.SUPPRESS
        bare = dict(nargs="?", const="true") if known.annotation is bool else {}  # --name alone means true
        group.add_argument(f"--{name}", action=Given, metavar=takes(known), help=meaning, **bare)
    return parser


def known_fields() -> dict[str, FieldInfo]:
    """The parameters of all recipes, by name."""
    return {name: field for recipe in reversed(CLASSES) for name, field in class_of(recipe).model_fields.items()}


def takes(field: FieldInfo) -> str:
    """What a parameter takes, in a word."""
    if choices(field):
        return "|".join(choices(field))
    return {bool: "true|false", int: "N", float: "X"}.get(field.annotation, "TEXT")


def meaning_of(field: FieldInfo) -> str:
    """What a parameter means, as argparse prints it."""
    return field.description.replace("%", "%%")


def preset_lines() -> str:
    """A line for each preset, which says what it needs."""
    return "\n".join(f"  {preset:<19}{needs}" for preset, needs in needs_of_presets(presets_folder()).items())


def read_options(command: str, arguments: list[str]) -> argparse.Namespace:
    """The options of one of our commands; ConfigError for what is no option."""
    if "--help-all" in arguments:
        parser_of(command, everything=True).print_help()
        raise SystemExit(0)
    options, unknown = parser_of(command).parse_known_args(arguments)
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        advice = nearest(name, known_fields()) if unknown[0].startswith("--") else f"{program_name()} {command} --help"
        raise ConfigError(f"unknown option {quoted(unknown[0])}: {advice}")
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse images and lists that are not there, or one list of pairs without the other; ConfigError."""
    given = vars(options)
    if (given.get("same") is None) != (given.get("twins") is None):
        raise ConfigError("--same and --twins are lists to be compared: give both.")
    images = given.get("images") or []
    if isinstance(images, Path) and not images.is_dir():
        raise ConfigError(f"--images {images}: there is no such folder{because(images)}.")
    images = [images] if isinstance(images, Path) else images
    files = {"--images": images, "--same": [given.get("same")], "--twins": [given.get("twins")]}
    for option, paths in files.items():
        for path in filter(None, paths):
            if not path.exists():
                raise ConfigError(f"{option} {path}: there is no such file{because(path)}.")


def given_parameters(options: argparse.Namespace) -> tuple[dict, Path]:
    """The parameters given to a command, as a notebook would be given them, and the folder of the presets; raises
    ConfigError for a preset that is not there, a misspelt name or an impossible value."""
    given = {"preset": options.preset}
    params_dir = presets_folder()
    if options.file:
        file = options.file.expanduser()
        if not file.is_file():
            raise ConfigError(f"-f {file}: there is no such file{because(file)}.")
        if file.suffix not in ENDINGS:
            raise ConfigError(f"-f {file}: a preset is a YAML file: let its name end in .yaml.")
        given["preset"] = str(file)
    run = [("run_dir", options.run_folder)] if getattr(options, "run_folder", None) else []
    for name, value in [*run, *options.parameters]:
        if name in given:
            raise ConfigError(f"parameter {name} is given more than once: keep one of them.")
        given[name] = value
    check_given(given, params_dir)
    return given, params_dir
