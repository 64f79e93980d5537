import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dcal_core.models import dcal
from dcal_core.models.attention import attention_map, joint_block
from dcal_core.models.backbones import hybrid_tiny
from dcal_core.models.dcal import DCAL, unit_concat
from dcal_core.models.readouts import READOUTS, Readout
from dcal_core.models.verifier import Features

SIZE, PATCHES, WIDTH, DEPTH = 32, 16, 32, 3
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
DINOV3 = {"rope_type": "dinov3", "use_rot_pos_emb": True, "use_abs_pos_emb": False, "num_reg_tokens": 4}
EVA_BACKBONES = {
    "dinov3": {**DINOV3, "rope_rotate_half": True, "init_values": 1e-5, "qkv_bias": False, "dynamic_img_size": True},
    "dinov3, interleaved": {**DINOV3, "rope_rotate_half": False},
    "eva02": {"use_rot_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True},
}
BACKBONES = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 1e-5, "no_embed_class": True},  # as DINOv2
    "pre-norm": {"pre_norm": True},  # as CLIP
    "qk norm": {"qk_norm": True},
    "hybrid": None,
    "read by place": {"reg_tokens": 4},  # with the other readout
    **EVA_BACKBONES,
}
every_backbone = pytest.mark.parametrize("kind", BACKBONES)


def make_vit(kind="plain", depth=DEPTH, **rates):
    torch.manual_seed(0)
    if kind == "hybrid":
        return hybrid_tiny(SIZE, **rates)
    make = partial(Eva, global_pool="token") if kind in EVA_BACKBONES else VisionTransformer
    return make(
        img_size=SIZE,
        patch_size=8,
        embed_dim=WIDTH,
        depth=depth,
        num_heads=2,
        num_classes=0,
        **BACKBONES[kind],
        **rates,
    )


def make_model(kind="plain", *, depth=DEPTH, rates=None, **options):
    """A small DCAL in eval mode whose weights are large enough that every part shows in the result."""
    vit = make_vit(kind, depth, **(rates or {}))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    options = {"pwca_layers": range(depth), "readout": "tokens" if kind == "read by place" else "cls"} | options
    return DCAL(vit=vit, image_size=SIZE, mean=MEAN, std=STD, **options).eval()


def make_images(count, seed=1, size=SIZE):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def normalised(images):
    """As timm's own forward takes them."""
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def plain_block(block, x, rope):
    return block(x) if rope is None else block(x, rope=rope)


def plain_blocks(model, images):
    """The last tokens of timm's own blocks and the rotary positions, if any."""
    x, rope = model.embed(images)
    for block in model.vit.blocks:
        x = plain_block(block, x, rope)
    return x, rope


def weighted(embedding):
    """A sum that, unlike the plain one, batch norm cannot make constant."""
    return (embedding * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3))).sum()


# SA


