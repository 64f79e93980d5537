"""What occluders change: the EER by how much of a pair they hide and by their kind, and how well a model sees them.

N images, P pairs, S pixels a side, g cells along a side of a model's map.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import adaptive_avg_pool2d

from dcal_core.data.occlusion import OccludedImages
from dcal_core.lettering import as_written
from dcal_core.palette import COLOURS
from dcal_core.verification.bootstrap import differences, replicate_eer, summarise
from dcal_core.verification.intervals import families_of_rarer_class, mean_share
from dcal_core.verification.plots import draw_paired
from dcal_core.verification.report import System

CLEAR, COVERED = "no occluder", "an occluder"
SHARES = (0, 0.25, 0.5, 1)  # of the picture that is hidden in one image of a pair or in both
CELLS = 28  # along a side; pairs of cells are compared
CHUNK = 256  # images


def visible_cells(images: OccludedImages, grid: int) -> np.ndarray:
    """Which cells are visible, at least by half, of all images, bool [N, grid, grid]."""
    chunks = np.split(np.arange(len(images.images)), range(CHUNK, len(images.images), CHUNK))
    shares = [adaptive_avg_pool2d(images.visible(chunk).float(), grid) for chunk in chunks]
    return (torch.cat(shares) >= 0.5).numpy()


def groups_of_pairs(images: OccludedImages, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs of images [P] without and with an occluder, by the share of the picture that is hidden in either image, and
    by the kind, where both images have none other: bool [P] by name."""
    visible = visible_cells(images, CELLS).reshape(-1, CELLS**2)
    kinds = [images.kind_of[side] for side in (a, b)]
    covered = (kinds[0] != "") | (kinds[1] != "")
    hidden = 1 - np.array([(visible[one] & visible[other]).mean() for one, other in zip(a, b, strict=True)])
    groups = {CLEAR: ~covered, COVERED: covered}
    for low, high in zip(SHARES, SHARES[1:], strict=False):
        groups[f"{100 * low:g} to {100 * high:g} % hidden"] = covered & (low < hidden) & (hidden <= high)
    for kind in images.kinds:
        groups[f"{kind} only"] = covered & np.all([(one == kind) | (one == "") for one in kinds], axis=0)
    return groups


def occlusion(systems: Sequence[System], images: OccludedImages, draws: int = 1000, seed: int = 0) -> dict:
    """What occluders change for systems that have scored the same test pairs, ready for JSON.

    `images`: how many have an occluder, by kind. `groups`: of each group of pairs its counts, the EER of each system,
    and the first system's EER less each other's, paired. `visibility`: `seen_visibility` of the first system, if it
    says what is visible.
    """
    test = systems[0].test
    found = []
    for name, part in groups_of_pairs(images, test.pairs.a, test.pairs.b).items():
        genuine, family = test.pairs.genuine[part], test.pairs.family[part]
        counts = {"genuine": int(genuine.sum()), "impostor": int((~genuine).sum())}
        line = {"pairs": name, "counts": counts, "eer": {}, "differences": []}
        found.append(line)
        if min(counts.values()) == 0 or families_of_rarer_class(genuine, family) < 2:
            line["eer"] = {one.name: {"value": None, "reason": "too few pairs"} for one in systems}
            continue
        drawn = [replicate_eer(one.test.scores[part], genuine, family, draws, seed) for one in systems]
        for system, one in zip(systems, drawn, strict=True):
            line["eer"][system.name] = summarise(one)["eer"]
        for system, one in zip(systems[1:], drawn[1:], strict=True):
            named = {"a": systems[0].name, "b": system.name, "metric": "eer"}
            line["differences"].append(named | differences(drawn[0], one)["eer"])
    kinds, counts = np.unique(images.kind_of[images.kind_of != ""], return_counts=True)
    result = {"images": dict(zip(kinds.tolist(), counts.tolist(), strict=True)), "groups": found}
    if systems[0].visible is not None:
        family_of_image = test.index.family_of[test.index.person_of]
        result["visibility"] = seen_visibility(systems[0].visible, images, family_of_image, draws, seed)
    return result


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of cells, bool [N, P], of each image, [N]; 1 where both are empty."""
    union = (a | b).sum(1)
    return np.where(union, (a & b).sum(1) / np.maximum(union, 1), 1.0)


def seen_visibility(visible: np.ndarray, images: OccludedImages, family, draws=1000, seed=0) -> list[dict]:
    """How well what a model takes for visible, [N, g g] in [0, 1], overlaps with what is, over all images with an
    occluder and by kind: estimates over families of the IoU of the `visible` and of the `hidden` cells.

    `all_visible`: the IoU of the visible cells for a model that takes all for visible.
    """
    seen = visible >= 0.5
    true = visible_cells(images, round(seen.shape[1] ** 0.5)).reshape(seen.shape)  # [N, g g]
    found = []
    for name in (COVERED, *images.kinds):
        part = images.kind_of == name if name in images.kinds else images.kind_of != ""
        if part.any():
            rates = {"visible": overlap(seen, true), "hidden": overlap(~seen, ~true), "all_visible": true.mean(1)}
            of_families = {rate: mean_share(values[part], family[part], draws, seed) for rate, values in rates.items()}
            found.append({"images": name, "count": int(part.sum())} | of_families)
    return found


def draw_occlusion(result: dict) -> Figure:
    """The EER of each system on each group of pairs, and the first one's EER minus its own, paired, by `draw_paired`.

    result: as `report.evaluate` gives it, with `occlusion`.
    """
    rows = []
    for group in result["occlusion"]["groups"]:
        gaps = {one["b"]: one for one in group["differences"]}
        for number, (name, eer) in enumerate(group["eer"].items()):
            rows.append(
                (f"{group['pairs']}: {name}", eer, gaps.get(name, {"value": None}), COLOURS[number % len(COLOURS)])
            )
    paired = ", and the first one's EER minus its own" if len(group["eer"]) > 1 else ""
    return draw_paired(f"EER by what occluders hide{paired}, with 95 % intervals\n({result['data']})", rows)


def draw_visibility(visible: np.ndarray, images: OccludedImages, label: str) -> Figure:
    """An image of each kind, the one whose hidden cells are found neither best nor worst: the image, which cells are
    visible, and how visible the model takes them for, [N, g g] in [0, 1]."""
    grid = round(visible.shape[1] ** 0.5)
    true = visible_cells(images, grid).reshape(visible.shape)
    found = overlap(visible < 0.5, ~true)
    kinds = [kind for kind in images.kinds if (images.kind_of == kind).any()]
    figure = Figure(figsize=(max(7, 2.2 * len(kinds)), 7), layout="constrained")
    figure.suptitle(f"What is hidden, and what the model takes for hidden ({label})", fontsize=11)
    for column, kind in zip(figure.subplots(3, len(kinds), squeeze=False).T, kinds, strict=True):
        members = np.flatnonzero(images.kind_of == kind)
        chosen = members[np.argsort(found[members], kind="stable")[len(members) // 2]]
        face = images.batch([chosen])[0].numpy().transpose(1, 2, 0)
        maps = (true[chosen].reshape(grid, grid), visible[chosen].reshape(grid, grid))
        column[0].imshow(face)
        for axes, cells in zip(column[1:], maps, strict=True):
            axes.imshow(cells, cmap="gray", vmin=0, vmax=1)
        titles = (kind, "white: visible", f"the model's, IoU of the hidden {found[chosen]:.2f}")
        for axes, title in zip(column, titles, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=9)
    return as_written(figure)
