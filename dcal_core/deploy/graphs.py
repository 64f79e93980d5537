"""A model as two functions of tensors alone, which is what other runtimes take: faces to descriptors, and descriptors
to scores.

N faces or pairs; S the model's image size, px; D numbers in a descriptor.
"""

import torch
from torch import Tensor, nn

from dcal_core.models.verifier import Features, Verifier


class Describe(nn.Module):
    """Descriptors [N, D] fp32 of faces [N, S, S, 3], RGB uint8; colour order and normalisation are inside.

    A descriptor is a vector whose dot products are scores, where the model has such vectors; else what its comparison
    takes of an image, all named parts side by side.
    """

    def __init__(self, model: Verifier):
        super().__init__()
        self.model = model

    def forward(self, faces: Tensor) -> Tensor:
        features = self.model.encode((faces.float() / 255).permute(0, 3, 1, 2))  # TensorRT takes bytes to be cast only
        vectors = self.model.vectors(features)
        if vectors is not None:
            return vectors
        return torch.cat([part.float().flatten(1) for part in features.parts.values()], 1)


class Compare(nn.Module):
    """Scores [N] of descriptor i of a with descriptor i of b, [N, D] each.

    by_dot: whether the scores are the dot products, so that nobody needs this graph.
    """

    def __init__(self, model: Verifier):
        super().__init__()
        self.model = model
        side = model.image_size
        with torch.no_grad():
            features = model.encode(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
            self.by_dot = model.vectors(features) is not None
        self.shapes = {name: part.shape[1:] for name, part in features.parts.items()}
        self.width = sum(shape.numel() for shape in self.shapes.values())  # D, of descriptors that are compared here

    def features(self, rows: Tensor) -> Features:
        """The named parts of descriptors [N, D]."""
        parts = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        shaped = zip(self.shapes.items(), parts, strict=True)
        return Features({name: part.unflatten(1, shape) for (name, shape), part in shaped})

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.by_dot:
            return (a * b).sum(-1)
        return self.model.compare_pairs(self.features(a), self.features(b))


def examples_of(graph: Describe | Compare) -> tuple[Tensor, ...]:
    """Two random faces for a graph that describes, two pairs of random descriptors for one that compares."""
    random = torch.Generator().manual_seed(0)
    if isinstance(graph, Compare):
        return tuple(torch.rand(2, graph.width, generator=random) for _ in range(2))
    side = graph.model.image_size
    return (torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=random),)


def program_of(graph: Describe | Compare, examples: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """A graph for a batch of any size, from examples of 2: a batch of 1 would be taken for a constant."""
    size = torch.export.Dim("N", min=1)
    with torch.no_grad():
        return torch.export.export(graph, examples, dynamic_shapes=({0: size},) * len(examples))
