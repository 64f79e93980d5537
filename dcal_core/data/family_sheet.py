"""A contact sheet of some families of a split."""

import numpy as np
from matplotlib.figure import Figure

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import TwinIndex
from dcal_core.lettering import as_written


def draw_family_sheet(index: TwinIndex, images: ImageStore, label: str, families: int = 4, each: int = 4) -> Figure:
    """A sheet of some families: a row each, some images of one sibling, then of the other; of some people where no
    co-twins are known."""
    families = min(families, len(index.families))
    figure = Figure(figsize=(10, 1.45 * families), layout="constrained")
    figure.suptitle(
        f"Some {'families' if index.co_twins else 'people'} of the {index.name} split ({label})", fontsize=12
    )
    for axes, family in zip(figure.subplots(families, 1, squeeze=False)[:, 0], index.families, strict=False):
        people = [index.people.index(person) for person in family[:2]]
        rows = [np.resize(index.images_of(person), each) for person in people]
        faces = images.batch(np.concatenate(rows)).numpy().transpose(0, 2, 3, 1)  # [faces, S, S, 3]
        gap = np.full_like(faces[0, :, : faces.shape[2] // 8], 255)
        axes.imshow(np.concatenate([*faces[:each], gap, *faces[each:]], axis=1))
        axes.set_axis_off()
        axes.set_title("                and co-twin                ".join(family[:2]), fontsize=10)
    return as_written(figure)
