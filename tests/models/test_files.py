import json
import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import CLASSES, class_of
from dcal_core.errors import ConfigError
from dcal_core.models import backbones
from dcal_core.models.backbones import check_backbone
from dcal_core.models.files import MODULES, load_model, module_of, save_model
from dcal_core.models.pretrained import find_weights, load_weights
from dcal_core.models.similarity import Euclidean, Learned
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import seal

TINY = "test_vit"  # timm's own: patch 16, width 64, 6 blocks
SIZE = 64
# one file format each; vit_tiny's registered weights are an .npz file, which the given file is not
SOURCES = {
    TINY: "weights.pth",
    "vit_tiny_patch16_224": "model.safetensors",
    "deit_tiny_patch16_224": "pytorch_model.bin",
    "deit_tiny_distilled_patch16_224": "weights.pt",
    "vit_tiny_r_s16_p8_224": "model.safetensors",
}


def config(backbone=TINY, **changes):
    return DCALConfig(**{"backbone": backbone, "image_size": SIZE, **changes})


def random_config(backbone=TINY, **changes):
    return config(backbone, allow_random_init=True, **changes)


def write_weights(file, backbone=TINY, image_size=SIZE, classes=1000, change=None):
    """A file of weights as timm publishes them, classifier included; returns its tensors."""
    torch.manual_seed(1)
    vit = timm.create_model(backbone, img_size=image_size, num_classes=classes)
    state = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in vit.state_dict().items()}
    state = change(state) if change else state
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return state


def make_images(count=3, size=SIZE):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_network(monkeypatch):
    """timm as it is without a network: the hub's weights raise, everything else works."""
    create = timm.create_model

    def create_model(name, pretrained=False, **options):
        if pretrained and "file" not in (options.get("pretrained_cfg_overlay") or {}):
            raise OSError("Name or service not known")
        return create(name, pretrained=pretrained, **options)

    monkeypatch.setattr(backbones.timm, "create_model", create_model)


# Pretrained weights


@pytest.mark.parametrize("backbone", SOURCES)
def test_pretrained_weights_survive_construction(tmp_path, backbone):
    file = tmp_path / SOURCES[backbone]
    given = write_weights(file, backbone)
    model = new_model(config(backbone, weights=str(file)), [])
    kept = model.vit.state_dict()
    assert given.keys() - kept.keys() == {name for name in given if name.startswith("head")}
    for name, tensor in kept.items():
        assert torch.equal(tensor, given[name]), name
    last = f"blocks.{len(model.vit.blocks) - 1}."
    for name, tensor in model.glca[0].state_dict().items():
        assert torch.equal(tensor, given[last + name]), name
    assert torch.equal(model.glca_norm.weight, given["norm.weight"])


def test_given_file_without_a_classifier_will_do_too(tmp_path):
    given = write_weights(tmp_path / "weights.safetensors", classes=0)
    model = new_model(config(weights=str(tmp_path / "weights.safetensors")), [])
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.vit.state_dict().items())


def test_given_file_goes_before_random_weights(tmp_path):
    given = write_weights(tmp_path / "weights.pth")
    model = new_model(random_config(weights=str(tmp_path / "weights.pth")), [])
    assert torch.equal(model.vit.cls_token, given["cls_token"])


def test_given_file_of_the_demos_backbone_is_not_passed_over(tmp_path):
    given = backbones.hybrid_tiny(SIZE).state_dict()
    save_file(given, tmp_path / "weights.safetensors")
    model = new_model(random_config("hybrid_tiny", weights=str(tmp_path / "weights.safetensors")), [])
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.vit.state_dict().items())


