"""The engine for safetensors: a `Verifier` in PyTorch.

N faces or pairs; D numbers in a descriptor.
"""

from pathlib import Path

import numpy as np
import torch

from dcal_core.deploy.engine import ABOUT_FILE, read_about
from dcal_core.deploy.graphs import Compare, Describe
from dcal_core.environment import fit_device
from dcal_core.models.files import check_architecture, restore_model
from dcal_core.storage import DamagedError, digest


class TorchEngine:
    """A model's weights, in a file of safetensors, on the GPU where one is fit."""

    def __init__(self, weights: Path, about: dict):
        self.about = about
        if digest(weights) != about["provenance"].get("weights"):
            raise DamagedError(f"{weights} holds other weights than config.json describes: pack the run again.")
        self.device = fit_device()
        described = weights.with_name(ABOUT_FILE)
        architecture = check_architecture(about["architecture"], described)
        self.model = restore_model(architecture, weights, described).to(self.device)
        self.describe = Describe(self.model)
        self.compare = Compare(self.model)

    def encode(self, faces: np.ndarray) -> np.ndarray:
        """Descriptors [N, D] float32 of faces [N, H, W, 3], RGB uint8."""
        with torch.inference_mode():
            return self.describe(torch.from_numpy(np.ascontiguousarray(faces)).to(self.device)).cpu().numpy()

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Scores [N] float64 of descriptor i of a with descriptor i of b, [N, D] each."""
        sides = [torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(self.device) for rows in (a, b)]
        with torch.inference_mode():
            return self.compare(*sides).double().cpu().numpy()


def open_weights(file: Path) -> TorchEngine:
    """The engine of weights in a packed folder."""
    return TorchEngine(file, read_about(file.parent))
