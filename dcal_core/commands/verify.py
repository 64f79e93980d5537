"""The command `verify`: do two pictures show one person?

The exit status is the verdict, so nothing but a verdict may give 0, 1 or 2: whatever fails, also while a module is
imported, gives 3.
"""

import argparse
import io
import json
import sys
import traceback
from pathlib import Path

from dcal_core.commands.bare_parser import bare_parser
from dcal_core.environment import output_root
from dcal_core.errors import ConfigError, UserError
from dcal_core.missing import lacks

STATUS = {"same": 0, "different": 1, "undecided": 2}
FAILED = 3
STDIO = "-"  # in place of a file's name


class Parser(argparse.ArgumentParser):
    """Raises ConfigError for wrong options, where argparse would exit with the status of a verdict."""

    def error(self, message: str):
        raise ConfigError(f"{message}; {self.prog} --help says what it takes.")


def parser_of_verify() -> Parser:
    """The options of this command."""
    about = "Tell whether two pictures show one person, or compare many pairs to a CSV file."
    parser = bare_parser("verify", about, "a.jpg b.jpg", Parser)
    parser.usage = f"{parser.prog} A B [options], or --pairs FILE, or --folder DIR"
    status = "exit status:\n  0 same, 1 different, 2 undecided; of many pairs 0 done; 3 failed, 130 interrupted"
    parser.epilog = f"{status}\n\n{parser.epilog}"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="two pictures; - reads one from standard input")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a packed model, or a run; without it the run evaluated last"
    )
    parser.add_argument("--aligned", action="store_true", help="take pictures as aligned faces, look for none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="draw where the two faces differ")
    parser.add_argument("--pairs", metavar="FILE", help="CSV, two image files a line; - reads standard input")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="all pairs of its images")
    parser.add_argument("--gallery", type=Path, metavar="DIR", help="compare those of --folder with its images")
    parser.add_argument(
        "--output", metavar="FILE", default=STDIO, help="CSV file for the results; without it standard output"
    )
    parser.add_argument("--shard", metavar="K/N", help="the K-th of N shares of the pairs, to a file of its own")
    parser.add_argument(
        "--engine",
        choices=["ray"],
        help="encode the pictures of many pairs on a Ray cluster; without it in this process",
    )
    parser.add_argument("--cache", type=Path, metavar="FILE", help="keep what was computed of pictures in this file")
    return parser


def predictor_of(options: argparse.Namespace, cache_file: Path | None, quick: bool = False):
    """The predictor that the options ask for, whose descriptors a file keeps if one is named. quick: with the engine
    that starts sooner, where the model has one."""
    from dcal_core.deploy.cache import FeatureCache
    from dcal_core.deploy.engine import quick_engine
    from dcal_core.deploy.package import newest_run
    from dcal_core.deploy.predictor import Predictor

    model = options.model or newest_run(output_root())
    cache = FeatureCache(file=cache_file)
    find_faces = False if options.aligned else None
    if quick and (engine := quick_engine(model)):
        return Predictor(engine, find_faces, cache)
    return Predictor.load(model, find_faces, cache)


def verify_two(options: argparse.Namespace) -> int:
    """Answer for two pictures; returns the exit status."""
    if len(options.images) != 2:
        raise ConfigError(f"give two pictures, not {len(options.images)}.")
    if options.images == [STDIO, STDIO]:
        raise ConfigError("standard input holds one picture: give the other one as a file.")
    predictor = predictor_of(options, options.cache, quick=not options.explain)
    if options.explain and not hasattr(predictor.engine, "model"):
        raise ConfigError("--explain needs the model in PyTorch: give a packed folder or a run as --model.")
    pictures = [sys.stdin.buffer.read() if name == STDIO else name for name in options.images]
    answer = predictor.verify(*pictures)
    text = predictor.sentence(answer)
    if options.json:
        print(json.dumps(answer.as_dict() | {"sentence": text}, allow_nan=False))
    elif answer.error:
        print(text, file=sys.stderr)
    else:
        print(text)
        for note in (*answer.doubts, not_checked(answer.unchecked)):
            if note not in text:
                print(note, file=sys.stderr)
    if options.explain and not answer.error:
        draw_difference(predictor, pictures, (answer.a, answer.b), text, options.explain)
    return STATUS.get(answer.verdict, FAILED)


