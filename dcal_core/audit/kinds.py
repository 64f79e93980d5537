"""The kinds of findings in a data set, and one finding."""

from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of finding, in words: its name, what it means, and whether training or evaluation refuses such data."""

    name: str
    meaning: str
    refused: bool = False


KINDS = {  # the key is that of audit.json; the most serious first
    "too_little": Kind("too few families", "too few families with pairs", True),
    "lost": Kind("too many lost", "more images are missing or unreadable than is tolerated", True),
    "list": Kind("exclusion list", "the list of images to leave out does not fit this data", True),
    "across_splits": Kind("in both splits", "in both train and test: take them out of one", True),
    "ambiguous": Kind("ambiguous", "several files fit the entry equally well, or several entries one file", True),
    "leak": Kind("leak", "one shot in train and in test"),
    "like_co_twin": Kind(
        "same shot as co-twin", "one shot under a person and the co-twin: most likely one of the two is mislabelled"
    ),
    "like_unrelated": Kind("same shot as another", "one shot under people of different families"),
    "misnamed": Kind("misnamed", "a file that is named after another person"),
    "same_person": Kind("two people as one", "people of different families who look like one person listed twice"),
    "stranger": Kind("unlike own person", "looks no more like the images of its person than strangers do"),
    "unreadable": Kind("unreadable", "cannot be decoded, so training leaves it out"),
    "blank": Kind("blank", "of one colour or almost without contrast, so it shows no face"),
    "missing": Kind("missing", "in the index, but no such file, so training leaves it out"),
    "duplicate": Kind("duplicate", "the same pixels twice under one person"),
    "near_duplicate": Kind("near duplicate", "one shot of a person twice, or a burst"),
    "unsure": Kind("hardly a face", "the detector is not sure of the face"),
    "blurred": Kind("blurred", "a face that is not sharp"),
    "small_face": Kind("small face", "a face of few pixels, which alignment enlarges"),
    "turned": Kind("turned", "a face that looks past the camera"),
    "tiny": Kind("tiny", "fewer pixels than half of what the model is given"),
    "not_square": Kind("not square", "distorted in the square that the model is given, unless fit is pad or crop"),
    "greyscale": Kind("greyscale", "no colour"),
    "few_images": Kind("few images", "people with fewer than two readable images: no genuine pair"),
    "no_co_twin": Kind("no co-twin", "people in no pair of the index"),
    "large_family": Kind("large family", "more than two siblings, such as triplets, who stay together in every split"),
}


@dataclass(frozen=True)
class Finding:
    """Something found in the data; `drop` names the images that it suggests to exclude."""

    kind: str
    reason: str
    people: tuple[str, ...]
    images: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its kind, in words."""
        return KINDS[self.kind].name
