import pytest
import torch
import torch.nn.functional as F
from tiny_models import BACKBONES, GRID, PREFIX, SIZE, Brightness, make_images, make_model

from dcal_core.explain.pair_maps import (
    encode_pairs,
    local_mean,
    match_map,
    matches,
    place_map,
    place_parts,
    tells_apart,
    windows,
)

PATCH = SIZE // GRID
each_backbone = pytest.mark.parametrize("kind", BACKBONES)


def make_pairs(model, count=2, grid=GRID):
    return encode_pairs(model, make_images(count, seed=1), make_images(count, seed=2), grid)


def test_local_mean_is_the_mean_of_the_window_inside_the_face():
    faces = make_images(1)
    means, reach = local_mean(faces, GRID), 6  # 0.75 patches of 8 pixels
    for y, x in [(0, 0), (3, 17), (16, 16), (31, 9)]:
        window = faces[0, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        torch.testing.assert_close(means[0, :, y, x], window.mean((1, 2)))


def test_windows_reach_a_quarter_patch_into_the_neighbours():
    masks = windows(SIZE, GRID)
    assert masks.shape == (GRID * GRID, 1, SIZE, SIZE)
    first, inner = masks[0, 0], masks[5, 0]  # rows and columns 1 of patches: pixels 8 to 16
    assert first.sum() == 10 * 10 and first[:10, :10].all()
    assert inner.sum() == 12 * 12 and inner[6:18, 6:18].all()
    assert windows(2 * SIZE, GRID)[5].sum() == 24 * 24


def test_first_order_map_is_exact_where_the_model_is_linear():
    model, a, b = Brightness(), make_images(2, seed=1), make_images(2, seed=2)
    pairs = encode_pairs(model, a, b, GRID)
    maps = pairs.distinctive
    assert maps.shape == (2, 2, GRID, GRID)
    torch.testing.assert_close(maps, tells_apart(pairs, *pairs.occluded), rtol=1e-4, atol=1e-5)
    for side, (face, other) in enumerate(((a, b), (b, a))):
        e, o = (model.encode(x).parts["patches"].unflatten(1, (GRID, GRID)) for x in (face, other))
        alike = ((e * o).sum((1, 2)) / (e * e).sum((1, 2))).clamp(0, 1)
        weight = (e - alike[:, None, None] ** 4 * o) / (3 * PATCH**2)  # of each value of a patch
        weight = weight.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)  # [B, S, S]
        effect = (face - local_mean(face, GRID)).sum(1) * weight
        expected = effect[:, 6:18, 14:26].sum((1, 2))  # the window of patch (1, 2)
        torch.testing.assert_close(maps[side, :, 1, 2], expected, rtol=1e-4, atol=1e-5)


@each_backbone
def test_first_order_map_is_the_gradient_half_way_times_the_change_in_each_window(kind):
    model, a, b = make_model(kind), make_images(2, seed=1), make_images(2, seed=2)
    maps = encode_pairs(model, a, b, GRID).distinctive
    for side, (faces, others) in enumerate(((a, b), (b, a))):
        for pair in range(2):
            face, other = faces[pair : pair + 1], others[pair : pair + 1]
            gone = local_mean(face, GRID)
            halfway = ((face + gone) / 2).requires_grad_()
            with torch.no_grad():
                x, y = model.encode(face), model.encode(other)
                alike = model.compare(x, y).clamp(min=0)  # a cosine: 1 with itself
            seen = model.encode(halfway)
            (gradient,) = torch.autograd.grad(
                (model.compare(seen, x) - alike**4 * model.compare(seen, y)).sum(), halfway
            )
            effect = (gradient * (face - gone)).sum((0, 1))  # [S, S]
            expected = (windows(SIZE, GRID)[:, 0] * effect).sum((1, 2)).view(GRID, GRID)
            torch.testing.assert_close(maps[side, pair], expected, rtol=1e-3, atol=1e-6)


def test_a_bright_mark_that_one_face_has_tells_it_apart():
    a = torch.full((1, 3, SIZE, SIZE), 0.1)
    b = a.clone()
    a[..., 8:16, 16:24] = 1.0  # patch (1, 2)
    pairs = encode_pairs(Brightness(), a, b, GRID)
    for maps in (pairs.distinctive, tells_apart(pairs, *pairs.occluded)):
        assert maps[0, 0].argmax() == 1 * GRID + 2
        torch.testing.assert_close(maps[1], torch.zeros(1, GRID, GRID), atol=1e-6, rtol=0)  # b is the same everywhere


