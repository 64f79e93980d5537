"""Rows on maps: what they cost in encodings of the faces that they are maps of."""

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.speed.subjects import Setting, Subject, random_store
from benchmarks.speed.timing import Row, alternate, ratio
from dcal_core.config.recipes import load
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.maps import rollout_map
from dcal_core.explain.pair_maps import encode_pairs
from dcal_core.installation import presets_folder
from dcal_core.recipes.catalogue import new_model

OFTEN = 5  # times as many rounds as of a training step


def map_rows(setting: Setting) -> Iterator[Row]:
    """The rows of the demo's model, which has every kind of map, and of the setting's backbone."""
    demo = load("demo", presets_folder(), {})
    yield from rows_of(new_model(demo, [], pretrained=False), demo.backbone, demo.image_size, setting)
    yield from rows_of(Subject("DCAL", setting, setting.size).model, setting.backbone, setting.size, setting)


def rows_of(model: nn.Module, name: str, size: int, setting: Setting) -> Iterator[Row]:
    """All quick maps of one pair, beside encoding it; and a batch encoded with its rollout, beside without."""
    model = model.to(setting.device).eval()
    images = random_store(setting.batch, size).batch(range(setting.batch)).to(setting.device)
    pair = images[:2] / 255
    batch = images / 255
    found = []

    def quick_maps() -> None:
        pairs = encode_pairs(model, pair[:1], pair[1:], model.grid)
        found[:] = [kind.make(pairs) for kind in MAPS.values() if kind.quick and kind.fits(pairs)]

    @torch.no_grad()
    def encode_pair() -> None:
        model.encode(pair)

    @torch.no_grad()
    def encode() -> None:
        model.encode(batch)

    @torch.no_grad()
    def encode_with_rollout() -> None:
        rollout_map(model.encode(batch, trace=True), model.grid)

    works = {"maps": quick_maps, "pair": encode_pair, "with rollout": encode_with_rollout, "without": encode}
    seconds = alternate(works, OFTEN * setting.repeats, setting.wait, setting.warmups)
    about = f"{name}, {size} px"
    note = f"{len(found)} maps"
    yield ratio(f"quick maps of a pair, {about}: all / encoding it", seconds, "maps", "pair", goal=5, note=note)
    note = f"batch {setting.batch}"
    yield ratio(f"encoding, {about}: with rollout / without", seconds, "with rollout", "without", goal=1.1, note=note)