@pytest.mark.parametrize("image_size, grid", [(96, 6), (32, 2)])
def test_positions_are_interpolated_to_another_image_size(tmp_path, image_size, grid):
    given = write_weights(tmp_path / "weights.pth")  # 4 x 4 positions and that of CLS
    model = new_model(config(weights=str(tmp_path / "weights.pth"), image_size=image_size), [])
    kept = model.vit.state_dict()
    positions = kept.pop("pos_embed")
    assert all(torch.equal(tensor, given[name]) for name, tensor in kept.items())
    assert torch.equal(positions[:, 0], given["pos_embed"][:, 0])
    old = given["pos_embed"][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    new = F.interpolate(old, (grid, grid), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(positions[:, 1:], new)
    assert model.eval().encode(make_images(2, image_size)).parts["sa"].shape == (2, 64)


EVAS = {
    "dinov3": {
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "init_values": 1e-5,
        "qkv_bias": False,
        "dynamic_img_size": True,
        "use_fc_norm": False,
    },
    "eva02": {"use_rot_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True, "global_pool": "token"},
}


def make_eva(kind, **options):
    """A little model of timm's EVA family, which DINOv3 belongs to."""
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **EVAS[kind], **options}
    return Eva(**{"num_classes": 0} | options)


@pytest.mark.parametrize("kind", EVAS)
def test_an_eva_model_is_filled_from_its_own_weights(tmp_path, kind):
    given = make_eva(kind, num_classes=7).state_dict()
    given = {name: torch.randn_like(tensor) for name, tensor in given.items()}
    save_file(given, tmp_path / "weights.safetensors")
    vit = make_eva(kind)
    load_weights(kind, vit, tmp_path / "weights.safetensors")
    kept = vit.state_dict()
    assert given.keys() - kept.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(tensor, given[name]) for name, tensor in kept.items())
    larger = make_eva(kind, img_size=48)
    load_weights(kind, larger, tmp_path / "weights.safetensors")
    assert torch.equal(larger.blocks[0].attn.qkv.weight, given["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("lacking", ["blocks.1.norm2.weight", "blocks.0.attn.qkv.weight", "cls_token"])
@pytest.mark.parametrize("kind", EVAS)
def test_what_a_file_lacks_of_an_eva_model_is_named(tmp_path, kind, lacking):
    given = make_eva(kind).state_dict()
    del given[lacking]
    save_file(given, tmp_path / "weights.safetensors")
    with pytest.raises(
        ConfigError, match=rf"lacks 1 of \d+ tensors of some_name, first {lacking} \[.*holds \d+ tensors, first '"
    ):
        load_weights("some_name", make_eva(kind), tmp_path / "weights.safetensors")


def test_weights_as_meta_publishes_dinov3_are_renamed(tmp_path):
    given = make_eva("dinov3").state_dict()
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    published = {"rope_embed.periods": torch.ones(4), "mask_token": torch.ones(1, 32)}
    for name, tensor in given.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        published[name] = tensor + 1
    save_file(published, tmp_path / "weights.safetensors")
    vit = make_eva("dinov3")
    load_weights("dinov3", vit, tmp_path / "weights.safetensors")
    assert all(torch.equal(tensor, given[name] + 1) for name, tensor in vit.state_dict().items())


def without_one_norm(state):
    return {name: tensor for name, tensor in state.items() if name != "blocks.2.norm1.weight"}


def of_another_library(state):
    return {name.replace("blocks", "vit.encoder.layer"): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("change", [without_one_norm, of_another_library])
def test_a_file_that_fills_only_part_of_the_backbone_is_refused(tmp_path, change):
    write_weights(tmp_path / "weights.safetensors", change=change)
    with pytest.raises(ConfigError, match="weights"):
        new_model(config(weights=str(tmp_path / "weights.safetensors")), [])


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_of_another_backbone_and_damaged_ones_are_refused(tmp_path, name):
    file = tmp_path / name
    write_weights(file)
    with pytest.raises(ConfigError, match=name):
        new_model(config("deit_tiny_patch16_224", weights=str(file)), [])
    file.write_bytes(b"half a download")
    with pytest.raises(ConfigError, match=name):
        new_model(config(weights=str(file)), [])


def test_weights_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"weights=.*gone\.pth: there is no such file\. "):
        new_model(config(weights=str(tmp_path / "gone.pth")), [])
    with pytest.raises(ConfigError, match="is a folder"):
        new_model(config(weights=str(tmp_path)), [])


def kaggle_file(root, model="vit-base-patch16-224", name="pytorch_model.bin"):
    return root / "models" / "timm" / model / "pytorch" / "default" / "1" / name


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "weights.pth", "weights.pt"])
@pytest.mark.parametrize("backbone", ["vit_base_patch16_224", "vit_base_patch16_224.augreg2_in21k_ft_in1k"])
def test_attached_model_is_found_by_the_backbones_name(tmp_path, backbone, name):
    inputs, working = tmp_path / "input", tmp_path / "working"
    wanted = kaggle_file(inputs, name=name)
    others = [
        kaggle_file(inputs, "vit-small-patch16-224"),
        kaggle_file(inputs, "deit-base-patch16-224"),
        kaggle_file(inputs, name="config.json"),
        inputs / "datasets" / "somebody" / "vit-base-patch16-224" / "model.safetensors",
    ]
    for file in [wanted, *others]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert find_weights(backbone, [working, inputs]) == wanted
    assert find_weights("vit_large_patch16_224", [working, inputs]) is None
    assert find_weights(backbone, []) is None


def test_attached_model_is_used_and_named(tmp_path, capsys, no_network):
    file = kaggle_file(tmp_path, "test-vit")
    given = write_weights(file)
    model = new_model(config(), [tmp_path])
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.vit.state_dict().items())
    assert str(file) in capsys.readouterr().out


