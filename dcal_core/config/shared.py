"""Every parameter of the project in one frozen dataclass: type, default, meaning, unit and range.

Values come from defaults < `params/<preset>.yaml` < papermill's `-p`, `-f` and `-y`. papermill hands over `-p resume
false` as the string "false" and YAML 1.1 reads `1e-4` as a string, so every value is read as its field's type, or
refused.
"""

import dataclasses
import difflib
import hashlib
import json
from pathlib import Path

import yaml

from dcal_core.errors import ConfigError, quoted

IR_BACKBONES = ("ir_18", "ir_34", "ir_50", "ir_101")  # of face recognition
IR_RECIPES = ("adaface",)  # which take one of them
BATCH_OF = {"dcal": "families_per_batch", "adaface": "triplets_per_batch"}
WITHOUT_EFFECT = {  # in a recipe
    "dcal": "width colour_order frozen_backbone embedding_dropout triplet_distance triplets_per_batch train_percentage",
    "adaface": "mixup_alpha cutmix_alpha local_ratio glca_blocks pwca_first pwca_last pwca_prob pwca_partner dropout "
    "attention_dropout drop_path readout neck similarity similarity_temperature gradient_checkpointing twin_loss "
    "twin_temperature twin_weight positive_ratio hard_negative_ratio soft_negative_ratio loss_weighting "
    "families_per_batch images_per_person",
}


