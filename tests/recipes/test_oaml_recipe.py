"""OAML's recipe from end to end on a few drawn twins: alike people, what is visible, fusion, and what a run leaves."""

import json
from functools import partial

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dcal_core.commands.session import Session
from dcal_core.commands.train import leave_results, train_run
from dcal_core.config.oaml import OAMLConfig
from dcal_core.data import splits
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.landmarks import DRAWN
from dcal_core.data.splits import open_data
from dcal_core.models.face_weights import read_face_weights
from dcal_core.models.files import load_model
from dcal_core.recipes import oaml
from dcal_core.recipes.oaml import OAMLRecipe
from dcal_core.runs import RunFolder
from dcal_core.training import task
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.fusion import Fusion
from dcal_core.verification.protocol import score_pairs, twin_pairs

CONFIG = tiny.oaml_config(
    synthetic_families=8,
    synthetic_images=3,
    synthetic_test_families=3,
    validation_share=0.4,
    occluded_share=0.5,
    class_memory=True,
    steps_per_epoch=2,
    epochs=2,
    milestones="1",
)


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
    return run, progress, leave_results(Session(CONFIG, folder), run, data.label)


def changed(**values) -> OAMLConfig:
    return CONFIG.replace(**values)


def state_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint, by file and name."""
    files = folder.saved[0].glob("*.safetensors")
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_batches_and_the_objective_are_made_as_the_parameters_say(data, capsys):
    given = {"occlusion_prob": 1.0, "occlusion_kinds": "mask, block", "images_per_person": 3, "class_share": 0.5}
    recipe = OAMLRecipe(changed(**given, softmax_margin=0.1, hard_negative_ratio=0.4, soft_negative_ratio=0.1))
    batches = recipe.batches(data["train"])
    assert batches.kinds == ("mask", "block") and np.array_equal(batches.landmarks, DRAWN)
    (part,) = batches[0]
    assert part["images"].shape == (12, 3, 32, 32) and (part["visible"] == 0).flatten(1).any(1).all()
    model = tiny.model_of(CONFIG)
    capsys.readouterr()
    objective = recipe.objective(model, people=7)
    assert capsys.readouterr().out == (
        "Class memory: 7 x 64 x 4 numbers, 7.2e-06 GB on the device and in each checkpoint.\n"
    )
    assert objective.identity.centres.shape == (7, 512) and objective.identity.sample_share == 0.5
    assert objective.identity.add_margin.margin == 0.1 and objective.ratios == (0.5, 0.4, 0.1)
    assert objective.memory.local.shape == (7, 64, 4) and objective.memory.images_per_person == 3
    assert OAMLRecipe(changed(class_memory=False)).objective(model, people=7).memory is None


def test_what_is_visible_turns_with_the_images():
    recipe = OAMLRecipe(changed(rotation_deg=30.0, shift=0.2, flip_prob=0.5, crop_prob=0.5, brightness=0, contrast=0))
    images = torch.full((6, 3, 32, 32), 255, dtype=torch.uint8)
    visible = torch.ones(6, 1, 32, 32, dtype=torch.uint8)
    images[..., 5:12, 9:20] = visible[..., 5:12, 9:20] = 0
    part = recipe.augment({"images": images, "visible": visible, "person": torch.zeros(6)}, seed=3)
    assert part.keys() == {"images", "visible", "person"}
    torch.testing.assert_close(part["images"][:, :1], part["visible"])


def test_the_people_most_alike_are_found_by_the_reading_that_is_asked_for(data):
    recipe = OAMLRecipe(changed(graph_reading="global"))
    model, batches = tiny.model_of(CONFIG), recipe.batches(data["train"])
    assert recipe.refresh(model, batches, epoch=1) and not OAMLRecipe(changed(sampler="random")).refresh(model, None, 1)
    index = data["train"].index
    shown = batches.one_image_each(1)
    with torch.no_grad():
        unit = F.normalize(model.eval().encode(data["train"].images.batch(shown)).parts["embedding"], dim=-1)
    cosines = (unit @ unit.T).numpy()
    for person, found in enumerate(batches.neighbours.tolist()):
        order = [p for p in np.argsort(-cosines[person]) if p != person]
        siblings = [p for p in order if index.family_of[p] == index.family_of[person]]
        assert found == [*siblings, *(p for p in order if p not in siblings)][:3]


def test_a_run_trains_validates_and_logs_its_parts(trained):
    run, progress, left = trained
    assert progress.finished and progress.batch == 4
    logged, validated = ([line for line in run.history() if name in line] for name in ("loss", "validation/eer"))
    weights = {"embedding/identity": 0.1, "local/matching": 0.7, "local/triplet": 0.35, "local/memory": 0.7}
    weights["visible/occlusion"] = 0.3
    for line in logged:
        assert line["loss"] == pytest.approx(sum(w * line[name] for name, w in weights.items()), rel=1e-5)
    assert [line["lr"] for line in logged] == pytest.approx([0.1, 0.01])
    assert all({"validation/eer_global", "validation/eer_local"} <= line.keys() for line in validated)
    for name in ("loss_curves", "validation_curves"):
        assert left[name].stat().st_size > 5000


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_was_interrupted_ends_to_the_bit_as_one_that_was_not(data, trained, tmp_path, stop):
    class Budget:
        """A time budget that is used up after some batches."""

        left = stop

        def used_up(self):
            self.left -= 1
            return not self.left

        def need(self, seconds):
            pass

    for budget in (Budget(), None):
        torch.manual_seed(99)  # what is random follows from the seed and the batch
        run, progress = train_run(CONFIG, RunFolder(tmp_path / "run"), data, budget)
    assert progress.finished and run.history() == trained[0].history()
    whole, interrupted = state_of(trained[0].folder), state_of(run.folder)
    assert {"sampling.safetensors/neighbours", "objective.safetensors/memory.local"} <= whole.keys()
    assert whole.keys() == interrupted.keys() and all(torch.equal(whole[name], interrupted[name]) for name in whole)


def test_the_best_model_carries_the_fusion_of_its_own_validation(data, tmp_path, monkeypatch):
    asked = []
    fusion = Fusion(np.array([2.0, 1.0]), np.array([0.25, 0.0]), np.array([1.0, 4.0]), 0.5)
    monkeypatch.setattr(oaml, "fit_fusion", lambda *given: asked.append(given) or fusion)
    run, _ = train_run(changed(steps_per_epoch=1), RunFolder(tmp_path / "run"), data)
    model, split = load_model(run.folder.best), data["validation"]
    features = encode_images(model, split.images, 64, progress=False)
    pairs = twin_pairs(split.index)
    scores = np.stack([score_pairs(model, features, pairs, reading=name) for name in ("global", "local")], axis=1)
    epoch = json.loads((run.folder.best / "facts.json").read_text())["epoch"]
    np.testing.assert_allclose(asked[epoch - 1][0], scores, atol=1e-5)
    assert np.array_equal(asked[0][1], pairs.genuine) and np.array_equal(asked[0][2], pairs.family)
    np.testing.assert_allclose(score_pairs(model, features, pairs), fusion.fuse(scores), atol=1e-5)


class Settled:
    """Takes a fusion as a model does."""

    readings = ("fused", "global", "local")
    taken = None

    def take_fusion(self, *fusion):
        self.taken = fusion


@pytest.mark.parametrize("useless", [None, "global", "local", "both"])
def test_fusion_is_fitted_on_validation_and_a_reading_at_chance_gets_no_weight(useless):
    random, families = np.random.default_rng(0), 30
    genuine, family = np.tile([True, False], 4 * families), np.repeat(np.arange(families), 8)
    scores = {name: genuine + random.normal(size=len(genuine)) for name in ("global", "local")}
    for name in scores:
        if useless in (name, "both"):
            scores[name] = -1.0 * genuine + random.normal(size=len(genuine))
    model = Settled()
    figures = OAMLRecipe(CONFIG).settle(model, scores.get, genuine, family)
    assert {"eer_global", "eer_local"} <= figures.keys()
    if useless == "both":
        assert model.taken is None and "weight_local" not in figures
        return
    weight, mean, scale, _ = model.taken
    assert [figures["weight_global"], figures["weight_local"]] == list(weight)
    assert [w == 0 for w in weight] == [useless == name for name in scores] and (weight >= 0).all()
    assert mean == pytest.approx([scores[name].mean() for name in scores]) and (scale > 0).all()


def test_exported_weights_are_those_of_the_backbone(trained):
    run, _, left = trained
    epoch = json.loads((run.folder.best / "facts.json").read_text())["epoch"]
    assert [file.name for file in left["exported"]] == [f"oaml_ir18_epoch{epoch}.{end}" for end in ("ckpt", "pt")]
    found, best = read_face_weights(left["exported"][0]), load_model(run.folder.best)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fresh = tiny.model_of(changed(weights=str(left["exported"][0])))
    assert found.colour_order == "bgr"
    with torch.no_grad():
        ours, theirs = (model.eval().encode(images).parts["embedding"] for model in (best, fresh))
    torch.testing.assert_close(ours, theirs)


def test_from_weights_the_class_centres_start_at_the_mean_embeddings(data, trained):
    config = changed(weights=str(trained[2]["exported"][0]), allow_random_init=False)
    recipe, split = OAMLRecipe(config), data["train"]
    model = tiny.model_of(config)
    objective = recipe.objective(model, people=len(split.index.people))
    recipe.start(model, objective, split)
    with torch.no_grad():
        every = model.eval().encode(split.images.batch(np.arange(len(split.index.paths)))).parts["embedding"]
    unit = F.normalize(every, dim=1)
    means = torch.stack([unit[split.index.images_of(n)].mean(0) for n in range(len(split.index.people))])
    centres = F.normalize(objective.identity.centres.detach(), dim=1)
    torch.testing.assert_close(centres, F.normalize(means, dim=1), atol=1e-5, rtol=0)