def test_two_attached_files_are_a_choice_for_the_user(tmp_path):
    files = kaggle_file(tmp_path, "test-vit"), kaggle_file(tmp_path, "test-vit", "model.safetensors")
    for file in files:
        given = write_weights(file)
    with pytest.raises(ConfigError, match=r"2 attached files .*weights=.*model\.safetensors"):
        new_model(config(), [tmp_path])
    model = new_model(config(weights=str(files[0])), [tmp_path])
    assert torch.equal(model.vit.cls_token, given["cls_token"])


def test_without_network_and_weights_the_cure_is_told(tmp_path, no_network):
    with pytest.raises(ConfigError) as error:
        new_model(config(), [tmp_path])
    for part in (TINY, "internet", "attach", "weights=", "allow_random_init=true"):
        assert part in str(error.value)
    model = new_model(random_config(), [tmp_path])
    assert model.eval().encode(make_images()).parts["sa"].isfinite().all()


def test_where_a_checkpoint_brings_the_weights_none_are_looked_for(tmp_path, no_network):
    given = {"dropout": 0.1, "weights": str(tmp_path / "gone.pth"), "readout": "tokens"}
    model = new_model(config(**given), [], pretrained=False)
    same = new_model(random_config(**given | {"weights": ""}), [])
    assert model.architecture == same.architecture
    model.load_state_dict(same.state_dict())
    assert model.vit.blocks[0].attn.proj_drop.p == 0.1


# Names


@pytest.mark.parametrize(
    "mistyped, near",
    [
        ("vit_base_patch16_22", "vit_base_patch16_224"),
        ("vit_bse_patch16_224", "vit_base_patch16_224"),
        ("deit_tiny_patch_16_224", "deit_tiny_patch16_224"),
        ("hybrid_tiny_", "hybrid_tiny"),
    ],
)
def test_unknown_backbone_is_refused_with_near_names(mistyped, near):
    with pytest.raises(ConfigError) as error:
        new_model(random_config(mistyped), [])
    offered = str(error.value).split(mistyped, 1)[1].replace(".", " ").replace(",", " ").split()
    assert near in offered, str(error.value)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "swin_tiny_patch4_window7_224", "test_vit2", "vit_tiny_patch16_224.no"]
)
def test_backbones_without_plain_blocks_and_a_cls_token_are_refused(backbone):
    # another kind of network; windows; global average pooling without CLS; a tag that timm does not have
    with pytest.raises(ConfigError, match=f"backbone='{backbone}'"):
        new_model(random_config(backbone), [])