def parameter(default, meaning, low=None, high=None, choices=None, result=True):
    """A field with its meaning and limits; `result=False` marks what cannot change the trained weights."""
    metadata = {"meaning": meaning, "low": low, "high": high, "choices": choices, "result": result}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """All parameters of training, evaluation and exploration; read with `load`, which checks each of them."""

    # run
    recipe: str = parameter("dcal", "which of the systems is trained", choices=("dcal", "adaface"))
    run_dir: str = parameter("", "folder of this run; empty: by preset below the output folder", result=False)
    resume: bool = parameter(True, "go on from the newest checkpoint; false: move the old run aside", result=False)
    resume_from: str = parameter(
        "", "folder of an earlier run or model to go on from; empty: the own and the attached ones", result=False
    )
    seed: int = parameter(0, "seed of data split, initialisation, batches and augmentation", 0, 2**31 - 1)
    time_budget_hours: float = parameter(
        11.0, "wall time after which a run saves and ends, h", 0.0, 1000.0, result=False
    )
    nproc: int = parameter(1, "processes that train together, one GPU each", 1, 64, result=False)

    # data
    data_root: str = parameter("", "folder with the index files; empty: search the inputs", result=False)
    image_size: int = parameter(224, "side of the square input, px", 32, 1024)
    validation_share: float = parameter(0.15, "share of the training families held out", 0.01, 0.9)
    max_lost_share: float = parameter(
        0.01, "share of missing or unreadable images that is tolerated", 0.0, 1.0, result=False
    )
    exclusions: str = parameter(
        "", "file of images to leave out; empty: excluded_images.csv, where prepare wrote it", result=False
    )
    drop_suggested: bool = parameter(
        False, "prepare adds to that file what it suggests to leave out, unreviewed", result=False
    )
    align: bool = parameter(False, "prepare makes an aligned copy of the data, to be given as data_root", result=False)
    align_size: int = parameter(112, "side of an aligned face, px; AdaFace takes 112", 32, 1024, result=False)
    align_missing: str = parameter(
        "drop",
        "photographs without a face; drop: left out of the copy, keep: resized whole",
        choices=("drop", "keep"),
        result=False,
    )
    loader_workers: int = parameter(2, "processes that prepare batches; 0: the training process", 0, 64, result=False)
    synthetic_families: int = parameter(600, "drawn twin families to train on", 4, 100_000)
    synthetic_images: int = parameter(6, "images of each drawn person", 2, 100)
    synthetic_test_families: int = parameter(31, "drawn families to test on; ND-TWINS has 31", 1, 10_000, result=False)
    synthetic_difficulty: float = parameter(0.5, "0: marks plain to see, 1: barely visible", 0.0, 1.0)

    # augmentation
    rotation_deg: float = parameter(5.0, "largest rotation, degrees", 0.0, 180.0)
    shift: float = parameter(0.02, "largest shift, share of the side", 0.0, 0.5)
    scale: float = parameter(0.05, "largest change of scale, share", 0.0, 0.5)
    brightness: float = parameter(0.2, "largest change of brightness, share", 0.0, 1.0)
    contrast: float = parameter(0.2, "largest change of contrast, share", 0.0, 1.0)
    flip_prob: float = parameter(0.0, "mirroring; twins differ by asymmetries, hence off", 0.0, 1.0)
    erase_prob: float = parameter(0.0, "random erasing of a rectangle", 0.0, 1.0)
    mixup_alpha: float = parameter(0.0, "blends two people, with shares from Beta(alpha, alpha); 0: off", 0.0, 10.0)
    cutmix_alpha: float = parameter(0.0, "pastes a rectangle of another person, as mixup_alpha; 0: off", 0.0, 10.0)

    # model
    backbone: str = parameter(
        "vit_base_patch16_224",
        f"dcal: a timm vision transformer, or hybrid_tiny (the demo's); adaface: {', '.join(IR_BACKBONES)}",
    )
    weights: str = parameter(
        "", "file of pretrained weights; empty, for dcal: attached model, then timm's hub", result=False
    )
    trust_weights: bool = parameter(
        False,
        "unpickle `weights`, which may run any code in them: only where you trust their source",
        result=False,
    )
    allow_random_init: bool = parameter(False, "train without pretrained weights")
    width: int = parameter(64, "channels of an IR backbone's first stage; published weights have 64", 8, 128)
    colour_order: str = parameter(
        "auto", "what an IR backbone's `weights` take; auto: by their origin", choices=("auto", "rgb", "bgr")
    )
    frozen_backbone: bool = parameter(False, "train nothing of an IR backbone but its embedding layer")
    embedding_dropout: float = parameter(
        0.4, "dropout before an IR backbone's embedding layer, unless frozen; AdaFace was trained with 0.4", 0.0, 0.9
    )
    local_ratio: float = parameter(0.3, "R: share of patches that GLCA selects", 0.0, 1.0)
    glca_blocks: int = parameter(1, "M: global-local blocks", 0, 12)
    pwca_first: int = parameter(1, "first block with pair-wise attention, counted from 1; 0: none", 0, 64)
    pwca_last: int = parameter(0, "last block with pair-wise attention; 0: the last of the backbone", 0, 64)
    pwca_prob: float = parameter(1.0, "share of the training steps with the pair-wise branch", 0.0, 1.0)
    pwca_partner: str = parameter("random", "whose tokens distract", choices=("random", "twin", "mix"))
    dropout: float = parameter(0.0, "dropout of projections and FFN", 0.0, 0.9)
    attention_dropout: float = parameter(0.0, "dropout of attention weights", 0.0, 0.9)
    drop_path: float = parameter(0.1, "stochastic depth of the deepest block", 0.0, 0.9)
    readout: str = parameter(
        "cls",
        "cls: the paper's; for aligned faces patches are also read by place: local_tokens in GLCA, tokens in every "
        "branch; cls_alone: GLCA without its patches, to show that it then selects in vain",
        choices=("cls", "local_tokens", "tokens", "cls_alone"),
    )
    neck: str = parameter("bn", "batch norm between a branch and its losses", choices=("bn", "none"))
    similarity: str = parameter(
        "cosine",
        "how two embeddings are compared; learned: by heads that the pair itself weighs",
        choices=("cosine", "euclidean", "learned"),
    )
    similarity_temperature: float = parameter(0.07, "temperature of the learned similarity's weights", 0.001, 10.0)
    gradient_checkpointing: bool = parameter(False, "less memory, about a third more time", result=False)
    compile: bool = parameter(False, "torch.compile in training: minutes at the start, faster steps", result=False)
    channels_last: bool = parameter(False, "memory layout that convolutional stems prefer on a GPU", result=False)

    # losses, one set per branch (SA, GLCA, PWCA)
    margin_softmax: str = parameter(
        "cosface", "identity loss over all people", choices=("cosface", "arcface", "adaface")
    )
    softmax_margin: float = parameter(0.3, "cosface: cosine; arcface: radians; adaface: both", 0.0, 1.5)
    adaface_h: float = parameter(
        0.333, "how far AdaFace's margin follows an embedding's norm; 0 makes it cosface", 0.0, 10.0
    )
    softmax_scale: float = parameter(30.0, "scale of the cosines", 1.0, 128.0)
    softmax_weight: float = parameter(1.0, "weight of the identity loss", 0.0, 100.0)
    label_smoothing: float = parameter(0.1, "label smoothing of the identity loss", 0.0, 0.9)
    twin_loss: str = parameter(
        "triplet",
        "metric loss on pairs of images; supcon: supervised contrastive; verification: same person or not",
        choices=("triplet", "supcon", "verification"),
    )
    twin_margin: float = parameter(0.5, "margin of the triplet loss, cosine or triplet_distance", 0.0, 2.0)
    triplet_distance: str = parameter(
        "cosine",
        "distance in triplets of (person, same person, co-twin); euclidean: of unit embeddings",
        choices=("cosine", "euclidean"),
    )
    twin_temperature: float = parameter(0.1, "temperature of the contrastive loss", 0.001, 10.0)
    twin_weight: float = parameter(1.0, "weight of the twin loss", 0.0, 100.0)
    positive_ratio: float = parameter(0.5, "same-person share of the pairs in the verification loss", 0.01, 0.99)
    hard_negative_ratio: float = parameter(0.5, "co-twin share of the pairs", 0.0, 0.99)
    soft_negative_ratio: float = parameter(0.0, "share of pairs of unrelated people", 0.0, 0.99)
    loss_weighting: str = parameter("uncertainty", "weights of the branches", choices=("uncertainty", "fixed"))

    # optimisation
    families_per_batch: int = parameter(4, "families in a batch, over all processes; two siblings each", 1, 4096)
    images_per_person: int = parameter(4, "images of each sibling in a batch", 2, 1024)
    triplets_per_batch: int = parameter(16, "triplets in a batch, over all processes; three images each", 1, 4096)
    train_percentage: float = parameter(
        100.0, "share of each family's possible triplets, the same in every epoch, %", 0.01, 100.0
    )
    steps_per_epoch: int = parameter(
        0, "steps in an epoch; 0: as many images as there are, or each triplet once", 0, 1_000_000
    )
    epochs: int = parameter(100, "epochs", 1, 100_000)
    lr: float = parameter(5e-5, "peak learning rate of the backbone", 0.0, 10.0)
    head_lr_factor: float = parameter(10.0, "learning rate of new layers over that of the backbone", 0.01, 1000.0)
    min_lr: float = parameter(1e-6, "learning rate at the end", 0.0, 10.0)
    layer_decay: float = parameter(1.0, "learning rate of a block over that of the block above it", 0.1, 1.0)
    warmup_share: float = parameter(0.05, "share of the steps with linear warm-up, before the cosine", 0.0, 0.9)
    weight_decay: float = parameter(0.05, "AdamW weight decay of matrices", 0.0, 10.0)
    ema_decay: float = parameter(0.0, "moving average of the weights, which is then what is kept; 0: off", 0.0, 0.99999)
    accumulation: int = parameter(
        1, "parts in which a batch is worked through, to save memory; doubled where it runs out", 1, 4096, result=False
    )
    grad_clip: float = parameter(1.0, "largest norm of the gradient", 1e-3, 1e6)
    max_skipped: int = parameter(
        20, "steps in a row without a finite loss and gradient after which training ends", 1, 10_000, result=False
    )
    precision: str = parameter("auto", "auto: what the GPU is fit for", choices=("auto", "fp32", "fp16", "bf16"))

    # validation, checkpoints, tracking
    validate_every: int = parameter(1, "epochs between validations", 1, 10_000, result=False)
    patience: int = parameter(
        0, "validations without a better EER after which training ends; 0: never", 0, 10_000, result=False
    )
    checkpoint_every: int = parameter(
        5, "epochs between kept checkpoints, beside last and best", 1, 10_000, result=False
    )
    save_minutes: float = parameter(10.0, "minutes between checkpoints within an epoch", 0.0, 1000.0, result=False)
    disk_budget_gb: float = parameter(15.0, "largest size of the run's folder, GB", 0.001, 100_000.0, result=False)
    encode_batch: int = parameter(64, "images encoded at once outside training", 1, 4096, result=False)
    bootstrap_draws: int = parameter(1000, "draws of families behind each interval", 100, 100_000, result=False)
    calibration: str = parameter(
        "logistic", "from scores to likelihood ratios", choices=("logistic", "isotonic"), result=False
    )
    verdict_error: float = parameter(
        0.05, "share of wrong verdicts allowed in each class, on validation families", 0.001, 0.49, result=False
    )
    compare: str = parameter("", "folders of other trained runs to stand beside this one, by commas", result=False)
    baseline: bool = parameter(
        False, "evaluate a frozen face embedding too (pip install -r requirements-faces.txt)", result=False
    )
    fuse: bool = parameter(False, "evaluate the fusion of all systems too", result=False)
    pairs_per_family: int = parameter(
        1, "pairs of each kind from each test family on which attention maps are measured", 1, 1000, result=False
    )
    tracker: str = parameter("none", "experiment tracker", choices=("none", "wandb", "mlflow"), result=False)
    tracker_project: str = parameter("dcal-twin-verification", "project or experiment in the tracker", result=False)
    wandb_entity: str = parameter("", "wandb team; empty: your own", result=False)
    mlflow_uri: str = parameter("http://localhost:5000", "MLflow server", result=False)

    def fingerprint(self):
        """A hash of the parameters that can change the trained weights: runs agree where it agrees."""
        decisive = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["result"]}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]

    def as_dict(self):
        """All parameters as a flat dictionary."""
        return dataclasses.asdict(self)


