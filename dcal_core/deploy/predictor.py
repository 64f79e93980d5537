"""From two pictures to a verdict, with any engine and without PyTorch.

N pictures or pairs; D numbers in a descriptor.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from dcal_core.data.decoding import Unreadable
from dcal_core.deploy.answers import NEVER_CHECKED, SAME_LOOK, Answer, decimal, sentence, told
from dcal_core.deploy.cache import Described, FeatureCache
from dcal_core.deploy.engine import Engine
from dcal_core.deploy.faces import UNSOUGHT, FaceReader, ReadFace
from dcal_core.deploy.inputs import Source, source_of
from dcal_core.deploy.package import engine_of, fetched, save
from dcal_core.deploy.ranges import outside
from dcal_core.errors import ConfigError
from dcal_core.progress import progress_line
from dcal_core.verification.comparisons import rounded
from dcal_core.verification.decision import DecisionRule, rule_from_dict
from dcal_core.verification.verdicts import VERDICTS, verdicts

MOST_IN_BATCH = 32  # faces; on a CPU more are no faster
BATCH_SHARE = 1 / 32  # of the memory, for what a network holds of a batch
BYTES_OF_PX = 768  # in a network: 38 MB for a face of 224 px
IN_WINDOW = 256  # pairs that are answered together


class Predictor:
    """Tells whether two pictures show one person; safe to use from several threads.

    engine: a trained model. find_faces: whether to look for faces and align them; False takes pictures as aligned
    faces; None looks where the packages for it are installed. cache: what is kept of pictures that come again.
    """

    def __init__(self, engine: Engine, find_faces: bool | None = None, cache: FeatureCache | None = None):
        about = engine.about
        self.engine = engine
        self.source: Path | None = None
        self.find_faces = find_faces
        self.rule: DecisionRule = rule_from_dict(about["decision"])
        self.label: str = about["label"]
        self.limits: dict | None = about["range"] and about["range"]["limits"]
        self.reader = FaceReader(about["image_size"], about["fit"], about["landmarks"], find_faces)
        self.cache = FeatureCache() if cache is None else cache
        self.unchecked = [*self.reader.unchecked, *NEVER_CHECKED]
        settings = about["provenance"], about["range"], about["fit"], about["landmarks"], self.reader.finds
        named = json.dumps([type(engine).__name__, *settings], sort_keys=True)
        self.identity = hashlib.sha256(named.encode()).hexdigest()
        self._most = batch_size(about["image_size"])

    @classmethod
    def load(cls, model: str | Path, find_faces: bool | None = None, cache: FeatureCache | None = None) -> "Predictor":
        """The predictor of a packed folder, of one file of weights in it, or of a run that was evaluated.

        Raises ConfigError, DamagedError.
        """
        predictor = cls(engine_of(Path(model)), find_faces, cache)
        predictor.source = Path(model)
        return predictor

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None, **options) -> "Predictor":
        """As `load`, also by the name of a repository on the Hugging Face Hub, which is downloaded."""
        return cls.load(fetched(str(name), revision), **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model as a packed folder; ConfigError for one that was not loaded from a folder."""
        return save(self._folder(), Path(folder))

    def __reduce__(self):
        """Another process that unpickles it loads it anew, with an empty cache, and finds faces if this one does.

        ConfigError for one that was made of an engine.
        """
        return Predictor.load, (self._folder().absolute(), self.reader.finds)

    def verify(self, a, b) -> Answer:
        """Compare two pictures: paths, bytes of files, PIL images, arrays or tensors (see `source_of`)."""
        names = [name_of(a, "picture 1"), name_of(b, "picture 2")]
        first, second = self.describe([a, b], names, batch=1)  # whatever else is in the cache
        return self.answers(names[:1], names[1:], [first], [second])[0]

    def verify_pairs(self, pairs: Iterable[tuple], progress: bool = True) -> Iterator[Answer]:
        """The answers to pairs of pictures, in their order; a picture that cannot be read spoils its own pairs only."""
        pairs = iter(progress_line(pairs, desc="comparing", unit="pair", file=sys.stderr, disable=not progress))
        while window := list(islice(pairs, IN_WINDOW)):
            pictures = [picture for pair in window for picture in pair]
            names = [name_of(picture, f"picture {place % 2 + 1}") for place, picture in enumerate(pictures)]
            described = self.describe(pictures, names, self.batch_for(len(pictures)))
            yield from self.answers(names[::2], names[1::2], described[::2], described[1::2])

    def encode(self, pictures: Iterable, progress: bool = True) -> list[Described]:
        """What the model knows of each picture, in their order: its descriptor and measures, or an error."""
        pictures = list(pictures)
        batch = self.batch_for(len(pictures))
        found = []
        for start in progress_line(
            range(0, len(pictures), batch), desc="encoding", unit="batch", file=sys.stderr, disable=not progress
        ):
            some = pictures[start : start + batch]
            found += self.describe(
                some, [name_of(one, f"picture {start + n + 1}") for n, one in enumerate(some)], batch
            )
        return found

    def batch_for(self, pictures: int) -> int:
        """How many of so many pictures are encoded at once."""
        return min(self._most, 2 ** max(pictures - 1, 0).bit_length())

    def answers(
        self, names_a: Sequence[str], names_b: Sequence[str], a: Sequence[Described], b: Sequence[Described]
    ) -> list[Answer]:
        """The answers to pairs of described pictures."""
        errors = [error_of(*pair) for pair in zip(names_a, names_b, a, b, strict=True)]
        right = [place for place, error in enumerate(errors) if not error]
        scores = np.full(len(errors), np.nan)
        if right:
            rows = (np.stack([side[place].row for place in right]) for side in (a, b))
            scores[right] = rounded(self.engine.compare_pairs(*rows))
        found = []
        for place, (error, score) in enumerate(zip(errors, scores.tolist(), strict=True)):
            pair = names_a[place], names_b[place], a[place], b[place]
            if not error and not np.isfinite(score):
                error = "the model gives these pictures no finite score"
            found.append(Answer(*pair[:2], error=error, label=self.label) if error else self._judged(*pair, score))
        return found

    def _folder(self) -> Path:
        if self.source is None:
            raise ConfigError("this predictor was made of an engine: take one that was loaded from a folder.")
        return self.source

    def sentence(self, answer: Answer) -> str:
        """An answer in one plain sentence."""
        return sentence(answer, self.rule)

    def _judged(self, name_a: str, name_b: str, a: Described, b: Described, score: float) -> Answer:
        sides = ((name_a, a), (name_b, b))
        reasons = [clause for name, side in sides for clause in told(name, side.reasons)]
        doubts = [f"{name} {doubt}" for name, side in sides for doubt in side.doubts]
        same = a.look == b.look
        if same:
            doubts.append(SAME_LOOK)
        if not self.reader.finds:
            doubts.append(UNSOUGHT)
        twins, strangers = (decimal(one, [score]) for one in (self.rule.calibration, self.rule.strangers))
        return Answer(
            name_a,
            name_b,
            score,
            "undecided" if same else VERDICTS[int(verdicts([score], self.rule.thresholds)[0])],
            None if twins is None or same else float(twins[0]),
            None if strangers is None or same else float(strangers[0]),
            None if self.limits is None else not reasons,
            reasons,
            doubts,
            self.unchecked,
            self.label,
        )

    def describe(self, pictures: Sequence, names: Sequence[str], batch: int) -> list[Described]:
        """Pictures described, each distinct one read and encoded once.

        A network's last digits depend on the size of a batch: all have one size, and the cache tells sizes apart, so
        that an answer does not depend on what was asked before.
        """
        sources, keys, errors = {}, [], {}
        for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            try:
                source = source_of(picture, name)
            except Unreadable as error:
                errors[place] = Described(error=str(error))
                keys.append("")
                continue
            keys.append(self.key_of(source, batch))
            sources.setdefault(keys[-1], source)
        known = {key: self.cache.get(key) for key in sources}
        new = [key for key, found in known.items() if found is None]
        for start in range(0, len(new), batch):
            some = new[start : start + batch]
            wanted = [sources[key] for key in some]
            described = dict(zip(some, self._encoded(self._read_all(wanted), batch), strict=True))
            self.cache.put(described)
            known |= described
        return [errors[place] if place in errors else known[key] for place, key in enumerate(keys)]

    def key_of(self, source: Source, batch: int) -> str:
        """Under what the cache keeps a picture that is encoded in batches of so many."""
        return f"{self.identity}/{batch}/{source.key}"

    def _read_all(self, sources: list[Source]) -> list[ReadFace | str]:
        if len(sources) == 1:  # threads cost more than they save
            return [self._read(sources[0])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._read, sources))

    def _read(self, source: Source) -> ReadFace | str:
        try:
            return self.reader.read(source)
        except Unreadable as error:
            return str(error)
        except MemoryError:
            return "there is no memory to decode it"

    def _encoded(self, read: list[ReadFace | str], batch: int) -> Iterator[Described]:
        """Faces described, or why they cannot be read; a batch that is not full is filled up."""
        faces = [face.pixels for face in read if isinstance(face, ReadFace)]
        rows = iter(())
        if faces:
            filled = np.stack(faces + [faces[-1]] * (batch - len(faces)))
            rows = iter(self.engine.encode(filled)[: len(faces)].copy())
        for face in read:
            if isinstance(face, str):
                yield Described(error=face)
                continue
            look = min(
                hashlib.sha256(np.ascontiguousarray(one)).hexdigest() for one in (face.pixels, face.pixels[:, ::-1])
            )
            reasons = outside(face.measures, self.limits or {})
            yield Described(next(rows), look, face.measures, face.doubts, reasons)


def batch_size(image_size: int) -> int:
    """Faces of so many px that a network encodes at once in a share of this machine's memory, a power of 2."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = int(BATCH_SHARE * memory / (BYTES_OF_PX * image_size**2))
    return max(1, min(MOST_IN_BATCH, 2 ** (fitting.bit_length() - 1) if fitting else 1))


def name_of(picture, otherwise: str) -> str:
    """What a picture is called in an answer: its path, if it has one."""
    if isinstance(picture, str | Path):
        return str(picture)
    return str(getattr(picture, "filename", "") or otherwise)


def error_of(name_a: str, name_b: str, a: Described, b: Described) -> str:
    """Why two pictures cannot be compared, "" where they can."""
    return "; ".join(f"{name}: {side.error}" for name, side in ((name_a, a), (name_b, b)) if side.error)
