"""Every parameter of every recipe is read as its type however it is written, or refused in one sentence that helps."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dcal_core.config.dcal import DCALConfig
from dcal_core.config.parameters import choices, is_decisive, limits, read
from dcal_core.config.recipes import CLASSES, class_of
from dcal_core.config.shared import Config
from dcal_core.errors import ConfigError, UserError

RECIPES = {recipe: class_of(recipe) for recipe in CLASSES}
FIELDS = [(recipe, name) for recipe, kind in RECIPES.items() for name in kind.model_fields]


def fields_of(*types: type):
    """A test for each parameter of each recipe, or for those of some types."""
    chosen = [(r, n) for r, n in FIELDS if not types or type_of(r, n) in types]
    return pytest.mark.parametrize(("recipe", "name"), chosen, ids=[f"{recipe}-{name}" for recipe, name in chosen])


def field_of(recipe: str, name: str):
    return RECIPES[recipe].model_fields[name]


def type_of(recipe: str, name: str) -> type:
    """The type of a parameter's values, text for those with choices."""
    field = field_of(recipe, name)
    return str if choices(field) else field.annotation


def read_one(recipe: str, name: str, written):
    """One parameter from a value as it was written."""
    return getattr(read(RECIPES[recipe], {name: written}, agreeing=False), name)


def another(recipe: str, name: str):
    """A value that a parameter can take and that is not its default."""
    field = field_of(recipe, name)
    if field.annotation is bool:
        return not field.default
    if choices(field):
        return next(choice for choice in choices(field) if choice != field.default)
    if field.annotation is str:
        return field.default + "x"
    low, high = limits(field)
    return low if field.default != low else high


# ---- every field, as papermill would hand it over


@fields_of()
def test_every_field_is_described_and_reads_its_own_default_back(recipe, name):
    field = field_of(recipe, name)
    assert field.description
    for written in (field.default, str(field.default)):
        value = read_one(recipe, name, written)
        assert value == field.default and type(value) is type_of(recipe, name)


@fields_of()
def test_every_number_has_a_range_that_holds_its_default(recipe, name):
    field = field_of(recipe, name)
    if type_of(recipe, name) in (int, float):
        low, high = limits(field)
        assert low <= field.default <= high
    else:
        assert limits(field) is None


@fields_of(str)
def test_every_choice_can_be_taken_and_the_default_is_one(recipe, name):
    options = choices(field_of(recipe, name))
    assert not options or field_of(recipe, name).default in options
    assert [read_one(recipe, name, option) for option in options] == list(options)


@fields_of(bool)
def test_booleans(recipe, name):
    for yes in ("true", "True", "TRUE", " true ", True, "1", 1, "yes", "on"):
        assert read_one(recipe, name, yes) is True
    for no in ("false", "False", False, "0", 0, "no", "off"):
        assert read_one(recipe, name, no) is False


@fields_of(int)
def test_whole_numbers(recipe, name):
    number = max(3, limits(field_of(recipe, name))[0])
    for written in (number, str(number), float(number), f"{number}.0", f" {number} "):
        value = read_one(recipe, name, written)
        assert value == number and type(value) is int


@fields_of(float)
def test_numbers(recipe, name):
    number = max(0.25, limits(field_of(recipe, name))[0])
    for written in (number, str(number), f"{number:.1e}"):
        value = read_one(recipe, name, written)
        assert value == pytest.approx(number, rel=0.05) and type(value) is float


@fields_of(int, float)
def test_a_number_beyond_its_range_is_refused_with_the_range(recipe, name):
    low, high = limits(field_of(recipe, name))
    for beyond in (low - 1, high + 1, str(high + 1), 10**400):
        if type_of(recipe, name) is float and beyond == 10**400:
            continue  # no float either
        with pytest.raises(ConfigError, match=f"parameter {name}=.*: takes {re.escape(f'{low:g} to {high:g}')} "):
            read_one(recipe, name, beyond)


