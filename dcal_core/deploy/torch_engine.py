"""The engine for safetensors: a `Verifier` in PyTorch.

N faces or pairs; D numbers in a descriptor.
"""

from pathlib import Path

import numpy as np
import torch

from dcal_core.deploy.engine import ABOUT_FILE
from dcal_core.environment import fit_device
from dcal_core.models.files import check_architecture, restore_model
from dcal_core.models.verifier import Features
from dcal_core.storage import DamagedError, digest


class TorchEngine:
    """A model's weights, in a file of safetensors, on the GPU where one is fit.

    A descriptor is what the model's comparison takes of an image: the named parts of its `Features`, side by side.
    """

    def __init__(self, weights: Path, about: dict):
        self.about = about
        if digest(weights) != about["provenance"].get("weights"):
            raise DamagedError(f"{weights} holds other weights than config.json describes: pack the run again.")
        self.device = fit_device()
        described = weights.with_name(ABOUT_FILE)
        architecture = check_architecture(about["architecture"], described)
        self.model = restore_model(architecture, weights, described).to(self.device)
        with torch.inference_mode():
            blank = torch.zeros(1, 3, self.model.image_size, self.model.image_size, device=self.device)
            parts = self.model.encode(blank).parts
        self.shapes = {name: part.shape[1:] for name, part in parts.items()}

    def encode(self, faces: np.ndarray) -> np.ndarray:
        """Descriptors [N, D] float32 of faces [N, H, W, 3], RGB uint8."""
        images = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            parts = self.model.encode(images).parts
            rows = torch.cat([part.float().flatten(1) for part in parts.values()], 1)
        return rows.cpu().numpy()

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Scores [N] float64 of descriptor i of a with descriptor i of b, [N, D] each."""
        with torch.inference_mode():
            scores = self.model.compare_pairs(self._features(a), self._features(b))
        return scores.double().cpu().numpy()

    def _features(self, rows: np.ndarray) -> Features:
        rows = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(self.device)
        parts = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        return Features(
            {name: part.unflatten(1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        )