def test_faces_that_are_the_same_have_nothing_that_tells_them_apart():
    faces = make_images(2)
    pairs = encode_pairs(make_model(), faces, faces, GRID)
    own, shared = pairs.occluded
    torch.testing.assert_close(pairs.alike, torch.ones(4))
    torch.testing.assert_close(own, shared)
    for maps in (pairs.distinctive, tells_apart(pairs, own, shared)):
        torch.testing.assert_close(maps, torch.zeros(2, 2, GRID, GRID), atol=1e-5, rtol=0)


def test_opposite_faces_share_nothing():
    pairs = encode_pairs(Brightness(), make_images(2), -make_images(2), GRID)
    assert (pairs.alike == 0).all()
    own, shared = pairs.occluded
    assert torch.equal(tells_apart(pairs, own, shared), own)


def test_of_distances_all_that_makes_faces_alike_is_taken_off():
    pairs = make_pairs(make_model(similarity="euclidean"))
    torch.testing.assert_close(pairs.alike, torch.ones(4))


@each_backbone
def test_occlusion_is_what_the_scores_lose_window_by_window(kind):
    model, a, b = make_model(kind), make_images(2, seed=1), make_images(2, seed=2)
    own, shared = encode_pairs(model, a, b, GRID).occluded
    for side, (face, other) in enumerate(((a, b), (b, a))):
        for row, column in [(0, 0), (1, 2), (3, 3)]:
            rows, columns = (slice(max(0, 8 * i - 2), 8 * i + 10) for i in (row, column))
            covered = face.clone()
            covered[:, :, rows, columns] = local_mean(face, GRID)[:, :, rows, columns]
            with torch.no_grad():
                x, y, z = (model.encode(faces) for faces in (face, other, covered))
                for maps, to in ((own, x), (shared, y)):
                    expected = (model.compare(x, to) - model.compare(z, to)).diagonal()
                    torch.testing.assert_close(maps[side, :, row, column], expected, rtol=1e-3, atol=1e-5)


