"""Images that look unlike their own person, and people who look like one, by a model's scores.

A person is compared by the median score with all their images, in which a few wrong ones count little. Only people of
different families are held against one another: co-twins and other relatives are near by nature.

Letters: N images, P people.
"""

from collections.abc import Sequence

import numpy as np
import torch

from dcal_core.audit.kinds import Finding
from dcal_core.data.groups import members
from dcal_core.data.twins import DataError, TwinIndex
from dcal_core.models.verifier import Features, Verifier
from dcal_core.progress import progress_line
from dcal_core.verification.encoding import evaluating

STRANGE = 0.01  # share of scores of images with unrelated people that are as high as the least for one's own person
UNLIKE = 0.05  # share of people whose images score lower with one another than two people who count as one
ROWS = 512  # images compared with a person at once
MOST = 400_000_000  # scores of images with people that are kept, 4 bytes each
BESIDE = 2  # images of a person that are shown beside another's


def join(indexes: Sequence[TwinIndex]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The people [P] of several splits, the person of each image [N] and the family of each person [P]."""
    people, person_of, family_of, families = [], [], [], 0
    for index in indexes:
        person_of.append(index.person_of + len(people))
        family_of.append(index.family_of + families)
        people += index.people
        families += len(index.families)
    return people, np.concatenate(person_of), np.concatenate(family_of)


def scores_with_people(model: Verifier, features: Features, person_of: np.ndarray, device="cpu") -> np.ndarray:
    """The median score of each image with the images of each person, without itself, [N, P] float32; nan for the only
    image of a person with that person. DataError where these are too many for the memory."""
    images_of = members(person_of)
    if (needed := len(features) * len(images_of)) > MOST:
        raise DataError(
            f"{len(features):,} images x {len(images_of):,} people are {needed:,} scores, more than {MOST:,}: clean "
            "a part of the data at a time."
        )
    scores = np.empty((len(features), len(images_of)), np.float32)
    with evaluating(model):
        for person, images in enumerate(progress_line(images_of, desc="comparing people", unit="person")):
            theirs = features[torch.from_numpy(images)].to(device)
            for start in range(0, len(features), ROWS):
                rows = model.compare(features[start : start + ROWS].to(device), theirs).float().cpu().numpy()
                scores[start : start + ROWS, person] = np.median(rows, axis=1)
                for place, image in enumerate(images):
                    if start <= image < start + ROWS:
                        others = np.delete(rows[image - start], place)
                        scores[image, person] = np.median(others) if len(others) else np.nan
    return scores


def find_misplaced(
    scores: np.ndarray, names: Sequence[str], people: Sequence[str], person_of: np.ndarray, family_of: np.ndarray
) -> list[Finding]:
    """Images as far from their own person as strangers are, and farther than from one of these, to be dropped where
    that one is as near as oneself; and pairs of people of different families who look like one. Each has images to
    compare.

    scores: as by `scores_with_people`. names: of the images. DataError where the scores do not tell these people apart.
    """
    own = scores[np.arange(len(scores)), person_of]  # [N]
    unrelated = family_of[person_of][:, None] != family_of  # [N, P]
    images_of = members(person_of)
    of_people = np.array([np.median(own[images]) for images in images_of])  # nan with a single image
    if np.isnan(of_people).all() or not unrelated.any():
        raise DataError("nothing to compare: it takes people with two images and people of two families.")
    least = np.quantile(scores[unrelated], 1 - STRANGE)
    like_one = np.nanquantile(of_people, UNLIKE)
    if like_one <= least:
        raise DataError(
            f"these scores do not tell unrelated people apart ({1 - UNLIKE:.0%} of people score {like_one:.3g} or more "
            f"with themselves, and {STRANGE:.0%} of strangers {least:.3g}): take another model, or aligned faces."
        )
    typical = [images[np.argsort(-own[images], kind="stable")] for images in images_of]
    foreign = np.where(unrelated, scores, -np.inf)
    found = []
    for image in np.flatnonzero((own < least) & (own < foreign.max(1))):
        nearest = int(foreign[image].argmax())
        beside = [i for i in (*typical[person_of[image]][:BESIDE], *typical[nearest][:BESIDE]) if i != image]
        reason = (
            f"score {own[image]:.3g} with {people[person_of[image]]}, below {least:.3g}, which {STRANGE:.0%} of "
            f"strangers reach; nearest of these: {people[nearest]}, {foreign[image, nearest]:.3g}"
        )
        drop = (names[image],) if foreign[image, nearest] >= like_one else ()
        who = (people[person_of[image]], people[nearest])
        found.append(Finding("stranger", reason, who, (names[image], *(names[i] for i in beside)), drop))
    between = np.stack([np.median(scores[images], axis=0) for images in images_of])  # [P, P]
    between = np.where(family_of[:, None] != family_of, np.minimum(between, between.T), -np.inf)
    for a, b in np.argwhere(np.triu(between >= like_one)):
        reason = (
            f"{people[a]} and {people[b]} score {between[a, b]:.3g} with one another, and {1 - UNLIKE:.0%} of people "
            f"{like_one:.3g} or more with themselves"
        )
        images = tuple(names[i] for i in (*typical[a][: 1 + BESIDE], *typical[b][: 1 + BESIDE]))
        found.append(Finding("same_person", reason, (people[a], people[b]), images))
    return found
