"""Parameters as a notebook hands them over, and presets in YAML, with a judge that states types and ranges anew."""

import re
from pathlib import Path

import yaml
from hypothesis import strategies as st

from bad_inputs.mutations import can_be_written, damaged
from bad_inputs.trial import EXECUTED, Kind
from dcal_core.config.parameters import choices, limits
from dcal_core.config.recipes import CLASSES, check_given, class_of, load

PRESET = """# A preset
backbone: hybrid_tiny
allow_random_init: true        # nobody publishes weights
image_size: 64                 # px
lr: 2.0e-3
min_lr: 1.0e-5
epochs: 6
families_per_batch: 8
twin_loss: supcon              # same person among the family
"""
TRUTH = ["true", "yes", "on", "1", "false", "no", "off", "0"]
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
RECIPES = {recipe: class_of(recipe).model_fields for recipe in CLASSES}
NAMES = sorted({name for fields in RECIPES.values() for name in fields})
PLACES = ("run_dir", "resume_from", "data_root", "exclusions", "weights")


def fields_of(values: dict) -> dict:
    """The parameters of the recipe that some values name, none where there is no such recipe."""
    recipe = values.get("recipe", "dcal")
    return RECIPES[recipe] if isinstance(recipe, str) and recipe in RECIPES else {}