@every_backbone
@torch.no_grad()
def test_sa_embedding_is_that_of_timms_own_forward(kind):
    model, images = make_model(kind), make_images(3)
    features = model.encode(images, trace=True)
    cls = features.parts["sa"][:, : model.vit.embed_dim]
    torch.testing.assert_close(cls, model.vit(normalised(images)), atol=1e-5, rtol=1e-5)
    tokens = model.vit.norm(features.trace[f"x.{DEPTH - 1}"])
    torch.testing.assert_close(tokens, model.vit.forward_features(normalised(images)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bytes_and_shares_of_one_are_the_same_image():
    model = make_model()
    images = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b = model.encode(images).parts, model.encode(images.float() / 255).parts
    for name in ("sa", "glca"):
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)


def make_ramps(height, width):
    """The same picture at any resolution: brighter to the right in red, downwards in green, to the corner in blue."""
    across = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    down = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    return torch.stack([across, down, across * down])[None]


@pytest.mark.parametrize("height, width", [(96, 96), (20, 20), (64, 48)])
@torch.no_grad()
def test_images_of_any_size_are_scaled_to_the_models(height, width):
    model = make_model()
    expected, _ = model.embed(make_ramps(SIZE, SIZE))
    torch.testing.assert_close(model.embed(make_ramps(height, width))[0], expected, atol=0.1, rtol=0)
    assert (model.embed(make_ramps(height, width).flip(-1))[0] - expected).abs().max() > 1


# PWCA


@every_backbone
@torch.no_grad()
def test_pwca_with_oneself_as_partner_is_sa(kind):
    model, images = make_model(kind), make_images(4)
    parts = model(images, torch.arange(4))
    torch.testing.assert_close(parts["pwca"], parts["sa"], atol=1e-5, rtol=1e-5)
    distracted = model(images, torch.tensor([1, 2, 3, 0]))
    for branch, undistracted in model(images).items():
        torch.testing.assert_close(distracted[branch], undistracted, atol=1e-5, rtol=1e-5)
    assert ((distracted["pwca"] - parts["sa"]).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("layers", [range(0, 3), range(0, 1), range(1, 2), range(1, 3), range(2, 3)])
@pytest.mark.parametrize("kind", ["plain", "dinov3", "read by place"])
@torch.no_grad()
def test_pwca_pairs_in_its_layers_and_only_there(kind, layers):
    model, images, partner = make_model(kind, pwca_layers=layers), make_images(3), torch.tensor([2, 0, 1])
    x, rope = model.embed(images)
    for i, block in enumerate(model.vit.blocks):
        # the partner's tokens are those of this depth, not of layer 0
        pair = joint_block(block, torch.cat([x, x]), rope, partner)[0][3:]
        x = pair if i in layers else plain_block(block, x, rope)
    x = model.vit.norm(x)
    expected = model.readout.whole(x[:, 0], x[:, model.vit.num_prefix_tokens :])
    torch.testing.assert_close(model(images, partner)["pwca"], expected, atol=1e-5, rtol=1e-5)


def test_partners_tokens_reach_pwca_and_no_other_branch():
    model, images = make_model(), make_images(3).requires_grad_()
    parts = model(images, torch.tensor([2, 0, 1]))
    for branch, seen in {"sa": [0], "glca": [0], "pwca": [0, 1, 2]}.items():
        (gradient,) = torch.autograd.grad(weighted(parts[branch][0]), images, retain_graph=True)
        # 0's partner is 2, whose own partner 1 has reached it one block earlier
        assert gradient.flatten(1).abs().amax(1).nonzero().flatten().tolist() == seen


# GLCA


@pytest.mark.parametrize("kind", ["plain", "registers", "qk norm", "hybrid", *EVA_BACKBONES])
@torch.no_grad()
def test_glca_of_all_patches_is_the_plain_block(kind):
    model, images = make_model(kind, local_ratio=1.0), make_images(3)
    again = model.vit.norm(plain_block(model.glca[0], *plain_blocks(model, images)))
    expected = torch.cat([again[:, 0], again[:, model.vit.num_prefix_tokens :].mean(1)], -1)
    features = model.encode(images, trace=True)
    assert features.trace["selected"].shape == (3, PATCHES)
    torch.testing.assert_close(features.parts["glca"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", EVA_BACKBONES)
@torch.no_grad()
def test_chosen_patches_ask_from_their_own_places(kind):
    model, images = make_model(kind, local_ratio=0.2), make_images(3)
    tokens, rope = plain_blocks(model, images)
    prefix = model.vit.num_prefix_tokens
    chosen = prefix + torch.stack([torch.randperm(PATCHES)[: model.selected] for _ in range(3)])  # others in each image
    local, _ = model.global_local(tokens, chosen, rope)
    again = model.vit.norm(plain_block(model.glca[0], tokens, rope))
    for b in range(3):
        torch.testing.assert_close(local[b], again[b, [0, *chosen[b].tolist()]], atol=1e-4, rtol=1e-4)
    moved, _ = model.global_local(tokens, chosen, rope.roll(1, 0))  # all patches one place on, as from another image
    assert ((moved - local).abs().amax((0, 2)) > 1e-3).all()


@torch.no_grad()
def test_selected_patches_are_put_back_among_the_others():
    readout = Readout(width=4, patches=6, whole="place", local="place")
    assert readout.whole_width == readout.local_width == 8
    cls, chosen, places = torch.randn(2, 4), torch.randn(2, 3, 4), torch.tensor([[5, 0, 2], [1, 4, 3]])
    patches = torch.randn(2, 6, 4)
    embedding = readout.local(cls, chosen, places, patches)
    reduce, _, join = readout.local_places.read
    for b in range(2):
        rows = patches[b].clone()
        for token, place in zip(chosen[b], places[b].tolist(), strict=True):
            rows[place] = token
        expected = torch.cat([cls[b], join(torch.cat([reduce(row) for row in rows]))])
        torch.testing.assert_close(embedding[b], expected)
    order = torch.tensor([2, 0, 1])  # in which order they were selected is no matter, where they were is
    torch.testing.assert_close(readout.local(cls, chosen[:, order], places[:, order], patches), embedding)
    assert not torch.allclose(readout.local(cls, chosen[:, order], places, patches), embedding)


@pytest.mark.parametrize("ratio", [0.3, 1.0])
@pytest.mark.parametrize("readout", ["tokens", "local_tokens"])
@torch.no_grad()
def test_readout_by_place_gets_the_patches_of_its_branch(ratio, readout):
    model, images = make_model("read by place", local_ratio=ratio, readout=readout), make_images(2)
    features = model.encode(images, trace=True)
    tokens, _ = plain_blocks(model, images)
    prefix, close = model.vit.num_prefix_tokens, {"atol": 1e-5, "rtol": 1e-5}
    patches = model.vit.norm(tokens)[:, prefix:]
    torch.testing.assert_close(features.parts["sa"][:, :WIDTH], model.vit.norm(tokens)[:, 0], **close)
    if readout == "tokens":
        torch.testing.assert_close(features.parts["sa"][:, WIDTH:], model.readout.whole_places(patches), **close)
    again = model.vit.norm(model.glca[0](tokens))[:, prefix:]
    for b, row in enumerate(features.trace["selected"].tolist()):
        for n in row:
            patches[b, n - prefix] = again[b, n - prefix]
    torch.testing.assert_close(features.parts["glca"][:, WIDTH:], model.readout.local_places(patches), **close)


@pytest.mark.parametrize("kind", ["plain", "registers", "read by place", *EVA_BACKBONES])
@torch.no_grad()
def test_what_is_selected_changes_glca_but_not_its_cls_token(monkeypatch, kind):
    model, images = make_model(kind), make_images(3)
    prefix = model.vit.num_prefix_tokens
    before = model.encode(images, trace=True)
    others = [[n for n in range(prefix, prefix + PATCHES) if n not in row] for row in before.trace["selected"].tolist()]
    others = torch.tensor(others)[:, : model.selected]
    monkeypatch.setattr(model, "select", lambda maps: others)
    after = model.encode(images, trace=True)
    assert ((before.parts["glca"] - after.parts["glca"]).abs().amax(1) > 1e-3).all()
    # The trap: each query row goes through attention and FFN alone, so a read-out at CLS would not see the selection.
    torch.testing.assert_close(before.trace["local"][:, 0], after.trace["local"][:, 0], atol=1e-5, rtol=1e-5)


@every_backbone
@torch.no_grad()
def test_selected_are_the_patches_that_rollout_ranks_highest(kind):
    model = make_model(kind)
    trace = model.encode(make_images(3), trace=True).trace
    prefix = model.vit.num_prefix_tokens
    for b in range(3):
        product = torch.eye(prefix + PATCHES)
        for i in range(DEPTH):
            q, k = trace[f"q.{i}"][b], trace[f"k.{i}"][b]  # [H, N, d]
            S = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1).mean(0)
            product = (0.5 * S + 0.5 * torch.eye(len(S))) @ product
        best = sorted(range(prefix, prefix + PATCHES), key=lambda n: -product[0, n])[: model.selected]
        assert sorted(trace["selected"][b].tolist()) == sorted(best)


@pytest.mark.parametrize("kind", ["plain", "registers", "dinov3"])
def test_prefix_tokens_are_never_selected_however_much_attention_they_get(kind):
    model = make_model(kind, local_ratio=0.2)
    prefix = model.vit.num_prefix_tokens
    assert prefix == (1 if kind == "plain" else 5) and model.selected == 4
    wanted = [prefix + 3, prefix + 7, prefix + 8, prefix + 15]
    q, k = torch.ones(1, 2, prefix + PATCHES, 16), torch.zeros(1, 2, prefix + PATCHES, 16)
    k[:, :, :prefix] = 2.0
    k[:, :, wanted] = 0.5
    chosen = model.select([attention_map(q, k)] * DEPTH)
    assert sorted(chosen[0].tolist()) == wanted


@pytest.mark.parametrize("ratio, selected", [(0.0, 1), (0.01, 1), (0.1, 2), (0.3, 5), (0.5, 8), (1.0, 16)])
def test_share_of_selected_patches(ratio, selected):
    model = make_model(local_ratio=ratio)
    chosen = model.encode(make_images(2), trace=True).trace["selected"]
    assert chosen.shape == (2, selected)
    assert all(len(set(row)) == selected for row in chosen.tolist())


# Branches


@pytest.mark.parametrize("glca_blocks", [0, 1, 2])
@pytest.mark.parametrize("layers", [range(0), range(DEPTH), range(1, 2)])
@pytest.mark.parametrize("kind", ["plain", "registers", "hybrid", "read by place", *EVA_BACKBONES])
def test_branches_that_run_and_teach_all_parameters(kind, glca_blocks, layers):
    model = make_model(kind, glca_blocks=glca_blocks, pwca_layers=layers).train()
    glca, pwca = ["glca"] * bool(glca_blocks), ["pwca"] * bool(layers)
    images, partner = make_images(4), torch.tensor([1, 0, 3, 2])
    assert list(model(images)) == ["sa", *glca]
    parts = model(images, partner)
    assert list(parts) == ["sa", *glca, *pwca]
    assert model.widths == {branch: part.shape[1] for branch, part in parts.items()}
    assert list(model.encode(images).parts) == ["sa", *glca]
    sum(weighted(part) for part in parts.values()).backward()
    unused = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert unused == set()


@torch.no_grad()
def test_several_glca_blocks_follow_one_another():
    model, images = make_model(glca_blocks=2, local_ratio=1.0), make_images(2)
    nn.init.normal_(model.glca[1].mlp.fc1.weight)  # not the same block twice
    tokens, _ = plain_blocks(model, images)
    once = model.glca[0](tokens)
    features = model.encode(images, trace=True)
    rows = torch.cat([torch.zeros(2, 1, dtype=torch.long), features.trace["selected"]], 1)
    # the second block asks the same global tokens with what the first has made of the local ones
    from_once = once.gather(1, rows.unsqueeze(-1).expand(-1, -1, WIDTH))
    block, heads = model.glca[1], model.glca[1].attn.num_heads
    q = block.attn.qkv(block.norm1(from_once)).unflatten(-1, (3, heads, -1))[:, :, 0].transpose(1, 2)
    k, v = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, heads, -1))[:, :, 1:].permute(2, 0, 3, 1, 4)
    attended = torch.softmax(q @ k.mT / math.sqrt(WIDTH / heads), -1) @ v
    twice = from_once + block.attn.proj(attended.transpose(1, 2).flatten(2))
    twice = model.vit.norm(twice + block.mlp(block.norm2(twice)))
    expected = torch.cat([twice[:, 0], twice[:, 1:].mean(1)], -1)
    torch.testing.assert_close(features.parts["glca"], expected, atol=1e-4, rtol=1e-4)


@every_backbone
@pytest.mark.parametrize("branch", ["sa", "glca", "pwca"])
def test_each_branch_alone_teaches_the_backbone(kind, branch):
    model = make_model(kind).train()
    weighted(model(make_images(4), torch.tensor([1, 0, 3, 2]))[branch]).backward()
    for name, parameter in model.vit.named_parameters():
        if name.startswith(("patch_embed", "blocks", "pos_embed")) and parameter.ndim > 1:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    reached = [p.grad is not None for p in model.glca.parameters()]
    assert all(reached) if branch == "glca" else not any(reached)


RATES = {"drop_path_rate": 0.3, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}


def learn(model, partner):
    """The loss of one training step and the gradients that it leaves, with what is drawn at random drawn alike."""
    torch.manual_seed(7)
    loss = sum(weighted(part) for part in model(make_images(4), partner).values())
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(ours, expected):
    """Two losses with their gradients, each gradient compared at its own size."""
    torch.testing.assert_close(ours[0], expected[0], atol=1e-4, rtol=1e-5)
    assert ours[1].keys() == expected[1].keys() and len(expected[1]) > 25
    for name, gradient in expected[1].items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(ours[1][name], gradient, atol=1e-5 * max(size, 1), rtol=1e-5, msg=name)


@pytest.mark.parametrize("rates", [{}, RATES], ids=["undropped", "dropout"])
@pytest.mark.parametrize("partner", [None, torch.tensor([1, 0, 3, 2])])
@pytest.mark.parametrize("kind", ["plain", "dinov3"])
def test_gradient_checkpointing_changes_no_gradient(kind, partner, rates):
    plain, checkpointed = (
        learn(make_model(kind, rates=rates, gradient_checkpointing=checkpointing).train(), partner)
        for checkpointing in (False, True)
    )
    assert_alike(checkpointed, plain)
    if rates:
        assert not torch.allclose(plain[0], learn(make_model(kind).train(), partner)[0])  # something was dropped


def test_gradient_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for checkpointing in (False, True):
        model, sizes = make_model(gradient_checkpointing=checkpointing).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(make_images(4), torch.tensor([1, 0, 3, 2]))
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("kind, depth, backend", [("plain", 2, "aot_eager"), ("dinov3", 1, "eager")])
def test_compiling_changes_no_gradient(kind, depth, backend):
    # as one graph; the default backend would take a minute to make kernels of it
    torch.compiler.reset()
    model, compiled = (make_model(kind, depth=depth, pwca_layers=range(depth - 1, depth)).train() for _ in range(2))
    compiled.compile(backend=backend, fullgraph=True)
    partner = torch.tensor([1, 0, 3, 2])
    assert_alike(learn(compiled, partner), learn(model, partner))


def test_a_copy_of_a_compiled_model_runs_its_own_weights():
    torch.compiler.reset()
    runs = []

    def backend(graph, inputs):
        runs.append(graph)
        return graph.forward

    model, images = make_model(depth=1), make_images(2)
    model.compile(backend=backend)
    with torch.no_grad():
        before = model(images)
        twin = copy.deepcopy(model)
        twin.vit.cls_token.add_(1.0)
        expected = make_model(depth=1)
        expected.vit.cls_token.add_(1.0)
        assert runs and not torch.allclose(expected(images)["sa"], before["sa"])
        for branch, part in expected(images).items():
            torch.testing.assert_close(twin(images)[branch], part)
            assert torch.equal(model(images)[branch], before[branch])


@pytest.mark.parametrize("kind", ["plain", "hybrid", "dinov3"])
@torch.no_grad()
def test_memory_layout_changes_no_embedding(kind):
    model, images, partner = make_model(kind).train(), make_images(4), torch.tensor([1, 0, 3, 2])
    expected = model(images, partner)
    laid_out = make_model(kind).train().to(memory_format=torch.channels_last)
    kernels = [p for p in laid_out.parameters() if p.ndim == 4]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        for branch, part in laid_out(given, partner).items():
            torch.testing.assert_close(part, expected[branch], atol=1e-3, rtol=1e-3)  # norms of 4 images


# Encoding and comparing


@every_backbone
@torch.no_grad()
def test_an_image_is_encoded_the_same_whatever_else_is_in_the_batch(kind):
    model, images = make_model(kind), make_images(5)
    together = model.encode(images, trace=True)
    for i in range(5):
        alone = model.encode(images[i : i + 1], trace=True)
        for name, part in alone.parts.items():
            torch.testing.assert_close(together.parts[name][i], part[0], atol=1e-5, rtol=1e-5)
        assert set(together.trace["selected"][i].tolist()) == set(alone.trace["selected"][0].tolist())


@torch.no_grad()
def test_encoding_is_deterministic():
    model = make_model(rates={"drop_path_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5})
    first, second = model.encode(make_images(4)), model.encode(make_images(4))
    assert all(torch.equal(first.parts[name], second.parts[name]) for name in ("sa", "glca"))


@every_backbone
@torch.no_grad()
def test_trace_names_every_intermediate(kind):
    model, images = make_model(kind), make_images(2)
    assert model.encode(images).trace == {}
    *_, maps, kept = model.run_blocks(*model.embed(images), partner=None, trace=False)
    assert kept == {} and [len(rows[0]) for rows in maps] == [len(maps[0][0])] * (DEPTH - 1) + [1]
    features = model.encode(images, trace=True)
    blocks = {f"{name}.{i}" for name in ("q", "k", "x", "map") for i in range(DEPTH)}
    by_place = {"place.sa", "place.glca"} if kind == "read by place" else set()
    assert set(features.trace) == blocks | {"selected", "local", "glca.0"} | by_place
    tokens, heads = model.vit.num_prefix_tokens + PATCHES, model.vit.blocks[0].attn.num_heads
    assert features.trace["q.0"].shape == (2, heads, tokens, model.vit.embed_dim // heads)
    assert features.trace["local"].shape == (2, 1 + model.selected, model.vit.embed_dim)
    assert features.trace["glca.0"].shape == (2, heads, 1 + model.selected, tokens)
    x, rope = model.embed(images)
    for i, block in enumerate(model.vit.blocks):
        x = plain_block(block, x, rope)
        torch.testing.assert_close(features.trace[f"x.{i}"], x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@torch.no_grad()
def test_scores_are_the_mean_cosine_of_the_branches(similarity):
    model = make_model(similarity=similarity)
    a, b = model.encode(make_images(3, seed=1)), model.encode(make_images(2, seed=2))
    scores = model.compare(a, b)
    assert scores.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            cosines = [
                float(a.parts[name][i] @ b.parts[name][j] / a.parts[name][i].norm() / b.parts[name][j].norm())
                for name in ("sa", "glca")
            ]
            mean = sum(cosines) / 2
            expected = mean if similarity == "cosine" else -math.sqrt(2 - 2 * mean)
            assert float(scores[i, j]) == pytest.approx(expected, abs=1e-4)
    same = model.compare(a, a).diagonal()
    torch.testing.assert_close(same, torch.full((3,), 1.0 if similarity == "cosine" else 0.0), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "read by place"])
@torch.no_grad()
def test_learned_scores_are_those_of_unit_vectors_of_the_encoded_branches(kind):
    model = make_model(kind, similarity="learned", temperature=0.5)
    nn.init.normal_(model.similarity.key.weight)
    assert list(model.widths) == ["sa", "glca", "pwca"]
    assert model.similarity.query.in_features == model.widths["sa"] + model.widths["glca"]  # none for PWCA
    assert model.similarity.temperature == 0.5
    a, b = model.encode(make_images(3, seed=1)), model.encode(make_images(2, seed=2))
    units = [torch.cat([F.normalize(x.parts[n], dim=1) for n in ("sa", "glca")], 1) / math.sqrt(2) for x in (a, b)]
    scores = model.compare(a, b)
    assert scores.shape == (3, 2)
    torch.testing.assert_close(scores, model.similarity(*units))
    torch.testing.assert_close(model.compare(b, a), scores.T)
    torch.testing.assert_close(model.compare(a, a).diagonal(), torch.ones(3))
    longer = Features({name: 7 * part for name, part in a.parts.items()})
    torch.testing.assert_close(model.compare(longer, b), scores)


def test_branches_weigh_the_same_whatever_their_length_and_width():
    torch.manual_seed(0)
    sa, glca = torch.randn(4, 8), torch.randn(4, 16)
    joined = unit_concat({"sa": sa, "glca": glca})
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(joined, unit_concat({"sa": 100 * sa, "glca": 0.01 * glca}))
    torch.testing.assert_close(joined[:, :8].norm(dim=1), joined[:, 8:].norm(dim=1))


# Weights


@every_backbone
def test_construction_leaves_the_backbone_as_it_came(kind):
    vit = make_vit(kind)
    given = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    model = DCAL(vit=vit, image_size=SIZE, mean=MEAN, std=STD, glca_blocks=2, pwca_layers=range(DEPTH))
    kept = model.vit.state_dict()
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in given)
    for block in model.glca:  # starts as the last block, but learns on its own
        for own, last in zip(block.parameters(), vit.blocks[-1].parameters(), strict=True):
            assert torch.equal(own, last) and own.data_ptr() != last.data_ptr()
    assert torch.equal(model.glca_norm.weight, vit.norm.weight) and model.glca_norm is not vit.norm


def test_necks_are_separate_and_never_shift():
    model = make_model().train()
    assert list(model.necks) == ["sa", "glca", "pwca"]
    parts = model(make_images(6), torch.tensor([1, 0, 3, 2, 5, 4]))
    for branch, part in parts.items():
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), atol=1e-5, rtol=0)
        assert not model.necks[branch].bias.requires_grad and model.necks[branch].weight.requires_grad
    assert not torch.equal(model.necks["sa"].running_mean, model.necks["pwca"].running_mean)


@pytest.mark.parametrize("readout", READOUTS)
def test_without_necks_embeddings_are_the_readouts(readout):
    model = make_model("registers", neck="none", readout=readout).train()
    assert not [name for name in model.state_dict() if "neck" in name]
    images, partner = make_images(4), torch.tensor([1, 0, 3, 2])
    parts, (read, _) = model(images, partner), model.branches(images, partner)
    assert parts.keys() == read.keys() == {"sa", "glca", "pwca"}
    assert all(torch.equal(parts[branch], part) for branch, part in read.items())
    for branch, part in model.eval().encode(images).parts.items():  # there are no statistics of the batch
        torch.testing.assert_close(part, parts[branch], atol=1e-5, rtol=1e-5)


def test_necks_see_the_images_of_all_processes(monkeypatch):
    model, partner = make_model().train(), torch.tensor([1, 0, 3, 2])
    first, second = (model.branches(make_images(4, seed), partner)[0] for seed in (1, 2))
    others = iter(second.values())
    monkeypatch.setattr(dcal, "gather", lambda part: torch.cat([part, next(others)]))
    for branch, part in model(make_images(4, seed=1), partner).items():
        together = torch.cat([first[branch], second[branch]])
        expected = F.batch_norm(together, None, None, training=True)
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)
    assert len(model.encode(make_images(4)).parts["sa"]) == 4  # evaluation gathers for itself


