"""The parameters that every recipe has, and those that several recipes share."""

from typing import ClassVar, Literal

from dcal_core.config.parameters import Parameters, parameter, run_option, run_path
from dcal_core.errors import ConfigError

OCCLUDERS = ("mask", "glasses", "scarf", "hand", "block")  # that data/occlusion.py draws


def kinds_of_occluders(name: str, text: str) -> tuple[str, ...]:
    """The kinds of occluders that a parameter of this name lists, by commas; ConfigError for others and for none."""
    kinds = tuple(kind.strip() for kind in text.split(","))
    if unknown := [kind for kind in kinds if kind not in OCCLUDERS]:
        raise ConfigError(f"{name}={text!r}: {unknown[0]!r} is none of {', '.join(OCCLUDERS)}, which commas separate.")
    return kinds


class Config(Parameters):
    """The parameters that every recipe has; `dcal_core.config.recipes` chooses the class of one recipe."""

    needs_co_twins: ClassVar[bool] = False  # to train

    # run
    recipe: str = parameter(..., "which of the systems is trained")
    run_dir: str = run_path("folder of this run; empty: by preset below the output folder")
    resume: bool = run_option(True, "go on from the newest checkpoint; false: move the old run aside")
    resume_from: str = run_path("folder of an earlier run or model to go on from; empty: the own and the attached ones")
    extend: bool = run_option(False, "more epochs for a finished run: a new schedule from its last state")
    seed: int = parameter(0, "seed of data split, initialisation, batches and augmentation", ge=0, le=2**31 - 1)
    time_budget_hours: float = run_option(11.0, "wall time after which a run saves and ends, h", ge=0, le=1000)
    gpu: Literal["needed", "optional"] = run_option(
        "optional", "needed: training is refused on a machine without a GPU; optional: it goes on a CPU"
    )
    nproc: int = run_option(1, "processes that train together, one GPU each; 0: as many as there are GPUs", ge=0, le=64)

    # data
    data_root: str = run_path("folder of the index files, or of a folder a person; empty: search the inputs")
    benchmarks_root: str = run_path("folder of face benchmarks such as lfw.bin; empty: search where the data are")
    image_size: int = parameter(224, "side of the square input, px", ge=32, le=1024)
    fit: Literal["stretch", "pad", "crop"] = parameter(
        "stretch", "images that are not square; stretch: distorted, pad: with grey bars, crop: cut to the middle"
    )
    validation_share: float = parameter(0.15, "share of the training families held out", ge=0.01, le=0.9)
    max_lost_share: float = run_option(0.01, "share of missing or unreadable images that is tolerated", ge=0, le=1)
    exclusions: str = run_path("file of images to leave out; empty: excluded_images.csv, where prepare wrote it")
    drop_suggested: bool = run_option(False, "prepare adds to that file what it suggests to leave out, unreviewed")
    align: bool = run_option(False, "prepare makes an aligned copy of the data, to be given as data_root")
    align_size: int = run_option(112, "side of an aligned face, px; AdaFace takes 112", ge=32, le=1024)
    align_missing: Literal["drop", "keep"] = run_option(
        "drop", "photographs without a face; drop: left out of the copy, keep: made square by fit"
    )
    align_relaxed: bool = run_option(
        False, "photographs without a face are tried again with relaxed settings, which are wrong more often"
    )
    landmarks: str = run_path("file of faces set by hand; empty: landmarks.csv in the folder of prepare")
    face_score: float = run_option(0.8, "least confidence of the detector in a face", ge=0, le=1)
    face_sharpness: float = run_option(0.15, "least sharpness of a face; 0.3 to 1 in sharp photographs", ge=0, le=10)
    face_px: float = run_option(48.0, "least side of an aligned face in its photograph, px", ge=0, le=10_000)
    face_turn_deg: float = run_option(50.0, "most that a face looks past the camera, degrees", ge=0, le=180)
    clean_by: str = run_option("", "sface or the folder of a run, by whose scores prepare finds wrong labels")
    loader_workers: int = run_option(2, "processes that prepare batches; 0: the training process", ge=0, le=64)
    synthetic_families: int = parameter(600, "drawn twin families to train on", ge=4, le=100_000)
    synthetic_images: int = parameter(6, "images of each drawn person", ge=2, le=100)
    synthetic_test_families: int = run_option(31, "drawn families to test on; ND-TWINS has 31", ge=1, le=10_000)
    synthetic_test_seed: int = run_option(
        0, "which drawn families to test on: a seed that nothing was chosen on gives fresh ones", ge=0, le=2**31 - 1
    )
    synthetic_difficulty: float = parameter(0.5, "0: marks plain to see, 1: barely visible", ge=0, le=1)

    # augmentation
    rotation_deg: float = parameter(5.0, "largest rotation, degrees", ge=0, le=180)
    shift: float = parameter(0.02, "largest shift, share of the side", ge=0, le=0.5)
    scale: float = parameter(0.05, "largest change of scale, share", ge=0, le=0.5)
    brightness: float = parameter(0.2, "largest change of brightness, share", ge=0, le=1)
    contrast: float = parameter(0.2, "largest change of contrast, share", ge=0, le=1)
    flip_prob: float = parameter(0.0, "mirroring; twins differ by asymmetries, hence off", ge=0, le=1)
    erase_prob: float = parameter(0.0, "random erasing of a rectangle", ge=0, le=1)
    crop_prob: float = parameter(0.0, "keeping a rectangle alone, as AdaFace (0.2 there)", ge=0, le=1)
    low_resolution_prob: float = parameter(0.0, "a lower resolution, as AdaFace (0.2 there)", ge=0, le=1)
    photometric_prob: float = parameter(
        0.0, "strong changes of brightness, contrast and saturation, as AdaFace (0.2 there)", ge=0, le=1
    )

    # model
    backbone: str = parameter(..., "the network that is fine-tuned")
    weights: str = run_path("file of pretrained weights; empty: what the recipe finds")
    trust_weights: bool = run_option(
        False, "unpickle `weights`, which may run any code in them: only where you trust their source"
    )
    allow_random_init: bool = parameter(False, "train without pretrained weights")
    compile: bool = run_option(False, "torch.compile in training: minutes at the start, faster steps")
    channels_last: bool = run_option(False, "memory layout that convolutional stems prefer on a GPU")

    # optimisation
    steps_per_epoch: int = parameter(
        0, "steps in an epoch; 0: as many images as there are, or each triplet once", ge=0, le=1_000_000
    )
    epochs: int = parameter(100, "epochs", ge=1, le=100_000)
    lr: float = parameter(5e-05, "peak learning rate of the backbone", ge=0, le=10)
    ema_decay: float = parameter(
        0.0, "moving average of the weights, which is then what is kept; 0: off", ge=0, le=0.99999
    )
    accumulation: int = run_option(
        1, "parts in which a batch is worked through, to save memory; doubled where it runs out", ge=1, le=4096
    )
    grad_clip: float = parameter(1.0, "largest norm of the gradient", ge=0.001, le=1_000_000)
    max_skipped: int = run_option(
        20, "steps in a row without a finite loss and gradient after which training ends", ge=1, le=10_000
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = parameter("auto", "auto: what the GPU is fit for")

    # validation, checkpoints, evaluation, tracking
    best_by: Literal["eer", "benchmarks"] = parameter(
        "eer", "what marks the best model: EER on held-out families, or mean accuracy on lfw.bin and its like"
    )
    validate_every: int = run_option(1, "epochs between validations", ge=1, le=10_000)
    patience: int = run_option(
        0, "validations without a better model after which training ends; 0: never", ge=0, le=10_000
    )
    checkpoint_every: int = run_option(5, "epochs between kept checkpoints, beside last and best", ge=1, le=10_000)
    save_minutes: float = run_option(10.0, "minutes between checkpoints within an epoch", ge=0, le=1000)
    disk_budget_gb: float = run_option(15.0, "largest size of the run's folder, GB", ge=0.001, le=100_000)
    encode_batch: int = run_option(64, "images encoded at once outside training", ge=1, le=4096)
    bootstrap_draws: int = run_option(1000, "draws of families behind each interval", ge=100, le=100_000)
    calibration: Literal["logistic", "isotonic"] = run_option("logistic", "from scores to likelihood ratios")
    verdict_error: float = run_option(
        0.05, "share of wrong verdicts allowed in each class, on validation families", ge=0.001, le=0.49
    )
    occluded_share: float = run_option(
        0.0, "share of the validation and test images over which occluders are drawn", ge=0, le=1
    )
    occluded_kinds: str = run_option("mask,glasses,scarf", f"kinds of them, of {', '.join(OCCLUDERS)}")
    flip_fusion: bool = run_option(
        False, "evaluate embeddings plus those of the mirror images; takes away the asymmetries that tell twins apart"
    )
    compare: str = run_option("", "folders of other trained runs to stand beside this one, by commas")
    baseline: bool = run_option(False, "evaluate a frozen face embedding too (needs the extra `faces`)")
    fuse: bool = run_option(False, "evaluate the fusion of all systems too")
    pairs_per_family: int = run_option(
        1, "pairs of each kind from each test family on which attention maps are measured", ge=1, le=1000
    )
    tracker: Literal["none", "wandb", "mlflow", "tensorboard"] = run_option("none", "experiment tracker")
    tracker_project: str = run_option("dcal-twin-verification", "project or experiment in the tracker")
    wandb_entity: str = run_option("", "wandb team; empty: your own")
    mlflow_uri: str = run_option("http://localhost:5000", "MLflow server")

    @property
    def families_in_batch(self) -> int:
        """The families with co-twins that a batch takes."""
        return 1

    @property
    def people_in_batch(self) -> int:
        """The people that a batch takes where no co-twins are known."""
        return 2

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        kinds_of_occluders("occluded_kinds", self.occluded_kinds)
        if "@" in self.mlflow_uri:
            raise ConfigError(
                "mlflow_uri holds a name or a password, which would stand in the run's files: set the environment "
                "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
            )
        if self.resume_from and not self.resume:
            raise ConfigError(
                "resume_from names a run to go on from, and resume=false forbids it: leave one of them out."
            )

    def check_parts(self, name: str) -> None:
        """Raise ConfigError where a batch of so many groups cannot be cut into equal parts of whole groups."""
        groups = getattr(self, name)
        processes = max(1, self.nproc)
        parts = processes * self.accumulation
        if groups % parts:
            raise ConfigError(
                f"{name}={groups} cannot be cut into nproc={processes} x accumulation={self.accumulation} equal "
                f"parts: take a multiple of {parts}."
            )


class AdamWCosine(Config):
    """AdamW under a linear warm-up and a cosine, with learning rates by layer."""

    head_lr_factor: float = parameter(10.0, "learning rate of new layers over that of the backbone", ge=0.01, le=1000)
    min_lr: float = parameter(1e-06, "learning rate at the end", ge=0, le=10)
    layer_decay: float = parameter(1.0, "learning rate of a block over that of the block above it", ge=0.1, le=1)
    warmup_share: float = parameter(0.05, "share of the steps with linear warm-up, before the cosine", ge=0, le=0.9)
    weight_decay: float = parameter(0.05, "AdamW weight decay of matrices", ge=0, le=10)

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        if self.min_lr > self.lr:
            raise ConfigError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}: lower it.")


