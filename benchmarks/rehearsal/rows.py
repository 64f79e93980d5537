"""The recipes that the rehearsal compares: one near the paper, that of the preset `kaggle_t4x2`, and each of them with
one change.

Each is given in full over the preset, so that results stay those of one recipe when the preset moves.
"""

from benchmarks.trials import Row

NEW = "new"
STILL = {"rotation_deg": 0.0, "shift": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0}
MOVED = {"rotation_deg": 5.0, "shift": 0.02, "scale": 0.05, "brightness": 0.2, "contrast": 0.2}
SLOW = {"lr": 5e-5, "head_lr_factor": 10.0}
SOFTMAX = {"softmax_weight": 1.0, "softmax_scale": 30.0, "softmax_margin": 0.3, "label_smoothing": 0.1}
PAPER = {
    "readout": "cls",
    "twin_loss": "triplet",
    "twin_margin": 0.5,
    "pwca_prob": 1.0,
    "drop_path": 0.1,
    **SLOW,
    **SOFTMAX,
    **MOVED,
}
PRESET = {
    "readout": "tokens",
    "twin_loss": "supcon",
    "twin_temperature": 0.1,
    "pwca_prob": 0.3,
    "drop_path": 0.1,
    "softmax_weight": 0.1,
    "softmax_scale": 16.0,
    "softmax_margin": 0.2,
    "label_smoothing": 0.0,
    **SLOW,
    **MOVED,
}


LIGHT = {name: PRESET[name] for name in SOFTMAX}
SUPCON = {"twin_loss": "supcon", "twin_temperature": 0.1}
TRIPLET = {"twin_loss": "triplet", "twin_margin": 0.5}


def changed(name: str, meaning: str, **changes) -> Row:
    """The preset's recipe with one thing changed."""
    return Row(name, meaning, PRESET | changes, NEW)


def mended(name: str, meaning: str, **changes) -> Row:
    """The recipe near the paper with one thing taken from the preset."""
    return Row(f"paper_{name}", f"near the paper, but {meaning}", PAPER | changes, "paper")


ROWS = (
    Row("paper", "near the paper: its readout and losses", PAPER, NEW, main=True),
    Row(NEW, "the recipe of the preset kaggle_t4x2", PRESET, "", main=True),
    changed("cls", "read at CLS, as in the paper", readout="cls"),
    changed("triplet", "triplet loss, as in the paper", **TRIPLET),
    changed("fast", "high rates: 4e-4, new layers 3 times faster", lr=4e-4, head_lr_factor=3.0),
    changed("softmax", "the paper's margin softmax: weight 1, scale 30, margin 0.3, smoothing 0.1", **SOFTMAX),
    changed("pwca", "PWCA in every step, as in the paper", pwca_prob=1.0),
    changed("sa", "self-attention alone: neither GLCA nor PWCA", glca_blocks=0, pwca_first=0),
    changed("still", "no augmentation, no drop path", drop_path=0.0, **STILL),
    mended("supcon", "supervised contrastive loss", **SUPCON),
    mended("softmax", "the light margin softmax", **LIGHT),
    mended("tokens", "read by place", readout="tokens"),
)
