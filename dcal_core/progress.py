"""Progress lines for long work: plain text, seldom, and none for what is done at once."""

import sys

from tqdm import tqdm


def progress_line(iterable=None, **options) -> tqdm:
    """A tqdm line that fits a notebook run in batch, where every update is kept; takes tqdm's options."""
    return tqdm(iterable, **{"mininterval": 5.0, "delay": 3.0, "file": sys.stdout, "ncols": 100} | options)
