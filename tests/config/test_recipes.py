"""One recipe's parameters from defaults, presets and given values: which win, which agree, which names are refused."""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import CLASSES, check_given, class_of, load, parameters_of, presets, read_config
from dcal_core.config.shared import Config
from dcal_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params"
NAMES = sorted({name for recipe in CLASSES for name in class_of(recipe).model_fields})


@pytest.fixture
def folder(tmp_path):
    """A folder of presets: `plain` changes nothing."""
    (tmp_path / "plain.yaml").write_text("# changes nothing\n")
    return tmp_path


def preset(folder: Path, text: str | bytes) -> str:
    """Write a preset and return its name."""
    (folder / "chosen.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return "chosen"


# ---- precedence


def test_given_values_win_over_the_preset_and_the_preset_over_the_defaults(folder):
    chosen = preset(folder, "epochs: 7\nseed: 3\n")
    config = load(chosen, folder, {"epochs": "9"})
    assert (config.epochs, config.seed, config.image_size) == (9, 3, DCALConfig.model_fields["image_size"].default)


def test_an_empty_preset_gives_the_defaults(folder):
    assert load("plain", folder, {}) == DCALConfig()


def test_the_given_values_are_left_as_they_were(folder):
    given_values = {"epochs": "9"}
    load("plain", folder, given_values)
    assert given_values == {"epochs": "9"}


def test_yaml_reads_1e_4_as_text_which_is_a_number_to_us(folder):
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}  # the trap
    assert load(preset(folder, "lr: 1e-4\n"), folder, {}).lr == 1e-4


def test_the_fingerprint_is_the_same_however_a_value_was_written(folder):
    written = load("plain", folder, {"lr": "1e-3", "epochs": "3", "allow_random_init": "no"})
    plain = load("plain", folder, {"lr": 0.001, "epochs": 3, "allow_random_init": False})
    assert written.fingerprint() == plain.fingerprint()


# ---- the recipe


def test_the_recipe_is_the_presets_or_the_given_one_else_the_default(folder):
    assert type(load("plain", folder, {})) is DCALConfig
    assert type(load("plain", folder, {"recipe": "adaface"})) is AdaFaceConfig
    chosen = preset(folder, "recipe: adaface\n")
    assert type(load(chosen, folder, {})) is AdaFaceConfig
    assert type(load(chosen, folder, {"recipe": "dcal"})) is DCALConfig
    assert [parameters_of(values) for values in ({}, {"recipe": "adaface"})] == [DCALConfig, AdaFaceConfig]


@pytest.mark.parametrize("recipe", CLASSES)
def test_the_class_of_a_recipe_is_a_config_of_that_name(recipe):
    assert issubclass(class_of(recipe), Config) and class_of(recipe).model_fields["recipe"].default == recipe
    assert read_config({"recipe": recipe}, "a test") == class_of(recipe)()


@pytest.mark.parametrize("recipe", ["DCAL", "", None, 3, ["dcal"], {}, "dcal "])
def test_an_unknown_recipe_is_refused_with_those_there_are(folder, refused, recipe):
    sentence = f"parameter recipe={recipe!r}: takes one of dcal, adaface, oaml."
    with refused(ConfigError, sentence):
        load("plain", folder, {"recipe": recipe})
    with refused(ConfigError, sentence):
        check_given({"recipe": recipe}, folder)


# ---- names


@pytest.mark.parametrize(
    ("recipe", "name", "value", "owner"),
    [
        ("dcal", "width", 16, "adaface and oaml"),
        ("adaface", "sampler", "graph", "oaml"),
        ("oaml", "frozen_backbone", True, "adaface"),
        ("dcal", "train_percentage", 10, "adaface"),
        ("adaface", "pwca_prob", 0.5, "dcal"),
        ("adaface", "twin_loss", "supcon", "dcal"),
        ("adaface", "gradient_checkpointing", True, "dcal"),
        ("adaface", "families_per_batch", 4, "dcal"),  # even with its default there
    ],
)
def test_a_name_that_the_recipe_lacks_is_refused_with_the_recipe_that_has_it(
    folder, refused, recipe, name, value, owner
):
    rest = (f"without effect in recipe={recipe}", f"it belongs to {owner}: leave it out")
    words = (f"{name}={value!r}", *rest)
    with refused(ConfigError, *words, "in the given parameters"):
        load("plain", folder, {"recipe": recipe, name: value})
    with refused(ConfigError, *words, "in the given parameters"):
        check_given({"preset": "plain", "recipe": recipe, name: value}, folder)
    with refused(ConfigError, name, str(value), *rest, "in chosen.yaml"):
        load(preset(folder, yaml.safe_dump({"recipe": recipe, name: value})), folder, {})
    with refused(ConfigError, *words, "in a saved run"):
        read_config({"recipe": recipe, name: value}, "a saved run")


