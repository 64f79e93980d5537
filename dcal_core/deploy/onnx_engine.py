"""The engine for ONNX: onnxruntime alone, without PyTorch.

`NAME.onnx` carries what config.json holds in its metadata, so that the file is enough. Where scores are no dot products
of descriptors, `NAME.compare.onnx` beside it compares them. N faces or pairs; D numbers in a descriptor.
"""

import json
import os
from pathlib import Path

import numpy as np

from dcal_core.deploy.engine import ABOUT_FILE, check_about, compare_file, dots
from dcal_core.errors import ConfigError
from dcal_core.missing import because
from dcal_core.storage import DamagedError, digest


def open_session(file: Path, profile: str = ""):
    """An onnxruntime session on the CPU with as many threads as OMP_NUM_THREADS says, or the processors; profile: the
    start of the name of a file for the time of each node, "" for none. ConfigError, DamagedError."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ConfigError(f"{file} needs onnxruntime, which is not installed: pip install onnxruntime.") from None
    if not Path(file).is_file():
        raise ConfigError(f"{file}: there is no such file{because(file)}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own
        reason = " ".join(str(error).split())[:200]
        raise DamagedError(f"{file} cannot be read as ONNX ({reason}): export the model again.") from None


def about_of(file: Path, session) -> dict:
    """What config.json held, from the metadata of a file; DamagedError if it is not there."""
    try:
        found = json.loads(session.get_modelmeta().custom_metadata_map[ABOUT_FILE])
        found["export"]["compare"]
    except (KeyError, ValueError, TypeError):
        raise DamagedError(
            f"{file} carries no {ABOUT_FILE} in its metadata: it is damaged, or not of `twins export`; export the "
            "model again."
        ) from None
    return check_about(found, file)


class OnnxEngine:
    """A model that `twins export --format onnx` has written; safe to call from several threads."""

    def __init__(self, file: Path):
        file = Path(file)
        self.describe = open_session(file)
        self.about = about_of(file, self.describe)
        self.compare = None
        if wanted := self.about["export"]["compare"]:
            beside = compare_file(file)
            self.compare = open_session(beside)
            if digest(beside) != wanted:
                raise DamagedError(f"{beside} is not the graph that {file} was exported with: export the model again.")

    def encode(self, faces: np.ndarray) -> np.ndarray:
        """Descriptors [N, D] float32 of faces [N, H, W, 3], RGB uint8, of the model's image size."""
        (descriptors,) = self.describe.run(None, {"faces": np.ascontiguousarray(faces)})
        return descriptors

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Scores [N] float64 of descriptor i of a with descriptor i of b, [N, D] each."""
        if self.compare is None:
            return dots(a, b)
        (scores,) = self.compare.run(None, {"a": a, "b": b})
        return scores.astype(np.float64)
