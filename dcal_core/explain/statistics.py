"""What a map over the patches of a face says, in figures: how spread out it is, where it lies, on which parts.

P = g x g patches. A map is taken as a mass that is spread evenly within each patch.
"""

import numpy as np

from dcal_core.explain.regions import coverage
from dcal_core.explain.registry import MAPS
from dcal_core.explain.views import PairView

TOP = 0.1  # of the patches, in `concentration`
EMPTY = "the map is zero everywhere"


def statistics(weights: np.ndarray, regions: dict[str, np.ndarray]) -> dict:
    """Figures of a map of weights >= 0, [g, g], for JSON; regions: bool [S, S] by name.

    total: the sum of the weights. entropy_bits: Shannon's, over patches; entropy_share: of the largest, log2 P.
    centre_x, centre_y: centre of mass, shares of the side, from the upper left. concentration: the share of the map in
    the hottest tenth of its patches, 1 less the Lorenz curve at 0.9 (Lorenz, 1905): 0.1 where it is the same
    everywhere, 1 where so few patches hold all. regions: of each the `share` of the map and the `area`, a share too.
    A map that is zero everywhere has no such figures: they are None, and `reason` says why.
    ValueError for a map that is not square, has a single patch, or a weight that is negative or not finite.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or len(weights) < 2:
        raise ValueError(f"a map must be [g, g] with g at least 2, got {[*weights.shape]}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative: of a signed map take `speaks` apart first")
    grid, total = len(weights), float(weights.sum())
    shares = weights / total if total else None
    covered = {name: coverage(region, grid) for name, region in regions.items()}
    figures = dict.fromkeys(("entropy_bits", "entropy_share", "centre_x", "centre_y", "concentration"))
    if total:
        figures |= {name: float(value) for name, value in _figures(shares).items()}
    parts = {
        name: {"share": float((shares * cover).sum()) if total else None, "area": float(cover.mean())}
        for name, cover in covered.items()
    }
    return {"total": total, **figures, "regions": parts} | ({} if total else {"reason": EMPTY})


def _figures(shares: np.ndarray) -> dict:
    """The figures of a map [g, g] that sums to 1, but for its regions."""
    held, middles = shares[shares > 0], (np.arange(len(shares)) + 0.5) / len(shares)
    entropy = -(held * np.log2(held)).sum()
    lorenz = np.append(0, np.cumsum(np.sort(shares, axis=None)[::-1]))  # of the hottest k patches, k from 0 to P
    return {
        "entropy_bits": entropy,
        "entropy_share": entropy / np.log2(shares.size),
        "centre_x": shares.sum(0) @ middles,
        "centre_y": shares.sum(1) @ middles,
        "concentration": np.interp(TOP * shares.size, np.arange(lorenz.size), lorenz),
    }


def speaks(weights: np.ndarray, signed: bool) -> dict[str, np.ndarray]:
    """What of a map is told apart, each >= 0: of a signed one what speaks for the `same` person and for `different`
    ones, else `all`."""
    if not signed:
        return {"all": weights}
    return {"same": np.maximum(weights, 0), "different": np.maximum(-weights, 0)}


def view_statistics(view: PairView, regions: dict[str, np.ndarray]) -> dict:
    """`statistics` of every map that a pair has: by kind of map, then what it `speaks` for, then a list for its two
    faces."""
    return {
        kind: {
            what: [statistics(side, regions) for side in sides]
            for what, sides in speaks(view.map(kind), MAPS[kind].signed).items()
        }
        for kind in view.kinds
    }
