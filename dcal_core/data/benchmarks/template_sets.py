"""Benchmarks of templates, sets of images of one person: what is compared 1:1 and searched 1:N; and IJB-B and IJB-C.

Templates are numbered from 0. Letters: N image files; E entries, an image in a template; T templates; P pairs of
templates; G templates of a gallery; Q probes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dcal_core.data.twins import DataError
from dcal_core.errors import quoted
from dcal_core.missing import because


@dataclass(frozen=True, eq=False)
class Search:
    """Probes searched in galleries that share no person; a template and its person are a row of [n, 2].

    joined: ranks are those in all galleries together. ranks, fpir: the figures that are published; either may be
    empty.
    """

    probes: np.ndarray  # [Q, 2]
    galleries: tuple[np.ndarray, ...]  # [G, 2] each
    ranks: tuple[int, ...] = (1, 5, 10)
    fpir: tuple[float, ...] = (0.01, 0.1)
    joined: bool = False

    def has_mate(self, gallery: np.ndarray) -> np.ndarray:
        """Whether each probe's person is in a gallery, [Q]."""
        return np.isin(self.probes[:, 1], gallery[:, 1])


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """A benchmark of templates. An entry's image weighs `weight` in its template, and shares a medium, such as a video,
    with the other entries of the same template and medium."""

    title: str
    files: list[Path]  # [N]
    templates: int
    template: np.ndarray  # [E]
    medium: np.ndarray  # [E]
    image: np.ndarray  # [E], indices into files
    weight: np.ndarray  # [E], a detector's confidence, or 1
    landmarks: np.ndarray | None = None  # [N, 5, 2] px in files that are not aligned, as data/landmarks.py orders them
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 3), int))  # [P, 3] templates, whether of one person
    searches: dict[str, Search] = field(default_factory=dict)

    def __post_init__(self):
        if not (np.isfinite(self.weight) & (self.weight > 0)).all():
            raise DataError(f"{self.title}: a detector's confidence is not above 0: an image would have no weight.")
        for title, search in self.searches.items():
            for mated in map(search.has_mate, search.galleries):
                if not mated.any() or (search.fpir and mated.all()):
                    many = "all" if mated.any() else "none"
                    raise DataError(
                        f"{self.title} {title}: {many} of {len(mated):,} probes have a mate in a gallery: fetch lists "
                        "of one version."
                    )

    @property
    def present(self) -> np.ndarray:
        """Whether each template has an image, [T]."""
        return np.bincount(self.template, minlength=self.templates) > 0


def table(file: Path, columns: tuple[int, ...], kind: type = np.int32, **form) -> np.ndarray:
    """Columns of numbers of a text file, [rows, columns]; raises DataError. form: of np.loadtxt."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file{because(file)}: a benchmark is read whole.")
    try:
        found = np.loadtxt(file, kind, usecols=columns, ndmin=2, comments=None, **form)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a table as published ({str(error)[:150]}): fetch it again.") from None
    if not len(found):
        raise DataError(f"{file} is empty: fetch it again.")
    return found


def first_words(file: Path) -> list[str]:
    """The first word of each line."""
    return [line.split(maxsplit=1)[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def numbers_of(ids: np.ndarray, known: np.ndarray, file: Path) -> np.ndarray:
    """The place of each template's id among the sorted ids of those with images; DataError for one without any."""
    found = np.searchsorted(known, ids).clip(max=len(known) - 1)
    if (missing := known[found] != ids).any():
        raise DataError(
            f"{file} names template {ids[missing][0]} and {len(np.unique(ids[missing])) - 1} others that have no image "
            "in the list of templates and media: fetch both files of one version."
        )
    return found


def read_ijb(listing: Path) -> TemplateSet:
    """IJB-B or IJB-C as InsightFace packs them and AdaFace reads them, from `ijbb_` or `ijbc_face_tid_mid.txt` in the
    folder meta, beside the folder loose_crop; raises DataError. Where lists of 1:N are missing it is left out, with a
    line.
    """
    meta, name = listing.parent, listing.name[:4]
    title = f"IJB-{name[-1].upper()}"
    detections = meta / f"{name}_name_5pts_score.txt"
    ids, medium = table(listing, (1, 2)).T
    points = table(detections, tuple(range(1, 12)), np.float64)
    images = first_words(listing)
    if images != first_words(detections):
        raise DataError(f"{listing} and {detections} do not list the same images: fetch both of one version.")
    known, template = np.unique(ids, return_inverse=True)
    pair_file = meta / f"{name}_template_pair_label.txt"
    pairs = table(pair_file, (0, 1, 2))
    if (labels := np.unique(pairs[:, 2]).tolist()) != [0, 1]:
        raise DataError(f"{pair_file} holds the labels {quoted(labels)}, where 0 and 1 belong: fetch it again.")
    pairs[:, :2] = numbers_of(pairs[:, :2], known, pair_file)
    halves = [meta / f"{name}_1N_gallery_{half}.csv" for half in ("S1 S2" if name == "ijbb" else "G1 G2").split()]
    lists = [meta / f"{name}_1N_probe_mixed.csv", *halves]
    searches = {}
    if missing := [file for file in lists if not file.is_file()]:
        print(f"{title}: 1:N is left out, since {missing[0]} is not there.")
    else:
        probes, *galleries = [template_list(file, known) for file in lists]
        searches["1:N"] = Search(probes, tuple(galleries))
    return TemplateSet(
        title=title,
        files=[meta.parent / "loose_crop" / image for image in images],
        templates=len(known),
        template=template,
        medium=medium,
        image=np.arange(len(images)),
        weight=points[:, 10],
        landmarks=points[:, :10].reshape(-1, 5, 2),  # [N, 5, 2]
        pairs=pairs,
        searches=searches,
    )


def template_list(file: Path, known: np.ndarray) -> np.ndarray:
    """The templates of a 1:N list and their people, each once, [n, 2]; raises DataError."""
    found = np.unique(table(file, (0, 1), delimiter=",", skiprows=1), axis=0)
    if len(np.unique(found[:, 0])) < len(found):
        raise DataError(f"{file} gives a template to two people: fetch it again.")
    found[:, 0] = numbers_of(found[:, 0], known, file)
    return found
