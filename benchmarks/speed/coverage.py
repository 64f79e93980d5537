"""How often the reported 95 % intervals hold the truth, on drawn scores whose error rates are known."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import norm

from benchmarks.speed.timing import Row, Spread
from dcal_core.verification.bootstrap import replicate, summarise

FAMILIES = 31  # the test families of ND-TWINS
DRAWS = 200
IMAGES = {"even": (8, 8), "uneven": (2, 20)}  # of a person, fewest and most
EER = 0.05
SHARED = 0.25  # share of the scores' variance that is common to a family, half of it to both classes


def drawn_scores(random: np.random.Generator, eer: float, images: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Return scores, genuine, family, each [P], of FAMILIES pairs of twins with normal scores of unit variance.

    eer: that of all families there could be, at the threshold 0. images: fewest and most of a person.
    """
    first, second = random.integers(images[0], images[1] + 1, (2, FAMILIES))
    pairs = np.stack([first * second, (first * (first - 1) + second * (second - 1)) // 2])  # [impostor or genuine, F]
    shift = (random.normal(size=FAMILIES) + random.normal(size=(2, FAMILIES))) * np.sqrt(SHARED / 2)
    genuine = np.repeat([False, True], pairs.sum(1))
    family = np.concatenate([np.repeat(np.arange(FAMILIES), counts) for counts in pairs])
    own = np.sqrt(1 - SHARED) * random.normal(size=len(family))
    return np.where(genuine, -1, 1) * norm.ppf(eer) + shift[genuine.astype(int), family] + own, genuine, family


def coverage(
    eer: float, images: tuple[int, int], simulations: int, draws: int, clusters: Callable = lambda family: family
) -> dict[str, float]:
    """Share of simulations whose 95 % intervals hold the true EER, FMR and FNMR, by metric.

    clusters: from the families [P] to what the bootstrap draws instead of them, [P].
    """
    random = np.random.default_rng(0)
    held = {"eer": 0, "fmr": 0, "fnmr": 0}
    for seed in range(simulations):
        scores, genuine, family = drawn_scores(random, eer, images)
        result = summarise(replicate(scores, genuine, clusters(family), 0.0, draws, seed))
        for name in held:
            held[name] += result[name]["low"] <= eer <= result[name]["high"]
    return {name: count / simulations for name, count in held.items()}


def coverage_rows(simulations: int) -> Iterator[Row]:
    """Rows on how far the coverage of the EER's intervals is from 95 %, where families are alike in size and not."""
    for sizes, images in IMAGES.items():
        share = 100 * coverage(EER, images, simulations, DRAWS)["eer"]
        name = f"EER's 95 % interval, {FAMILIES} {sizes} families: coverage off"
        note = f"holds the EER in {share:.1f} % of {simulations} simulations"
        yield Row(name, Spread.of(abs(share - 95)), "points", goal=3, note=note)