@each_backbone
@pytest.mark.parametrize("name", ["distinctive", "occluded"])
def test_each_pair_is_by_itself_and_swapping_swaps_the_maps(kind, name):
    model, a, b = make_model(kind), make_images(3, seed=1), make_images(3, seed=2)
    together, swapped, alone = (
        getattr(encode_pairs(model, x, y, GRID), name) for x, y in ((a, b), (b, a), (a[1:2], b[1:2]))
    )
    together, swapped, alone = (maps if name == "distinctive" else maps[1] for maps in (together, swapped, alone))
    torch.testing.assert_close(swapped, together.flip(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(alone, together[:, 1:2], rtol=1e-3, atol=1e-6)


def test_maps_are_drawn_on_any_grid_and_in_inference_mode():
    model = make_model()
    with torch.inference_mode():
        pairs = encode_pairs(model, make_images(1), make_images(1, seed=2), 7)
        assert pairs.distinctive.shape == pairs.occluded[0].shape == (2, 1, 7, 7)
        assert pairs.distinctive.abs().sum() > 0


def test_bytes_are_shares_of_one():
    model, (a, b) = make_model(), ((255 * make_images(2, seed)).to(torch.uint8) for seed in (1, 2))
    ours, expected = encode_pairs(model, a, b, GRID), encode_pairs(model, a / 255, b / 255, GRID)
    torch.testing.assert_close(ours.distinctive, expected.distinctive)


def test_model_and_images_are_left_as_they_were():
    model, a, b = make_model(readout="tokens"), make_images(2, seed=1), make_images(2, seed=2)
    state, given = {name: tensor.clone() for name, tensor in model.state_dict().items()}, a.clone()
    model.vit.norm.weight.requires_grad_(False)
    pairs = encode_pairs(model, a, b, GRID)
    results = (pairs.distinctive, *pairs.occluded, place_map(pairs), match_map(pairs))
    assert not any(maps.requires_grad for maps in results)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [name for name, p in model.vit.named_parameters() if not p.requires_grad] == ["norm.weight"]
    assert torch.equal(a, given) and not a.requires_grad


@pytest.mark.parametrize("neck", ["bn", "none"])
@pytest.mark.parametrize("readout", ["tokens", "local_tokens"])
@each_backbone
def test_places_and_the_rest_add_up_to_the_score(kind, readout, neck):
    model = make_model(kind, readout=readout, neck=neck)
    pairs = make_pairs(model)
    maps, parts = place_map(pairs), pairs.features.parts
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        placed = place_parts(pairs.features)
        assert list(placed) == (["sa", "glca"] if readout == "tokens" else ["glca"])
        rest = torch.zeros(2)
        for branch in parts:
            unit = F.normalize(parts[branch], dim=-1)
            apart = (unit[:2] - unit[2:]) ** 2
            rest -= apart.sum(1) / 4
            if branch in placed:  # what CLS and constants leave over
                half = placed[branch].shape[-1]
                sums = placed[branch].sum(1)
                rest += ((unit[:2] - unit[2:])[:, -half:] * (sums[:2] - sums[2:])).sum(1) / 4
        score = model.compare(pairs.features[:2], pairs.features[2:]).diagonal()
    torch.testing.assert_close(1 + maps[0].sum((1, 2)) + rest, score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readout", ["tokens", "local_tokens"])
@each_backbone
def test_what_a_place_puts_into_the_embedding_is_what_changes_without_it(kind, readout):
    model = make_model(kind, readout=readout)
    pairs = make_pairs(model)
    with torch.no_grad():
        parts = place_parts(pairs.features)["glca"]
        cls, patches = model.last_tokens(pairs.features.trace["x.2"])
        local, places = pairs.features.trace["local"], pairs.features.trace["selected"] - PREFIX[kind]
        whole = model.readout.local(local[:, 0], local[:, 1:], places, patches)
        torch.testing.assert_close(model.necks["glca"](whole), pairs.features.parts["glca"])
        reduce, flatten, spread = model.readout.local_places.read
        reduced = reduce(patches.scatter(1, places[..., None].expand_as(local[:, 1:]), local[:, 1:]))
        for place in (0, 7, 15):
            without = reduced.clone()
            without[:, place] = 0
            left = torch.cat([local[:, 0], spread(flatten(without))], -1)
            change = pairs.features.parts["glca"] - model.necks["glca"](left)
            expected = change[:, -parts.shape[-1] :] / pairs.features.parts["glca"].norm(dim=-1, keepdim=True)
            torch.testing.assert_close(parts[:, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"readout": "cls"}, {"readout": "tokens", "similarity": "learned"}])
def test_a_score_that_is_not_a_sum_over_places_is_refused(options):
    pairs = make_pairs(make_model(**options))
    assert place_parts(pairs.features) == {}
    with pytest.raises(ValueError, match="no parts by place"):
        place_map(pairs)


def test_a_model_without_readouts_has_no_parts_by_place():
    assert place_parts(make_pairs(Brightness()).features) == {}


@each_backbone
@pytest.mark.parametrize("window", [0, 1, 4])
def test_match_is_the_best_cosine_within_the_window(kind, window):
    pairs = make_pairs(make_model(kind))
    best, where = matches(pairs, window)
    tokens = pairs.features.trace["x.2"][:, PREFIX[kind] :]
    tokens = tokens - tokens.mean(1, keepdim=True)
    for face, other in ((0, 2), (3, 1)):
        for place in range(GRID * GRID):
            row, column = divmod(place, GRID)
            near = {
                r * GRID + c: F.cosine_similarity(tokens[face, place], tokens[other, r * GRID + c], dim=0)
                for r in range(max(0, row - window), min(GRID, row + window + 1))
                for c in range(max(0, column - window), min(GRID, column + window + 1))
            }
            assert where[face, place] == max(near, key=near.get)
            torch.testing.assert_close(best[face, place], max(near.values()), rtol=1e-4, atol=1e-5)


def test_the_match_map_is_the_match_less_the_face_s_mean():
    pairs = make_pairs(make_model())
    best, _ = matches(pairs)
    torch.testing.assert_close(match_map(pairs)[1, 0], (best[2] - best[2].mean()).unflatten(0, (GRID, GRID)))


@pytest.mark.parametrize(
    ("a", "b", "grid", "words"),
    [
        (make_images(2), make_images(1), GRID, "a and b must both be"),
        (make_images(0), make_images(0), GRID, "B at least 1"),
        (make_images(1)[0], make_images(1)[0], GRID, "a and b must both be"),
        (make_images(1)[..., :16], make_images(1)[..., :16], GRID, "a and b must both be"),
        (make_images(1)[:, :1], make_images(1)[:, :1], GRID, "a and b must both be"),
        (make_images(1), make_images(1), 0, "grid=0: give 1 to 32"),
        (make_images(1), make_images(1), 33, "grid=33: give 1 to 32"),
    ],
)
def test_images_that_are_no_pairs_are_refused(a, b, grid, words):
    with pytest.raises(ValueError, match=words):
        encode_pairs(make_model(), a, b, grid)


def test_a_model_that_trains_is_refused():
    model = make_model()
    model.necks["sa"].train()
    with pytest.raises(ValueError, match="call model.eval"):
        make_pairs(model)
