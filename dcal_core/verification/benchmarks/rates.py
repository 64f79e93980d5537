"""Rates at thresholds that few impostors reach, as published for face benchmarks, with 95 % intervals over people.

FAR, FPIR: the shares of impostor comparisons and of probes without a mate that match. TAR, TPIR: those of genuine
comparisons and of probes with a mate. Letters: P comparisons; F people; R = 1 + D: the sample, then draws of its
people; L limits.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dcal_core.verification.intervals import rate_estimate

SLACK = 1e-6  # of a comparison: a share of all of them may miss a whole number by rounding
FEWEST = 30  # false matches that a figure must rest on (rule of 30, Doddington et al., 2000)
HIGHEST = 20_000  # impostors that are looked at one by one; below them one stands for several
OTHERS = 100_000


def drawn_people(people: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of so many people counts, [F], R times: once in the sample, then as drawn with replacement."""
    yield np.ones(people)
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(random.integers(people, size=people), minlength=people).astype(np.float64)


class Tail:
    """Genuine comparisons at the thresholds that few impostors reach, for many weightings of the people.

    scores, genuine: [P]; people: who is compared, [P, 1] or [P, 2]. A comparison of two people counts as often as both
    are drawn, multiplied (Fogliato et al., arXiv 2306.01198). limits: of the share of impostors, [L].
    """

    def __init__(self, scores: np.ndarray, genuine: np.ndarray, people: np.ndarray, limits: Sequence[float]):
        own = np.flatnonzero(genuine)
        own = own[np.argsort(-scores[own])]
        others = np.flatnonzero(~genuine)
        others = others[np.argsort(-scores[others])]
        self.limits = limits
        self.expected = {limit: int(limit * len(others) + SLACK) for limit in limits}  # impostors that match
        ranks = np.concatenate([
            np.arange(min(HIGHEST, len(others))),
            np.geomspace(min(HIGHEST, len(others)), len(others), OTHERS) - 1,
            list(self.expected.values()),
        ])  # fmt: skip
        ranks = np.unique(ranks.astype(np.int64).clip(max=len(others) - 1))
        self.stands_for = np.diff(ranks, prepend=-1)
        self.impostors = people[others[ranks]]
        self.own = people[own, 0]
        self.above = np.searchsorted(-scores[own], -scores[others[ranks]])  # genuine scores above each impostor's
        self.above = np.append(self.above, len(own))

    def rates(self, counts: np.ndarray) -> np.ndarray:
        """The share of genuine comparisons that match at the lowest threshold that keeps to each limit, [L], where
        people count `counts` [F] times."""
        held = np.cumsum(self.stands_for * counts[self.impostors].prod(1))
        matched = np.concatenate([[0], np.cumsum(counts[self.own])])
        if not held[-1] or not matched[-1]:  # a draw without any of these people
            return np.full(len(self.limits), np.nan)
        first_too_many = np.searchsorted(held, np.array(self.limits) * held[-1] + SLACK, "right")
        return matched[self.above[first_too_many]] / matched[-1]


def tail_estimates(name: str, tails: list[Tail], rates: np.ndarray) -> dict[str, dict]:
    """Each limit's estimate from its rates [R, L], the mean over the tails, and the fewest impostors that match there:
    below FEWEST a figure is uncertain beyond its interval. None where not even one may match."""
    own = np.concatenate([tail.own for tail in tails])
    found = {}
    for limit, column in zip(tails[0].limits, rates.T, strict=True):
        few = min(tails, key=lambda tail: tail.expected[limit])
        if few.expected[limit]:
            estimate = rate_estimate(column, np.bincount(own)) | {"false_matches": few.expected[limit]}
        else:
            estimate = {"value": None, "reason": f"not resolvable with {few.stands_for.sum():,} impostors"}
        found[f"{name}_{limit:g}"] = estimate
    return found