@pytest.mark.parametrize(("written", "value"), [("1e-4", 1e-4), (1e-4, 1e-4), ("1", 1.0), (1, 1.0), ("0.5", 0.5)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_learning_rate_in_every_spelling(recipe, written, value):
    lr = read_one(recipe, "lr", written)
    assert lr == value and type(lr) is float


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_may_be_given_as_a_path_or_be_called_by_a_number(recipe):
    for given_value in (Path("some/where"), "2024", "007", "1e3"):
        run_dir = read_one(recipe, "run_dir", given_value)
        assert run_dir == str(given_value) and type(run_dir) is str


@pytest.mark.parametrize("value", [7, 1e3, 0.5])
@pytest.mark.parametrize("name", ["run_dir", "weights", "exclusions", "backbone", "wandb_entity"])
def test_a_number_for_a_text_is_refused_since_it_may_have_been_007(name, value):
    with pytest.raises(ConfigError, match=f"parameter {name}={value}: takes text, and this is a number: .* by -r"):
        read_one("dcal", name, value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_largest_seed_is_kept_to_the_last_digit(recipe):
    assert read_one(recipe, "seed", str(2**31 - 1)) == 2**31 - 1


@pytest.mark.parametrize("name", ["run_dir", "resume_from", "data_root", "exclusions", "weights"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tilde_is_the_home_folder(recipe, name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_one(recipe, name, "~/twins") == "/home/me/twins"
    assert read_one(recipe, name, "a~b") == "a~b"


# ---- refusals

NONSENSE = [
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
    ("epochs", "0", "1 to "),
    ("epochs", "9" * 400, "1 to "),
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
    ("pwca_partner", [3], "one of random, twin, mix"),
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
    ("nproc", -1, "0 to 64"),
    ("nproc", "two", "a whole number"),
    ("patience", -1, "0 to 10000"),
    ("mixup_alpha", -0.2, "0 to 10"),
    ("compile", "maybe", "true or false"),
    ("run_dir", None, "text"),
    ("run_dir", ["a"], "text"),
    ("run_dir", True, "text"),
    ("run_dir", b"a", "text"),
]


@pytest.mark.parametrize(
    ("recipe", "name", "value", "takes"),
    [(r, *case) for r, kind in RECIPES.items() for case in NONSENSE if case[0] in kind.model_fields],
)
def test_nonsense_is_refused_in_one_sentence(recipe, name, value, takes):
    with pytest.raises(ConfigError) as refusal:
        read_one(recipe, name, value)
    sentence = str(refusal.value)
    quoted = re.escape(str(value)) if len(str(value)) < 100 else r"9+\.\.\.9+"  # what is long is cut
    assert re.match(rf"parameter {name}='?{quoted}(\.0)?'?: takes ", sentence) and takes in sentence
    assert len(re.findall(r"\.(?=\s|$)", sentence)) == 1 and sentence.endswith(".") and "\n" not in sentence


def test_every_nonsense_is_of_some_recipe():
    assert {name for name, *_ in NONSENSE} <= {name for _, name in FIELDS}


@pytest.mark.parametrize(("name", "takes"), [("seed", "0 to"), ("lr", "a number"), ("run_dir", "text")])
def test_a_number_of_thousands_of_digits_is_refused_without_them(name, takes):
    with pytest.raises(ConfigError, match=f"parameter {name}=a int of thousands of digits: takes {takes}"):
        read_one("dcal", name, 10**5000)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
@fields_of(str)
def test_text_that_no_file_could_hold_is_refused(recipe, name, text):
    with pytest.raises(ConfigError, match=f"parameter {name}="):
        read_one(recipe, name, text)


def test_below_a_notebook_cell_the_sentence_stands_alone():
    assert ConfigError("epochs=0: takes 1.")._render_traceback_() == ["ConfigError: epochs=0: takes 1."]
    assert issubclass(ConfigError, UserError) and issubclass(UserError, ValueError)


# ---- one set of parameters


@pytest.mark.parametrize("kind", RECIPES.values())
def test_defaults_pass_their_own_checks(kind):
    assert read(kind, kind().as_dict()) == kind()


@pytest.mark.parametrize("kind", RECIPES.values())
def test_a_config_cannot_be_changed_and_takes_no_unknown_name(kind):
    config = kind()
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3
    with pytest.raises(ValidationError, match="learning_rate"):
        kind(learning_rate=3)
    assert config == kind()


def test_parameters_that_disagree_cannot_be_constructed():
    with pytest.raises(ValidationError, match=r"min_lr=0\.0002 is above lr=0\.0001: lower it"):
        DCALConfig(lr=1e-4, min_lr=2e-4)


@fields_of()
def test_a_copy_differs_in_what_was_to_be_replaced(recipe, name):
    if not agrees(recipe, name):
        return
    config, value = RECIPES[recipe](), another(recipe, name)
    changed = config.replace(**{name: value})
    assert type(changed) is type(config) and changed.as_dict() == config.as_dict() | {name: value}


def test_a_copy_is_checked_as_well(refused):
    with refused(ConfigError, "min_lr=1e-06", "lr=1e-07"):
        DCALConfig().replace(lr=1e-7)
    with refused(ConfigError, "parameter epochs=0", "1 to 100000"):
        DCALConfig().replace(epochs=0)


def test_parameters_are_a_flat_dictionary_in_the_order_of_their_fields():
    for kind in RECIPES.values():
        values = kind().as_dict()
        assert list(values) == list(kind.model_fields)
        assert {type(value) for value in values.values()} <= {bool, int, float, str}


def test_every_recipe_has_the_shared_parameters_with_their_types():
    for recipe in RECIPES:
        for name in Config.model_fields:
            shared = str if choices(Config.model_fields[name]) else Config.model_fields[name].annotation
            assert type_of(recipe, name) is shared, name


# ---- what decides the weights


def agrees(recipe: str, name: str) -> bool:
    """Whether a parameter can take its other value while all others have their defaults."""
    try:
        return bool(RECIPES[recipe](**{name: another(recipe, name)}))
    except (ValidationError, StopIteration):  # the name of the recipe has no other value
        return False


def test_nearly_every_parameter_can_be_changed_on_its_own():
    assert sum(agrees(*field) for field in FIELDS) > 0.85 * len(FIELDS)


@fields_of()
def test_fingerprint_and_differences_follow_decisive_parameters_only(recipe, name):
    kind = RECIPES[recipe]
    if name == "recipe":  # which has one value in each class
        assert is_decisive(field_of(recipe, name))
        return
    value = another(recipe, name)
    changed = kind.model_construct(**kind().as_dict() | {name: value})  # it need not agree with the others
    default = kind().as_dict()[name]
    assert value != default
    decisive = is_decisive(field_of(recipe, name))
    assert (changed.fingerprint() != kind().fingerprint()) == decisive == (name in kind.decisive())
    assert changed.differences(kind().as_dict()) == ({name: (default, value)} if decisive else {})


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_the_weights_depend_on_is_decisive_and_where_things_lie_is_not(recipe):
    decisive = set(RECIPES[recipe].decisive())
    assert {"recipe", "seed", "image_size", "lr", "epochs", "weight_decay", "ema_decay"} <= decisive
    assert decisive.isdisjoint({"run_dir", "resume", "time_budget_hours", "loader_workers", "tracker", "data_root"})
    # in how many parts and processes, and how fast, a batch is worked through
    assert decisive.isdisjoint({"accumulation", "nproc", "compile", "channels_last", "gradient_checkpointing"})


def test_what_the_weights_depend_on_in_one_recipe_alone_is_decisive_there():
    dcal, adaface, oaml = (set(RECIPES[recipe].decisive()) for recipe in ("dcal", "adaface", "oaml"))
    assert {"families_per_batch", "neck", "similarity", "mixup_alpha", "positive_ratio"} <= dcal
    assert {"similarity_temperature", "twin_loss", "pwca_prob"} <= dcal
    assert {"width", "colour_order", "frozen_backbone", "embedding_dropout", "triplets_per_batch"} <= adaface
    assert {"occlusion_prob", "joint", "visibility", "sampler", "milestones", "class_share", "class_memory"} <= oaml


def test_the_fingerprint_is_the_same_however_a_value_was_written():
    written = DCALConfig().replace(lr="1e-3", epochs="3", allow_random_init="no")
    assert written.fingerprint() == DCALConfig(lr=0.001, epochs=3, allow_random_init=False).fingerprint()


@pytest.mark.parametrize("recipe", RECIPES)
def test_differences_ignore_the_fields_of_other_recipes_and_versions(recipe):
    config = RECIPES[recipe]()
    others = {name: "odd" for _, name in FIELDS if name not in RECIPES[recipe].model_fields}
    assert others and config.differences(config.as_dict() | others | {"fingerprint": "x", "of_old": 1}) == {}


@pytest.mark.parametrize("recipe", RECIPES)
def test_differences_take_a_missing_field_as_its_default(recipe):
    config = RECIPES[recipe]()
    assert config.differences({}) == {}
    assert config.replace(seed=3).differences({}) == {"seed": (0, 3)}
    assert config.differences({"seed": 3}) == {"seed": (3, 0)}
    assert config.differences({"run_dir": "elsewhere"}) == {}


# ---- anything at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, 10**5000]),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(
        ["true", "False", "1e-4", "1_0", "nan", "-inf", "0x10", "3.0", "1e400", "٣", "twin", "²", "\ud800"]
    ),
    st.lists(st.integers(), max_size=2),
)
anything = st.sampled_from(sorted(RECIPES)).flatmap(
    lambda recipe: st.tuples(
        st.just(recipe), st.dictionaries(st.sampled_from(sorted(RECIPES[recipe].model_fields)), scalars, max_size=4)
    )
)


def assert_sound(recipe: str, config: Config) -> None:
    assert type(config) is RECIPES[recipe]
    for name, field in RECIPES[recipe].model_fields.items():
        value = getattr(config, name)
        assert type(value) is type_of(recipe, name)
        assert limits(field) is None or limits(field)[0] <= value <= limits(field)[1]
        assert not choices(field) or value in choices(field)


@settings(max_examples=400, deadline=None)
@given(drawn=anything)
def test_whatever_is_given_is_read_soundly_or_refused(drawn):
    recipe, values = drawn
    try:
        config = read(RECIPES[recipe], values)
    except ConfigError:
        return
    assert_sound(recipe, config)
