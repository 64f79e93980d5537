"""Where two pictures differ for a predictor whose model runs in PyTorch."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch

from dcal_core.deploy.inputs import source_of
from dcal_core.deploy.predictor import Predictor
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.paint import colour_bar, image_tag, painted_pair, scale_ends

MAP = "distinctive"


def pair_view(predictor: Predictor, pictures: Sequence, names: tuple[str, str]) -> PairView:
    """Two pictures as the predictor's model saw them, with their maps. names: of a path its last part is written."""
    faces = [predictor.reader.read(source_of(picture)).pixels.transpose(2, 0, 1).copy() for picture in pictures]
    files = tuple(Path(name).name for name in names)
    return PairView(predictor.engine.model, torch.stack([torch.from_numpy(face) for face in faces]), files)


def difference_html(predictor: Predictor, pictures: Sequence) -> str:
    """What tells two pictures apart, painted over both faces, as HTML."""
    view = pair_view(predictor, pictures, ("picture 1", "picture 2"))
    kind = MAPS[MAP]
    painted, peak = painted_pair(view, view.map(MAP), kind.signed)
    ends = scale_ends(MAP, peak)
    figures = [
        f"<figure>{image_tag(picture, f'{name}: {kind.title}', 'JPEG')}<figcaption>{name}</figcaption></figure>"
        for name, picture in zip(view.names, painted, strict=True)
    ]
    words = "".join(f"<span>{escape(end)}</span>" for end in ends)
    return (
        f"<div class='two'>{''.join(figures)}</div><div class='ramp'>{colour_bar(kind.signed, ends)}</div>"
        f"<div class='ends'>{words}</div><p class='small'>{kind.meaning} Both faces have one scale.</p>"
    )
