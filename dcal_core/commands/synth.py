"""`twins synth OUT --like INDEX`: draw photographs under the names of index files, to rehearse before the real ones
are there; the results are SYNTHETIC."""

import argparse
from pathlib import Path

from dcal_core.data.drawn.photographs import draw_like
from dcal_core.data.locate import INDEX_FILES, find_indexes
from dcal_core.data.roots import read_indexes
from dcal_core.data.twins import DataError, check_disjoint
from dcal_core.installation import program_name
from dcal_core.missing import because

SIZES = (16, 2048)  # px, what can be drawn


def parser_of_synth() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(prog=f"{program_name()} synth", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder: the images, their masks, the index files")
    parser.add_argument("--like", type=Path, required=True, metavar="INDEX", help="the folder of the four index files")
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=(300, 1200), metavar=("LEAST", "MOST"), help="sides, px; 300 1200"
    )
    parser.add_argument("--difficulty", type=float, default=0.5, metavar="X", help="0: large differences, 1: tiny; 0.5")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other faces; 0")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; all processors")
    return parser


def main(arguments: list[str]) -> int:
    """Draw the photographs and say what to do with them."""
    options = parser_of_synth().parse_args(arguments)
    least, most = options.sizes
    if not SIZES[0] <= least <= most <= SIZES[1]:
        raise DataError(f"--sizes {least} {most}: give two sizes from {SIZES[0]} to {SIZES[1]} px, the smaller first.")
    if not 0 <= options.difficulty <= 1:
        raise DataError(f"--difficulty {options.difficulty}: give 0 (large differences) to 1 (tiny ones).")
    if options.seed < 0:
        raise DataError(f"--seed {options.seed}: give 0 or more.")
    if options.workers is not None and options.workers < 1:
        raise DataError(f"--workers {options.workers}: give 1 or more, or leave it out for all processors.")
    source = find_indexes([options.like])
    if source is None:
        raise DataError(f"--like {options.like}: it has no {', '.join(INDEX_FILES)}{because(options.like)}.")
    train, test = read_indexes(source)
    check_disjoint(train, test)
    draw_like(
        (train, test),
        source,
        options.out,
        sizes=(least, most),
        difficulty=options.difficulty,
        seed=options.seed,
        workers=options.workers,
    )
    print(f"{options.out}: {len(train.paths) + len(test.paths):,} drawn photographs, SYNTHETIC")
    print(f"Next: {program_name()} prepare --data_root {options.out} --align")
    return 0
