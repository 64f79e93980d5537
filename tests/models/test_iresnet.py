"""IResNet: the published layout to the name, and the numbers of a plain evaluation of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.models.iresnet import IResNet

PUBLISHED = {  # blocks of each stage, state keys, parameters in millions, as AdaFace publishes them
    18: ((2, 2, 2, 2), 179, 24.02),
    34: ((3, 4, 6, 3), 323, 34.13),
    50: ((3, 4, 14, 3), 467, 43.59),
    101: ((3, 13, 30, 3), 917, 65.15),
}
every_depth = pytest.mark.parametrize("depth", PUBLISHED)


def blocks_of(stages, width=64):
    """Channels in and out and stride of every block, from the published number of blocks of each stage."""
    found, before = [], width
    for stage, count in enumerate(stages):
        found += [(before if n == 0 else width << stage, width << stage, 2 if n == 0 else 1) for n in range(count)]
        before = width << stage
    return found


def norm_of(name, channels, affine=True):
    statistics = {"running_mean": (channels,), "running_var": (channels,), "num_batches_tracked": ()}
    weights = {"weight": (channels,), "bias": (channels,)} if affine else {}
    return {f"{name}.{key}": shape for key, shape in (weights | statistics).items()}


def published_layout(stages, width=64, embedding=512, side=7):
    """Names and shapes of an AdaFace backbone's state, from the published list of its layers."""
    layout = {"input_layer.0.weight": (width, 3, 3, 3), **norm_of("input_layer.1", width)}
    layout["input_layer.2.weight"] = (width,)
    for number, (before, channels, _) in enumerate(blocks_of(stages, width)):
        inside = f"body.{number}.res_layer"
        layout |= norm_of(f"{inside}.0", before) | {f"{inside}.1.weight": (channels, before, 3, 3)}
        layout |= norm_of(f"{inside}.2", channels) | {f"{inside}.3.weight": (channels,)}
        layout |= {f"{inside}.4.weight": (channels, channels, 3, 3)} | norm_of(f"{inside}.5", channels)
        if before != channels:
            beside = f"body.{number}.shortcut_layer"
            layout |= {f"{beside}.0.weight": (channels, before, 1, 1)} | norm_of(f"{beside}.1", channels)
    layout |= norm_of("output_layer.0", 8 * width)
    layout |= {"output_layer.3.weight": (embedding, 8 * width * side**2), "output_layer.3.bias": (embedding,)}
    return layout | norm_of("output_layer.4", embedding, affine=False)


def on_meta(depth, **options):
    with torch.device("meta"):
        return IResNet(depth, **options)


@every_depth
def test_names_and_shapes_are_the_published_ones(depth):
    stages, keys, millions = PUBLISHED[depth]
    model = on_meta(depth)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == published_layout(stages) and len(found) == keys
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    projected = [int(name.split(".")[1]) for name in found if name.endswith("shortcut_layer.0.weight")]
    assert projected == {18: [2, 4, 6], 34: [3, 7, 13], 50: [3, 7, 21], 101: [3, 16, 46]}[depth]


def test_names_stay_and_shapes_follow_another_width_size_and_embedding():
    found = {n: tuple(t.shape) for n, t in on_meta(18, width=8, image_size=64, embedding=32).state_dict().items()}
    assert found == published_layout((2, 2, 2, 2), width=8, embedding=32, side=4)
    assert found["output_layer.3.weight"] == (32, 1024)


def randomised(model):
    """A model on "meta" with random weights and statistics, every one of which shows in the result, in eval mode."""
    torch.manual_seed(0)
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1:
                nn.init.kaiming_uniform_(tensor)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("num_batches_tracked"):
                tensor.zero_()
            else:
                tensor.uniform_(-1, 1)
    return model


def plain_norm(state, name, x):
    """A batch norm by its formula, with the stored statistics."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, variance = (state[f"{name}.running_{which}"].view(shape) for which in ("mean", "var"))
    x = (x - mean) / (variance + 1e-5).sqrt()
    if f"{name}.weight" not in state:
        return x
    return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def plain_prelu(x, slope):
    return x.clamp(min=0) + slope.view(1, -1, 1, 1) * x.clamp(max=0)


def plain_forward(state, images, stages):
    """The map and the embedding by the published list of layers, of functions and tensors alone."""
    x = F.conv2d(images, state["input_layer.0.weight"], padding=1)
    x = plain_prelu(plain_norm(state, "input_layer.1", x), state["input_layer.2.weight"])
    for number, (before, channels, stride) in enumerate(blocks_of(stages, state["input_layer.2.weight"].numel())):
        inside, beside = f"body.{number}.res_layer", f"body.{number}.shortcut_layer"
        y = F.conv2d(plain_norm(state, f"{inside}.0", x), state[f"{inside}.1.weight"], padding=1)
        y = plain_prelu(plain_norm(state, f"{inside}.2", y), state[f"{inside}.3.weight"])
        y = plain_norm(state, f"{inside}.5", F.conv2d(y, state[f"{inside}.4.weight"], stride=stride, padding=1))
        x = x[:, :, ::stride, ::stride]
        if before != channels:
            projected = torch.einsum("oi,bihw->bohw", state[f"{beside}.0.weight"][:, :, 0, 0], x)
            x = plain_norm(state, f"{beside}.1", projected)
        x = x + y
    flat = plain_norm(state, "output_layer.0", x).reshape(len(x), -1)
    embedding = flat @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    return x, plain_norm(state, "output_layer.4", embedding)


def test_a_full_ir_50_gives_what_the_published_layers_give():
    model, images = randomised(on_meta(50)), torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, embedding = plain_forward(model.state_dict(), images, PUBLISHED[50][0])
        found = model(images)
    assert features.shape == (1, 512, 7, 7) and embedding.shape == (1, 512)
    torch.testing.assert_close(found, embedding, rtol=0, atol=1e-5 * embedding.abs().max().item())


@every_depth
def test_narrow_ones_of_another_size_do_too(depth):
    model = randomised(on_meta(depth, width=8, image_size=48, embedding=32)).double()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        features, embedding = plain_forward(model.state_dict(), images, PUBLISHED[depth][0])
        torch.testing.assert_close(model.features(images), features)
        torch.testing.assert_close(model(images), embedding)
    assert features.shape == (2, 64, 3, 3) and embedding.shape == (2, 32)


def test_dropout_stands_before_the_embedding_layer():
    model = IResNet(18, width=8, image_size=32, dropout=0.25)
    assert model.embedding_layer is model.output_layer[3]
    dropouts = [(name, m.p) for name, m in model.named_modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [("output_layer.1", 0.25)] and IResNet(18, width=8).output_layer[1].p == 0.4


@pytest.mark.parametrize(("depth", "size", "word"), [(20, 112, "depth=20"), (18, 100, "image_size=100")])
def test_other_depths_and_sizes_are_refused(depth, size, word):
    with pytest.raises(ValueError, match=word):
        IResNet(depth, width=8, image_size=size)