@pytest.mark.parametrize("recipe", CLASSES)
@pytest.mark.parametrize(
    ("typed", "meant"), [("resumee", "resume"), ("epoch", "epochs"), ("learning_rate", "lr"), ("zzzz", None)]
)
def test_an_unknown_name_is_refused_with_the_nearest(folder, recipe, typed, meant):
    advice = f"did you mean {meant}?" if meant else "docs/parameters.md lists all parameters."
    with pytest.raises(ConfigError, match=repr(typed)) as refusal:
        load("plain", folder, {"recipe": recipe, typed: 1})
    assert str(refusal.value).endswith(advice)


def test_the_nearest_name_is_one_of_the_recipe(folder):
    for recipe, meant in (("dcal", "families_per_batch"), ("adaface", "triplets_per_batch")):
        with pytest.raises(ConfigError, match=rf"did you mean {meant}\?"):
            load("plain", folder, {"recipe": recipe, "tamilies_per_batch": 1})


def test_an_unknown_key_in_a_preset_names_the_file(folder):
    with pytest.raises(ConfigError, match=r"'epoch' in chosen\.yaml: did you mean epochs"):
        load(preset(folder, "epoch: 3\n"), folder, {})


def test_a_key_that_is_no_text_is_refused(folder):
    with pytest.raises(ConfigError, match=r"unknown parameter '5' in chosen\.yaml"):
        load(preset(folder, "5: 3\n"), folder, {})


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("epochs: 010", 10),  # YAML 1.1: octal, 8
        ("epochs: 08", 8),
        ("seed: 042", 42),
        ("image_size: '0224'", 224),
        ("epochs: 1_0", 10),
        ("lr: 1e-4", 1e-4),  # YAML 1.1: text
        ("min_lr: 0", 0.0),
        ("resume: off", False),
        ("resume: Yes", True),
        ("run_dir: 007", "007"),
        ("run_dir: 1e3", "1e3"),
        ("run_dir: 2026-01-01", "2026-01-01"),
        ("run_dir: 12:30", "12:30"),
        ("wandb_entity: 'yes'", "yes"),
        ("tracker: none", "none"),
        ("tracker_project: '~'", "~"),
    ],
)
def test_a_value_in_a_preset_is_what_its_author_wrote(folder, line, value):
    assert getattr(load(preset(folder, line + "\n"), folder, {}), line.split(":")[0]) == value


@pytest.mark.parametrize(
    "line",
    [
        "epochs: 0x10",
        "epochs: 0o10",
        "epochs: 0b1",
        "lr: 0b_",
        "seed: 1:00",
        "time_budget_hours: 1:30",  # YAML 1.1: base 60, 90
        "time_budget_hours: 11:00",
        "save_minutes: 10:00",
        "lr: 2001-99-99",
        "seed:",
        "run_dir: ~",
        "run_dir: null",
        "resume: 2",
        "resume_from: false",
        "wandb_entity: no",  # Norway
        "epochs: !!int '0x10'",
    ],
)
def test_a_value_in_a_preset_that_could_mean_two_things_is_refused(folder, line):
    with pytest.raises(ConfigError, match=rf"parameter {line.split(':')[0]}=.*: takes "):
        load(preset(folder, line + "\n"), folder, {})


def test_a_wrong_value_in_a_preset_is_refused_even_where_a_given_one_would_win(folder):
    with pytest.raises(ConfigError, match="epochs='many'"):
        load(preset(folder, "epochs: many\n"), folder, {"epochs": 3})


# ---- presets' files


