"""OAML as a twin verifier: its three readings, what it trains, and that it is AdaFace with two heads."""

import json

import pytest
import tiny
import torch
import torch.nn.functional as F

from dcal_core.config.oaml import OAMLConfig
from dcal_core.errors import ConfigError
from dcal_core.models import oaml
from dcal_core.models.adaface import AdaFace
from dcal_core.models.files import load_model, save_model
from dcal_core.models.oaml import OAML, OcclusionHead, rebuild
from dcal_core.models.verifier import Features
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import seal

SIZE, WIDTH, GRID = 48, 8, 3
ARCHITECTURE = {
    "recipe": "oaml",
    "backbone": "ir_18",
    "image_size": SIZE,
    "width": WIDTH,
    "joint": False,
    "visibility": True,
    "local_finer": False,
    "local_window": 0,
}


def make_model(**changes):
    """A narrow model whose heads have weights and statistics of their own."""
    torch.manual_seed(0)
    model = rebuild(ARCHITECTURE | changes, dropout=0.0).eval()
    for name, tensor in model.state_dict().items():
        if name.startswith(("qaconv.", "occlusion_head.")) and tensor.is_floating_point():
            tensor.uniform_(0.5, 2) if "var" in name else tensor.normal_()
    return model


def make_images(count=4, seed=1):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_an_image_is_encoded_to_its_embedding_its_places_and_what_is_visible():
    model = make_model()
    found = model.encode(make_images(), trace=True)
    plain = AdaFace(depth=18, image_size=SIZE, width=WIDTH).eval()
    plain.load_state_dict({name: t for name, t in model.state_dict().items() if name in plain.state_dict()})
    torch.testing.assert_close(found.parts["embedding"], plain.encode(make_images()).parts["embedding"])
    features = found.trace["map"]
    assert features.shape == (4, model.channels, GRID, GRID) and model.channels == 8 * WIDTH and model.grid == GRID
    local, visible = found.parts["local"], found.parts["visible"]
    place = features[1, :, 2, 0]  # row 2, column 0
    torch.testing.assert_close(local[1, :, 2 * GRID], place / place.norm())
    head = model.occlusion_head
    logits = head.conv2(head.bn1(head.conv1(features)).clamp(min=0))  # [4, 1, g, g]
    torch.testing.assert_close(visible[1, 2 * GRID], 1 / (1 + (-logits[1, 0, 2, 0]).exp()))
    assert torch.equal(found.trace["visible"], visible) and found.trace.keys() == {"map", "visible"}
    assert found.parts.keys() == {"embedding", "local", "visible"} and model.encode(make_images()).trace == {}


@torch.no_grad()
def test_a_finer_map_has_more_places_and_leaves_the_embedding_alone():
    model, coarse = make_model(local_finer=True), make_model()
    coarse.backbone.load_state_dict(model.backbone.state_dict())
    found = model.encode(make_images(), trace=True)
    torch.testing.assert_close(found.parts["embedding"], coarse.encode(make_images()).parts["embedding"])
    assert model.grid == 2 * GRID and found.trace["map"].shape == (4, 4 * WIDTH, 2 * GRID, 2 * GRID)
    stem = model.backbone.body[:6](model.backbone.input_layer(2 * make_images() - 1))  # of 8 blocks
    torch.testing.assert_close(found.trace["map"], stem)
    assert found.parts["local"].shape == (4, 4 * WIDTH, 4 * GRID**2) and found.parts["visible"].shape == (
        4,
        4 * GRID**2,
    )


