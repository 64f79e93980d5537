"""The limit of detection: how small a difference between two images of one face does a model see?

A round mark is planted into one image of a person, which is compared with other images of the same person. The mark is
*seen* in a pair if the score falls below those of 95 % of such pairs without a mark, of other families. So about 5 %
are seen without any mark; that share is measured too. Shares are fitted by a psychometric function of the diameter's
logarithm (Wichmann & Hill, 2001, Perception & Psychophysics 63), with intervals over families.

C contrasts; D diameters; O other images of a person; F families.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import DataError
from dcal_core.explain.planting import cover, eye_distance, places, planted
from dcal_core.models.verifier import Verifier
from dcal_core.progress import progress_line
from dcal_core.verification.comparisons import rounded
from dcal_core.verification.encoding import evaluating
from dcal_core.verification.intervals import family_counts, family_means, mean_by_t, mean_share

DIAMETERS = (0.04, 0.06, 0.09, 0.13, 0.19, 0.28, 0.41, 0.6)  # of the distance between the eyes
CONTRASTS = (-0.6, -0.3, 0.3)  # of a mole, of a freckle, of a scar
MAIN = -0.6  # the contrast at which the parts of the face are compared
CHANCE = 0.05  # of pairs without a mark that are to count as seen
LEVELS = {"half": 0.5, "most": 0.95}  # of the cases
OTHERS = 5  # images with which a planted one is compared, at most
LAPSES = 0.04  # of marks that are missed at any size, at most: less than 1 - 0.95
STEEPEST = 20.0  # slope of the psychometric function
DRAWS = 200  # of the bootstrap
FEWEST = 3  # families: each one's threshold is of the others


@dataclass(frozen=True)
class Sites:
    """Scores of n places of marks, each on one part of one image; `left_out` counts images without bare skin there.

    family: [n]; region: names, [n]; scores: each with O other images of the person, [1 + C D, O], of the image without
    a mark and then of every contrast and diameter.
    """

    family: np.ndarray
    region: np.ndarray
    scores: list[np.ndarray]
    left_out: dict[str, int]


def plant(
    model: Verifier, images: ImageStore, person_of: np.ndarray, family_of: np.ndarray, landmarks: np.ndarray, seed: int
) -> Sites:
    """Plant marks on each part of one image of each person with two images or more; person_of, family_of: [N]."""
    device = next(model.parameters()).device
    diameters = np.array(DIAMETERS) * eye_distance(landmarks, images.size)
    people, counts = np.unique(person_of, return_counts=True)
    people = people[counts > 1]
    found = []
    left_out = {}
    with evaluating(model):
        for person in progress_line(people, desc="planting marks", unit="person"):
            random = np.random.default_rng([seed, person])
            own, *others = random.permutation(np.flatnonzero(person_of == person))[: 1 + OTHERS]
            others = model.encode(images.batch(others).to(device))
            (image,) = images.batch([own]).numpy()
            for region, place in places(image, landmarks, random).items():
                left_out.setdefault(region, 0)
                if place is None:
                    left_out[region] += 1
                    continue
                marked = planted(image, cover(place, diameters, images.size), CONTRASTS).reshape(-1, *image.shape)
                faces = torch.from_numpy(np.concatenate([image[None], marked]))
                scores = model.compare(model.encode(faces.to(device)), others)
                found.append((family_of[own], region, rounded(scores.float().cpu().numpy())))
    family, region, scores = zip(*found, strict=True)
    return Sites(np.array(family), np.array(region), list(scores), left_out)


# ---- psychometric functions


def share_seen(size: np.ndarray, middle: float, slope: float, chance: float, lapses: float) -> np.ndarray:
    """The share of marks of a size, as its logarithm, that are seen: from `chance` to 1 - lapses."""
    return chance + (1 - chance - lapses) * expit(slope * (size - middle))


def size_for(level: float, middle: float, slope: float, chance: float, lapses: float) -> float:
    """The logarithm of the size at which a share `level` is seen."""
    return middle + logit((level - chance) / (1 - chance - lapses)) / slope


def fit(size: np.ndarray, shares: np.ndarray, chance: float, start: tuple = ()) -> tuple[float, float, float]:
    """Middle, slope and lapses of the psychometric function of shares [D] at sizes [D], logarithms, by maximum
    likelihood; chance: the share that is seen without a mark."""
    wide = np.ptp(size)
    bounds = [(size[0] - wide, size[-1] + 2 * wide), (0.5, STEEPEST), (0, LAPSES)]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        middle, slope, lapses = parameters
        steep = expit(slope * (size - middle))
        expected = np.clip(chance + (1 - chance - lapses) * steep, 1e-9, 1 - 1e-9)
        by_share = (1 - shares) / (1 - expected) - shares / expected
        by_steep = (1 - chance - lapses) * steep * (1 - steep)
        gradient = by_share @ np.stack([-slope * by_steep, (size - middle) * by_steep, -steep], axis=1)
        return -(shares * np.log(expected) + (1 - shares) * np.log1p(-expected)).sum(), gradient

    start = start or (size.mean(), 3.0, LAPSES / 2)
    return tuple(minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x.tolist())


def curve_of(diameters: np.ndarray, seen: np.ndarray, fall: np.ndarray, family: np.ndarray, seed: int) -> dict:
    """The psychometric function of some sites, for JSON: `seen` without a mark (`chance`) and by diameter, `fall` of
    the score by diameter, and the diameters, px, from which `half` and `most` are seen.

    diameters: px, [D]; seen, fall: [n, 1 + D]. A diameter, or an end of its interval, that is None is larger than all
    marks.
    """
    size = np.log(diameters)
    rates = np.stack([family_means(column, family) for column in seen.T], axis=1)  # [F, 1 + D]
    drawn = family_counts(len(rates), DRAWS, seed) @ rates / len(rates)
    chance = min(drawn[0, 0], LEVELS["half"] / 2)
    best = fit(size, drawn[0, 1:], chance)
    fits = [fit(size, row[1:], min(row[0], LEVELS["half"] / 2), best) for row in drawn[1:]]
    chances = np.minimum(drawn[1:, 0], LEVELS["half"] / 2)
    curve = {
        "seen": [mean_share(column, family, seed=seed) for column in seen.T[1:]],
        "chance": mean_share(seen[:, 0], family, seed=seed),
        "fall": [mean_by_t(column, family) for column in fall.T[1:]],
        "fit": dict(zip(("middle", "slope", "lapses"), best, strict=True)) | {"chance": float(chance)},
    }
    # Percentiles of so few families are too narrow: Hesterberg's expanded ones (arXiv 1411.5279), by half of the
    # degrees of freedom, as in `share_interval`.
    families = len(rates)
    tail = norm.cdf(-np.sqrt(families / (families - 1)) * student.ppf(0.975, (families - 1) / 2))
    for name, level in LEVELS.items():
        value = size_for(level, *best[:2], chance, best[2])
        around = [size_for(level, *one[:2], low, one[2]) for one, low in zip(fits, chances, strict=True)]
        ends = {"value": value, "low": np.quantile(around, tail), "high": np.quantile(around, 1 - tail)}
        curve[name] = {end: float(np.exp(at)) if at <= size[-1] else None for end, at in ends.items()}
    return curve


# ---- all of it


def measure_sensitivity(
    model: Verifier,
    images: ImageStore,
    person_of: np.ndarray,
    family_of: np.ndarray,
    landmarks: np.ndarray,
    threshold: float | None = None,
    seed: int = 0,
) -> dict:
    """How small a mark the model sees, by contrast and, at MAIN, by part of the face, for JSON.

    person_of, family_of: of each image, [N]. threshold: of a yes or a no; then `verdict` has the curve of the marks
    that turn one person's pair into two people's. Takes about 200 encodings a person. DataError where fewer than
    FEWEST families have a person with two images.
    """
    _, first, counts = np.unique(person_of, return_index=True, return_counts=True)
    people, families = np.count_nonzero(counts > 1), len(np.unique(family_of[first[counts > 1]]))
    if families < FEWEST:
        raise DataError(f"{families} families have two images of one person: give {FEWEST} or more.")
    sites = plant(model, images, person_of, family_of, landmarks, seed)
    unplanted = [scores[0] for scores in sites.scores]
    own = {
        family: np.quantile(
            np.concatenate([one for one, of in zip(unplanted, sites.family, strict=True) if of != family]), CHANCE
        )
        for family in np.unique(sites.family)
    }
    fall = np.stack([(scores[0] - scores).mean(1) for scores in sites.scores])
    seen = np.stack([(scores < own[of]).mean(1) for scores, of in zip(sites.scores, sites.family, strict=True)])
    diameters = np.array(DIAMETERS) * eye_distance(landmarks, images.size)

    def curve(shares: np.ndarray, contrast: float, chosen=slice(None)) -> dict:
        start = 1 + CONTRASTS.index(contrast) * len(DIAMETERS)
        columns = [0, *range(start, start + len(DIAMETERS))]
        return curve_of(diameters, shares[chosen][:, columns], fall[chosen][:, columns], sites.family[chosen], seed)

    result = {
        "people": int(people),
        "families": families,
        "image_size": images.size,
        "eye_distance": eye_distance(landmarks, images.size),
        "diameters": diameters.tolist(),
        "left_out": sites.left_out,
        "contrasts": {f"{contrast:+g}": curve(seen, contrast) for contrast in CONTRASTS},
        "regions": {
            region: curve(seen, MAIN, sites.region == region)
            for region in sites.left_out
            if len(np.unique(sites.family[sites.region == region])) > 1
        },
    }
    if threshold is not None:
        turned = np.stack([(scores < threshold).mean(1) for scores in sites.scores])
        result["verdict"] = curve(turned, MAIN)
    return result
