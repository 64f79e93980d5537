import math

import pytest
import torch
from tiny_models import BACKBONES, DEPTH, GRID, HEADS, PREFIX, make_images, make_model

from dcal_core.explain.maps import (
    cls_attention,
    glca_attention,
    layers_of,
    pair_saliency,
    rollout_map,
    selection_map,
)
from dcal_core.models.attention import rows_block
from dcal_core.models.verifier import Features

each_backbone = pytest.mark.parametrize("kind", BACKBONES)


@torch.no_grad()
def encode(model, count=3):
    return model.encode(make_images(count), trace=True)


@each_backbone
def test_layers_come_first_to_last(kind):
    features = encode(make_model(kind))
    for name in "qkx":
        layers = layers_of(features, name)
        assert len(layers) == DEPTH
        assert all(layer is features.trace[f"{name}.{i}"] for i, layer in enumerate(layers))


@each_backbone
def test_maps_of_some_images_are_those_of_all(kind):
    model = make_model(kind)
    together = encode(model, count=4)
    with torch.no_grad():
        batches = [model.encode(images, trace=True) for images in make_images(4).split(2)]
    for features in (Features.cat(batches)[1:], together[1:]):
        torch.testing.assert_close(rollout_map(features, GRID), rollout_map(together, GRID)[1:])
        assert torch.equal(selection_map(features, GRID), selection_map(together, GRID)[1:])


def naive_weights(features, layer, image):
    """Attention weights of one image by the definition, [H, N, N]."""
    q, k = features.trace[f"q.{layer}"][image], features.trace[f"k.{layer}"][image]
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)


@each_backbone
@pytest.mark.parametrize("depth", [1, 2, None])
def test_rollout_map_is_the_cls_row_over_the_patches(kind, depth):
    features = encode(make_model(kind))
    maps = rollout_map(features, GRID, depth)
    assert maps.shape == (3, GRID, GRID) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    for b in range(3):
        product = torch.eye(PREFIX[kind] + GRID * GRID)
        for i in range(depth or DEPTH):
            S = naive_weights(features, i, b).mean(0)
            product = (0.5 * S + 0.5 * torch.eye(len(S))) @ product
        patches = product[0, PREFIX[kind] :]
        for row in range(GRID):
            for column in range(GRID):
                expected = float(patches[row * GRID + column] / patches.sum())
                assert float(maps[b, row, column]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("depth", [0, -1, DEPTH + 1])
def test_rollout_through_no_or_too_many_blocks_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth={depth}: give 1 to {DEPTH}"):
        rollout_map(encode(make_model()), GRID, depth)


@each_backbone
def test_cls_attention_is_the_first_row_of_every_block_and_head(kind):
    features = encode(make_model(kind))
    maps = cls_attention(features, GRID)
    assert maps.shape == (3, DEPTH, HEADS, GRID, GRID)
    for b in range(3):
        for layer in range(DEPTH):
            expected = naive_weights(features, layer, b)[:, 0, PREFIX[kind] :]
            torch.testing.assert_close(maps[b, layer].flatten(1), expected)


@each_backbone
def test_glca_attention_is_what_glca_did(kind):
    model = make_model(kind, glca_blocks=2)
    features = encode(model)
    _, rope = model.embed(make_images(1))
    weights = glca_attention(features)
    assert weights.shape == (3, 2, HEADS, 1 + model.selected, PREFIX[kind] + GRID * GRID)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    tokens, chosen = features.trace[f"x.{DEPTH - 1}"], features.trace["selected"]
    local = torch.cat([tokens[:, :1], tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))], 1)
    local_rope = None if rope is None else rope[chosen - PREFIX[kind]].unsqueeze(1)
    with torch.no_grad():
        for number, block in enumerate(model.glca):  # the weights, put to the values, give the block's own attention
            C = tokens.shape[-1]
            bias = block.attn.qkv.bias if kind != "dinov3" else None
            v_bias = bias[2 * C :] if bias is not None else getattr(block.attn, "v_bias", None)
            v = torch.nn.functional.linear(block.norm1(tokens), block.attn.qkv.weight[2 * C :], v_bias)
            mixed = weights[:, number] @ v.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            attended = block.attn.proj(block.attn.norm(mixed.transpose(1, 2).flatten(2)))
            scale = getattr(block, "gamma_1", None)
            after = local + (attended if scale is None else scale * attended)
            scale = getattr(block, "gamma_2", None)
            ffn = block.mlp(block.norm2(after))
            expected = after + (ffn if scale is None else scale * ffn)
            local, _, _ = rows_block(block, local, tokens, local_rope, rope)
            torch.testing.assert_close(local, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.glca_norm(local), features.trace["local"])