def can_be_written(text):
    """Whether a text can be a file's name or content: no NUL, and no half of a surrogate pair, which JSON can spell."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
SPELLED = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def read_value(field, value):
    """`value` as the field's type and within its range, whether it came as a string or not; raises ConfigError."""
    given = value
    low, high, choices, meaning = (field.metadata[key] for key in ("low", "high", "choices", "meaning"))
    takes = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[field.type]
    try:
        if field.type is bool:
            value = SPELLED[str(value).strip().lower()]
        elif isinstance(value, bool | bytes):  # both are numbers to Python, and never a sensible number of epochs
            raise ValueError
        elif field.type is int:
            number = float(value)
            value = int(value) if isinstance(value, str | int) and "." not in str(value) else int(number)
            if value != number:
                raise ValueError
        elif field.type is float:
            value = float(value)
        elif not isinstance(value, str | Path | int | float):  # a folder may be called 2024
            raise ValueError
        else:
            value = str(value)
            if not can_be_written(value):
                raise ValueError
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ConfigError(f"parameter {field.name}={quoted(given)}: takes {takes} ({meaning}).") from None
    if choices and value not in choices:
        raise ConfigError(f"parameter {field.name}={quoted(value)}: takes one of {', '.join(choices)}.")
    if low is not None and not low <= value <= high:  # also refuses NaN
        raise ConfigError(f"parameter {field.name}={quoted(value)}: takes {low:g} to {high:g} ({meaning}).")
    return value


