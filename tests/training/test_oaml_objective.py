"""The losses of OAML against naive loops, and how far the gradient of each goes."""

import math

import pytest
import torch
from tiny import oaml_config, parts_of, twins
from torch import nn

from dcal_core.recipes.catalogue import recipe_of
from dcal_core.training.oaml_objective import ClassMemory, OAMLObjective

PERSON = torch.tensor([4, 4, 1, 1, 2, 2])
FAMILY = torch.tensor([0, 0, 0, 0, 1, 1])  # 4 and 1 are co-twins
RATIOS = (0.5, 0.3, 0.2)
PARTS = ("embedding/identity", "local/matching", "local/triplet", "visible/occlusion", "local/memory")


class Known(nn.Module):
    """Gives known embeddings, places and visibilities, and compares places by their products."""

    grid = 2

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(6, 3, generator=random))
        self.local = nn.Parameter(torch.randn(6, 2, 4, generator=random))
        self.visible_logits = nn.Parameter(torch.randn(6, 4, generator=random))

    def forward(self, images):
        return dict(self.named_parameters())

    def compare(self, a, b, reading):
        assert reading == "local" and a.parts["visible"].min() >= 0
        return a.parts["local"].flatten(1) @ b.parts["local"].flatten(1).T


def make_objective(**options):
    softmax = {"kind": "cosface", "margin": 0.2, "scale": 8.0, "label_smoothing": 0.0}
    weights = {"softmax_weight": 0.1, "local_weight": 0.7, "triplet_weight": 0.5, "occlusion_weight": 0.3}
    given = {"width": 3, "people": 6, "margin_softmax": softmax, "local_margin": 1.5, "ratios": RATIOS}
    return OAMLObjective(**given | weights | options)


def make_batch():
    visible = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.4
    return {"images": torch.zeros(6, 3, 8, 8), "visible": visible.float(), "person": PERSON, "family": FAMILY}


