"""The contact sheet of families: which data and people it shows."""

import warnings

import numpy as np
import torch
from matplotlib.figure import Figure

from dcal_core.data.family_sheet import draw_family_sheet
from dcal_core.data.twins import TwinIndex

SIZE, IMAGES = 16, 3


def index(families: int) -> TwinIndex:
    people = tuple(f"{number:02d}" for number in range(2 * families))
    return TwinIndex(
        name="train",
        people=people,
        families=tuple(zip(people[::2], people[1::2], strict=True)),
        paths=tuple(f"{person}/{n}.png" for person in people for n in range(IMAGES)),
        person_of=np.repeat(np.arange(len(people)), IMAGES),
        family_of=np.repeat(np.arange(families), 2),
    )


class Store:
    """Images that are grey all over, as dark as their number, so that a drawn one can be told."""

    def batch(self, indices):
        values = torch.as_tensor(np.asarray(indices), dtype=torch.uint8)
        return values[:, None, None, None].expand(-1, 3, SIZE, SIZE)


def rendered(figure: Figure) -> Figure:
    """The figure after it was drawn, which must raise no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return figure


def drawn_faces(axes) -> list[int]:
    """The numbers of the images in a row of the sheet."""
    (image,) = axes.images
    row = np.asarray(image.get_array())
    assert row.shape[0] == SIZE and row.shape[2] == 3
    starts = [side * (4 * SIZE + SIZE // 8) + n * SIZE for side in range(2) for n in range(4)]
    return [int(row[0, start + SIZE // 2, 0]) for start in starts]


def test_a_sheet_of_families_names_data_split_and_people():
    figure = rendered(draw_family_sheet(index(6), Store(), "SYNTHETIC"))
    assert isinstance(figure, Figure) and len(figure.axes) == 4
    assert "SYNTHETIC" in figure.get_suptitle() and "train" in figure.get_suptitle()
    assert "00" in figure.axes[0].get_title() and "01" in figure.axes[0].get_title()


def test_a_row_shows_one_sibling_and_then_the_other():
    figure = draw_family_sheet(index(6), Store(), "SYNTHETIC")
    assert drawn_faces(figure.axes[1]) == [6, 7, 8, 6, 9, 10, 11, 9]  # people 2 and 3; the fourth image comes round


def test_fewer_families_than_rows_leave_no_empty_axes():
    figure = rendered(draw_family_sheet(index(2), Store(), "SYNTHETIC"))
    assert not [axes for axes in figure.axes if axes.axison and not axes.images]


def test_a_single_family_can_be_drawn():
    figure = rendered(draw_family_sheet(index(6), Store(), "SYNTHETIC", families=1))
    assert len(figure.axes) == 1
