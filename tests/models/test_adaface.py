"""AdaFace as a twin verifier: the contract of models, colours, what is frozen, and foreign weights."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.errors import ConfigError
from dcal_core.models import adaface
from dcal_core.models.adaface import AdaFace
from dcal_core.models.files import load_model, save_model
from dcal_core.models.iresnet import IResNet
from dcal_core.models.verifier import Features, square
from dcal_core.recipes.adamw_cosine import parameter_groups
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import seal

SIZE, WIDTH = 32, 8
CONFIG = AdaFaceConfig(backbone="ir_18", image_size=SIZE, width=WIDTH, allow_random_init=True)
EMBEDDING_LAYER = {"backbone.output_layer.3.weight", "backbone.output_layer.3.bias"}


def make_model(**options):
    """A narrow model whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    model = AdaFace(**{"depth": 18, "image_size": SIZE, "width": WIDTH} | options)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.2)
    return model


def make_images(count=4, size=SIZE):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# ---- the contract


def test_an_image_is_encoded_to_an_embedding_that_keeps_its_length():
    model = make_model().eval()
    with torch.no_grad():
        features = model.encode(make_images(), trace=True)
        expected = model.backbone(make_images() * 2 - 1)
    assert features.parts.keys() == model.widths.keys() == {"embedding"} and model.widths["embedding"] == 512
    torch.testing.assert_close(features.parts["embedding"], expected)
    assert (features.parts["embedding"].norm(dim=1) - 1).abs().min() > 1  # no unit vectors: the norm is the quality
    assert features.trace.keys() == {"map"} and model.grid == 2
    assert features.trace["map"].shape == (4, 8 * WIDTH, model.grid, model.grid)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone.output_layer(features.trace["map"]), expected)
        assert model.encode(make_images()).trace == {}


def test_two_embeddings_are_compared_by_their_cosine():
    a, b = torch.randn(3, 512) * 20, torch.randn(2, 512)
    scores = make_model().compare(Features({"embedding": a}), Features({"embedding": b}))
    torch.testing.assert_close(scores, torch.from_numpy(cosine_similarity(a, b)))
    known = (
        Features({"embedding": torch.tensor([[3.0, 4.0]]).half()}),
        Features({"embedding": torch.tensor([[5.0, 0.0]])}),
    )
    assert make_model().compare(*known).tolist() == [[pytest.approx(0.6)]]


@pytest.mark.parametrize("order, expected", [("rgb", [1.0, -1.0, -0.6]), ("bgr", [-0.6, -1.0, 1.0])])
def test_the_network_sees_its_own_order_of_colours_from_minus_one_to_one(order, expected):
    model = make_model(colour_order=order)
    assert model.colour_order == order
    pixel = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    for images in (pixel, pixel.float() / 255):
        seen = model.prepare(images)
        torch.testing.assert_close(seen, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE))


def test_a_model_of_bgr_sees_what_one_of_rgb_does_in_an_image_turned_round():
    rgb, bgr = make_model().eval(), make_model(colour_order="bgr").eval()
    with torch.no_grad():
        turned = rgb.encode(make_images().flip(1)).parts["embedding"]
        torch.testing.assert_close(bgr.encode(make_images()).parts["embedding"], turned)
        assert (rgb.encode(make_images()).parts["embedding"] - turned).abs().max() > 0.01


def test_an_unknown_order_of_colours_is_refused():
    with pytest.raises(ValueError, match="colour_order='auto': takes rgb or bgr"):
        make_model(colour_order="auto")


@pytest.mark.parametrize("size", [(48, 48), (20, 31), (SIZE, 40)])
def test_images_of_any_size_are_made_square_in_the_model(size):
    images = torch.rand(2, 3, *size)
    expected = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(square(images, SIZE), expected)
    model = make_model().eval()
    with torch.no_grad():
        given, resized = (model.encode(x).parts["embedding"] for x in (images, expected))
    torch.testing.assert_close(given, resized)


def test_images_of_the_right_size_are_left_alone():
    images = make_images() * 1.5 - 0.25
    assert torch.equal(square(images, SIZE), images)
    assert torch.equal(
        square(torch.tensor([[[[255]], [[51]], [[0]]]], dtype=torch.uint8), 1).flatten(), torch.tensor([1, 0.2, 0])
    )


