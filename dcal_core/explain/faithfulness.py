"""Whether maps can be believed: do they point at true differences, do the patches they name decide the score, and do
they depend on what the model has learnt at all?

Maps are oriented first (`hot_maps`), so that higher always means: this patch tells the two faces apart.
B pairs, G = 2 B faces (those of a, then those of b), P = g x g patches. Every figure is {"value", "low", "high"}: a
mean over families, each counting the same, with its 95 % interval.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.maps import pair_saliency
from dcal_core.explain.pair_maps import EncodedPairs, encode_pairs, local_mean
from dcal_core.models.verifier import Features
from dcal_core.progress import progress_line
from dcal_core.verification.intervals import mean_by_t, mean_share

OWN_MARK = 255  # in the masks of drawn twins; 128: a mark of the co-twin alone
STEPS = 8  # in which all patches are deleted or inserted
UNTRUSTED = 0.5  # rank correlation with the map of shuffled weights, from which a map hardly shows what was learnt


def touched(masks: Tensor, grid: int) -> Tensor:
    """Whether a patch holds any pixel of the masks [G, S, S], bool [G, P]."""
    return F.adaptive_max_pool2d(masks.float().unsqueeze(1), grid).flatten(1) > 0


def localisation(maps: Tensor, masks: Tensor, family) -> dict:
    """Whether oriented maps [G, g, g] lie on the marks in masks uint8 [G, S, S]; family: of each face, [G].

    pointing: how often the hottest patch touches a mark of this face (Zhang et al., 2016, arXiv 1608.00507), `_any`: or
    of the co-twin. energy: the share of the map's positive part on own marks over their share of the face; 1 by chance.
    average_precision: of touched patches. ValueError for a face without a mark of its own.
    """
    if len(maps) != len(masks) or masks.ndim != 3:
        raise ValueError(f"maps and masks must be of the same faces, got {len(maps)} and {[*masks.shape]}")
    grid = maps.shape[-1]
    own = masks == OWN_MARK
    if not own.flatten(1).any(1).all():
        raise ValueError("a mask shows no mark of its own face: leave such faces out")
    on_own = touched(own, grid)
    on_any = touched(masks > 0, grid)
    hottest = maps.flatten(1).argmax(1, keepdim=True)
    covered = F.adaptive_avg_pool2d(own.float().unsqueeze(1), grid).flatten(1)  # [G, P], of each patch
    positive = maps.flatten(1).clamp(min=0).double()
    within = (positive * covered).sum(1) / positive.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    precision = list(map(average_precision_score, on_own.numpy(), maps.flatten(1).numpy()))
    return {
        "pointing": mean_share(on_own.gather(1, hottest)[:, 0], family),
        "pointing_any": mean_share(on_any.gather(1, hottest)[:, 0], family),
        "energy": mean_by_t(within / covered.mean(1), family),
        "average_precision": mean_share(precision, family),
    }


def usual_places(masks: Tensor, grid: int, family) -> Tensor:
    """How often the faces of other families have a mark in each patch, [G, g, g]: a guess without seeing this face.

    masks uint8 [G, S, S]; family [G]; ValueError for a single family.
    """
    own = touched(masks == OWN_MARK, grid).float()
    family = np.asarray(family)
    if len(np.unique(family)) < 2:
        raise ValueError("the usual places of marks are those of other families: give at least 2")
    usual = [own[torch.from_numpy(family != this)].mean(0) for this in family]
    return torch.stack(usual).unflatten(1, (grid, grid))


def removal_areas(pairs: EncodedPairs, maps: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """The mean scores [M, B] while patches are deleted and while they are inserted, the hottest of each of M maps first
    and in both faces (Petsiuk et al., 2018, arXiv 1806.07421); maps [M, 2, B, g, g].

    A deleted patch shows the local mean. Means are over `steps` equal steps, without the untouched start.
    """
    order = maps.flatten(1, 2).flatten(2).argsort(dim=2, descending=True, stable=True)
    ranks = order.argsort(2).unflatten(2, (1, pairs.grid, pairs.grid))  # [M, G, 1, g, g], 0 the hottest
    means = local_mean(pairs.faces, pairs.grid)
    patches = pairs.grid**2
    bare = _scores(pairs.model.encode(means), pairs.model)
    areas = []
    # Shown where the rank is below k, and elsewhere; the end of all is the same for every map.
    for first, last, end in ((means, pairs.faces, bare), (pairs.faces, means, _scores(pairs.features, pairs.model))):
        total = end.repeat(len(maps), 1)
        for k in torch.linspace(0, patches, steps + 1).round()[1:-1]:
            for m, rank in enumerate(ranks):
                shown = F.interpolate((rank < k).float(), pairs.faces.shape[-2:])
                total[m] += _scores(pairs.model.encode(torch.lerp(last, first, shown)), pairs.model)
        areas.append(total / steps)
    return areas[0], areas[1]


def _scores(features: Features, model: nn.Module) -> Tensor:
    """The score of each pair, [B], from its faces' features [G]."""
    pairs = len(features) // 2
    return model.compare_pairs(features[:pairs], features[pairs:]).float()


