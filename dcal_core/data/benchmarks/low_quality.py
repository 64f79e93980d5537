"""Benchmarks of faces in low quality: TinyFace, and IJB-S in the layout of AdaFace's validation.

A TinyFace template is one image; an IJB-S template holds the frames of videos, or still images, of one person.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from dcal_core.data.benchmarks.template_sets import Search, TemplateSet
from dcal_core.data.locate import folders_below
from dcal_core.data.twins import DataError, name_some

STRANGER = -1  # the person of a distractor
VIDEOS = "cs6_surveillance_to_single-booking_probe.csv"
PROTOCOLS = {  # of IJB-S: the list of probes, the galleries, whether all videos of a person are one probe
    "surveillance to single": (VIDEOS, "single", False),
    "surveillance to booking": (VIDEOS, "booking", False),
    "multi-view surveillance to booking": ("cs6_surveillance_to_surveillance_probe.csv", "booking", True),
    "surveillance to surveillance": ("cs6_surveillance_to_surveillance_probe.csv", "surveillance", False),
    "UAV surveillance to booking": ("cs6_uav_to_single-booking_probe.csv", "booking", False),
}


def read_tinyface(listing: Path) -> TemplateSet:
    """TinyFace's search among distractors, from `probe_img_ID_pairs.mat` in its Testing_Set; raises DataError.

    The aligned images of AdaFace are taken where their folder, `aligned*`, lies beside tinyface, and Testing_Set's own
    elsewhere; a line says so.
    """
    aligned = sorted(listing.parents[2].glob("aligned*/Gallery_Match"))
    folder = aligned[0].parent if aligned else listing.parent
    print(f"TinyFace: images of {folder}")
    probes, probe_people = listed(listing, "probe", folder / "Probe")
    mates, people = listed(listing.with_name("gallery_match_img_ID_pairs.mat"), "gallery", folder / "Gallery_Match")
    others = sorted(by_stem(folder / "Gallery_Distractor").values())
    files = [*probes, *mates, *others]
    person = np.concatenate([probe_people, people, np.full(len(others), STRANGER)])
    each = np.arange(len(files))
    templates = np.stack([each, person], axis=1)
    search = Search(templates[: len(probes)], (templates[len(probes) :],), ranks=(1, 5, 20), fpir=())
    title = "TinyFace"
    ones = np.ones(len(files))
    return TemplateSet(title, files, len(files), each, each, each, ones, searches={"1:N": search})


def listed(file: Path, kind: str, folder: Path) -> tuple[list[Path], np.ndarray]:
    """The images that a MATLAB file of TinyFace lists, in a folder, and their people; raises DataError."""
    from scipy.io import loadmat

    try:
        content = loadmat(file, variable_names=(f"{kind}_set", f"{kind}_ids"))
        names = [str(np.ravel(name)[0]) for name in np.ravel(content[f"{kind}_set"])]
        people = np.ravel(content[f"{kind}_ids"]).astype(np.int64)
    except Exception as error:  # scipy's reader raises almost anything for a damaged file
        reason = " ".join(str(error).split())[:150]
        raise DataError(f"{file} is not read as a list of TinyFace ({reason}): fetch it again.") from None
    if len(names) != len(people) or not names or people.min() < 0:
        raise DataError(f"{file} lists {len(names)} images and {len(people)} people from 0 up: fetch it again.")
    there = by_stem(folder)
    if missing := [name for name in names if Path(name).stem not in there]:
        raise DataError(f"{file}: not in {folder}: {name_some(missing, 'image', 'images')}: restore them.")
    return [there[Path(name).stem] for name in names], people


def by_stem(folder: Path) -> dict[str, Path]:
    """The files of a folder by name without ending, which alignment may change; raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder: a benchmark is read whole.")
    return {file.stem: file for file in folder.iterdir() if file.is_file()}


class Surveillance:
    """Templates of IJB-S as they are asked for. A source is a video or a still image: `videos_5004`, `img_101146`."""

    def __init__(self, root: Path):
        places = {}  # (person, name) -> file
        for folder, names in folders_below([root]):
            for name in sorted(names):
                if folder.name.isdecimal() and name.startswith(("videos_", "img_")):
                    face = int(folder.name), Path(name).stem
                    if places.setdefault(face, folder / name) != folder / name:
                        raise DataError(f"{places[face]} and {folder / name} are one face: leave one kind of crops.")
        if not places:
            raise DataError(f"{root}: no face <person>/videos_<video>_<frame>.jpg is below it: put the crops there.")
        self.files = list(places.values())
        self.images = defaultdict(list)  # (person, source) -> indices into files
        for number, (person, name) in enumerate(places):
            self.images[person, "_".join(name.split("_")[:2])].append(number)
        self.numbers = {}  # (person, sources) -> template
        self.entries = []  # (template, image)

    def template(self, person: int, sources: tuple[str, ...]) -> tuple[int, int]:
        """The number of a person's template of some sources, and the person."""
        if (person, sources) not in self.numbers:
            number = self.numbers[person, sources] = len(self.numbers)
            self.entries += [(number, image) for source in sources for image in self.images[person, source]]
        return self.numbers[person, sources], person


def rows_of(file: Path) -> list[list[str]]:
    """The rows of a CSV file below its head; raises DataError."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return [row for row in csv.reader(opened) if row][1:]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({error}): a benchmark is read whole.") from None


def source_of(name: str) -> str:
    """The source that a file of the protocols names: `videos/5004.mp4` -> `videos_5004`."""
    return Path(name).with_suffix("").as_posix().replace("/", "_")


def read_ijbs(listing: Path) -> TemplateSet:
    """IJB-S from `cs6_metadata.csv` in the folder of its protocols; raises DataError.

    Aligned faces lie anywhere below the folder above it, as <person>/videos_<video>_<frame>.jpg and
    <person>/img_<image>.jpg. A template without a face is never found; a line says how many there are.
    """
    protocols = listing.parent
    made = Surveillance(protocols.parent)
    try:
        seen = sorted({(int(person), source_of(name)) for person, name, *_ in rows_of(listing)})
        videos = {person: tuple(s for p, s in seen if p == person and s.startswith("videos")) for person, _ in seen}
        searches = {}
        for title, (probe_list, kind, together) in PROTOCOLS.items():
            wanted = {source_of(row[0]) for row in rows_of(protocols / probe_list)}
            probes = [(person, source) for person, source in seen if source in wanted]
            sources = {(p, videos[p]) for p, _ in probes} if together else {(p, (s,)) for p, s in probes}
            galleries = []
            for half in ("g1", "g2"):
                held = defaultdict(set)
                for _, person, name, *_ in rows_of(protocols / "galleries" / f"cs6_surveillance_to_{kind}_{half}.csv"):
                    held[int(person)].add(source_of(name))
                galleries.append([made.template(person, tuple(sorted(held[person]))) for person in sorted(held)])
            probes = [made.template(*one) for one in sorted(sources)]
            searches[title] = Search(np.array(probes), tuple(map(np.array, galleries)), joined=True)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{protocols}: a list is not as published ({str(error)[:150]}): fetch it again.") from None
    template, image = np.array(made.entries, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(len(image))
    # Every frame is a medium of its own: published figures are of the mean of all frames.
    found = TemplateSet("IJB-S", made.files, len(made.numbers), template, image, image, ones, searches=searches)
    if absent := int((~found.present).sum()):
        print(f"IJB-S: {absent:,} of {found.templates:,} templates have no face below {protocols.parent}: never found.")
    return found