def draw_difference(predictor, pictures: list, names: tuple[str, str], title: str, file: Path) -> None:
    """Draw both faces with what tells them apart."""
    from dcal_core.deploy.difference import pair_view
    from dcal_core.explain.pair_figures import draw_view, write_figure

    write_figure(file, draw_view(pair_view(predictor, pictures, names), ["distinctive"], title))


def pairs_of(options: argparse.Namespace):
    """The pairs that the options name."""
    from dcal_core.data.pair_lists import read_bytes
    from dcal_core.deploy.pair_sources import folder_pairs, listed_pairs

    if options.folder:
        return folder_pairs(options.folder, options.gallery)
    if options.pairs == STDIO:
        return listed_pairs(sys.stdin.buffer.read(), "standard input", Path())
    return listed_pairs(read_bytes(Path(options.pairs)), options.pairs, Path(options.pairs).parent)


def encode_of(options: argparse.Namespace):
    """What encodes the pictures of many pairs; ConfigError if it is not installed, or not there."""
    if options.engine is None:
        from dcal_core.deploy.pair_job import encode_here

        return encode_here
    try:
        from dcal_core.deploy.ray_job import check_address, encode_on_ray
    except ModuleNotFoundError:
        raise ConfigError(lacks("--engine ray", "ray", "ray")) from None
    check_address()
    return encode_on_ray


def verify_many(options: argparse.Namespace) -> int:
    """Compare many pairs to a CSV file; returns the exit status."""
    from dcal_core.deploy.pair_job import compare_all, compare_to_file, share_file, share_of

    part, parts = shard_of(options)
    encode = encode_of(options)
    source = pairs_of(options)
    begin, end = share_of(source.count, part, parts)
    if options.output == STDIO:
        out = io.TextIOWrapper(sys.stdout.buffer, "utf-8", "surrogateescape", newline="")
        predictor = predictor_of(options, options.cache)
        unanswered = compare_all(predictor, source, out, begin, end, encode)
        out.detach()  # else standard output would be closed with it
        report_many(end - begin, unanswered, "standard output", predictor.unchecked)
        return 0
    output = Path(options.output)
    output = share_file(output, part, parts) if options.shard else output
    own_cache = output.with_name(f"{output.name}.cache")
    predictor = predictor_of(options, options.cache or own_cache)
    unanswered = compare_to_file(predictor, source, output, begin, end, encode)
    predictor.cache.close()
    for file in output.parent.glob(f"{own_cache.name}*"):
        file.unlink()
    report_many(end - begin, unanswered, output, predictor.unchecked)
    return 0


def report_many(count: int, unanswered: int, output: Path | str, unchecked: list[str]) -> None:
    """Say on standard error how many pairs there are, how many without an answer, and what was not checked."""
    errors = f", {unanswered:,} without an answer (column error)" if unanswered else ""
    print(f"{count:,} pairs{errors}: {output}", file=sys.stderr)
    print(not_checked(unchecked), file=sys.stderr)


def not_checked(unchecked: list[str]) -> str:
    """What nobody has looked at, as a sentence."""
    return f"Not checked: {'; '.join(unchecked)}."


def shard_of(options: argparse.Namespace) -> tuple[int, int]:
    """The share of the pairs that is asked for, and of how many; ConfigError."""
    if not options.shard:
        return 1, 1
    part, slash, parts = options.shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard {options.shard}: give K/N, such as 3/16.")
    if options.output == STDIO:
        raise ConfigError("--shard needs an --output, beside which each share gets a file.")
    return int(part), int(parts)


def run_command(options: argparse.Namespace) -> int:
    """Do what the options ask; returns the exit status."""
    many = [name for name in ("pairs", "folder") if getattr(options, name)]
    if len(many) > 1 or (many and options.images) or (options.gallery and not options.folder):
        raise ConfigError("give two pictures, or --pairs, or --folder, which takes a --gallery.")
    if options.engine and not many:
        raise ConfigError(f"--engine {options.engine} is for --pairs and --folder.")
    return verify_many(options) if many else verify_two(options)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        return run_command(parser_of_verify().parse_args(arguments))
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return FAILED