def surprise(logit, target):
    """The cross-entropy of one answer."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target else 1 - probability)


def naive_matching(logits):
    losses = {"same": [], "twin": [], "unrelated": []}
    for i in range(6):
        for j in range(6):
            same = bool(PERSON[i] == PERSON[j])
            kind = "same" if same else "twin" if FAMILY[i] == FAMILY[j] else "unrelated"
            if i != j:
                losses[kind].append(surprise(logits[i][j], same))
    return sum(ratio * sum(found) / len(found) for ratio, found in zip(RATIOS, losses.values(), strict=True))


def naive_triplet(logits, margin):
    total = 0.0
    for i in range(6):
        least = min(logits[i][j] for j in range(6) if j != i and PERSON[i] == PERSON[j])
        greatest = max(logits[i][j] for j in range(6) if PERSON[i] != PERSON[j])
        total += max(0.0, margin - least + greatest) / 6
    return total


def naive_occlusion(model, batch):
    total = 0.0
    for i in range(6):
        for p in range(4):
            row, column = divmod(p, 2)
            share = batch["visible"][i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean().item()
            logit = model.visible_logits[i, p].item()
            total += share * surprise(logit, True) + (1 - share) * surprise(logit, False)
    return total / 24


def logits_of(model):
    places = model.local.detach().flatten(1)
    return (places @ places.T).tolist()


def test_the_losses_are_those_of_naive_loops_and_are_weighed():
    model, objective, batch = Known(), make_objective(), make_batch()
    loss, logs = objective(model, batch)
    logits = logits_of(model)
    assert logs["local/matching"].item() == pytest.approx(naive_matching(logits), rel=1e-5)
    assert logs["local/triplet"].item() == pytest.approx(naive_triplet(logits, 1.5), rel=1e-5)
    assert logs["visible/occlusion"].item() == pytest.approx(naive_occlusion(model, batch), rel=1e-5)
    assert torch.equal(logs["embedding/identity"], objective.identity(model.embedding, PERSON).detach())
    parts = (logs[name].item() for name in PARTS[:4])
    assert loss.item() == pytest.approx(sum(w * part for w, part in zip((0.1, 0.7, 0.35, 0.3), parts, strict=True)))
    assert 0 < logs["local/active"].item() <= 1 and logs["local/positive"] < logs["local/negative"]
    assert torch.equal(logs["loss"], loss.detach()) and not any(value.requires_grad for value in logs.values())


@pytest.mark.parametrize(
    ("weight", "missing"),
    [("softmax_weight", "embedding/"), ("local_weight", "local/"), ("occlusion_weight", "visible/")],
)
def test_a_part_without_weight_does_not_exist(weight, missing):
    loss, logs = make_objective(**{weight: 0.0})(Known(), make_batch())
    assert not [name for name in logs if name.startswith(missing)] and loss.isfinite()


def test_what_is_not_finite_is_not_replaced():
    model = Known()
    model.local.data[2, 1, 3] = torch.nan
    assert make_objective()(model, make_batch())[0].isnan()


def test_local_losses_do_not_train_what_says_what_is_visible():
    model = Known()
    make_objective(occlusion_weight=0.0)(model, make_batch())[0].backward()
    assert model.visible_logits.grad is None and model.local.grad.abs().sum() > 0


# ---- the class memory


def naive_memory(logits, seen):
    """Focal cross-entropy of [6, people] logits over those who were seen, gamma 2."""
    total = 0.0
    for i in range(6):
        for person in seen:
            target = int(PERSON[i]) == person
            probability = 1 / (1 + math.exp(-logits[i][person]))
            total += (target - probability) ** 2 * surprise(logits[i][person], target) / 6
    return total


def test_the_memory_holds_the_last_features_of_everyone_seen_and_is_matched_by_a_focal_loss():
    model, memory = Known(), ClassMemory(people=6, channels=2, places=4, images_per_person=2)
    objective, batch = make_objective(memory=memory), make_batch()
    assert objective(model, batch)[1]["local/memory"] == 0  # nobody was seen before
    kept = model.local.detach().clone()
    assert memory.seen.tolist() == [0, 1, 1, 0, 1, 0]
    assert torch.equal(memory.local[[4, 1, 2]], kept[1::2]) and not memory.local[[0, 3, 5]].any()
    assert torch.equal(memory.visible[[4, 1, 2]], model.visible_logits.detach().sigmoid()[1::2])
    with torch.no_grad():
        model.local.copy_(model.local.flip(0))
    loss, logs = objective(model, batch)
    logits = (model.local.flatten(1) @ torch.zeros(6, 8).index_copy(0, PERSON[1::2], kept[1::2].flatten(1)).T).tolist()
    assert logs["local/memory"].item() == pytest.approx(naive_memory(logits, (1, 2, 4)), rel=1e-5)
    without = make_objective()
    without.identity.load_state_dict(objective.identity.state_dict())
    assert loss.item() == pytest.approx(without(model, batch)[0].item() + 0.7 * logs["local/memory"].item(), rel=1e-5)
    assert torch.equal(memory.local[[4, 1, 2]], model.local.detach()[1::2])
    loss.backward()
    assert memory.state_dict().keys() == {"local", "visible", "seen"}


def test_the_gradient_of_each_loss_reaches_the_backbone():
    config = oaml_config(class_memory=True, occlusion_prob=1.0, local_margin=16.0)
    recipe, split = recipe_of(config), twins(4)
    model, objective = parts_of(config, people=8)
    part = recipe.augment(recipe.batches(split)[0][0], seed=0)
    objective(model.train(), part)  # which fills the memory
    first = model.backbone.input_layer[0].weight
    found = {name: tensor.float() for name, tensor in model(part["images"]).items()}
    losses = objective.parts(model, found, part)
    for name in PARTS:
        (gradient,) = torch.autograd.grad(losses[name], first, retain_graph=True)
        assert gradient.abs().max() > 1e-6, name


def test_shares_are_those_of_the_places():
    """A mask that hides the upper left quarter hides the first of four places."""
    visible = torch.ones(6, 1, 8, 8)
    visible[:, :, :4, :4] = 0
    model = Known()
    model.visible_logits.data[:] = torch.tensor([-20.0, 20.0, 20.0, 20.0])
    assert make_objective()(model, make_batch() | {"visible": visible})[1]["visible/occlusion"] < 1e-6
