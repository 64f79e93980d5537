"""A short training on drawn twins that learns, and one of shuffled twins, which says that it does not."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from dcal_core.commands.train import outcome, train_run
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import Split, TwinData, open_split, split_families
from dcal_core.runs import RunFolder
from dcal_core.training import task

STILL = dict.fromkeys(("rotation_deg", "shift", "scale", "brightness", "contrast", "drop_path"), 0.0)
CONFIG = tiny.dcal_config(
    readout="local_tokens",
    pwca_first=0,
    softmax_margin=0.2,
    softmax_scale=16.0,
    softmax_weight=0.2,
    label_smoothing=0.0,
    twin_loss="supcon",
    families_per_batch=4,
    steps_per_epoch=40,
    epochs=4,
    lr=2e-3,
    head_lr_factor=1.0,
    **STILL,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """42 families to train on and 18 held out, drawn with marks that are plain to see."""
    root = tmp_path_factory.mktemp("drawn")
    shared = {"size": tiny.SIZE, "difficulty": 0.0, "seed": 0, "workers": 1}
    for split, families in (("train", 60), ("test", 2)):
        generate(root, split=split, families=families, images_per_person=4, **shared)
    indexes = split_families(read_indexes(root)[0], 0.3, seed=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(splits, "scratch_root", lambda: root)
        return TwinData(root, "SYNTHETIC", {index.name: open_split(index, root, CONFIG) for index in indexes})


@pytest.fixture(autouse=True)
def no_gpu(elsewhere, monkeypatch):
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))


def shuffled(data: TwinData) -> TwinData:
    """The data with the images of each family to train on dealt out to its twins by chance."""
    index = data["train"].index
    person_of = index.person_of.copy()
    family_of_image = index.family_of[person_of]
    random = np.random.default_rng(0)
    for family in np.unique(family_of_image):
        members = np.flatnonzero(family_of_image == family)
        person_of[members] = random.permutation(person_of[members])
    train = Split(replace(index, person_of=person_of), data["train"].images)
    return replace(data, splits=data.splits | {"train": train})


def test_a_training_that_learns_says_nothing(data, tmp_path, capsys):
    run, progress = train_run(CONFIG.replace(epochs=3), RunFolder(tmp_path / "run"), data)
    assert progress.best_eer < 0.4 and not progress.at_chance
    assert "not learn" not in capsys.readouterr().out + outcome(run, progress, data.label)


def test_a_training_that_cannot_learn_says_so_while_its_loss_falls(data, tmp_path, capsys):
    config = CONFIG.replace(families_per_batch=2)  # in half of the time
    run, progress = train_run(config, RunFolder(tmp_path / "run"), shuffled(data))
    losses = [line["loss"] for line in run.history() if "loss" in line]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    assert progress.finished and progress.best_eer > 0.45
    said = capsys.readouterr().out
    assert said.count("This run does not learn: after 120 batches") == said.count("does not learn") == 1
    assert outcome(run, progress, data.label).startswith("This run does not learn: after 160 batches")