class SGDMilestones(Config):
    """SGD with momentum, or AdamW, whose learning rate falls at given epochs."""

    optimizer: Literal["sgd", "adamw"] = parameter(
        "sgd", "adamw learns from random weights in minutes, at a hundredth of the rate"
    )
    head_lr_factor: float = parameter(1.0, "learning rate of new layers over that of the backbone", ge=0.01, le=1000)
    momentum: float = parameter(0.9, "momentum of SGD", ge=0, le=0.999)
    milestones: str = parameter("12,20,24", "epochs after which the learning rate falls, by commas; empty: never")
    lr_gamma: float = parameter(0.1, "factor of the learning rate at each milestone", ge=0.001, le=1)
    warmup_share: float = parameter(0.05, "share of the steps with linear warm-up", ge=0, le=0.9)
    weight_decay: float = parameter(5e-4, "weight decay, but of no batch norm", ge=0, le=10)

    @property
    def falls(self) -> list[int]:
        """The epochs after which the learning rate falls."""
        return [int(epoch) for epoch in self.milestones.split(",") if epoch.strip()]

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        whole = all(epoch.strip().isdecimal() for epoch in self.milestones.split(",") if epoch.strip())
        if not whole or self.falls != sorted({*self.falls} - {0}):
            raise ConfigError(
                f"milestones={self.milestones!r}: takes rising numbers of epochs from 1 on, by commas, such as "
                "12,20,24; one after the last epoch has no effect."
            )