@pytest.mark.parametrize("name", ["demoo", "", "../params/demo", None, 3])
def test_an_unknown_preset_lists_those_there_are(folder, name):
    preset(folder, "")
    with pytest.raises(ConfigError, match=r"takes one of auto, chosen, plain, or a YAML file\.$") as refusal:
        load(name, folder, {})
    assert repr(name) in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "epochs: [1, 2",
        "a: b: c",
        "\tepochs: 3",
        "epochs: !!python/object/apply:os.getcwd []",
        b"backbone: \xff\xfe\xfa",  # not UTF-8
        "- epochs\n- 3",
        "epochs",
    ],
)
def test_a_preset_that_is_no_map_in_yaml_is_refused_by_its_name(folder, text):
    with pytest.raises(ConfigError, match=r"chosen\.yaml"):
        load(preset(folder, text), folder, {})


# ---- parameters that must agree


@pytest.mark.parametrize(
    ("given_values", "named"),
    [
        ({"pwca_first": 3, "pwca_last": 2}, ["pwca_last=2", "pwca_first=3"]),
        ({"lr": "1e-4", "min_lr": "2e-4"}, ["min_lr=0.0002", "lr=0.0001"]),
        ({"recipe": "adaface", "lr": "1e-4", "min_lr": "2e-4"}, ["min_lr=0.0002", "lr=0.0001"]),
        ({"softmax_weight": 0, "twin_weight": 0}, ["softmax_weight", "twin_weight"]),
        ({"positive_ratio": 0.6}, ["positive_ratio=0.6", "hard_negative_ratio=0.5", "soft_negative_ratio=0", "be 1"]),
        ({"soft_negative_ratio": 0.25}, ["positive_ratio=0.5", "soft_negative_ratio=0.25"]),
        ({"positive_ratio": 0.3}, ["positive_ratio=0.3", "be 1"]),
        (  # nobody would differ
            {"positive_ratio": 0.99, "hard_negative_ratio": 0, "soft_negative_ratio": 0},
            ["hard_negative_ratio", "soft_negative_ratio"],
        ),
        ({"recipe": "adaface", "nproc": 3}, ["triplets_per_batch=16", "nproc=3", "multiple of 3"]),
        ({"families_per_batch": 5, "nproc": 2}, ["families_per_batch=5", "nproc=2", "multiple of 2"]),
        ({"families_per_batch": 4, "accumulation": 3}, ["families_per_batch=4", "accumulation=3", "multiple of 3"]),
        (
            {"families_per_batch": 6, "nproc": 2, "accumulation": 2},
            ["families_per_batch=6", "nproc=2", "accumulation=2", "multiple of 4"],
        ),
        (
            {"recipe": "adaface", "backbone": "vit_base_patch16_224"},
            ["backbone='vit_base_patch16_224'", "takes one of ir_18, ir_34, ir_50, ir_101"],
        ),
        ({"recipe": "adaface", "backbone": "ir_20"}, ["backbone='ir_20'", "takes one of ir_18"]),
        ({"backbone": "ir_50"}, ["recipe=dcal", "ir_50", "a vision transformer", "recipe=adaface"]),
        ({"recipe": "adaface", "image_size": 120}, ["image_size=120", "ir_50", "a multiple of 16"]),
        ({"recipe": "oaml", "milestones": "8,4"}, ["milestones='8,4'", "rising"]),
        ({"recipe": "oaml", "nproc": 3}, ["pairs_per_batch=16", "nproc=3", "multiple of 3"]),
        ({"recipe": "oaml", "occlusion_kinds": "mask,hat"}, ["occlusion_kinds='mask,hat'", "'hat' is none of mask"]),
        ({"recipe": "oaml", "occlusion_weight": 0}, ["visibility=true", "occlusion_weight=0", "visibility=false"]),
        ({"recipe": "oaml", "softmax_weight": 0, "local_weight": 0}, ["softmax_weight", "local_weight"]),
        ({"recipe": "oaml", "positive_ratio": 0.3}, ["positive_ratio=0.3", "be 1"]),
        ({"recipe": "oaml", "image_size": 120}, ["image_size=120", "a multiple of 16"]),
        ({"mixup_alpha": 0.2}, ["mixup_alpha=0.2", "twin_loss=triplet", "twin_weight=0"]),
        ({"cutmix_alpha": 1, "twin_loss": "supcon"}, ["cutmix_alpha=1", "twin_loss=supcon", "twin_weight=0"]),
        ({"mixup_alpha": 0.2, "twin_weight": 0}, ["mixup_alpha=0.2", "PWCA", "pwca_prob=0"]),
        ({"cutmix_alpha": 0.2, "twin_weight": 0, "pwca_prob": 0.1}, ["cutmix_alpha=0.2", "pwca_prob=0"]),
        (
            {"mixup_alpha": 0.2, "cutmix_alpha": 1, "twin_weight": 0, "pwca_prob": 0, "similarity": "learned"},
            ["mixup_alpha=0.2 and cutmix_alpha=1", "similarity=learned", "cosine or euclidean"],
        ),
        ({"resume": False, "resume_from": "there"}, ["resume_from", "resume=false", "leave one of them out"]),
        (
            {"recipe": "adaface", "mlflow_uri": "https://me:secret@host"},
            ["mlflow_uri", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"],
        ),
        ({"occluded_kinds": "mask, hat"}, ["occluded_kinds='mask, hat': 'hat' is none of mask, glasses, scarf, hand"]),
    ],
)
def test_parameters_that_disagree_are_refused_together(folder, refused, given_values, named):
    with refused(ConfigError, *named):
        load("plain", folder, given_values)


def test_a_password_is_not_repeated_in_the_refusal(folder):
    with pytest.raises(ConfigError) as refusal:
        load("plain", folder, {"mlflow_uri": "https://me:secret@host"})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "given_values",
    [
        {"pwca_first": 3, "pwca_last": 0},  # 0: to the last block
        {"pwca_first": 3, "pwca_last": 3},
        {"lr": 1e-4, "min_lr": 1e-4},
        {"recipe": "adaface", "backbone": "ir_101", "image_size": 112},
        {"recipe": "dcal", "image_size": 120},  # timm's own matter
        {"recipe": "adaface", "backbone": "ir_18"},
        {"recipe": "adaface", "backbone": "ir_18", "image_size": 112, "nproc": 2, "accumulation": 8},
        {"softmax_weight": 0},
        {"twin_weight": 0},
        {"positive_ratio": 0.2, "hard_negative_ratio": 0.7, "soft_negative_ratio": 0.1},  # 0.2 + 0.7 + 0.1 < 1
        {"positive_ratio": 0.5, "hard_negative_ratio": 0.0, "soft_negative_ratio": 0.5},
        {"families_per_batch": 8, "nproc": 2, "accumulation": 4},
        {"families_per_batch": 1, "nproc": 1, "accumulation": 1},
        {"mixup_alpha": 0.2, "twin_weight": 0, "pwca_prob": 0},
        {"cutmix_alpha": 1.0, "twin_weight": 0, "pwca_first": 0},
        {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "twin_weight": 0, "pwca_prob": 0, "similarity": "euclidean"},
        {"recipe": "oaml", "occlusion_weight": 0, "visibility": False, "softmax_weight": 0},
        {"recipe": "oaml", "milestones": "", "occlusion_kinds": "hand"},
        {"similarity": "learned"},
        {"similarity": "learned", "twin_loss": "verification", "neck": "none"},
    ],
)
def test_parameters_that_agree_at_the_limit_are_taken(folder, given_values):
    config = load("plain", folder, given_values)
    assert {name: getattr(config, name) for name in given_values} == given_values


