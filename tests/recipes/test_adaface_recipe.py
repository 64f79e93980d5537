"""AdaFace's recipe from end to end on a few drawn twins: triplets, centres, what is frozen, and what a run leaves."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dcal_core.commands.evaluate import SPLITS, score_systems
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.commands.train import leave_results, train_run
from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.splits import open_data
from dcal_core.models.face_weights import read_face_weights
from dcal_core.models.files import load_model
from dcal_core.recipes.adaface import AdaFaceRecipe
from dcal_core.runs import RunFolder
from dcal_core.storage import StorageError
from dcal_core.training import task
from dcal_core.training.checkpoints import Run

CONFIG = tiny.adaface_config(
    synthetic_families=8,
    synthetic_images=3,
    synthetic_test_families=3,
    validation_share=0.4,
    twin_margin=0.3,
    softmax_weight=0.5,
    steps_per_epoch=2,
    epochs=2,
    lr=1e-3,
)
PARAMS = Path(__file__).parents[2] / "params"


@pytest.fixture(scope="module", autouse=True)
def machine(off_kaggle, tmp_path_factory):
    """A folder to train in, on a machine without a GPU, where twins are drawn without worker processes."""
    with pytest.MonkeyPatch.context() as patched:
        off_kaggle(patched, tmp_path_factory.mktemp("here"))
        patched.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
        patched.setattr(splits, "generate", partial(generate, workers=1))
        yield


@pytest.fixture(scope="module")
def data():
    return open_data(CONFIG, ("train", "validation"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run, how its training ended, and what it has left."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    run, progress = train_run(CONFIG, folder, data)
    left = leave_results(Session(CONFIG, folder), run, data.label)
    return run, progress, left


def changed(**values) -> AdaFaceConfig:
    return CONFIG.replace(**values)


def state_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint, by file and name."""
    files = folder.saved[0].glob("*.safetensors")
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_batches_are_made_as_the_parameters_say(data, monkeypatch):
    batches = AdaFaceRecipe(changed(steps_per_epoch=0, train_percentage=50.0)).batches(data["train"])
    families = len(data["train"].index.families)
    assert batches.total == families * 18 and batches.steps_per_epoch == -(-families * 18 // 4)  # half of 2 x 3 x 2 x 3
    assert AdaFaceRecipe(CONFIG).batches(data["train"]).steps_per_epoch == 2
    parts = AdaFaceRecipe(changed(accumulation=2)).batches(data["train"])[0]
    assert [part["images"].shape for part in parts] == [(6, 3, 32, 32)] * 2
    first = [AdaFaceRecipe(changed(seed=seed)).batches(data["train"])[0][0]["images"] for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_the_objective_is_made_as_the_parameters_say():
    given = dict(softmax_margin=0.4, softmax_scale=20.0, softmax_weight=0.25, label_smoothing=0.2, adaface_h=0.5)
    config = changed(margin_softmax="adaface", triplet_distance="euclidean", twin_margin=0.7, **given)
    objective = AdaFaceRecipe(config).objective(tiny.model_of(config), people=7)
    assert objective.identity.centres.shape == (7, 512) and objective.softmax_weight == 0.25
    assert (objective.identity.scale, objective.identity.label_smoothing) == (20.0, 0.2)
    assert (objective.identity.add_margin.margin, objective.identity.add_margin.h) == (0.4, 0.5)
    axes = torch.eye(3, 512)  # all at the distance √2
    assert objective.triplets(axes)[0] == pytest.approx(0.7)
    turned = torch.stack([axes[0], axes[1], -axes[0]])  # 2 away from the co-twin
    assert objective.triplets(turned)[0].item() == pytest.approx(2**0.5 - 2 + 0.7, abs=1e-6)


@pytest.mark.parametrize("given", [{}, {"softmax_weight": 0.0}, {"margin_softmax": "adaface"}], ids=str)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_that_is_trained_takes_part_in_every_step(data, given, frozen):
    model = tiny.model_of(changed(**given)).train()
    if frozen:
        model.backbone.requires_grad_(False)
        model.backbone.embedding_layer.requires_grad_(True)
    objective = AdaFaceRecipe(changed(**given)).objective(model, people=16)
    (part,) = AdaFaceRecipe(CONFIG).batches(data["train"])[0]
    objective(model, part | {"images": part["images"].float() / 255})[0].backward()
    parameters = [*model.named_parameters(), *objective.named_parameters()]
    assert [name for name, p in parameters if p.requires_grad != (p.grad is not None)] == []


def test_a_run_trains_validates_and_logs_its_triplets(trained):
    run, progress, _ = trained
    assert progress.finished and progress.batch == 4
    logged, validated = ([line for line in run.history() if name in line] for name in ("loss", "validation/eer"))
    names = {"d_ap", "d_an", "active", "embedding/twin", "embedding/identity", "loss"}
    assert len(logged) == 2 and all(names <= line.keys() for line in logged)
    for line in logged:
        assert line["loss"] == pytest.approx(line["embedding/twin"] + 0.5 * line["embedding/identity"], rel=1e-5)
    assert [line["epoch"] for line in validated] == [1, 2]
    assert progress.best_eer == min(line["validation/eer"] for line in validated)


def test_a_run_that_was_interrupted_ends_to_the_bit_as_one_that_was_not(data, trained, tmp_path):
    for hours in (0.0, CONFIG.time_budget_hours):
        torch.manual_seed(99)  # what is random follows from the seed and the batch
        run, progress = train_run(changed(time_budget_hours=hours), RunFolder(tmp_path / "run"), data)
    assert progress.finished and run.history() == trained[0].history()
    whole, interrupted = state_of(trained[0].folder), state_of(run.folder)
    assert whole.keys() == interrupted.keys() and all(torch.equal(whole[name], interrupted[name]) for name in whole)


# ---- from pretrained weights


@pytest.fixture(scope="module")
def pretrained(trained) -> dict:
    """Parameters of a run that starts from the exported weights of another."""
    return {"weights": str(trained[2]["exported"][0]), "allow_random_init": False}


def mean_embeddings(model, split) -> torch.Tensor:
    """The mean unit embedding of each person, [people, 512], by a naive loop."""
    with torch.no_grad():
        images = split.images.batch(np.arange(len(split.index.paths)))
        unit = F.normalize(model.eval().encode(images).parts["embedding"], dim=1)
    return torch.stack([unit[split.index.images_of(n)].mean(0) for n in range(len(split.index.people))])


def starts_of(monkeypatch) -> list:
    """What the recipe's `start`, which still does its work, will have been called with."""
    seen, start = [], AdaFaceRecipe.start
    monkeypatch.setattr(AdaFaceRecipe, "start", lambda *given: seen.append(given) or start(*given))
    return seen


def test_class_centres_start_at_the_mean_embeddings(data, pretrained):
    model = tiny.model_of(changed(**pretrained)).train()
    objective = AdaFaceRecipe(CONFIG).objective(model, people=len(data["train"].index.people))
    lengths = objective.identity.centres.norm(dim=1).detach().clone()
    AdaFaceRecipe(CONFIG).start(model, objective, data["train"])
    expected = F.normalize(mean_embeddings(model, data["train"]), dim=1)
    torch.testing.assert_close(F.normalize(objective.identity.centres.detach(), dim=1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(objective.identity.centres.norm(dim=1).detach(), lengths)


@pytest.mark.parametrize(
    ("from_weights", "given", "starts"),
    [(True, {}, True), (True, {"softmax_weight": 0.0}, True), (False, {}, False)],
    ids=["from weights", "without centres", "from random weights"],
)
def test_centres_are_started_once_and_only_for_a_model_that_has_learnt(
    data, tmp_path, pretrained, monkeypatch, from_weights, given, starts
):
    seen = starts_of(monkeypatch)
    config = changed(**(pretrained if from_weights else {}), **given, time_budget_hours=0.0)
    for _ in range(2):  # the second time from its checkpoint
        train_run(config, RunFolder(tmp_path / "run"), data)
    assert len(seen) == starts


def test_a_run_from_another_runs_weights_starts_its_centres_too(data, tmp_path, trained, monkeypatch):
    seen = starts_of(monkeypatch)
    config = changed(resume_from=str(trained[0].folder), lr=2e-3, time_budget_hours=0.0)
    train_run(config, RunFolder(tmp_path / "run"), data)
    assert len(seen) == 1


def test_a_frozen_run_changes_nothing_but_the_embedding_layer(data, tmp_path, pretrained):
    run, _ = train_run(
        changed(**pretrained, frozen_backbone=True, softmax_weight=0.0), RunFolder(tmp_path / "run"), data
    )
    before, after = read_face_weights(Path(pretrained["weights"])).state, load_model(run.folder.best)
    moved = {name for name, tensor in after.backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"output_layer.3.weight", "output_layer.3.bias"}


# ---- what a run leaves


def test_a_finished_run_leaves_its_log_by_epoch_and_its_curves(trained, data):
    run, _, left = trained
    assert left["training_log"] == run.folder.training_log
    log, history = json.loads(left["training_log"].read_text()), run.history()
    assert log["data"] == data.label == "SYNTHETIC" and [one["epoch"] for one in log["epochs"]] == [1, 2]
    names = {"batch", "lr", "loss", "d_ap", "d_an", "active", "validation/eer", "validation/auc"}
    assert all(names <= one.keys() for one in log["epochs"])
    assert log["epochs"][0]["d_ap"] == history[0]["d_ap"]
    for name in ("loss_curves", "validation_curves"):
        assert left[name] == run.folder.figures / f"{name}.png" and left[name].stat().st_size > 5000


def test_exported_weights_are_named_by_their_training_and_embed_the_same(trained):
    run, _, left = trained
    epoch = json.loads((run.folder.best / "facts.json").read_text())["epoch"]
    name = f"twin_tuned_ir18_full_100pct_margin0.3_epoch{epoch}"
    assert left["exported"] == [run.folder.exports / f"{name}.ckpt", run.folder.exports / f"{name}.pt"]
    for file, order in zip(left["exported"], ("bgr", "rgb"), strict=True):
        found = read_face_weights(file)
        assert (found.depth, found.width, found.image_size, found.colour_order) == (18, 8, 32, order)
        assert_same_embeddings(tiny.model_of(changed(weights=str(file))), load_model(run.folder.best))


def assert_same_embeddings(*models) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (model.eval().encode(images).parts["embedding"] for model in models)
    torch.testing.assert_close(ours, theirs)


def test_an_export_keeps_to_the_disk_budget(trained, tmp_path, refused):
    folder = Path(shutil.copytree(trained[0].folder, tmp_path / "run"))
    config = changed(disk_budget_gb=0.001)
    with refused(StorageError, "disk_budget_gb=0.001"):
        AdaFaceRecipe(config).export(Run(RunFolder(folder), config, "x"))


def test_the_name_tells_a_frozen_run_of_a_share_of_the_triplets(data, tmp_path, pretrained):
    given = {"frozen_backbone": True, "train_percentage": 12.5, "twin_margin": 0.5, "epochs": 1, "softmax_weight": 0.0}
    config = changed(**pretrained, **given)
    run, _ = train_run(config, RunFolder(tmp_path / "run"), data)
    first, _ = leave_results(Session(config, run.folder), run, data.label)["exported"]
    assert first.name == "twin_tuned_ir18_frozen_12.5pct_margin0.5_epoch1.ckpt"
    best = load_model(run.folder.best)
    assert best.colour_order == "bgr"  # as the weights that it started from
    assert_same_embeddings(tiny.model_of(changed(weights=str(first))), best)


def test_runs_of_the_recipe_are_evaluated_side_by_side(trained, data, tmp_path):
    train_run(changed(train_percentage=10.0), RunFolder(tmp_path / "ten"), data)
    given = {"preset": "adaface_demo", "run_dir": str(trained[0].folder), "compare": str(tmp_path / "ten")}
    session = begin_with_trained("Evaluate", given, PARAMS)
    found = session.open_data(SPLITS)
    systems = score_systems(session, found)
    assert [system.name for system in systems] == ["run", "ten"] and "ir_18, 32 px" in systems[0].about
    assert systems[0].test.scores.shape == systems[1].test.scores.shape == (3 * (2 * 28 + 64),)
    assert not np.allclose(systems[0].test.scores, systems[1].test.scores)