class MarginSoftmaxLoss(Config):
    """An identity loss over all people."""

    margin_softmax: Literal["cosface", "arcface", "adaface"] = parameter("cosface", "identity loss over all people")
    softmax_margin: float = parameter(0.3, "cosface: cosine; arcface: radians; adaface: both", ge=0, le=1.5)
    adaface_h: float = parameter(
        0.333, "how far AdaFace's margin follows an embedding's norm; 0 makes it cosface", ge=0, le=10
    )
    softmax_scale: float = parameter(30.0, "scale of the cosines", ge=1, le=128)
    softmax_weight: float = parameter(1.0, "weight of the identity loss", ge=0, le=100)
    label_smoothing: float = parameter(0.1, "label smoothing of the identity loss", ge=0, le=0.9)

    def margin_softmax_options(self) -> dict:
        """The options of the identity loss, as `MarginSoftmax` takes them."""
        return {
            "kind": self.margin_softmax,
            "margin": self.softmax_margin,
            "scale": self.softmax_scale,
            "label_smoothing": self.label_smoothing,
            "adaface_h": self.adaface_h,
        }


class MarginSoftmaxAndTriplets(MarginSoftmaxLoss):
    """An identity loss over all people and the margin of triplets with the co-twin."""

    twin_margin: float = parameter(0.5, "margin of the triplet loss, cosine or triplet_distance", ge=0, le=2)


class PairRatios(Config):
    """How much the kinds of pairs of a batch count in a loss that asks whether both images show one person."""

    positive_ratio: float = parameter(0.5, "same-person share of the pairs in the verification loss", ge=0.01, le=0.99)
    hard_negative_ratio: float = parameter(0.5, "co-twin share of the pairs", ge=0, le=0.99)
    soft_negative_ratio: float = parameter(0.0, "share of pairs of unrelated people", ge=0, le=0.99)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Those of same-person, co-twin and unrelated pairs."""
        return self.positive_ratio, self.hard_negative_ratio, self.soft_negative_ratio

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        if abs(sum(self.ratios) - 1) > 1e-6:
            raise ConfigError(
                f"positive_ratio={self.positive_ratio:g}, hard_negative_ratio={self.hard_negative_ratio:g} and "
                f"soft_negative_ratio={self.soft_negative_ratio:g} are shares of the pairs: let their sum be 1."
            )
