"""The contract of models: each one keeps it, and nobody reads more of a model than it names."""

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dcal_core
from dcal_core.models.adaface import AdaFace
from dcal_core.models.backbones import hybrid_tiny
from dcal_core.models.dcal import DCAL
from dcal_core.models.oaml import OAML
from dcal_core.models.similarity import SIMILARITIES
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification.baseline import SFace

SIZE = 32


def make_dcal(similarity):
    torch.manual_seed(0)
    return DCAL(vit=hybrid_tiny(SIZE), image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, similarity=similarity).eval()


MODELS = {f"dcal, {name}": lambda name=name: make_dcal(name) for name in SIMILARITIES} | {
    "adaface": lambda: AdaFace(depth=18, image_size=SIZE, width=8).eval(),
    "oaml": lambda: OAML(depth=18, image_size=SIZE, width=8).eval(),
    "sface": lambda: object.__new__(SFace),  # compares without its networks
}
every_model = pytest.mark.parametrize("name", MODELS)


def make_features(name, count, seed):
    """Features as the model gives them, of random images."""
    random = torch.Generator().manual_seed(seed)
    widths = {"sa": 96, "glca": 192} if name.startswith("dcal") else {"embedding": 128}
    parts = {part: torch.randn(count, width, generator=random) for part, width in widths.items()}
    if name == "oaml":
        parts["local"] = F.normalize(torch.randn(count, 8, 4, generator=random), dim=1)
        parts["visible"] = torch.rand(count, 4, generator=random)
    return Features({part: F.normalize(tensor) for part, tensor in parts.items()} if name == "sface" else parts)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return result


@every_model
@torch.no_grad()
def test_pairs_are_the_diagonal_of_all_with_all(name):
    model, a, b = MODELS[name](), make_features(name, 7, 1), make_features(name, 7, 2)
    scores = model.compare_pairs(a, b)
    assert scores.shape == (7,) and scores.unique().numel() == 7
    torch.testing.assert_close(scores, model.compare(a, b).diagonal())
    torch.testing.assert_close(model.compare_pairs(b, a), scores)


@every_model
@torch.no_grad()
def test_pairs_are_compared_without_a_matrix(name):
    model, a, b, count = MODELS[name](), make_features(name, 1000, 1), make_features(name, 1000, 2), 1000
    with Largest() as largest:
        model.compare_pairs(a, b)
    assert count <= largest.numbers <= 512 * count
    with Largest() as largest:
        model.compare(a, b)
    assert largest.numbers >= count**2  # so a matrix is seen


@every_model
def test_a_reading_that_a_model_lacks_is_refused(name):
    model, a = MODELS[name](), make_features(name, 2, 1)
    assert model.readings == (("fused", "global", "local") if name == "oaml" else ("whole",))
    for compare in (model.compare, model.compare_pairs):
        with torch.no_grad():
            assert torch.equal(compare(a, a, model.readings[0]), compare(a, a))
        with pytest.raises(ValueError, match=f"reading='odd': .* offers {model.readings[0]}"):
            compare(a, a, reading="odd")


@pytest.mark.parametrize("name", ["dcal, cosine", "adaface", "oaml"])
@torch.no_grad()
def test_a_blank_image_is_nothing_to_the_model(name):
    model = MODELS[name]()
    image = torch.ones(1, 3, SIZE, SIZE) * model.blank
    seen = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    model.encode(image)
    torch.testing.assert_close(seen[0], torch.zeros_like(seen[0]), atol=1e-6, rtol=0)


def test_a_model_that_does_not_compare_pairs_is_none():
    class Half(Verifier):
        def encode(self, images, trace=False):
            return Features({})

        def compare(self, a, b, reading=None):
            return torch.zeros(len(a), len(b))

    with pytest.raises(TypeError, match="compare_pairs"):
        Half()


# ---- what others read of a model

CORE = Path(dcal_core.__file__).parent
INSIDE = {"vit", "glca", "readout", "necks", "backbone", "qaconv", "occlusion_head"}  # how the models call their parts
KNOWING = {"models", "config"}  # a config has parameters of such names
OUTSIDE = [path for path in sorted(CORE.rglob("*.py")) if path.relative_to(CORE).parts[0] not in KNOWING]


def read_inside(source: str) -> list[str]:
    """The parts of models that a source reads, as attributes or by getattr; a config has parameters of such names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        owner = name = None
        if isinstance(node, ast.Attribute):
            owner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            owner, name = node.args[0], getattr(node.args[1], "value", None)
        if name in INSIDE and "config" not in ast.unparse(owner).split("."):
            found.append(f"{ast.unparse(owner)}.{name}")
    return found


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(CORE).as_posix())
def test_nobody_reads_the_inside_of_a_model(path):
    assert read_inside(path.read_text()) == []


def test_reading_the_inside_of_a_model_is_seen():
    assert read_inside("rope = model.vit.rope") == ["model.vit"]
    assert read_inside("for block in pairs.model.glca: pass") == ["pairs.model.glca"]
    assert read_inside("getattr(model, 'readout', None)") == ["model.readout"]
    assert read_inside("config.backbone + session.config.readout + self.config.backbone") == []
