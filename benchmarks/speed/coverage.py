"""How often the reported 95 % intervals hold the truth, on drawn scores whose error rates are known."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from benchmarks.speed.timing import Row, Spread
from dcal_core.verification.bootstrap import replicate, replicate_eer, summarise

FAMILIES = 31  # the test families of ND-TWINS
DRAWS = 400
IMAGES = {"even": (8, 8), "uneven": (2, 20)}  # of a person, fewest and most
EER = 0.05
SHARED = {"alike": 0.25, "few hard": 0.5}  # share of the scores' variance that is common to a family


def drawn_effects(kind: str, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """What families add to scores, of mean 0 and variance 1: normal, or exponential, by which a few add much."""
    return random.normal(size=shape) if kind == "alike" else random.exponential(size=shape) - 1


@cache
def quantile(kind: str, rate: float) -> float:
    """The score that a share `rate` of all scores of variance 1 exceeds, where families add `drawn_effects`."""
    added = drawn_effects(kind, np.random.default_rng(0), (2, 200_000)).sum(0) * np.sqrt(SHARED[kind] / 2)
    own = np.sqrt(1 - SHARED[kind])
    return brentq(lambda score: norm.sf((score - added) / own).mean() - rate, -20, 20)


def drawn_scores(
    random: np.random.Generator, eer: float, images: tuple[int, int], kind: str = "alike"
) -> tuple[np.ndarray, ...]:
    """Return scores, genuine, family, each [P], of FAMILIES pairs of twins with scores of unit variance.

    eer: that of all families there could be, at the threshold 0. images: fewest and most of a person. kind: a key of
    SHARED; half of what a family adds is common to both classes.
    """
    first, second = random.integers(images[0], images[1] + 1, (2, FAMILIES))
    pairs = np.stack([first * second, (first * (first - 1) + second * (second - 1)) // 2])  # [impostor or genuine, F]
    effects = drawn_effects(kind, random, (1, FAMILIES)) + drawn_effects(kind, random, (2, FAMILIES))
    shift = effects * np.sqrt(SHARED[kind] / 2) - np.array([[quantile(kind, eer)], [quantile(kind, 1 - eer)]])
    genuine = np.repeat([False, True], pairs.sum(1))
    family = np.concatenate([np.repeat(np.arange(FAMILIES), counts) for counts in pairs])
    own = np.sqrt(1 - SHARED[kind]) * random.normal(size=len(family))
    return shift[genuine.astype(int), family] + own, genuine, family


def coverage(
    eer: float,
    images: tuple[int, int],
    simulations: int,
    draws: int,
    clusters: Callable = lambda family: family,
    kind: str = "alike",
    eer_alone: bool = False,
) -> dict[str, float]:
    """Share of simulations whose 95 % intervals hold the true EER, FMR and FNMR, by metric.

    clusters: from the families [P] to what the bootstrap draws instead of them, [P]. kind: a key of SHARED. eer_alone:
    only the EER, which is quicker.
    """
    random = np.random.default_rng(0)
    held = dict.fromkeys(["eer"] if eer_alone else ["eer", "fmr", "fnmr"], 0)
    for seed in range(simulations):
        scores, genuine, family = drawn_scores(random, eer, images, kind)
        case = scores, genuine, clusters(family)
        drawn = replicate_eer(*case, draws, seed) if eer_alone else replicate(*case, 0.0, draws, seed)
        result = summarise(drawn)
        for name in held:
            held[name] += result[name]["low"] <= eer <= result[name]["high"]
    return {name: count / simulations for name, count in held.items()}


def coverage_rows(simulations: int) -> Iterator[Row]:
    """Rows on how often the EER's intervals hold the EER, where families are alike and where a few are much harder."""
    for kind in SHARED:
        for sizes, images in IMAGES.items():
            share = 100 * coverage(EER, images, simulations, DRAWS, kind=kind, eer_alone=True)["eer"]
            name = f"coverage of the EER's 95 % interval, {FAMILIES} families, {kind}, {sizes} sizes"
            note = f"of {simulations} simulations"
            yield Row(name, Spread.of(share), "%", goal=93, at_least=True, note=note)
