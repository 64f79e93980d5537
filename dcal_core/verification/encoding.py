"""Features of all images of a store, in memory or, if they are large, in a memory-mapped file.

Letters: N images.
"""

import math
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from dcal_core.data.images import ImageStore
from dcal_core.data.occlusion import OccludedImages
from dcal_core.distributed import barrier, broadcast, gather, rank, world_size
from dcal_core.environment import scratch_root
from dcal_core.models.verifier import Features, Verifier
from dcal_core.progress import progress_line
from dcal_core.storage import disk_errors

IN_MEMORY = 512 * 2**20  # bytes of features above which they go to a file
_ALIGNED = 64  # bytes: a part of any type may begin at a multiple


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module gets its own mode back, frozen parts too."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def encode_images(
    model: Verifier,
    store: ImageStore | OccludedImages,
    batch_size: int,
    device="cpu",
    progress=True,
    chosen: np.ndarray | None = None,
    parts: Collection[str] = (),
    flip: bool = False,
) -> Features:
    """Encode images of the store once, in order, and return the features on the CPU.

    model: on `device` already. chosen: the images, None for all. parts: names of those that are kept, () for all. flip:
    each branch's embeddings plus those of the mirror images, AdaFace's flip fusion; neither is of unit length, so that
    the clearer one counts more. Features of more than IN_MEMORY bytes are kept in a memory-mapped file without a name.
    With several processes, each encodes an equal share and all return the features of all images.
    """
    chosen = np.arange(len(store.images)) if chosen is None else chosen
    images = len(chosen)
    if images == 0:
        raise ValueError("the store holds no images")
    share = math.ceil(images / world_size())
    own = np.arange(rank() * share, (rank() + 1) * share).clip(max=images - 1)  # the last process fills up
    starts = range(0, share, batch_size)
    with evaluating(model):
        turns = (chosen[own[start : start + batch_size]] for start in starts)
        turns = progress_line(turns, desc="encoding", total=len(starts), unit="batch", disable=not progress)
        batches = (_encode(model, store.batch(batch).to(device), flip).only(parts) for batch in turns)
        first = next(batches)
        batches = chain([first], batches)
        of_one = sum(part[0].nbytes for part in first.parts.values())
        if images * of_one <= IN_MEMORY:
            return Features.cat(batches).map(gather)[:images].to("cpu")
        return _in_a_file(batches, first, images, begin=min(images, rank() * share))


def _encode(model: Verifier, images: Tensor, flip: bool) -> Features:
    features = model.encode(images)
    if not flip:
        return features
    mirrored = model.encode(images.flip(-1)).parts
    both = {name: part + mirrored[name] for name, part in features.parts.items() if name in model.widths}
    return Features(features.parts | both)


def _in_a_file(batches: Iterator[Features], first: Features, images: int, begin: int) -> Features:
    """Write this process's rows, from `begin` on, to a file that all processes share, and map the whole file."""
    places = {}
    end = 0
    for name, part in first.parts.items():
        places[name] = end
        end += math.ceil(images * part[0].nbytes / _ALIGNED) * _ALIGNED
    folder = scratch_root()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made = None if rank() else _new_file(folder, end)
        with open(broadcast(made and made.name), "r+b") as file:
            barrier()
            if made:
                made.close()  # removes the name: even after a kill the disk space is freed
            for batch in batches:
                for name, part in batch.parts.items():
                    rows = _bytes_of(part[: images - begin])
                    os.pwrite(file.fileno(), rows, places[name] + begin * part[0].nbytes)
                begin = min(images, begin + len(batch))
            barrier()
            mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(end,))
    return Features({name: _mapped(mapped, places[name], images, part) for name, part in first.parts.items()})


def _new_file(folder: Path, size: int) -> BinaryIO:
    file = tempfile.NamedTemporaryFile(dir=folder, prefix="features-")  # noqa: SIM115  open until all have opened it
    file.truncate(size)
    return file


def _bytes_of(rows: Tensor) -> memoryview:
    return memoryview(rows.cpu().contiguous().flatten().view(torch.uint8).numpy())


def _mapped(mapped: np.ndarray, place: int, images: int, like: Tensor) -> Tensor:
    """The rows at `place` in the file as a tensor [N, ...] of the type and shape of `like`."""
    content = torch.from_numpy(mapped[place : place + images * like[0].nbytes])
    return content.view(like.dtype).view(images, *like.shape[1:])
