"""Parameters: every field is read as its type however it is written, or refused in one sentence that helps."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dcal_core.config.recipes import check_given, load, presets
from dcal_core.errors import ConfigError, UserError

PARAMS = Path(__file__).parents[1] / "params"
OF_TYPE = {kind: [f for f in FIELDS.values() if f.type is kind] for kind in (bool, int, float, str)}


def name_of(value) -> str:
    return getattr(value, "name", None) or repr(value)


@pytest.fixture
def folder(tmp_path):
    """A folder of presets: `plain` changes nothing."""
    (tmp_path / "plain.yaml").write_text("# changes nothing\n")
    return tmp_path


def preset(folder: Path, text: str | bytes) -> str:
    """Write a preset and return its name."""
    (folder / "chosen.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return "chosen"


def another(field: dataclasses.Field):
    """A valid value of a field that is not its default."""
    if field.type is bool:
        return not field.default
    if field.metadata["choices"]:
        return next((choice for choice in field.metadata["choices"] if choice != field.default), "another")
    if field.type is str:
        return field.default + "x"
    low, high = field.metadata["low"], field.metadata["high"]
    return low if field.default != low else high


# ---- precedence


def test_given_values_win_over_the_preset_and_the_preset_over_the_defaults(folder):
    chosen = preset(folder, "epochs: 7\nseed: 3\n")
    config = load(chosen, folder, {"epochs": "9"})
    assert (config.epochs, config.seed, config.image_size) == (9, 3, FIELDS["image_size"].default)


def test_an_empty_preset_gives_the_defaults(folder):
    assert load("plain", folder, {}) == Config()


def test_defaults_pass_their_own_checks():
    assert check(Config(**read_values(Config().as_dict(), "the defaults"))) == Config()


def test_the_given_values_are_left_as_they_were(folder):
    given_values = {"epochs": "9"}
    load("plain", folder, given_values)
    assert given_values == {"epochs": "9"}


# ---- every field, as papermill would hand it over


@pytest.mark.parametrize("field", FIELDS.values(), ids=name_of)
def test_every_field_is_described_and_reads_its_own_default_back(field):
    assert field.metadata["meaning"]
    for written in (field.default, str(field.default)):
        value = read_value(field, written)
        assert value == field.default and type(value) is field.type


@pytest.mark.parametrize("field", FIELDS.values(), ids=name_of)
def test_every_number_has_a_range_that_holds_its_default(field):
    low, high = field.metadata["low"], field.metadata["high"]
    if field.type in (int, float):
        assert low <= field.default <= high
    else:
        assert low is None and high is None


@pytest.mark.parametrize("field", OF_TYPE[bool], ids=name_of)
def test_booleans(field):
    for yes in ("true", "True", "TRUE", " true ", True, "1", 1, "yes", "on"):
        assert read_value(field, yes) is True
    for no in ("false", "False", False, "0", 0, "no", "off"):
        assert read_value(field, no) is False


@pytest.mark.parametrize("field", OF_TYPE[int], ids=name_of)
def test_whole_numbers(field):
    number = max(3, field.metadata["low"])
    for written in (number, str(number), float(number), f"{number}.0", f" {number} "):
        value = read_value(field, written)
        assert value == number and type(value) is int


@pytest.mark.parametrize("field", OF_TYPE[float], ids=name_of)
def test_numbers(field):
    number = max(0.25, field.metadata["low"])
    for written in (number, str(number), f"{number:.1e}"):
        value = read_value(field, written)
        assert value == pytest.approx(number, rel=0.05) and type(value) is float


@pytest.mark.parametrize(("written", "value"), [("1e-4", 1e-4), (1e-4, 1e-4), ("1", 1.0), (1, 1.0), ("0.5", 0.5)])
def test_a_learning_rate_in_every_spelling(folder, written, value):
    lr = load("plain", folder, {"lr": written}).lr
    assert lr == value and type(lr) is float


def test_yaml_reads_1e_4_as_text_which_is_a_number_to_us(folder):
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}  # the trap
    assert load(preset(folder, "lr: 1e-4\n"), folder, {}).lr == 1e-4


def test_a_folder_may_be_given_as_a_path(folder):
    run_dir = load("plain", folder, {"run_dir": Path("some/where")}).run_dir
    assert run_dir == str(Path("some/where")) and type(run_dir) is str


def test_the_largest_seed_is_kept_to_the_last_digit():
    assert read_value(FIELDS["seed"], str(2**31 - 1)) == 2**31 - 1


# ---- refusals


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("resume", "maybe", "true or false"),
        ("resume", 2, "true or false"),
        ("resume", None, "true or false"),
        ("resume", "", "true or false"),
        ("epochs", 2.5, "a whole number"),
        ("epochs", "2.5", "a whole number"),
        ("epochs", "many", "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", math.nan, "a whole number"),
        ("epochs", math.inf, "a whole number"),
        ("epochs", "inf", "a whole number"),
        ("epochs", None, "a whole number"),
        ("epochs", [3], "a whole number"),
        ("epochs", 0, "1 to "),
        ("epochs", "9" * 5000, "a whole number"),
        ("lr", "fast", "a number"),
        ("lr", False, "a number"),
        ("lr", None, "a number"),
        ("lr", {}, "a number"),
        ("lr", math.nan, "0 to 10"),
        ("lr", "nan", "0 to 10"),
        ("lr", math.inf, "0 to 10"),
        ("lr", -1, "0 to 10"),
        ("image_size", 10**6, "32 to 1024"),
        ("image_size", "31", "32 to 1024"),
        ("pwca_partner", "cousin", "one of random, twin, mix"),
        ("pwca_partner", [3], "text"),
        ("twin_loss", "softmax", "one of triplet, supcon, verification"),
        ("neck", "ln", "one of bn, none"),
        ("similarity", "dot", "one of cosine, euclidean, learned"),
        ("similarity_temperature", 0, "0.001 to 10"),
        ("positive_ratio", 1.0, "0.01 to 0.99"),
        ("hard_negative_ratio", -0.1, "0 to 0.99"),
        ("layer_decay", 1.1, "0.1 to 1"),
        ("width", 7, "8 to 128"),
        ("colour_order", "gbr", "one of auto, rgb, bgr"),
        ("frozen_backbone", "half", "true or false"),
        ("embedding_dropout", 1.0, "0 to 0.9"),
        ("ema_decay", 1.0, "0 to 0.99999"),
        ("nproc", 0, "1 to 64"),
        ("nproc", "two", "a whole number"),
        ("patience", -1, "0 to 10000"),
        ("mixup_alpha", -0.2, "0 to 10"),
        ("compile", "maybe", "true or false"),
        ("run_dir", None, "text"),
        ("run_dir", ["a"], "text"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(folder, name, value, takes):
    with pytest.raises(ConfigError) as refusal:
        load("plain", folder, {name: value})
    sentence = str(refusal.value)
    quoted = re.escape(str(value)) if len(str(value)) < 100 else r"9+\.\.\.9+"  # what is long is cut
    assert re.match(rf"parameter {name}='?{quoted}(\.0)?'?: takes ", sentence) and takes in sentence
    assert len(re.findall(r"\.(?=\s|$)", sentence)) == 1 and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize(("typed", "meant"), [("resumee", "resume"), ("epoch", "epochs"), ("learning_rate", None)])
def test_an_unknown_name_is_refused_with_the_nearest(folder, typed, meant):
    with pytest.raises(ConfigError, match=repr(typed)) as refusal:
        load("plain", folder, {typed: 1})
    assert f"did you mean {meant}?" in str(refusal.value) if meant else "config.py lists" in str(refusal.value)


def test_an_unknown_key_in_a_preset_names_the_file(folder):
    with pytest.raises(ConfigError, match=r"'epoch' in chosen\.yaml: did you mean epochs"):
        load(preset(folder, "epoch: 3\n"), folder, {})


def test_a_key_that_is_no_text_is_refused(folder):
    with pytest.raises(ConfigError, match=r"unknown parameter 5 in chosen\.yaml"):
        load(preset(folder, "5: 3\n"), folder, {})


def test_a_wrong_value_in_a_preset_is_refused_even_where_a_given_one_would_win(folder):
    with pytest.raises(ConfigError, match="epochs='many'"):
        load(preset(folder, "epochs: many\n"), folder, {"epochs": 3})


@pytest.mark.parametrize("name", ["demoo", "", "../params/demo", None, 3])
def test_an_unknown_preset_lists_those_there_are(folder, name):
    preset(folder, "")
    with pytest.raises(ConfigError, match=r"takes one of chosen, plain\.$") as refusal:
        load(name, folder, {})
    assert repr(name) in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "epochs: [1, 2",
        "a: b: c",
        "\tepochs: 3",
        "epochs: !!python/object/apply:os.getcwd []",
        "lr: 2001-99-99",  # the YAML reader raises a bare ValueError for an impossible date
        "lr: 0b_",  # and for digits that are none
        b"backbone: \xff\xfe\xfa",  # not UTF-8
        "- epochs\n- 3",
        "epochs",
    ],
)
def test_a_preset_that_is_no_map_in_yaml_is_refused_by_its_name(folder, text):
    with pytest.raises(ConfigError, match=r"chosen\.yaml"):
        load(preset(folder, text), folder, {})


@pytest.mark.parametrize(
    ("given_values", "named"),
    [
        ({"pwca_first": 3, "pwca_last": 2}, ["pwca_last=2", "pwca_first=3"]),
        ({"lr": "1e-4", "min_lr": "2e-4"}, ["min_lr=0.0002", "lr=0.0001"]),
        ({"softmax_weight": 0, "twin_weight": 0}, ["softmax_weight", "twin_weight"]),
        ({"positive_ratio": 0.6}, ["positive_ratio=0.6", "hard_negative_ratio=0.5", "soft_negative_ratio=0", "be 1"]),
        ({"soft_negative_ratio": 0.25}, ["positive_ratio=0.5", "soft_negative_ratio=0.25"]),
        ({"positive_ratio": 0.3}, ["positive_ratio=0.3", "be 1"]),
        (  # nobody would differ
            {"positive_ratio": 0.99, "hard_negative_ratio": 0, "soft_negative_ratio": 0},
            ["hard_negative_ratio", "soft_negative_ratio"],
        ),
        (
            {"recipe": "adaface", "backbone": "ir_50", "image_size": 112, "pwca_prob": 0.5, "twin_loss": "supcon"},
            ["pwca_prob=0.5, twin_loss='supcon'", "without effect in recipe=adaface"],
        ),
        ({"train_percentage": 10, "width": 16}, ["width=16, train_percentage=10", "recipe=dcal", "leave it out"]),
        ({"recipe": "adaface", "backbone": "ir_50", "gradient_checkpointing": True}, ["gradient_checkpointing=True"]),
        (
            {"recipe": "adaface", "backbone": "ir_50", "image_size": 112, "nproc": 3},
            ["triplets_per_batch=16", "nproc=3", "multiple of 3"],
        ),
        ({"families_per_batch": 5, "nproc": 2}, ["families_per_batch=5", "nproc=2", "multiple of 2"]),
        ({"families_per_batch": 4, "accumulation": 3}, ["families_per_batch=4", "accumulation=3", "multiple of 3"]),
        (
            {"families_per_batch": 6, "nproc": 2, "accumulation": 2},
            ["families_per_batch=6", "nproc=2", "accumulation=2", "multiple of 4"],
        ),
        (
            {"recipe": "adaface"},
            ["recipe=adaface", "'vit_base_patch16_224'", "takes one of ir_18, ir_34, ir_50, ir_101"],
        ),
        ({"recipe": "adaface", "backbone": "ir_20"}, ["recipe=adaface", "'ir_20'", "takes one of ir_18"]),
        ({"backbone": "ir_50"}, ["recipe=dcal", "'ir_50'", "a vision transformer"]),
        (
            {"recipe": "adaface", "backbone": "ir_50", "image_size": 120},
            ["image_size=120", "ir_50", "a multiple of 16"],
        ),
        ({"mixup_alpha": 0.2}, ["mixup_alpha=0.2", "twin_loss=triplet", "twin_weight=0"]),
        ({"cutmix_alpha": 1, "twin_loss": "supcon"}, ["cutmix_alpha=1", "twin_loss=supcon", "twin_weight=0"]),
        ({"mixup_alpha": 0.2, "twin_weight": 0}, ["mixup_alpha=0.2", "PWCA", "pwca_prob=0"]),
        ({"cutmix_alpha": 0.2, "twin_weight": 0, "pwca_prob": 0.1}, ["cutmix_alpha=0.2", "pwca_prob=0"]),
        (
            {"mixup_alpha": 0.2, "cutmix_alpha": 1, "twin_weight": 0, "pwca_prob": 0, "similarity": "learned"},
            ["mixup_alpha=0.2 and cutmix_alpha=1", "similarity=learned", "cosine or euclidean"],
        ),
    ],
)
def test_parameters_that_disagree_are_refused_together(folder, given_values, named):
    with pytest.raises(ConfigError) as refusal:
        load("plain", folder, given_values)
    assert all(name in str(refusal.value) for name in named)


@pytest.mark.parametrize(
    "given_values",
    [
        {"pwca_first": 3, "pwca_last": 0},  # 0: to the last block
        {"pwca_first": 3, "pwca_last": 3},
        {"lr": 1e-4, "min_lr": 1e-4},
        {"recipe": "adaface", "backbone": "ir_101", "image_size": 112},
        {"recipe": "dcal", "image_size": 120},  # timm's own matter
        {"recipe": "adaface", "backbone": "ir_18", "families_per_batch": 4, "pwca_prob": 1.0},  # as by default
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
        {"similarity": "learned"},
        {"similarity": "learned", "twin_loss": "verification", "neck": "none"},
    ],
)
def test_parameters_that_agree_at_the_limit_are_taken(folder, given_values):
    config = load("plain", folder, given_values)
    assert {name: getattr(config, name) for name in given_values} == given_values


def test_below_a_notebook_cell_the_sentence_stands_alone():
    assert ConfigError("epochs=0: takes 1.")._render_traceback_() == ["ConfigError: epochs=0: takes 1."]
    assert issubclass(ConfigError, UserError) and issubclass(UserError, ValueError)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


@pytest.mark.parametrize(
    ("given_values", "complaint"),
    [
        ({"preset": "demoo"}, r"preset='demoo': takes auto or one of plain\.$"),
        ({"preset": "plain", "resumee": "true"}, "did you mean resume?"),
        ({"resume": "maybe"}, "resume='maybe': takes true or false"),
    ],
)
def test_what_a_notebook_is_given_is_refused_at_once(folder, given_values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_given(given_values, folder)


@pytest.mark.parametrize("given_values", [{}, {"preset": "auto"}, {"preset": "plain", "resume": "false", "lr": "1e-4"}])
def test_what_a_notebook_is_given_rightly_is_left_as_it_was(folder, given_values):
    before = dict(given_values)
    check_given(given_values, folder)
    assert given_values == before


# ---- fingerprint


@pytest.mark.parametrize("field", FIELDS.values(), ids=name_of)
def test_the_fingerprint_changes_with_decisive_parameters_and_no_others(field):
    changed = dataclasses.replace(Config(), **{field.name: another(field)})
    assert getattr(changed, field.name) != field.default
    assert (changed.fingerprint() != Config().fingerprint()) == field.metadata["result"]


def test_what_the_weights_depend_on_is_decisive_and_where_things_lie_is_not():
    decisive = {name for name, field in FIELDS.items() if field.metadata["result"]}
    assert {"recipe", "seed", "image_size", "lr", "epochs", "families_per_batch", "neck", "similarity"} <= decisive
    assert {"mixup_alpha", "positive_ratio", "layer_decay", "ema_decay", "similarity_temperature"} <= decisive
    assert {"width", "colour_order", "frozen_backbone", "embedding_dropout"} <= decisive
    assert decisive.isdisjoint({"run_dir", "resume", "time_budget_hours", "loader_workers", "tracker", "data_root"})
    # in how many parts and processes, and how fast, a batch is worked through
    assert decisive.isdisjoint({"accumulation", "nproc", "compile", "channels_last", "gradient_checkpointing"})


def test_the_fingerprint_is_the_same_however_a_value_was_written(folder):
    written = load("plain", folder, {"lr": "1e-3", "epochs": "3", "allow_random_init": "no"})
    plain = load("plain", folder, {"lr": 0.001, "epochs": 3, "allow_random_init": False})
    assert written.fingerprint() == plain.fingerprint()


def test_what_has_no_effect_in_a_recipe_is_named_rightly():
    assert WITHOUT_EFFECT.keys() == BATCH_OF.keys() == set(FIELDS["recipe"].metadata["choices"])
    idle = {recipe: names.split() for recipe, names in WITHOUT_EFFECT.items()}
    assert all(set(names) <= FIELDS.keys() for names in idle.values())
    assert [recipe for recipe, name in BATCH_OF.items() if name in idle[recipe]] == []
    assert not set(idle["dcal"]) & set(idle["adaface"])  # else it would have an effect nowhere


# ---- the presets that come with the project


def test_there_is_a_demo():
    assert "demo" in presets(PARAMS)


@pytest.mark.parametrize("name", presets(PARAMS))
def test_every_preset_loads_and_is_headed_by_a_comment(name):
    assert isinstance(load(name, PARAMS, {}), Config)
    heading = (PARAMS / f"{name}.yaml").read_text().splitlines()[0]
    assert re.match(r"# \w.{10,}", heading)


@pytest.mark.parametrize("name", presets(PARAMS))
def test_no_preset_says_anything_twice(name):
    keys = re.findall(r"^(\w+):", (PARAMS / f"{name}.yaml").read_text(), re.MULTILINE)
    assert sorted(keys) == sorted(set(keys))  # YAML would silently take the last


# ---- anything at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(["true", "False", "1e-4", "1_0", "nan", "-inf", "0x10", "3.0", "1e400", "٣", "twin", "²"]),
    st.lists(st.integers(), max_size=2),
)
mappings = st.dictionaries(st.sampled_from(sorted(FIELDS)), scalars, max_size=4)


def assert_sound(config: Config) -> None:
    for name, field in FIELDS.items():
        value = getattr(config, name)
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        assert type(value) is field.type
        assert low is None or low <= value <= high
        assert choices is None or value in choices


@settings(max_examples=400, deadline=None)
@given(values=mappings)
def test_whatever_is_given_loads_soundly_or_is_refused(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.yaml").touch()
    try:
        config = load("any", folder, values)
    except ConfigError:
        return
    assert_sound(config)


@settings(max_examples=200, deadline=None)
@given(values=mappings)
def test_whatever_a_preset_holds_loads_soundly_or_is_refused(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    (folder / "written.yaml").write_text(yaml.safe_dump(values))
    try:
        config = load("written", folder, {})
    except ConfigError:
        return
    assert_sound(config)
