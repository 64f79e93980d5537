"""The data of a run as train, validation and test splits: attached ones, else drawn twins."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dcal_core.config.shared import Config, kinds_of_occluders
from dcal_core.data.drawn.synthetic import generate, is_drawn, is_photographed
from dcal_core.data.enough import ANY, Needs, refuse_too_little, shared_out
from dcal_core.data.exclusions import leave_out
from dcal_core.data.images import ImageStore, open_images
from dcal_core.data.landmarks import ARCFACE, DRAWN
from dcal_core.data.locate import resolve_paths
from dcal_core.data.occlusion import OccludedImages
from dcal_core.data.roots import find_root, folders_not_taken, read_indexes
from dcal_core.data.twins import SYNTHETIC, DataError, TwinIndex, check_disjoint, name_number
from dcal_core.environment import input_roots, output_root, scratch_root

TEST_IMAGES = 8  # per drawn person of the test split
ALIGNMENT = "alignment.json"  # in the folder of each split of an aligned copy: a record of every photograph
NO_DATA = (
    "Data: drawn twins, so every result is SYNTHETIC. For your own, attach a dataset (Add Input) or give data_root: "
    "train_dataset_infor.json, train_twin_pairs.json, test_dataset_infor.json, test_twin_pairs.json and the images, or "
    "a folder for each person."
)
NO_CO_TWINS = (
    "No co-twins are known in this data: everybody stands alone, impostors are unrelated people, who are far easier to "
    "tell apart, and splits and intervals go by person. The figures say nothing about twins."
)


@dataclass(frozen=True)
class Split:
    """The index of one split and its decoded images, in the same order; landmarks: where a face has its eyes, nose and
    mouth."""

    index: TwinIndex
    images: ImageStore | OccludedImages
    landmarks: np.ndarray = field(default_factory=lambda: ARCFACE)


@dataclass(frozen=True)
class TwinData:
    """Splits by name; `label` names the data on every figure and in every result."""

    root: Path
    label: str
    splits: dict[str, Split]

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]

    @property
    def aligned(self) -> bool:
        """Whether `prepare` made it, an aligned copy of other data."""
        return any(self.root.glob(f"*/{ALIGNMENT}"))

    @property
    def synthetic(self) -> bool:
        return self.label.startswith(SYNTHETIC)

    @property
    def as_drawn(self) -> bool:
        """Whether faces lie where they are drawn, not where a photograph or its alignment has them."""
        return self.synthetic and not is_photographed(self.root)

    @property
    def landmarks(self) -> np.ndarray:
        """Where a face has its eyes, nose and mouth, as drawn or as aligned."""
        return DRAWN if self.as_drawn else ARCFACE


def open_root(config: Config) -> Path:
    """The folder of the data that is attached, else of drawn twins; prints that they are drawn.

    Raises what `find_root` raises.
    """
    root = find_root(config)
    if root is None:
        print(f"{NO_DATA}{folders_not_taken()}")
        root = draw_twins(config)
    return root


def reviewed_indexes(root: Path, config: Config) -> list[TwinIndex]:
    """The train and the test index of a folder, without the images that a reviewer excluded."""
    indexes = read_indexes(root)
    check_disjoint(*indexes)
    return without_excluded(indexes, config)


def without_excluded(indexes: Sequence[TwinIndex], config: Config) -> list[TwinIndex]:
    """The indexes without the images that a reviewer excluded; DataError for a list that does not fit them."""
    lists = [output_root() / "prepare", *input_roots(), *input_roots(config.data_root)]
    return leave_out(indexes, config.exclusions, lists)


def split_families(index: TwinIndex, validation_share: float, seed: int) -> tuple[TwinIndex, TwinIndex]:
    """Split an index into training and validation by whole families, drawn with `seed`.

    validation_share: of the twin families, 0 to 1; at least one is held out and never all. Families of one stay in
    training, because they give no twin pair to validate on; where no co-twins are known, everybody may be held out.
    DataError if a side would be empty.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}: it takes a number between 0 and 1.")
    twins = np.flatnonzero(np.bincount(index.family_of) > 1) if index.co_twins else np.arange(len(index.families))
    most = min(len(twins), len(index.families) - 1)
    if most < 1:
        raise DataError(
            f"{index.name}: {name_number(len(index.families), 'family', 'families')}, {len(twins)} with co-twins: too "
            "few to split: add one with co-twins to validate on, or another to train on."
        )
    count = min(max(round(validation_share * len(twins)), 1), most)
    held_out = np.random.default_rng(seed).permutation(twins)[:count]
    training = np.setdiff1d(np.arange(len(index.families)), held_out)
    return index.select_families(training), replace(index.select_families(held_out), name="validation")


def label_of(root: Path) -> str:
    """The name of a folder's data on every figure and in every result; only drawn data is called SYNTHETIC."""
    if is_drawn(root):
        return SYNTHETIC
    return f"folder {root.name}" if root.name.startswith(SYNTHETIC) else root.name


def open_data(
    config: Config,
    names: Sequence[str] = ("train", "validation", "test"),
    needs: Needs = ANY,
) -> TwinData:
    """Find or draw the data, check it, leave out excluded images, hold out validation families and decode the splits
    that are asked for; occluders are drawn over `occluded_share` of the validation and of the test images.

    needs: what a training asks of the data. DataError for a split with too few pairs, before an image is decoded, and
    again without the images that are lost.
    """
    root = open_root(config)
    train, test = reviewed_indexes(root, config)
    if not test.co_twins:
        print(NO_CO_TWINS)
    among = shared_out(train)
    indexes = (*split_families(train, config.validation_share, config.seed), test)
    refuse_too_little(indexes, among, needs)
    splits = {index.name: open_split(index, root, config) for index in indexes if index.name in names}
    refuse_too_little([split.index for split in splits.values()], among, needs)
    data = TwinData(root, label_of(root), splits)
    kinds = kinds_of_occluders("occluded_kinds", config.occluded_kinds)
    for name, split in splits.items():
        images = split.images
        if name != "train" and config.occluded_share:
            images = OccludedImages(images, config.occluded_share, kinds, data.landmarks)
        splits[name] = replace(split, images=images, landmarks=data.landmarks)
    return data


def open_split(index: TwinIndex, root: Path, config: Config) -> Split:
    """Find the images of an index below `root` and decode them; missing and unreadable ones leave the index too."""
    index = resolve_paths(index, root, config.max_lost_share)
    cache = scratch_root() / "decoded"
    images = open_images(index.paths, config.image_size, cache, config.max_lost_share, fit=config.fit)
    return Split(index.take(images.kept), images)


def drawn_root(config: Config) -> Path:
    """The folder of the drawn twins that the config asks for, whether they are drawn yet or not."""
    amount = f"{config.synthetic_families}x2x{config.synthetic_images}_{config.synthetic_test_families}"
    tested = f"_test_seed_{config.synthetic_test_seed}" if config.synthetic_test_seed else ""
    look = f"{config.image_size}px_difficulty_{config.synthetic_difficulty:g}"
    return scratch_root() / f"drawn_twins_{amount}_{look}{tested}"


def draw_twins(config: Config) -> Path:
    """Draw the twins that the config asks for, unless they are there; returns their folder."""
    root = drawn_root(config)
    look = {"size": config.image_size, "difficulty": config.synthetic_difficulty}
    train = {"families": config.synthetic_families, "images_per_person": config.synthetic_images, "seed": 0}
    test = {"families": config.synthetic_test_families, "images_per_person": TEST_IMAGES}
    generate(root, split="train", **train, **look)
    generate(root, split="test", **test, seed=config.synthetic_test_seed, **look)
    return root
