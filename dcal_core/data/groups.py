"""Groups of items, each item in exactly one: made of pairs, and listed."""

from collections.abc import Sequence

import numpy as np


def join_pairs(pairs: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """The group of each of `count` items, [count]: items are together where pairs join them, directly or through
    others. Groups are numbered in the order of their first items."""
    from scipy.sparse import coo_array  # a third of a second, and a command refuses much without data
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    _, group = connected_components(links, directed=False)
    _, first_of = np.unique(group, return_index=True)
    return np.searchsorted(np.sort(first_of), first_of[group])


def members(group: np.ndarray) -> list[np.ndarray]:
    """The items of each group, in ascending order."""
    return np.split(np.argsort(group, kind="stable"), np.bincount(group).cumsum()[:-1])
