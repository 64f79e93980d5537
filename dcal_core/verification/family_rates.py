"""Rates with 95 % intervals, from the weight that each family has in each outcome: bootstrap over families.

Rates that are ratios of such weights need one matrix product for all draws.
Letters: P comparisons, F families, D bootstrap draws, R = 1 + D rows: the sample, then its draws.
"""

import numpy as np

from dcal_core.verification.bootstrap import draw_families, effective_families, interval


def class_sizes(genuine: np.ndarray, member: np.ndarray, weights: np.ndarray, families: int) -> np.ndarray:
    """Return the weight of genuine and of impostor comparisons [P] in each family, [2, F]."""
    return tabulate(member, np.where(genuine, 0, 1), weights, families, 2).T


def families_of_rarer_class(genuine: np.ndarray, family: np.ndarray, weights: np.ndarray | None = None) -> int:
    """Return how many families have genuine and how many have impostor comparisons of any weight: the smaller number.

    genuine (bool), family, weights: [P], checked.
    """
    present = np.ones(len(genuine), dtype=bool) if weights is None else weights > 0
    return min(len(np.unique(family[present & part])) for part in (genuine, ~genuine))


def with_draws(families: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each family counts, [R, F]: once in the sample, then as `draw_families` draws it."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    return np.vstack([np.ones(families), draw_families(families, draws, seed)])


def tabulate(member: np.ndarray, cell: np.ndarray, weights: np.ndarray, families: int, cells: int) -> np.ndarray:
    """Return the weight that each family has in each cell, [F, cells]; member, cell, weights: [P]."""
    return np.bincount(member * cells + cell, weights, families * cells).reshape(families, cells)


def shares(rows: np.ndarray) -> np.ndarray:
    """Return rows [R, n] over their sums; NaN where a draw holds nothing."""
    with np.errstate(invalid="ignore"):
        return rows / rows.sum(1, keepdims=True)


def estimate(rates: np.ndarray, sizes: np.ndarray) -> dict:
    """Return {"value", "low", "high"} of a rate [R]: the sample's, and the 95 % `interval` of those draws that are no
    NaN. sizes: how much each family [F] weighs in it.

    One family has no interval. A rate of 0 or 1 in all draws gets the bound that so many families without an
    error allow, about 3 / families (rule of three).
    """
    value, drawn, families = float(rates[0]), rates[1:][~np.isnan(rates[1:])], np.count_nonzero(sizes)
    if families < 2 or len(drawn) == 0:
        return {"value": value, "low": None, "high": None}
    low, high = interval(drawn, effective_families(sizes)).tolist()
    if low == high and value in (0, 1):
        bound = 1 - 0.05 ** (1 / families)
        low, high = (0.0, bound) if value == 0 else (1 - bound, 1.0)
    return {"value": value, "low": low, "high": high}
