"""A recipe from end to end on a few drawn twins: what its parameters reach, training, validation, going on."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dcal_core import environment, recipes
from dcal_core.config import FIELDS, Config, ConfigError
from dcal_core.data import splits
from dcal_core.data.splits import open_data
from dcal_core.data.synthetic import generate
from dcal_core.models.build import load_model, new_model
from dcal_core.recipes import BATCHES, OBJECTIVES, dcal_batches, dcal_objective, train_run, validator
from dcal_core.training import loop
from dcal_core.training.objectives import FixedWeighting, UncertaintyWeighting
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.protocol import encode_images, score_pairs, twin_pairs

CONFIG = Config(
    backbone="hybrid_tiny",
    allow_random_init=True,
    image_size=32,
    synthetic_families=12,
    synthetic_images=3,
    validation_share=0.25,
    families_per_batch=3,
    images_per_person=2,
    steps_per_epoch=2,
    epochs=2,
    precision="fp32",
    loader_workers=0,
    encode_batch=5,  # no divisor of the number of images
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Train and validation splits of twins drawn once, without worker processes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
        patched.chdir(tmp_path_factory.mktemp("empty"))
        patched.setattr(environment, "KAGGLE_INPUT", tmp_path_factory.getbasetemp() / "no_input")
        scratch = tmp_path_factory.mktemp("drawn")
        patched.setattr(splits, "scratch_root", lambda: scratch)
        patched.setattr(splits, "generate", partial(generate, workers=1))
        patched.setattr(splits, "TEST_FAMILIES", 1)
        return open_data(CONFIG, ("train", "validation"))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """An empty folder on a machine without GPU that is not Kaggle's."""
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(environment, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setattr(loop, "gpu_verdict", lambda: (False, "no GPU"))
    monkeypatch.chdir(tmp_path)


def changed(**values) -> Config:
    return dataclasses.replace(CONFIG, **values)


def model_of(config: Config):
    torch.manual_seed(0)
    return new_model(config, [])


def test_every_recipe_that_can_be_chosen_has_batches_and_an_objective():
    assert set(BATCHES) == set(OBJECTIVES) == set(FIELDS["recipe"].metadata["choices"])


def test_batches_are_made_as_the_parameters_say(data):
    batches = dcal_batches(changed(pwca_prob=1.0, steps_per_epoch=0), data["train"])
    batch = batches[0]
    assert batch["images"].shape == (3 * 2 * 2, 3, 32, 32) and "partner" in batch
    assert batches.steps_per_epoch == 9 * 2 * 3 // 12  # 9 families are left to train on
    assert dcal_batches(CONFIG, data["train"]).steps_per_epoch == 2


def test_batches_depend_on_the_seed(data):
    people = [dcal_batches(changed(seed=seed), data["train"])[0]["person"].tolist() for seed in (0, 0, 1)]
    assert people[0] == people[1] != people[2]


def test_twins_distract_each_other_where_that_is_asked_for(data):
    batch = dcal_batches(changed(pwca_partner="twin", pwca_prob=1.0), data["train"])[0]
    index, partner = data["train"].index, batch["person"][batch["partner"]]
    assert (batch["person"] != partner).all()
    assert np.array_equal(index.family_of[batch["person"]], index.family_of[partner])


def test_without_pair_wise_blocks_nobody_has_a_partner(data):
    batches = dcal_batches(changed(pwca_first=0, pwca_prob=1.0), data["train"])
    assert not any("partner" in batches[step] for step in range(10))


def test_the_objective_is_made_as_the_parameters_say():
    config = changed(softmax_margin=0.3, softmax_scale=20.0, softmax_weight=0.25, twin_weight=0.75, label_smoothing=0.2)
    objective = dcal_objective(config, model_of(config), people=7)
    assert set(objective.identity) == {"sa", "glca", "pwca"}
    for branch, head in objective.identity.items():
        assert head.centres.shape == (7, 192 if branch == "glca" else 96)
        assert (head.margin, head.scale, head.label_smoothing) == (0.3, 20.0, 0.2)
    assert (objective.softmax_weight, objective.twin_weight) == (0.25, 0.75)
    assert isinstance(objective.weighting, UncertaintyWeighting)
    fixed = dcal_objective(changed(loss_weighting="fixed"), model_of(config), people=7)
    assert isinstance(fixed.weighting, FixedWeighting)


def test_branches_that_do_not_run_have_no_losses():
    config = changed(pwca_first=0, glca_blocks=0)
    assert set(dcal_objective(config, model_of(config), people=7).identity) == {"sa"}


def test_validation_scores_all_pairs_of_held_out_families(data):
    model, split = model_of(CONFIG).train(), data["validation"]
    figures = validator(CONFIG, split)(model)
    pairs = twin_pairs(split.index)
    assert len(pairs) == 3 * 15 and pairs.genuine.sum() == 3 * 6  # 3 families of 6 images
    embeddings = encode_images(model, split.images, CONFIG.encode_batch, progress=False)
    scores = score_pairs(model, embeddings, pairs)
    assert figures == pytest.approx(
        {"eer": equal_error_rate(scores, pairs.genuine)[0], "auc": roc_auc(scores, pairs.genuine)}
    )
    assert model.training and all(module.training for module in model.modules())


def test_a_run_trains_validates_and_leaves_a_model_of_those_figures(data, tmp_path):
    run, progress = train_run(CONFIG, tmp_path / "run", data)
    assert progress.finished and progress.batch == 4
    logged = [line for line in run.history() if "validation/eer" in line]
    assert [line["epoch"] for line in logged] == [1, 2]
    best = min(logged, key=lambda line: line["validation/eer"])
    figures = validator(CONFIG, data["validation"])(load_model(run.checkpoints / "best"))
    assert progress.best_eer == best["validation/eer"] == pytest.approx(figures["eer"])
    assert best["validation/auc"] == pytest.approx(figures["auc"])


def test_a_second_session_goes_on_and_ends_as_one_long_session_would(data, tmp_path):
    whole, _ = train_run(CONFIG, tmp_path / "whole", data)
    stopped, progress = train_run(changed(time_budget_hours=0.0), tmp_path / "run", data)
    assert not progress.finished and progress.batch == 1
    torch.manual_seed(99)  # another session has another past
    run, progress = train_run(CONFIG, tmp_path / "run", data)
    assert progress.finished
    ends = [load_file(r.checkpoints / "last" / "model.safetensors") for r in (whole, run)]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_attached_run_is_gone_on_with(data, tmp_path, capsys):
    train_run(changed(time_budget_hours=0.0), tmp_path / "input" / "notebooks" / "owner" / "train" / "demo", data)
    run, progress = train_run(CONFIG, tmp_path / "run", data)
    assert progress.finished and run.folder == tmp_path / "run"
    assert "attached run" in capsys.readouterr().out


def test_the_initialisation_depends_on_the_seed_alone(data, tmp_path, monkeypatch):
    seen = []

    def keep(config, model, *_):
        seen.append(model.vit.cls_token.detach().clone())

    monkeypatch.setattr(recipes, "train", keep)
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        train_run(changed(seed=seed), tmp_path / str(number), data)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_parameters_that_the_model_refuses_leave_no_run(data, tmp_path):
    with pytest.raises(ConfigError, match="3 blocks"):
        train_run(changed(pwca_last=4), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