def make_plain(**options):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **options}
    return VisionTransformer(**{"num_classes": 0} | options)


def gated(vit, block):
    """The backbone with a gate behind one attention, as some of timm's have in all blocks."""
    vit.blocks[block].attn.gate = nn.Linear(32, 32)
    return vit


NOT_PLAIN = {
    "positions by layer": lambda: make_eva("dinov3", rope_type="mixed", rope_rotate_half=False),
    "three projections": lambda: make_eva("eva02", qkv_fused=False),
    "another attention": lambda: make_eva("eva02", attn_type="rope"),
    "norms behind": lambda: make_eva("eva02", use_post_norm=True),
    "a gate": lambda: gated(make_eva("dinov3"), 0),
    "a gate, plain": lambda: gated(make_plain(), 0),
    "no CLS": lambda: make_eva("dinov3", class_token=False),
    "no CLS, plain": lambda: make_plain(class_token=False, global_pool="avg"),
    "parallel layers": lambda: make_plain(block_fn=ParallelScalingBlock),
    "no blocks": lambda: nn.Linear(2, 2),
    "no block at all": lambda: make_plain(depth=0),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_blocks_that_cannot_be_recombined_are_refused(kind):
    sentence = (
        "backbone='some_name' is not a plain vision transformer with a CLS token, which DCAL needs: "
        "take a vit_*, deit_*, *_dinov2 or *_dinov3 model of timm."
    )
    with pytest.raises(ConfigError) as error:
        check_backbone("some_name", NOT_PLAIN[kind]())
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "make",
    [
        make_plain,
        lambda: make_plain(global_pool="avg", fc_norm=True),
        lambda: make_plain(reg_tokens=4, init_values=1e-5, qk_norm=True),
        lambda: make_eva("dinov3"),
        lambda: make_eva("eva02"),
        lambda: make_eva("eva02", global_pool="avg"),
    ],
    ids=["plain", "plain, pooled", "registers", "dinov3", "eva02", "eva02, pooled"],
)
def test_blocks_that_can_are_taken_and_nothing_is_frozen(make):
    vit = make()
    assert check_backbone("some_name", vit) is vit
    assert all(parameter.requires_grad for name, parameter in vit.named_parameters() if name != "pos_embed")