# ---- what a notebook is given


@pytest.mark.parametrize(
    ("given_values", "complaint"),
    [
        ({"preset": "demoo"}, r"preset='demoo': takes one of auto, plain, or a YAML file\.$"),
        ({"preset": "plain", "resumee": "true"}, "did you mean resume?"),
        ({"preset": "plain", "width": 16}, "without effect in recipe=dcal, it belongs to adaface"),
        ({"preset": "plain", "width": 7, "run_dir": "there"}, "width=7: takes 8 to 128"),
        ({"preset": "plain", "pwca_prob": 0.5, "width": 16, "run_dir": "there"}, "without effect in recipe=dcal"),
        ({"resume": "maybe"}, "resume='maybe': takes true or false"),
        ({"pwca_prob": 0.5, "width": 16}, "without effect in recipe="),  # of no recipe are both
        ({"recipe": "adaface", "width": 7}, "width=7: takes 8 to 128"),
        ({"width": 7}, "width=7: takes 8 to 128"),
    ],
)
def test_what_a_notebook_is_given_is_refused_at_once(folder, given_values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_given(given_values, folder)


@pytest.mark.parametrize(
    "given_values",
    [
        {},
        {"preset": "auto"},
        {"preset": "plain", "resume": "false", "lr": "1e-4"},
        {"preset": "auto", "pwca_prob": 0.5},
        {"preset": "auto", "width": 16},  # which preset it is for is known later
        {"preset": "plain", "recipe": "adaface", "width": 16},
        {"preset": "plain", "width": 16, "run_dir": "there"},  # an evaluation takes the recipe of the run there
        {"preset": "plain", "lr": 1e-7},  # whether it agrees with min_lr is known later
    ],
)
def test_what_a_notebook_is_given_rightly_is_left_as_it_was(folder, given_values):
    before = dict(given_values)
    check_given(given_values, folder)
    assert given_values == before


# ---- the presets that come with the project


def test_there_is_a_demo():
    assert "demo" in presets(PARAMS)


@pytest.mark.parametrize("name", presets(PARAMS))
def test_every_preset_loads_and_is_headed_by_a_comment(name):
    assert isinstance(load(name, PARAMS, {}), Config)
    heading = (PARAMS / f"{name}.yaml").read_text().splitlines()[0]
    assert re.match(r"# \w.{10,}", heading)


@pytest.mark.parametrize("name", presets(PARAMS))
def test_every_preset_is_flat_and_says_nothing_twice(name):
    text = (PARAMS / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    assert {type(value) for value in values.values()} <= {bool, int, float, str}
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert sorted(keys) == sorted(set(keys)) == sorted(values)  # YAML would silently take the last


@pytest.mark.parametrize(("name", "frozen", "lr"), [("adaface_full", False, 1e-4), ("adaface_frozen", True, 1e-3)])
def test_the_presets_train_a_face_network_in_the_two_ways_that_were_asked_for(name, frozen, lr):
    config = load(name, PARAMS, {})
    assert (config.frozen_backbone, config.lr, config.backbone, config.image_size) == (frozen, lr, "ir_50", 112)
    assert (config.twin_margin, config.width, config.allow_random_init) == (0.3, 64, False)
    assert config.patience > 0 and 0.1 <= config.validation_share <= 0.15
    assert config.steps_per_epoch > 0  # all 6.5 million triplets would make one epoch a day


def test_parameters_are_read_without_torch():
    code = (
        "import sys; from pathlib import Path; from dcal_core.config.recipes import load, presets; "
        "params = Path('params'); [load(name, params, {}) for name in presets(params)]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# ---- anything at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(["true", "False", "1e-4", "nan", "3.0", "1e400", "twin", "dcal", "adaface", "ir_18"]),
    st.lists(st.integers(), max_size=2),
)
mappings = st.dictionaries(st.sampled_from(NAMES), scalars, max_size=4)


@settings(max_examples=300, deadline=None)
@given(values=mappings)
def test_whatever_is_given_loads_as_its_recipe_or_is_refused(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.yaml").touch()
    try:
        config = load("any", folder, values)
    except ConfigError:
        return
    assert type(config) is class_of(values.get("recipe", "dcal")) and set(values) <= set(config.as_dict())
    assert config == read_config(config.as_dict(), "a test")  # sound, and read back as it is


def is_text(name: str) -> bool:
    """Whether a parameter of some recipe is free text, which in a preset may look like a number."""
    return any(
        kind.model_fields[name].annotation is str for kind in map(class_of, CLASSES) if name in kind.model_fields
    )


@settings(max_examples=200, deadline=None)
@given(values=mappings)
def test_a_preset_loads_like_the_same_values_given(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.yaml").touch()
    (folder / "written.yaml").write_text(yaml.safe_dump(values))
    plain = (int, float, date)
    texts = {name: yaml.safe_dump(value).split("\n")[0] for name, value in values.items() if type(value) in plain}
    values = {name: texts.get(name, value) if is_text(name) else value for name, value in values.items()}
    try:
        config = load("written", folder, {})
    except ConfigError:
        with pytest.raises(ConfigError):
            load("any", folder, values)
        return
    assert config == load("any", folder, values)