@torch.no_grad()
def test_the_readings_are_the_cosine_the_logit_and_both_fused():
    model = make_model()
    a, b = model.encode(make_images(3, 1)), model.encode(make_images(2, 2))
    cosines = F.cosine_similarity(a.parts["embedding"][:, None], b.parts["embedding"], dim=-1)
    logits = model.qaconv(*(side.parts[name] for name in ("local", "visible") for side in (a, b)))
    torch.testing.assert_close(model.compare(a, b, "global"), cosines)
    torch.testing.assert_close(model.compare(a, b, "local"), logits)
    torch.testing.assert_close(model.compare(a, b), (cosines + logits) / 2)  # before anything is fitted
    model.take_fusion([2.0, 0.5], [0.3, -1.0], [0.1, 4.0], -0.7)
    fused = 2 * (cosines - 0.3) / 0.1 + 0.5 * (logits + 1) / 4 - 0.7
    for reading in (None, "fused"):
        torch.testing.assert_close(model.compare(a, b, reading), fused)
    for reading in model.readings:
        diagonal = model.compare(a[:2], b, reading).diagonal()
        torch.testing.assert_close(model.compare_pairs(a[:2], b, reading), diagonal, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_fusion_goes_with_the_weights():
    model, other = make_model(), make_model()
    model.take_fusion([0.0, 3.0], [0.3, -1.0], [0.1, 4.0], -0.7)
    other.load_state_dict(model.state_dict())
    a = model.encode(make_images())
    assert torch.equal(other.compare(a, a), model.compare(a, a))


@torch.no_grad()
def test_what_is_visible_counts_only_where_the_model_says_so():
    a = make_model().encode(make_images())
    dark = Features(a.parts | {"visible": a.parts["visible"] / 10})
    blind = make_model(visibility=False)
    assert torch.equal(blind.compare(a, a, "local"), blind.qaconv(a.parts["local"], a.parts["local"]))
    assert torch.equal(blind.compare(dark, dark), blind.compare(a, a))
    assert not torch.allclose(make_model().compare(dark, dark), make_model().compare(a, a))


@torch.no_grad()
def test_a_reading_needs_its_own_parts_only():
    model = make_model()
    a = model.encode(make_images())
    for reading, names in {"global": ("embedding",), "local": ("local", "visible")}.items():
        some = Features({name: a.parts[name] for name in names})
        assert torch.equal(model.compare(some, some, reading), model.compare(a, a, reading))


def test_in_training_places_of_all_processes_come_with_this_ones_visibility(monkeypatch):
    model = make_model().train()
    for module in (oaml, oaml.adaface):
        monkeypatch.setattr(module, "gather", lambda own: torch.cat([own, own.detach()]))
    found = model(make_images())
    assert {name: tuple(part.shape) for name, part in found.items()} == {
        "embedding": (8, 512),
        "local": (8, model.channels, GRID**2),
        "visible_logits": (4, GRID**2),
    }
    torch.testing.assert_close(found["local"].norm(dim=1), torch.ones(8, GRID**2))


@pytest.mark.parametrize("name, head", [("embedding", None), ("local", "qaconv"), ("visible_logits", "occlusion_head")])
def test_each_output_trains_the_backbone_and_its_own_head(name, head):
    model = make_model().train()
    found = model(make_images())
    if name == "local":
        visible = torch.rand(4, GRID**2)
        features = Features({"local": found["local"], "visible": visible})
        loss = (model.compare(features, features, "local") * torch.eye(4)).sum()
    else:
        loss = (found[name] * torch.randn_like(found[name])).sum()
    loss.backward()
    assert model.backbone.body[0].res_layer[1].weight.grad.abs().sum() > 0
    reached = {part.split(".")[0] for part, weight in model.named_parameters() if weight.grad is not None}
    assert reached == {"backbone", head} - {None}


def test_an_occlusion_head_has_the_layout_of_oaml():
    shapes = {name: list(tensor.shape) for name, tensor in OcclusionHead(512).state_dict().items()}
    norm = {f"bn1.{part}": [128] for part in ("weight", "bias", "running_mean", "running_var")}
    layers = {"conv1.weight": [128, 512, 3, 3], "conv2.weight": [1, 128, 1, 1], "conv2.bias": [1]}
    assert shapes == layers | norm | {"bn1.num_batches_tracked": []}


def test_a_model_is_rebuilt_from_its_architecture():
    model = rebuild(ARCHITECTURE | {"joint": True, "visibility": False}, frozen=True)
    assert isinstance(model, OAML) and model.architecture["joint"] and not model.visibility
    assert model.qaconv.fc.in_features == 2 * GRID**2 and set(model.architecture) == set(oaml.ARCHITECTURE)
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "backbone",
        "qaconv",
        "occlusion_head",
    }
    assert not any(module.training for module in model.backbone.modules()) and model.qaconv.training


# ---- weights of OAML's


def published(tmp_path, joint=True, drop=(), **changes):
    """A file as OAML's training leaves it, with its class memory; returns its tensors by our names."""
    source = make_model(joint=joint)
    named = {name.replace("backbone.", ""): t for name, t in source.state_dict().items() if "." in name}
    named |= {"qaconv.class_embed": torch.zeros(5, 64, GRID, GRID)} | changes
    kept = {f"model.{name}": tensor for name, tensor in named.items() if not name.startswith(tuple(drop) or ("-",))}
    torch.save({"state_dict": kept | {"head.kernel": torch.zeros(512, 3)}}, tmp_path / "oaml.ckpt")
    return source.state_dict()


def from_weights(tmp_path, **changes):
    values = tiny.OAML_VALUES | {"image_size": SIZE, "width": WIDTH, "weights": str(tmp_path / "oaml.ckpt")}
    return new_model(OAMLConfig(**values | changes), [])


def test_weights_of_oaml_fill_the_network_and_both_heads(tmp_path, capsys):
    given = published(tmp_path)
    model = from_weights(tmp_path, joint=True)
    assert model.colour_order == "bgr"
    for name, tensor in model.state_dict().items():
        assert name in ("bgr", "fusion") or torch.equal(tensor, given[name]), name
    said = capsys.readouterr().out
    assert said.startswith("Pretrained weights of ir_18 and occlusion_head and qaconv: ")
    assert said.endswith("BGR; not used: ['head.kernel', 'model.qaconv.class_embed']\n")


def test_weights_of_adaface_fill_the_network_and_leave_the_heads_new(tmp_path, capsys):
    given = published(tmp_path, drop=("qaconv.", "occlusion_head."))
    model = from_weights(tmp_path)
    assert torch.equal(model.backbone.body[0].res_layer[1].weight, given["backbone.body.0.res_layer.1.weight"])
    assert (model.qaconv.fc.weight == 1 / GRID**2).all()
    assert "of ir_18: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, named",
    [
        ({}, "qaconv.fc.weight of the shape [1, 18], where an OAML with joint=false has [1, 9]"),
        ({"joint": False, "drop": ["occlusion_head.conv2.bias"]}, "lacks occlusion_head.conv2.bias"),
        ({"joint": False, "qaconv.fc.bias": torch.tensor([torch.nan])}, "'qaconv.fc.bias' that is not finite"),
    ],
    ids=["joint", "lacking", "not finite"],
)
def test_heads_that_do_not_fit_are_refused(tmp_path, refused, options, named):
    published(tmp_path, **options)
    with refused(ConfigError, f"weights={tmp_path / 'oaml.ckpt'}", named, "the parameters that it is for"):
        from_weights(tmp_path)


def test_a_model_saved_before_it_had_finer_places_and_a_window_is_read(tmp_path):
    save_model(tmp_path, make_model())
    seal(tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())
    kept = {name: value for name, value in described.items() if name not in ("local_finer", "local_window")}
    assert len(kept) == len(described) - 2
    (tmp_path / "model.json").write_text(json.dumps(kept))
    seal(tmp_path)
    assert load_model(tmp_path).architecture == described