# ---- training


def test_in_training_the_last_batch_norm_takes_in_the_rows_of_all_processes(monkeypatch):
    model, others = make_model(dropout=0.0).train(), []

    def from_another_process(own):
        others.append(3 * own.detach() + 1)
        return torch.cat([own, others[0]])

    monkeypatch.setattr(adaface, "gather", from_another_process)
    embedding = model(make_images(6))["embedding"]
    assert embedding.shape == (12, 512)
    torch.testing.assert_close(embedding.mean(0), torch.zeros(512), atol=1e-4, rtol=0)
    torch.testing.assert_close(embedding.var(0, unbiased=False), torch.ones(512), atol=1e-2, rtol=0)


def test_in_eval_mode_training_and_encoding_give_the_same():
    model = make_model().eval()
    with torch.no_grad():
        torch.testing.assert_close(model(make_images())["embedding"], model.encode(make_images()).parts["embedding"])


def steps(model, count=3):
    """The names of what a few steps of training change, and the losses."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(count):
        unit = F.normalize(model(make_images(4))["embedding"], dim=1)
        losses.append(1 - unit[0] @ unit[1] + unit[0] @ unit[2])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    return changed, [loss.item() for loss in losses]


def test_of_a_frozen_model_nothing_but_the_embedding_layer_changes():
    model = make_model(frozen=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == EMBEDDING_LAYER
    changed, losses = steps(model, 6)
    assert changed == EMBEDDING_LAYER
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False))


def test_of_a_whole_model_everything_changes_but_the_colours():
    changed, _ = steps(model := make_model())
    assert model.state_dict().keys() - changed == {"bgr"}


def test_what_is_frozen_stays_in_eval_mode_whatever_is_asked():
    model = make_model(frozen=True)
    for ask in (lambda: model, model.train, lambda: model.eval().train(), lambda: nn.Sequential(model).train()[0]):
        assert not any(module.training for module in ask().backbone.modules())
    model.train()
    with torch.no_grad():  # no dropout, no statistics of the batch: an image alone, and again, gives the same
        torch.testing.assert_close(model(make_images())["embedding"][:1], model(make_images()[:1])["embedding"])
        torch.testing.assert_close(model(make_images())["embedding"], model.encode(make_images()).parts["embedding"])
    assert not any(module.training for module in model.eval().modules())
    whole = make_model().train()
    assert all(module.training for module in whole.modules())


def test_blocks_below_learn_more_slowly_by_their_depth():
    model = make_model()
    depths = model.pretrained_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    above = {"backbone.input_layer.": 8, "backbone.output_layer.": 0} | {f"backbone.body.{i}.": 7 - i for i in range(8)}
    for name, depth in depths.items():
        assert [depth] == [d for start, d in above.items() if name.startswith(start)], name
    task = nn.Module()
    task.model = make_model(frozen=True)
    groups = parameter_groups(task, layer_decay=0.5, head_lr_factor=10.0, weight_decay=0.05)
    assert sorted((group["factor"], len(group["params"]), bool(group["weight_decay"])) for group in groups) == [
        (1.0, 1, False),
        (1.0, 1, True),
    ]


# ---- from a config, and from a folder


def test_parameters_reach_the_model(capsys):
    options = {"embedding_dropout": 0.2, "frozen_backbone": True, "colour_order": "bgr"}
    model = new_model(CONFIG.replace(**options), [], pretrained=False)
    assert (model.image_size, model.backbone.output_layer[1].p, model.frozen, model.colour_order) == (
        SIZE,
        0.2,
        True,
        "bgr",
    )
    assert model.state_dict().keys() == {"bgr", *(f"backbone.{n}" for n in IResNet(18, width=WIDTH).state_dict())}
    plain = new_model(CONFIG, [])
    assert "ir_18 starts from random weights" in capsys.readouterr().out
    assert (plain.frozen, plain.colour_order, plain.backbone.output_layer[1].p) == (False, "rgb", 0.4)
    assert len(new_model(CONFIG.replace(backbone="ir_34"), []).backbone.body) == 16


def test_without_weights_the_cure_is_told(refused):
    config = CONFIG.replace(allow_random_init=False)
    with refused(ConfigError, "ir_18", "weights=<file>", "allow_random_init=true"):
        new_model(config, [])
    assert new_model(config, [], pretrained=False).architecture == new_model(CONFIG, []).architecture


def test_a_random_backbone_is_not_frozen(refused):
    config = CONFIG.replace(frozen_backbone=True)
    with refused(ConfigError, "ir_18", "weights=<file>", "a frozen backbone needs them"):
        new_model(config, [])
    assert new_model(config, [], pretrained=False).frozen  # a checkpoint brings the weights


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_saved_model_gives_the_same_scores_when_loaded(tmp_path, order):
    model = new_model(CONFIG.replace(colour_order=order), [])
    steps(model, 1)
    save_model(tmp_path, model)
    seal(tmp_path)
    loaded = load_model(tmp_path)
    assert not any(module.training for module in loaded.modules()) and loaded.colour_order == order
    assert loaded.architecture == {"recipe": "adaface", "backbone": "ir_18", "image_size": SIZE, "width": WIDTH}
    with torch.no_grad():
        (a, b), (c, d) = ((m.encode(make_images()), m.encode(make_images().flip(-1))) for m in (model.eval(), loaded))
        assert torch.equal(loaded.compare(c, d), model.compare(a, b))


def test_whoever_takes_over_the_weights_takes_over_their_colours():
    source, ours = make_model(colour_order="bgr"), new_model(CONFIG, [], pretrained=False)
    assert ours.colour_order == "rgb"  # nobody knows yet
    ours.load_state_dict(source.state_dict())
    assert ours.colour_order == "bgr"


# ---- foreign weights


def write_weights(file, prefix="model.", **options):
    """A file as AdaFace's training leaves it, its head included; returns the backbone's tensors."""
    torch.manual_seed(2)
    state = IResNet(**{"depth": 18, "width": WIDTH, "image_size": SIZE} | options).state_dict()
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"state_dict": tensors | {"head.kernel": torch.zeros(512, 3)}, "epoch": 26}, file)
    return state


def from_weights(file, **changes):
    return CONFIG.replace(weights=str(file), **changes)


@pytest.mark.parametrize(
    "prefix, given, order",
    [
        ("model.", "auto", "bgr"),
        ("net.", "auto", "rgb"),
        ("", "bgr", "bgr"),
        ("module.", "rgb", "rgb"),
        ("net.", "bgr", "bgr"),
    ],
)
def test_foreign_weights_fill_the_backbone_and_bring_their_colours(tmp_path, capsys, prefix, given, order):
    state = write_weights(tmp_path / "face.ckpt", prefix)
    model = new_model(from_weights(tmp_path / "face.ckpt", colour_order=given, allow_random_init=False), [])
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.backbone.state_dict().items())
    assert model.colour_order == order
    said = capsys.readouterr().out
    assert str(tmp_path / "face.ckpt") in said and order.upper() in said and "not used: ['head.kernel']" in said


def test_foreign_weights_replace_random_ones_unless_a_checkpoint_comes(tmp_path):
    state = write_weights(tmp_path / "face.ckpt")
    model = new_model(from_weights(tmp_path / "face.ckpt"), [])
    assert torch.equal(model.backbone.embedding_layer.weight, state["output_layer.3.weight"])
    new_model(from_weights(tmp_path / "gone.ckpt"), [], pretrained=False)


@pytest.mark.parametrize(
    "theirs, cure",
    [
        ({"depth": 34}, "give backbone=ir_34."),
        ({"width": 16}, "give width=16."),
        ({"image_size": 64}, "give image_size=64."),
        ({"depth": 34, "width": 16}, "give backbone=ir_34, width=16."),
        ({"embedding": 64}, "64 numbers, not of 512"),
    ],
    ids=str,
)
def test_foreign_weights_of_other_sizes_are_refused(tmp_path, refused, theirs, cure):
    write_weights(tmp_path / "face.ckpt", **theirs)
    with refused(ConfigError, f"weights={tmp_path / 'face.ckpt'}", cure):
        new_model(from_weights(tmp_path / "face.ckpt"), [])


def test_foreign_weights_of_unknown_colours_are_refused(tmp_path, refused):
    write_weights(tmp_path / "face.ckpt", prefix="")
    with refused(ConfigError, f"weights={tmp_path / 'face.ckpt'}", "colour_order=bgr", "rgb"):
        new_model(from_weights(tmp_path / "face.ckpt"), [])