@pytest.mark.parametrize("make", [rollout_map, cls_attention, selection_map])
def test_features_without_a_trace_are_refused(make):
    with pytest.raises(ValueError, match="encode with trace=True"), torch.no_grad():
        make(make_model().encode(make_images(1)), GRID)


def test_a_model_without_glca_has_no_selection():
    model = make_model(glca_blocks=0)
    with pytest.raises(ValueError, match="the model has no GLCA"):
        glca_attention(encode(model))


def test_a_grid_of_more_patches_than_tokens_is_refused():
    with pytest.raises(ValueError, match="a grid of 5 x 5 does not fit 17 tokens"):
        rollout_map(encode(make_model()), 5)


@each_backbone
def test_selection_map_marks_what_was_selected(kind):
    model = make_model(kind)
    features = encode(model)
    maps = selection_map(features, GRID)
    assert maps.shape == (3, GRID, GRID)
    assert set(maps.unique().tolist()) == {0.0, 1.0}
    for b in range(3):
        marked = [PREFIX[kind] + row * GRID + column for row, column in maps[b].nonzero().tolist()]
        assert marked == sorted(features.trace["selected"][b].tolist())
        assert len(marked) == model.selected == 5


@each_backbone
def test_selected_patches_have_the_largest_rollout(kind):
    features = encode(make_model(kind))
    rollout, selected = rollout_map(features, GRID), selection_map(features, GRID).bool()
    for b in range(3):
        assert rollout[b][selected[b]].min() >= rollout[b][~selected[b]].max()


@each_backbone
def test_saliency_is_gradient_times_input_averaged_over_each_patch(kind):
    model, a, b = make_model(kind), make_images(2, seed=1), make_images(2, seed=2)
    maps = pair_saliency(model, a, b, GRID)
    for side, saliency in enumerate(maps):
        assert saliency.shape == (2, GRID, GRID)
        assert (saliency >= 0).all() and (saliency > 0).any()
        assert not saliency.requires_grad
        for pair in range(2):  # each pair by itself
            images = [x[pair : pair + 1].detach().clone().requires_grad_() for x in (a, b)]
            model.compare(model.encode(images[0]), model.encode(images[1])).sum().backward()
            x = images[side]
            weight = (x.grad * (x.detach() - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))).sum(1).abs()[0]
            for row in range(GRID):
                for column in range(GRID):
                    patch = weight[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                    assert float(saliency[pair, row, column]) == pytest.approx(float(patch.mean()), rel=1e-3, abs=1e-7)


def test_saliency_follows_its_image_when_the_pair_is_swapped():
    model, a, b = make_model(), make_images(3, seed=1), make_images(3, seed=2)
    first, second = pair_saliency(model, a, b, GRID)
    swapped_first, swapped_second = pair_saliency(model, b, a, GRID)
    torch.testing.assert_close(swapped_second, first, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(swapped_first, second, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(first, second)


def test_saliency_leaves_the_model_as_it_was():
    model = make_model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.vit.cls_token.grad = torch.full_like(model.vit.cls_token, 7.0)
    model.vit.norm.weight.requires_grad_(False)
    pair_saliency(model, make_images(2, seed=1), make_images(2, seed=2), GRID)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert (model.vit.cls_token.grad == 7).all()
    assert all(p.grad is None for name, p in model.named_parameters() if name != "vit.cls_token")
    assert [name for name, p in model.vit.named_parameters() if not p.requires_grad] == ["norm.weight"]


def test_saliency_needs_no_gradients_switched_on():
    model, a, b = make_model(), make_images(2, seed=1), make_images(2, seed=2)
    expected = pair_saliency(model, a.clone(), b.clone(), GRID)
    with torch.no_grad():
        maps = pair_saliency(model, a.clone(), b.clone(), GRID)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True))


def test_saliency_leaves_the_images_as_they_were():
    model, a, b = make_model(), make_images(2, seed=1), make_images(2, seed=2)
    given = a.clone()
    pair_saliency(model, a, b, GRID)
    assert torch.equal(a, given)
    assert not a.requires_grad and not b.requires_grad and a.grad is None


def test_saliency_of_an_image_with_itself_takes_the_two_sides_apart():
    model, a = make_model(), make_images(2)
    alone, copied = pair_saliency(model, a, a, GRID), pair_saliency(model, a, a.clone(), GRID)
    for side in range(2):
        torch.testing.assert_close(alone[side], copied[side], rtol=1e-3, atol=1e-7)


def test_saliency_of_bytes_is_that_of_their_shares_of_one():
    model = make_model()
    a, b = ((255 * make_images(2, seed)).to(torch.uint8) for seed in (1, 2))
    for ours, expected in zip(
        pair_saliency(model, a, b, GRID), pair_saliency(model, a.float() / 255, b.float() / 255, GRID), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-7)
