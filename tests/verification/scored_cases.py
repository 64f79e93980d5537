"""Scores made up for tests: those of a family share a shift; and whole verifiers that gave such scores."""

import numpy as np

from dcal_core.data.twins import TwinIndex
from dcal_core.verification.protocol import Scored, Unrelated, twin_pairs
from dcal_core.verification.report import System

FAMILIES, IMAGES = 12, 5
OPTIONS = dict(error=0.1, calibration="logistic", draws=30)


def clustered_case(families=12, each=10, apart=1.5, spread=1.0, seed=0):
    """Scores, genuine and family of `each` comparisons per class and family; a family shares a shift. seed: or a
    generator, which goes on from there."""
    rng = np.random.default_rng(seed)
    family = np.tile(np.repeat(np.arange(families), each), 2)
    genuine = np.repeat([True, False], families * each)
    scores = apart * genuine + spread * rng.normal(size=families)[family] + rng.normal(size=len(family))
    return scores, genuine, family


def drawn_families(families: int, draws: int, seed: int) -> np.ndarray:
    """How often each family is drawn with replacement, whole numbers [D, F]."""
    return np.random.default_rng(seed).multinomial(families, np.full(families, 1 / families), size=draws)


def bounds(estimate: dict) -> dict:
    """An estimate without what it says of its ends."""
    return {name: estimate[name] for name in ("value", "low", "high")}


def index_of(name: str, families: int) -> TwinIndex:
    """Pairs of twins with five images each."""
    names = [(f"{name}{f:02d}a", f"{name}{f:02d}b") for f in range(families)]
    return TwinIndex(
        name=name,
        people=tuple(person for family in names for person in family),
        families=tuple(names),
        paths=tuple(f"{image}.png" for image in range(2 * families * IMAGES)),
        person_of=np.repeat(np.arange(2 * families), IMAGES),
        family_of=np.repeat(np.arange(families), 2),
    )


def scored(name: str, families: int, separation: float, seed: int) -> Scored:
    """Clustered scores of an index, genuine ones higher by so much."""
    index, random = index_of(name, families), np.random.default_rng(seed)
    pairs = twin_pairs(index)
    noise = random.normal(size=len(pairs)) + 0.3 * random.normal(size=families)[pairs.family]
    return Scored(index, pairs, noise + separation * pairs.genuine)


def system(name="ours", separation=2.0, seed=0) -> System:
    """A verifier with scores of its own for validation, test and unrelated comparisons."""
    random = np.random.default_rng(seed)
    a, b = np.triu_indices(FAMILIES, k=1)
    unrelated = Unrelated(random.normal(-1, 1, 60 * len(a)), np.tile(a, 60), np.tile(b, 60))
    validation, test = (scored(split, FAMILIES, separation, seed + k) for k, split in enumerate(("validation", "test")))
    return System(name, "made up", validation, test, unrelated)
