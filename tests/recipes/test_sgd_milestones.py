"""SGD with milestones: the schedule, what decays, and that a step that is skipped leaves no trace."""

import pytest
import torch
from torch import nn

from dcal_core.config.shared import SGDMilestones
from dcal_core.errors import ConfigError
from dcal_core.recipes.sgd_milestones import SGDMilestonesRecipe


class Steps(SGDMilestonesRecipe):
    """The optimiser and the schedule alone."""

    new_model = batches = objective = None


class Model(nn.Module):
    """A pretrained convolution with its norm, and a new head with its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def pretrained_depths(self):
        return {f"body.{name}": 0 for name, _ in self.body.named_parameters()}

    def forward(self, x):
        return self.head(self.body(x))


def config(**changes) -> SGDMilestones:
    values = {"recipe": "x", "backbone": "x", "lr": 0.5, "epochs": 10, "milestones": "4, 8", "warmup_share": 0.0}
    return SGDMilestones(**values | changes)


def recipe(**changes) -> Steps:
    return Steps(config(**changes))


def trained(**changes):
    """A task, its optimizer, and a function that takes a step of a loss with a `found_inf`."""
    torch.manual_seed(0)
    task = nn.ModuleDict({"model": Model()})
    optimizer = recipe(**changes).optimizer(task)
    for group in optimizer.param_groups:
        group["lr"] = 0.1

    def step(found_inf: float) -> None:
        optimizer.zero_grad()
        task.model(torch.arange(6.0).view(6, 1, 1, 1)).sum(1).cos().sum().backward()
        if found_inf:
            task.model.head[0].weight.grad.fill_(torch.nan)
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()

    return task, optimizer, step


def test_the_rate_falls_at_the_milestones_as_in_torch():
    steps = recipe(lr_gamma=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 8], gamma=0.2)
    for epoch in range(10):
        rates = [steps.lr_at(7 * epoch + batch, 70) for batch in range(7)]
        assert rates == pytest.approx(7 * [scheduler.get_last_lr()[0]])
        optimizer.step()
        scheduler.step()


def test_the_rate_warms_up_and_without_milestones_stays():
    steps = recipe(warmup_share=0.2, milestones="")
    rates = [steps.lr_at(step, 20) for step in range(20)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4] + 16 * [0.5])
    assert recipe(milestones="30").lr_at(19, 20) == 0.5  # after the end


@pytest.mark.parametrize("milestones", ["8, 4", "4, 4", "0, 4", "4.5", "x", "-1", "4;8"])
def test_milestones_that_are_no_rising_epochs_are_refused(refused, milestones):
    with refused(ConfigError, f"milestones={milestones!r}", "rising numbers of epochs"):
        config().replace(milestones=milestones)
    assert config(milestones=" 4 , 8,").falls == [4, 8]


def test_batch_norms_do_not_decay_and_new_layers_learn_at_their_own_rate():
    task, optimizer, _ = trained(head_lr_factor=5.0, weight_decay=0.01)
    found = {
        name: (group["factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in task.model.named_parameters()
        if any(parameter is one for one in group["params"])
    }
    expected = {"body.0": (1.0, 0.01), "body.1": (1.0, 0.0), "head.0": (5.0, 0.01), "head.1": (5.0, 0.0)}
    assert found == {f"{layer}.{kind}": rate for layer, rate in expected.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("changes", [{"momentum": 0.9}, {"momentum": 0.0}, {"optimizer": "adamw"}])
def test_a_first_step_that_is_skipped_leaves_no_trace(changes):
    """fp16 often begins with one, and PyTorch leaves the momentum of a first step unset then."""
    states = []
    for skipped in (0, 1, 2):
        task, optimizer, step = trained(**changes)
        for found_inf in (*skipped * [1.0], 0.0, 0.0):
            before = [norm.clone() for norm in task.buffers()]
            step(found_inf)
            if found_inf:
                for norm, kept in zip(task.buffers(), before, strict=True):
                    norm.copy_(kept)
        states.append(torch.cat([parameter.detach().flatten() for parameter in task.parameters()]))
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_steps_are_those_of_torch():
    task, _, step = trained(momentum=0.9, weight_decay=0.1)
    other, _, _ = trained()
    norms = [*other.model.body[1].parameters(), *other.model.head[1].parameters()]
    others = [p for p in other.parameters() if not any(p is norm for norm in norms)]
    plain = torch.optim.SGD([{"params": others, "weight_decay": 0.1}, {"params": norms}], lr=0.1, momentum=0.9)
    for _ in range(3):
        step(0.0)
        plain.zero_grad()
        other.model(torch.arange(6.0).view(6, 1, 1, 1)).sum(1).cos().sum().backward()
        plain.step()
    for ours, theirs in zip(task.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_adamw_takes_its_place_with_the_same_groups():
    _, optimizer, _ = trained(optimizer="adamw", head_lr_factor=5.0, weight_decay=0.01)
    _, sgd, _ = trained(head_lr_factor=5.0, weight_decay=0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    for ours, theirs in zip(optimizer.param_groups, sgd.param_groups, strict=True):
        assert [ours["factor"], ours["weight_decay"]] == [theirs["factor"], theirs["weight_decay"]]
        assert [p.shape for p in ours["params"]] == [p.shape for p in theirs["params"]]
