"""The rows of the ablation: each a change of the preset's parameters, and its reference row.

ROWS is the exploration that the preset was chosen by. CONFIRM is the plan that `docs/ablation.md` states beforehand:
it is trained for longer and scored on families that nothing was chosen on.
"""

from benchmarks.trials import Row

FULL = "full"
SA = {"glca_blocks": 0, "pwca_first": 0}
PWCA = {"glca_blocks": 0, "pwca_prob": 1.0}

ROWS = (
    Row("sa", "SA only", SA, against="", main=True),
    Row("glca", "SA + GLCA", {"pwca_first": 0}, against="sa", main=True),
    Row("pwca_random", "SA + PWCA, partner: a random person", PWCA | {"pwca_partner": "random"}, "sa", True),
    Row("pwca_twin", "SA + PWCA, partner: the co-twin", PWCA | {"pwca_partner": "twin"}, "sa", True),
    Row("pwca_mix", "SA + PWCA, partner: either", PWCA | {"pwca_partner": "mix"}, "sa", True),
    Row(FULL, "full DCAL, as preset", {}, against="sa", main=True),
    Row("sa_places", "SA only, read by place", SA | {"readout": "tokens"}, against=FULL, main=True),
    Row("pwca_always", "full, PWCA in every step", {"pwca_prob": 1.0}, against=FULL, main=True),
    Row("paper", "full, GLCA read at CLS + mean (the paper's)", {"readout": "cls"}, FULL),
    Row("trap", "full, GLCA read at CLS alone", {"readout": "cls_alone"}, against="paper"),
    Row("all_places", "full, every branch read by place", {"readout": "tokens"}, FULL),
    Row("mix", "full, PWCA's partner: either", {"pwca_partner": "mix"}, FULL),
    Row("size_48", "full, 48 px", {"image_size": 48}, FULL),
    Row("size_96", "full, 96 px", {"image_size": 96}, FULL),
    Row("flip", "full, half of the images mirrored", {"flip_prob": 0.5}, FULL),
    Row("softmax", "full, margin softmax alone", {"softmax_weight": 1.0, "twin_weight": 0.0}, FULL),
    Row("triplet", "full, triplet in place of twin-restricted softmax", {"twin_loss": "triplet"}, FULL),
    Row("ratio_10", "full, GLCA looks at 10 % of the patches", {"local_ratio": 0.1}, FULL),
    Row("ratio_50", "full, GLCA looks at 50 % of the patches", {"local_ratio": 0.5}, FULL),
    Row("families_150", "full, 150 families to train on", {"synthetic_families": 150, "validation_share": 0.2}, FULL),
    Row("images_3", "full, 3 images of each person", {"synthetic_images": 3}, FULL),
    Row(
        "nd_twins",
        "full, as much as ND-TWINS: 176 families x 2 x 17",
        {"synthetic_families": 176, "synthetic_images": 17, "validation_share": 0.15},
        FULL,
    ),
)

LONG = {"epochs": 24}  # of 50 steps
FRESH = {"synthetic_test_families": 200, "synthetic_test_seed": 2028}


def planned(readout: str, suffix: str, how: str, against: str = "") -> tuple[Row, ...]:
    """Self-attention, each part added to it and both, with every branch read in one way. against: the reference row of
    self-attention."""
    read = {"readout": readout}
    return (
        Row(f"sa{suffix}", f"SA only, {how}", SA | read, against, True),
        Row(f"glca{suffix}", f"SA + GLCA, {how}", {"pwca_first": 0} | read, f"sa{suffix}", True),
        Row(f"pwca{suffix}", f"SA + PWCA, {how}", {"glca_blocks": 0} | read, f"sa{suffix}", True),
        Row(f"full{suffix}", f"full DCAL, {how}", read, f"sa{suffix}", True),
    )


PAPER = planned("cls", "_cls", "read as in the paper")
PLACES = planned("tokens", "_by_place", "read by place", "sa_cls")
CONFIRM = (
    *PAPER,
    *PLACES,
    Row("preset", "full DCAL, as preset: GLCA alone read by place", {}, "sa_by_place"),
    Row(
        "always",
        "full DCAL, read as in the paper, PWCA in every step",
        {"readout": "cls", "pwca_prob": 1.0},
        "full_cls",
    ),
    *(
        Row(f"{name}_{row.name}", f"{row.meaning}, {meaning}", row.changes | change, against)
        for name, meaning, change in (
            ("few", "3 images of each person", {"synthetic_images": 3}),
            ("large", "96 px", {"image_size": 96}),
        )
        for row, against in ((PLACES[0], "sa_by_place"), (PLACES[3], f"{name}_sa_by_place"))
    ),
)