def shuffled(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the model whose parameters hold the same numbers in random order, so that nothing learnt is left."""
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copied


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of each map with the other map of the same face, [G]; maps [G, g, g]. 1 if one of them is
    constant: then shuffling could change nothing."""
    ranks = [rankdata(maps.flatten(1).cpu().numpy(), axis=1) for maps in (first, second)]
    ranks = [r - r.mean(1, keepdims=True) for r in ranks]
    size = np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return torch.from_numpy(np.divide((ranks[0] * ranks[1]).sum(1), size, out=np.ones(len(size)), where=size > 0))


def _centre(pairs: EncodedPairs) -> Tensor:
    """A map that is hottest in the middle, where faces are, whatever the image."""
    steps = torch.linspace(-1, 1, pairs.grid)
    return (-(steps**2) - steps[:, None] ** 2).exp().expand(2, len(pairs.faces) // 2, -1, -1)


def _image_difference(pairs: EncodedPairs) -> Tensor:
    """How much the pixels differ, without a model."""
    difference = (pairs.faces - pairs.faces[pairs.partner]).abs().mean(1)
    return F.adaptive_avg_pool2d(difference, pairs.grid).unflatten(0, (2, -1))


BASELINES = {
    "centre": _centre,
    "image_difference": _image_difference,
    "gradient_times_input": lambda pairs: pair_saliency(pairs.model, *pairs.faces.chunk(2), pairs.grid),
}


def hot_maps(pairs: EncodedPairs, names, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The maps of these names, the baselines and a random map, each [2, B, g, g] on the CPU: higher tells apart."""
    for name in names:
        if MAPS[name].fits(pairs):
            yield name, (-1 if MAPS[name].signed else 1) * MAPS[name].make(pairs).cpu()
    for name, make in BASELINES.items():
        yield name, make(pairs).cpu()
    # Drawn pair by pair, so that they are the same for every batch size.
    random = torch.rand(len(pairs.faces) // 2, 2, pairs.grid, pairs.grid, generator=generator)
    yield "random", random.transpose(0, 1)


def faithfulness(
    model: nn.Module, a: Tensor, b: Tensor, grid: int, family, masks=None, names=tuple(MAPS), batch: int = 16, seed=0
) -> dict:
    """How far each map, and each baseline, can be believed on co-twin pairs, for JSON.

    a, b: images as `encode_pairs` takes them; family: of each pair, [B]; masks: of drawn twins, uint8 [2, B, S, S], or
    None. For each map: `localisation` if there are masks (also of `usual_places`, the baseline that counts);
    `deletion` and `insertion`, how much faster the score rises, or falls, than in a random order;
    `randomisation`, the absolute rank correlation with the map of `shuffled` weights (Adebayo et al., 2018, arXiv
    1810.03292), and `untrustworthy`, whether that is 0.5 or more. ValueError for an unknown map.
    """
    if unknown := set(names) - MAPS.keys():
        raise ValueError(f"there is no map {', '.join(sorted(unknown))}: choose of {', '.join(MAPS)}")
    models = (model, shuffled(model, seed))
    generators = [torch.Generator().manual_seed(seed + turn) for turn in range(2)]
    found = defaultdict(lambda: defaultdict(list))  # a map's figures, by batch
    starts = range(0, len(a), batch)
    for start in progress_line(starts, desc="measuring maps", total=len(starts), unit="batch"):
        part = slice(start, start + batch)
        pairs, blank = (encode_pairs(one, a[part], b[part], grid) for one in models)
        taught = dict(hot_maps(pairs, names, generators[0]))
        untaught = dict(hot_maps(blank, names, generators[1]))
        for name, figures in _batch_figures(pairs, taught, untaught).items():
            for figure, values in figures.items():
                found[name][figure].append(values)
    family = np.asarray(family)
    result = {name: _summary(figures, family, masks) for name, figures in found.items()}
    if masks is not None:
        faces = np.concatenate([family, family])
        masks = masks.flatten(0, 1)
        result["usual_places"] = {"localisation": localisation(usual_places(masks, grid, faces), masks, faces)}
    return result


@torch.no_grad()
def _batch_figures(
    pairs: EncodedPairs, maps: dict[str, Tensor], after: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The figures of each map of some pairs, [B] of the pair, [2, B] of each face; after: those of shuffled weights."""
    areas = removal_areas(pairs, torch.stack(list(maps.values())).to(pairs.faces.device))
    deleted, inserted = (dict(zip(maps, area.cpu(), strict=True)) for area in areas)
    return {
        name: {
            "maps": own,
            "deletion": deleted[name] - deleted["random"],
            "insertion": inserted["random"] - inserted[name],
            "randomisation": rank_correlation(own.flatten(0, 1), after[name].flatten(0, 1)).abs().unflatten(0, (2, -1)),
        }
        for name, own in maps.items()
    }


def _summary(figures: dict[str, list], family: np.ndarray, masks) -> dict:
    """The figures of one map over all batches."""
    faces = np.concatenate([family, family])  # those of a, then those of b
    result = {name: mean_by_t(torch.cat(figures[name]), family) for name in ("deletion", "insertion")}
    result["randomisation"] = mean_share(torch.cat(figures["randomisation"], 1).flatten(), faces)
    result["untrustworthy"] = result["randomisation"]["value"] >= UNTRUSTED
    if masks is not None:
        result["localisation"] = localisation(torch.cat(figures["maps"], 1).flatten(0, 1), masks.flatten(0, 1), faces)
    return result