# Depths


@pytest.mark.parametrize("glca_blocks", [0, 2])
@every_backbone
def test_depths_are_counted_from_the_last_block(kind, glca_blocks):
    model = make_model(kind, glca_blocks=glca_blocks, similarity="learned")
    depths = model.pretrained_depths()
    pretrained = {name for name, _ in model.named_parameters() if name.startswith(("vit.", "glca"))}
    assert set(depths) == pretrained  # no readout, neck or similarity
    for name, depth in depths.items():
        part, _, rest = name.removeprefix("vit.").partition(".")
        if part == "blocks":
            assert depth == DEPTH - 1 - int(rest.split(".")[0]), name
        elif name.startswith("glca") or part == "norm":
            assert depth == 0, name
        else:  # what comes before the first block
            assert part in ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
            assert depth == DEPTH, name


@pytest.mark.parametrize("make", [Eva, VisionTransformer])
def test_the_last_norm_is_used_wherever_timm_puts_it(make):
    vit = make(img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0, global_pool="avg")
    assert isinstance(vit.fc_norm, nn.LayerNorm)  # behind timm's own pooling
    model = DCAL(vit=vit, image_size=SIZE, mean=MEAN, std=STD).eval()
    assert model.norm is vit.fc_norm and isinstance(model.glca_norm, nn.LayerNorm)
    nn.init.constant_(vit.fc_norm.weight, 3.0)
    features = model.encode(torch.rand(2, 3, SIZE, SIZE), trace=True)
    expected = vit.fc_norm(features.trace[f"x.{DEPTH - 1}"])[:, 0]
    torch.testing.assert_close(features.parts["sa"], model.necks["sa"](expected))
    depths = model.pretrained_depths()
    assert [depths[f"vit.blocks.{i}.norm1.weight"] for i in range(DEPTH)] == [2, 1, 0]
    assert depths["vit.cls_token"] == DEPTH and depths["vit.fc_norm.weight"] == depths["glca.0.norm1.weight"] == 0


# Features


def test_features_are_taken_joined_and_moved_as_a_batch():
    rows = torch.arange(6).view(6, 1)
    features = Features({"sa": rows, "glca": 10 * rows}, {"selected": 100 * rows})
    assert len(features) == 6
    for index in (slice(1, 3), torch.tensor([5, 0]), torch.arange(6) > 3):
        taken = features[index]
        assert torch.equal(taken.parts["sa"], rows[index]) and torch.equal(taken.parts["glca"], 10 * rows[index])
        assert torch.equal(taken.trace["selected"], 100 * rows[index])
    joined = Features.cat(features[i : i + 2] for i in (0, 2, 4))
    assert torch.equal(joined.parts["glca"], 10 * rows) and torch.equal(joined.trace["selected"], 100 * rows)
    moved = features.to("meta")
    assert moved.parts["sa"].device.type == moved.trace["selected"].device.type == "meta"