def read_values(values, origin):
    """A dictionary of parameters, each read as its field's type; an unknown name is refused with the nearest one."""
    for name in values:
        if name not in FIELDS:
            near = difflib.get_close_matches(str(name), FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "dcal_core/config.py lists all parameters."
            raise ConfigError(f"unknown parameter {quoted(name)} in {origin}: {hint}")
    return {name: read_value(FIELDS[name], value) for name, value in values.items()}


def presets(params_dir):
    """Names of the presets in a folder."""
    return sorted(path.stem for path in Path(params_dir).glob("*.yaml"))


def load(preset, params_dir, overrides):
    """Defaults, then the preset's file, then the overrides, as one checked Config; raises ConfigError."""
    path = Path(params_dir) / f"{preset}.yaml"
    if preset not in presets(params_dir):
        raise ConfigError(f"preset={preset!r}: takes one of {', '.join(presets(params_dir))}.")
    try:
        text = path.read_text(encoding="utf-8")
        chosen = yaml.safe_load(text) or {}
        names = [key.value for key, _ in yaml.compose(text, yaml.SafeLoader).value] if chosen else []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): put a file there.") from None
    except Exception as error:  # a value that does not fit its tag makes PyYAML raise almost anything
        reason = [type(error).__name__, *str(error).splitlines()][: 2 if str(error) else 1][-1]
        raise ConfigError(f"{path} is not YAML ({reason:.200}): write one `name: value` a line.") from None
    if not isinstance(chosen, dict):
        raise ConfigError(f"{path} holds a {type(chosen).__name__}: write one `name: value` a line.")
    if len(chosen) < len(names):  # YAML takes the last one silently
        raise ConfigError(f"{path} holds {max(names, key=names.count)!r} more than once: keep one of them.")
    values = read_values(chosen, path.name) | read_values(overrides, "the given parameters")
    return check(Config(**values))


