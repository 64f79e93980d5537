"""Templates compared 1:1 and searched 1:N, by a model's contract alone. Letters as in data/benchmarks/template_sets.py;
F people; R = 1 + D: the sample, then draws of its people."""

from dataclasses import dataclass

import numpy as np
import torch

from dcal_core.data.benchmarks.template_sets import Search
from dcal_core.data.groups import join_pairs
from dcal_core.data.twins import DataError
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification.benchmarks.rates import SLACK, Tail, drawn_people, tail_estimates
from dcal_core.verification.encoding import evaluating
from dcal_core.verification.intervals import rate_estimate

FAR = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TILE = 50_000  # templates on either side of the pairs that are scored from one part of the features
DENSE = 1 / 256  # of all pairs of a tile, from which the product of all vectors is faster than pair by pair
ROWS = 256  # templates that are compared at once with all of another side
AT_ONCE = 4096  # pairs, and templates of a gallery


def score_templates(
    model: Verifier, features: Features, a: np.ndarray, b: np.ndarray, device="cpu", reading: str | None = None
) -> np.ndarray:
    """The score of each pair of templates a, b [P], float32. Features [T] are read in slices of TILE, and so may be
    larger than the memory."""
    scores = np.empty(len(a), np.float32)
    tiles = -(-len(features) // TILE)
    tile = (a // TILE * tiles + b // TILE).astype(np.int32)
    ends = np.cumsum(np.bincount(tile))
    order = np.argsort(tile, kind="stable")
    del tile
    with evaluating(model):
        for pairs in filter(len, np.split(order, ends[:-1])):
            first, second = a[pairs[0]] // TILE * TILE, b[pairs[0]] // TILE * TILE
            left = features[first : first + TILE]
            right = left if first == second else features[second : second + TILE]
            vectors = all(part.ndim == 2 for part in left.parts.values())
            if vectors and len(pairs) >= DENSE * len(left) * len(right):
                pairs = pairs[np.argsort(a[pairs])]
                whole = right.to(device)
                for start in range(0, len(left), ROWS):
                    some = pairs[slice(*np.searchsorted(a[pairs], (first + start, first + start + ROWS)))]
                    found = model.compare(left[start : start + ROWS].to(device), whole, reading).float().cpu().numpy()
                    scores[some] = found[a[some] - first - start, b[some] - second]
                continue
            for some in np.split(pairs, range(AT_ONCE, len(pairs), AT_ONCE)):
                rows, columns = (
                    side[torch.from_numpy(of[some] - begin)].to(device)
                    for side, of, begin in ((left, a, first), (right, b, second))
                )
                scores[some] = model.compare_pairs(rows, columns, reading).float().cpu().numpy()
    return scores


def people_of(templates: int, pairs: np.ndarray) -> np.ndarray:
    """The person of each template, [T], as far as the pairs [P, 3] of one person tell."""
    return join_pairs(pairs[pairs[:, 2] == 1, :2], templates).astype(np.int32)


def verify(scores: np.ndarray, pairs: np.ndarray, people: np.ndarray, draws: int, seed: int = 0) -> dict:
    """TAR at FAR from the scores [P] of pairs [P, 3] of templates, with intervals over their people [T]."""
    genuine = pairs[:, 2] == 1
    tail = Tail(scores, genuine, people[pairs[:, :2]], FAR)
    rates = np.array([tail.rates(counts) for counts in drawn_people(people.max() + 1, draws, seed)])
    counts = {"genuine": int(genuine.sum()), "impostor": int((~genuine).sum()), "people": int(people.max() + 1)}
    return tail_estimates("tar_at_far", [tail], rates) | {"counts": counts}


@dataclass(frozen=True, eq=False)
class Found:
    """What a search finds for each probe, [Q]: the best score of its person's templates, -inf for one without a mate;
    the best score of all others; and its rank, counted from 1, ties against it."""

    mate: np.ndarray
    other: np.ndarray
    rank: np.ndarray


def look_up(
    model: Verifier,
    features: Features,
    probes: np.ndarray,
    gallery: np.ndarray,
    present: np.ndarray,
    device="cpu",
    reading: str | None = None,
) -> Found:
    """Search probes in a gallery, both [n, 2]. present [T]: templates without images are neither found nor find any."""
    gallery = gallery[present[gallery[:, 0]]]
    if not len(gallery):
        raise DataError("No template of a gallery has an image: check where the benchmark's images are.")
    mate, other = np.full((2, len(probes)), -np.inf)
    rank = np.full(len(probes), np.inf)
    columns = torch.from_numpy(gallery[:, 0]).long().split(AT_ONCE)
    able = np.flatnonzero(present[probes[:, 0]])
    with evaluating(model):
        for some in np.split(able, range(ROWS, len(able), ROWS)):
            rows = features[torch.from_numpy(probes[some, 0]).long()].to(device)
            found = [model.compare(rows, features[part].to(device), reading).float().cpu() for part in columns]
            scores = torch.cat(found, dim=1).numpy()  # [some, G]
            own = probes[some, 1, None] == gallery[:, 1]
            mate[some] = np.where(own, scores, -np.inf).max(1)
            scores = np.where(own, -np.inf, scores)
            other[some] = scores.max(1)
            rank[some] = 1 + (scores >= mate[some, None]).sum(1)
    return Found(mate, other, np.where(np.isfinite(mate), rank, np.inf))


def identify(
    model: Verifier,
    features: Features,
    search: Search,
    present: np.ndarray,
    draws: int,
    seed: int = 0,
    device="cpu",
    reading: str | None = None,
) -> dict:
    """Rank-k and TPIR at FPIR of a search, with intervals over the probes' people; TPIR is the mean over galleries.

    A probe is identified at a threshold where its mate reaches it and is ranked first.
    """

    def searched(galleries) -> list[tuple[Found, np.ndarray]]:
        return [
            (look_up(model, features, search.probes, one, present, device, reading), search.has_mate(one))
            for one in galleries
        ]

    apart = searched(search.galleries)
    ranked = searched([np.concatenate(search.galleries)]) if search.joined else apart
    people, person = np.unique(search.probes[:, 1], return_inverse=True)
    own = np.concatenate([person[mated] for _, mated in ranked])
    rank = np.concatenate([found.rank[mated] for found, mated in ranked])
    hits = np.stack([np.bincount(own, rank <= k, len(people)) for k in search.ranks])  # [ranks, F]
    sizes = np.bincount(own, minlength=len(people))
    tails = []
    for found, mated in apart if search.fpir else ():
        first = np.where(found.rank == 1, found.mate, -np.inf)
        tails.append(Tail(np.where(mated, first, found.other), mated, person[:, None], search.fpir))
    counts = list(drawn_people(len(people), draws, seed))
    shares = np.array([hits @ count / max(sizes @ count, SLACK) for count in counts])  # [R, ranks]
    result = {f"rank_{k}": rate_estimate(column, sizes) for k, column in zip(search.ranks, shares.T, strict=True)}
    if tails:
        rates = np.array([np.mean([tail.rates(count) for tail in tails], axis=0) for count in counts])
        result |= tail_estimates("tpir_at_fpir", tails, rates)
    return result | {"counts": {"probes": len(person), "with_mate": len(own), "people": len(people)}}