def legal(fields: dict, name: object, value: object) -> bool:
    """Whether a parameter is one of the recipe's, and its value of its type and within its range."""
    if name not in fields:
        return False
    kind = fields[name].annotation
    if kind is bool:
        return isinstance(value, bool | str | int) and str(value).strip().lower() in TRUTH
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    if choices(fields[name]):
        return value in choices(fields[name])
    if kind is str:
        return isinstance(value, str) and can_be_written(value)
    if isinstance(value, str):
        if not NUMBER.fullmatch(value.strip()):
            return False
        value = float(value)
    low, high = limits(fields[name])
    return low <= value <= high and (kind is float or value == value // 1)


def plain(fields: dict, name: str, values: dict):
    """A legal value as Python has it."""
    value = values.get(name, fields[name].default)
    kind = str if choices(fields[name]) else fields[name].annotation
    return str(value).strip().lower() in TRUTH[:4] if kind is bool else kind(float(value) if kind is int else value)


def agree(values: dict) -> bool:
    """Whether legal parameters agree with one another."""
    p = {name: plain(fields_of(values), name, values) for name in fields_of(values)}
    parts = p["nproc"] * p["accumulation"]
    faults = (p["min_lr"] > p["lr"], "@" in p["mlflow_uri"], p["resume_from"] and not p["resume"])
    if p["recipe"] == "adaface":
        return not any((*faults, p["triplets_per_batch"] % parts, p["image_size"] % 16))
    mixes = p["mixup_alpha"] or p["cutmix_alpha"]
    shares = p["positive_ratio"] + p["hard_negative_ratio"] + p["soft_negative_ratio"]
    faults = (
        *faults,
        p["families_per_batch"] % parts,
        0 < p["pwca_last"] < p["pwca_first"],
        abs(shares - 1) > 1e-6,
        mixes and (p["twin_weight"] or (p["pwca_first"] and p["pwca_prob"]) or p["similarity"] == "learned"),
        not p["softmax_weight"] and not p["twin_weight"],
        p["backbone"] in ("ir_18", "ir_34", "ir_50", "ir_101"),
    )
    return not any(faults)


def sound(values: object) -> bool:
    """Whether a set of parameters can be trained with."""
    if not isinstance(values, dict):
        return False
    fields = fields_of(values)
    return bool(fields) and all(legal(fields, *item) for item in values.items()) and agree(values)


# ---- parameters


def given_wrongly(folder: Path, values: dict) -> bool:
    """The judge of parameters."""
    rest = {name: value for name, value in values.items() if name != "preset"}
    return values.get("preset", "auto") not in ("auto", "mine") or not sound(rest)


def use_parameters(folder: Path, values: dict) -> None:
    """What every notebook and command does with what it is given."""
    check_given(dict(values), folder)
    load("mine", folder, {name: value for name, value in values.items() if name != "preset"})


def write_plain_preset(folder: Path, values: dict) -> None:
    (folder / "mine.yaml").write_text("# A preset\n")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 200),
    st.floats(),
    st.floats(0, 1),
    st.text(st.sampled_from("abx.-# +e~"), max_size=6),
    st.sampled_from(
        ["true", "False", "nan", "-inf", "1e400", "0x10", "3.5", "cls", "twin", "adaface", "1,5", "a@b", "10%", "\0"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.binary(max_size=3),
    st.dates(),
)
misspelt = st.sampled_from(["lrr", "learning_rate", "Epochs", "epochs ", "", "presett", "__class__", "\n", "\ud800"])
given_values = st.dictionaries(st.sampled_from(NAMES) | misspelt, scalars, min_size=1, max_size=3)

BAD_PARAMETERS = {
    "misspelt": {"epoch": 3},
    "preset misspelt": {"preset": "demoo"},
    "preset that leaves its folder": {"preset": "../mine"},
    "preset that is a list": {"preset": ["mine"]},
    "name that is a number": {7: 3},
    "neither true nor false": {"resume": "maybe"},
    "true for a number": {"epochs": True},
    "bytes for a number": {"epochs": b"4"},
    "half an epoch": {"epochs": "2.5"},
    "no epochs": {"epochs": 0},
    "NaN": {"lr": "nan"},
    "infinite": {"time_budget_hours": "inf"},
    "huge whole number": {"seed": 10**5000},
    "huge number as text": {"seed": "9" * 5000},
    "huge number for a text": {"run_dir": 10**5000},
    "text for a number": {"lr": "fast"},
    "long text for a number": {"lr": "9" * 100_000 + "x"},
    "deep list": {"lr": [[[[[[]]]]]]},
    "unknown choice": {"twin_loss": "contrastive"},
    "unknown recipe": {"recipe": "siamese"},
    "of another recipe": {"width": 64},
    "of another recipe than the one given": {"recipe": "adaface", "twin_loss": "supcon"},
    "choice in capitals": {"neck": "BN"},
    "last before first": {"pwca_first": 3, "pwca_last": 2},
    "min_lr above lr": {"lr": 1e-6, "min_lr": 1e-5},
    "shares beyond 1": {"positive_ratio": 0.9},
    "batch that cannot be parted": {"nproc": 3},
    "blended pairs": {"mixup_alpha": 0.2},
    "password in an address": {"mlflow_uri": "https://me:secret@host"},
    "resume forbidden and named": {"resume": False, "resume_from": "there"},
    "nothing to learn": {"softmax_weight": 0, "twin_weight": 0},
    **{f"NUL in {name}": {name: "a\0b"} for name in PLACES},
    **{f"half a surrogate pair in {name}": {name: "a\ud800"} for name in PLACES},
}


def parameter_names(values: dict) -> tuple[str, ...]:
    """A refusal names a parameter that was given, by its name or the repr of a name that is none."""
    return tuple(str(name) if str(name).isidentifier() else repr(name) for name in values)


PARAMETERS = Kind(
    name="parameters",
    by_hand=BAD_PARAMETERS,
    generated=given_values,
    count=100,
    lay_out=write_plain_preset,
    malformed=given_wrongly,
    use=use_parameters,
    names=parameter_names,
    example="half an epoch",
)


# ---- presets


def unique_keys(text: bytes) -> bool:
    """Whether no key of a YAML mapping stands twice, read without making anything of it."""
    root = yaml.compose(text, yaml.SafeLoader)
    keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    return len(keys) == len(set(map(str, keys)))


def as_text(node: yaml.Node | None):
    """A YAML node with what is plain in it as text; a null as None, and a truth value as one."""
    if isinstance(node, yaml.MappingNode):
        return {as_text(key): as_text(value) for key, value in node.value}
    if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:binary":
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        return {"null": None, "bool": node.value.lower() in TRUTH[:4]}.get(kind, node.value)
    return None if node is None else [node.tag]


def spoilt(folder: Path, text: bytes | None) -> bool:
    """The judge of presets: UTF-8, YAML, one mapping without double keys, of sound parameters."""
    try:
        decoded = text.decode()
        yaml.safe_load(re.sub(r"!!(int|float|timestamp)", "!!str", decoded))  # these are read as text
        return not (unique_keys(decoded) and sound(as_text(yaml.compose(decoded, yaml.SafeLoader)) or {}))
    except Exception:  # whatever the reader of YAML raises, this is none
        return True


def write_preset(folder: Path, text: bytes | None) -> None:
    (folder / "mine.yaml").mkdir() if text is None else (folder / "mine.yaml").write_bytes(text)


def use_preset(folder: Path, text: bytes | None) -> None:
    load("mine", folder, {})


def preset_with(lines: str) -> bytes:
    return (PRESET + lines + "\n").encode("utf-8", "surrogatepass")


BAD_PRESETS = {
    "a list": b"- lr\n- 3\n",
    "a text": b"lr 3\n",
    "a folder in its place": None,
    "not UTF-8": preset_with("weights: ") + b"\xff\xfe",
    "a NUL": preset_with("weights: \0"),
    "a tab": preset_with("\tweights: a"),
    "two documents": preset_with("---\nseed: 3"),
    "name twice": preset_with("lr: 1.0e-3"),
    "name unknown": preset_with("epoch: 3"),
    "name without value": preset_with("seed:"),
    "name a list": preset_with("? [a, b]\n: 3"),
    "list for a number": preset_with("seed: [1, 2]"),
    "binary for a number": preset_with("seed: !!binary NA=="),
    "date for a number": preset_with("seed: 2026-01-01"),
    "octal": preset_with("seed: 0o17"),
    "hours and minutes": preset_with("time_budget_hours: 1:30"),
    "nothing for a text": preset_with("run_dir: null"),
    "runs a program": preset_with(f"run_dir: !!python/object/apply:os.system ['touch {EXECUTED}']"),
    "unknown tag": preset_with("run_dir: !secret a"),
    "tag that does not fit a number": preset_with("seed: !!int ''"),
    "tag that does not fit a truth": preset_with("resume: !!bool perhaps"),
    "alias of nothing": preset_with("seed: *none"),
    "alias of itself": preset_with("seed: &a [*a]"),
    "deep nesting": preset_with("seed: " + "[" * 5_000),
    "billion laughs": preset_with(
        "a0: &a0 [ha]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))
    ),
    "billion laughs under a known name": preset_with(
        "lr: [&a0 [ha]" + "".join(f", &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)) + "]"
    ).replace(b"lr: 2.0e-3\n", b""),
    "huge number": preset_with("seed: " + "9" * 5_000),
    "NUL in a text": preset_with(r'run_dir: "a\0b"'),
}
nasty = st.sampled_from(
    [
        "~",
        "[]",
        "{}",
        "yes",
        ".nan",
        "-.inf",
        "0x1F",
        "1:30",
        "!!binary a",
        "!!float ''",
        "*x",
        "&x",
        "|",
        ">",
        "%",
        "'",
    ]
)
lines = st.builds("{}: {}".format, st.sampled_from([*NAMES, "lrr", "'lr"]), nasty)
PRESETS = Kind(
    name="presets, YAML",
    by_hand=BAD_PRESETS,
    generated=st.one_of(
        damaged(PRESET.encode()),
        lines.map(preset_with),
        st.dictionaries(st.sampled_from(NAMES), scalars, min_size=1, max_size=2).map(
            lambda values: yaml.safe_dump(values).encode("utf-8", "surrogatepass")
        ),
        st.binary(min_size=1, max_size=20),
    ),
    count=80,
    lay_out=write_preset,
    malformed=spoilt,
    use=use_preset,
    names=lambda text: ("mine.yaml", *NAMES),
    example="name unknown",
)