def check_given(given, params_dir):
    """Refuse misspelt names and impossible values among a notebook's parameters, before anything slow is loaded."""
    preset = given.get("preset", "auto")
    if preset != "auto" and preset not in presets(params_dir):
        raise ConfigError(f"preset={preset!r}: takes auto or one of {', '.join(presets(params_dir))}.")
    read_values({name: value for name, value in given.items() if name != "preset"}, "the given parameters")


def check(config):
    """The config, if its parameters agree with one another; raises ConfigError."""
    check_effect(config)
    if config.pwca_last and config.pwca_last < config.pwca_first:
        raise ConfigError(
            f"pwca_last={config.pwca_last} lies before pwca_first={config.pwca_first}: raise it, or set 0."
        )
    if config.min_lr > config.lr:
        raise ConfigError(f"min_lr={config.min_lr:g} is above lr={config.lr:g}: lower it.")
    if abs(config.positive_ratio + config.hard_negative_ratio + config.soft_negative_ratio - 1) > 1e-6:
        raise ConfigError(
            f"positive_ratio={config.positive_ratio:g}, hard_negative_ratio={config.hard_negative_ratio:g} and "
            f"soft_negative_ratio={config.soft_negative_ratio:g} are shares of the pairs: let their sum be 1."
        )
    check_network(config)
    check_parts(config)
    check_mixing(config)
    if "@" in config.mlflow_uri:
        raise ConfigError(
            "mlflow_uri holds a name or a password, which would stand in the run's files: give them by the environment "
            "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if config.resume_from and not config.resume:
        raise ConfigError("resume_from names what to go on from, and resume=false forbids it: leave one of them out.")
    if config.softmax_weight == 0 and config.twin_weight == 0:
        raise ConfigError("softmax_weight and twin_weight are both 0, so nothing would be learnt: raise one.")
    return config


def check_effect(config):
    """Refuse what has no effect in this recipe and is not as by default; raises ConfigError."""
    names = WITHOUT_EFFECT[config.recipe].split()
    if idle := [f"{n}={quoted(getattr(config, n))}" for n in names if getattr(config, n) != FIELDS[n].default]:
        raise ConfigError(f"{', '.join(idle)}: without effect in recipe={config.recipe}: leave it out.")


def check_network(config):
    """Refuse a backbone of another recipe's kind, and a size that it does not take; raises ConfigError."""
    if (config.recipe in IR_RECIPES) != (config.backbone in IR_BACKBONES):
        raise ConfigError(
            f"recipe={config.recipe} and backbone={quoted(config.backbone)} do not fit: {', '.join(IR_RECIPES)} takes "
            f"one of {', '.join(IR_BACKBONES)}, any other recipe a vision transformer."
        )
    if config.recipe in IR_RECIPES and config.image_size % 16:
        raise ConfigError(
            f"image_size={config.image_size}: {config.backbone} halves it four times: take a multiple of 16, as 112."
        )


def check_parts(config):
    """Refuse a batch that cannot be cut into equal parts of whole families or triplets; raises ConfigError."""
    parts, name = config.nproc * config.accumulation, BATCH_OF[config.recipe]
    if getattr(config, name) % parts:
        raise ConfigError(
            f"{name}={getattr(config, name)} cannot be cut into nproc={config.nproc} x "
            f"accumulation={config.accumulation} equal parts: take a multiple of {parts}."
        )


def check_mixing(config):
    """Refuse blended people where something must know whom it sees; raises ConfigError."""
    mixing = [f"{name}={getattr(config, name):g}" for name in ("mixup_alpha", "cutmix_alpha") if getattr(config, name)]
    if not mixing:
        return
    blends = f"{' and '.join(mixing)}: two people are blended in one image"
    if config.twin_weight:
        raise ConfigError(f"{blends}, which to twin_loss={config.twin_loss} is neither of them: set twin_weight=0.")
    if config.pwca_first and config.pwca_prob:
        raise ConfigError(f"{blends}, one of whom may be the person in its PWCA partner: set pwca_prob=0.")
    if config.similarity == "learned":
        raise ConfigError(f"{blends}, and similarity=learned is trained on pairs: take cosine or euclidean.")