@pytest.mark.parametrize("backbone", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_models_of_the_eva_family_are_built_by_their_names(monkeypatch, backbone):
    small = partial(timm.create_model, embed_dim=48, depth=2, num_heads=3)  # else seconds go by for random weights
    monkeypatch.setattr(backbones.timm, "create_model", small)
    model = new_model(random_config(backbone, image_size=56 if "14" in backbone else 64, drop_path=0.2), [])
    assert isinstance(model.vit, Eva) and model.vit.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.eval().encode(make_images()).parts["glca"].shape == (3, 96)


@pytest.mark.parametrize("backbone", ["vit_small_patch16_rope_mixed_224", "eva02_base_patch14_224", "eva02_tiny_.no"])
def test_other_models_of_the_eva_family_are_refused_by_their_names(monkeypatch, backbone):
    small = partial(timm.create_model, embed_dim=48, depth=2, num_heads=3)
    monkeypatch.setattr(backbones.timm, "create_model", small)
    with pytest.raises(ConfigError, match=f"backbone='{backbone}'"):
        new_model(random_config(backbone, image_size=56 if "14" in backbone else 64), [])


def test_kind_of_backbone_is_no_matter_of_the_network(no_network):
    with pytest.raises(ConfigError, match="plain vision transformer"):
        new_model(config("resnet18"), [])


def test_hybrid_tiny_has_no_pretrained_weights():
    with pytest.raises(ConfigError, match="allow_random_init=true"):
        new_model(config("hybrid_tiny"), [])


# Architecture


def test_every_recipe_has_its_models():
    assert list(MODULES) == list(CLASSES)
    for recipe, module in ((name, module_of(name)) for name in MODULES):
        # what stands in model.json is known for each, and comes from a parameter or not
        assert {"recipe", "backbone", "image_size"} <= module.ARCHITECTURE.keys()
        assert set(module.ARCHITECTURE.values()) - {None} <= set(class_of(recipe).decisive())


ANOTHER = """
import sys
from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.models.files import load_model, save_model
from dcal_core.recipes.catalogue import new_model
from dcal_core.storage import seal
model = new_model(AdaFaceConfig(backbone="ir_18", image_size=32, width=8, allow_random_init=True), [])
save_model(sys.argv[1], model)
seal(__import__("pathlib").Path(sys.argv[1]))
load_model(sys.argv[1])
assert "timm" not in sys.modules, "timm was imported"
from dcal_core.models import dcal
assert "timm" in sys.modules  # so it would be seen
"""


def test_a_model_is_made_saved_and_loaded_without_importing_the_others(tmp_path):
    done = subprocess.run([sys.executable, "-c", ANOTHER, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backbone, grid", [(TINY, 4), ("hybrid_tiny", 8)])
def test_the_grid_is_that_of_the_patches(backbone, grid):
    model = new_model(random_config(backbone), [])
    assert model.grid == grid and model.vit.patch_embed.num_patches == grid**2


@pytest.mark.parametrize(
    "given, layers", [((1, 0), range(6)), ((2, 4), range(1, 4)), ((6, 6), range(5, 6)), ((0, 0), [])]
)
def test_layers_with_pair_attention_count_from_one(given, layers):
    model = new_model(random_config(pwca_first=given[0], pwca_last=given[1]), [])
    assert list(model.pwca_layers) == model.architecture["pwca_layers"] == list(layers)
    assert ("pwca" in model.widths) == bool(layers)


def test_pair_attention_in_no_step_is_none():
    model = new_model(random_config(pwca_prob=0.0), [])
    assert model.architecture["pwca_layers"] == [] and "pwca" not in model.widths


@pytest.mark.parametrize("given", [(1, 7), (7, 0), (7, 8)])
def test_pair_attention_beyond_the_last_block_is_refused(given):
    with pytest.raises(ConfigError, match="has 6 blocks"):
        new_model(random_config(pwca_first=given[0], pwca_last=given[1]), [])


def necks(model):
    return model.necks.values()


def test_parameters_reach_the_model():
    options = {"dropout": 0.1, "attention_dropout": 0.2, "drop_path": 0.3, "gradient_checkpointing": True}
    model = new_model(random_config(glca_blocks=2, local_ratio=0.5, similarity="euclidean", **options), [])
    assert isinstance(model.similarity, Euclidean) and all(isinstance(neck, nn.BatchNorm1d) for neck in necks(model))
    for block in (model.vit.blocks[-1], *model.glca):
        rates = block.attn.proj_drop.p, block.attn.attn_drop.p, block.drop_path1.drop_prob
        assert rates == pytest.approx((0.1, 0.2, 0.3))
    assert (len(model.glca), model.selected) == (2, 8)
    assert model.gradient_checkpointing
    learned = new_model(random_config(similarity="learned", similarity_temperature=0.2, neck="none"), [])
    assert isinstance(learned.similarity, Learned) and learned.similarity.temperature == 0.2
    assert all(isinstance(neck, nn.Identity) for neck in necks(learned))
    assert not learned.gradient_checkpointing
    assert model.widths["glca"] == 2 * model.widths["sa"] == 128  # CLS, and it and the selected patches' mean
    by_place = new_model(random_config(readout="tokens"), [])
    assert by_place.widths["glca"] == by_place.widths["sa"] == 128
    deit = new_model(random_config("deit_tiny_patch16_224"), [])
    assert deit.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert deit.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


# Folders


@pytest.mark.parametrize(
    "given",
    [
        random_config(),
        random_config(glca_blocks=2, local_ratio=0.1, pwca_first=2, pwca_last=3, similarity="euclidean"),
        random_config(readout="tokens"),
        random_config(glca_blocks=0, pwca_first=0),
        random_config("deit_tiny_patch16_224", image_size=32),
        random_config("hybrid_tiny", image_size=32),
        random_config(neck="none"),
        random_config(similarity="learned", similarity_temperature=0.3),
        random_config("hybrid_tiny", image_size=32, similarity="learned", neck="none", readout="tokens"),
    ],
    ids=["tiny", "options", "by place", "sa alone", "deit", "hybrid_tiny", "no necks", "learned", "learned, no necks"],
)
def test_a_saved_model_gives_the_same_scores_when_loaded(tmp_path, given, no_network):
    model = new_model(given, [])
    model.train()
    model(make_images(4, given.image_size))  # the necks' statistics leave their start
    for weights in model.similarity.parameters():
        nn.init.normal_(weights, std=0.1)
    save_model(tmp_path, model)
    seal(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert any(name.startswith("necks") for name in names) == (given.neck == "bn")
    assert any(name.startswith("similarity") for name in names) == (given.similarity == "learned")
    loaded = load_model(tmp_path)
    assert not any(module.training for module in loaded.modules())
    images = make_images(5, given.image_size)
    with torch.no_grad():
        (a, b), (c, d) = ((m.encode(images), m.encode(images.flip(-1))) for m in (model.eval(), loaded))
        assert torch.equal(loaded.compare(c, d), model.compare(a, b))
    assert (loaded.pwca_layers, loaded.selected) == (model.pwca_layers, model.selected)
    assert loaded.widths == model.widths
    assert json.loads((tmp_path / "model.json").read_text()) == model.architecture == loaded.architecture
    assert sorted(file.name for file in tmp_path.iterdir()) == ["SHA256SUMS", "model.json", "model.safetensors"]


def test_the_architecture_is_kept_as_plain_values(tmp_path):
    given = random_config(pwca_first=2, local_ratio=0.1, similarity="learned", similarity_temperature=0.3, neck="none")
    save_model(tmp_path, new_model(given, []))
    assert json.loads((tmp_path / "model.json").read_text()) == {
        "recipe": "dcal",
        "backbone": TINY,
        "image_size": SIZE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "local_ratio": 0.1,
        "glca_blocks": 1,
        "pwca_layers": [1, 2, 3, 4, 5],
        "readout": "cls",
        "neck": "none",
        "similarity": "learned",
        "temperature": 0.3,
    }


def test_an_eva_model_is_saved_and_loaded_by_its_name(tmp_path, monkeypatch):
    small = partial(timm.create_model, embed_dim=48, depth=2, num_heads=3)
    monkeypatch.setattr(timm, "create_model", small)
    model = new_model(random_config("vit_small_patch16_dinov3"), []).eval()
    save_model(tmp_path, model)
    seal(tmp_path)
    images = make_images(3)
    with torch.no_grad():
        for name, part in load_model(tmp_path).encode(images).parts.items():
            assert torch.equal(part, model.encode(images).parts[name])


def test_a_model_saved_over_another_replaces_it(tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = new_model(random_config(), [])
        save_model(tmp_path, model)
        seal(tmp_path)
    assert torch.equal(load_model(tmp_path).vit.cls_token, model.vit.cls_token)


def test_a_folder_without_a_model_is_told_apart(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"holds no trained model .*: train first, or set run_dir\."):
            load_model(folder)
