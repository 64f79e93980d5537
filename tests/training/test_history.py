"""What a run has logged, summed up by epoch."""

from dcal_core.training.history import by_epoch

HISTORY = [
    {"batch": 10, "epoch": 10 / 13, "lr": 1e-3, "loss": 4.0, "twin": 1.0},
    {"batch": 13, "epoch": 1.0, "lr": 8e-4, "loss": 17.0, "skipped": 2},
    {"batch": 13, "epoch": 1, "validation/eer": 0.3, "validation/auc": 0.8},
    {"batch": 23, "epoch": 23 / 13, "lr": 5e-4, "loss": 2.0, "twin": 0.5, "skipped": 1},
    {"batch": 26, "epoch": 2.0, "lr": 4e-4, "loss": 2.0, "twin": 1.8, "skipped": 3},
]


def test_a_mean_counts_each_batch_of_the_epoch_the_same():
    first, second = by_epoch(HISTORY)
    assert first["loss"] == (10 * 4 + 3 * 17) / 13 and first["twin"] == 1.0  # where it was logged
    assert second["loss"] == 2.0 and second["twin"] == (10 * 0.5 + 3 * 1.8) / 13


def test_an_epoch_ends_with_its_last_batch_learning_rate_and_validation():
    first, second = by_epoch(HISTORY)
    assert (first["epoch"], first["batch"], first["lr"], first["skipped"]) == (1, 13, 8e-4, 2)
    assert (first["validation/eer"], first["validation/auc"]) == (0.3, 0.8)
    assert (second["epoch"], second["batch"], second["lr"], second["skipped"]) == (2, 26, 4e-4, 4)
    assert "validation/eer" not in second


def test_nothing_logged_is_no_epoch():
    assert by_epoch([]) == []
