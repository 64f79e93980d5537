"""The training loop: it knows an objective, batches and a validator, and nothing of which system it trains."""

import math
import secrets
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dcal_core.config import Config
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.images import Augmentation
from dcal_core.environment import TimeBudget, fit_precision, gpu_verdict
from dcal_core.progress import progress_line
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.tracking import open_tracker

LOG_EVERY = 10  # batches; reading a figure waits for the device


class Task(nn.Module):
    """A model and its objective as one module, so that what is distributed over GPUs runs whole inside one forward."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch)


def parameter_groups(task: Task, pretrained: nn.Module, config: Config) -> list[dict]:
    """AdamW groups: new layers learn head_lr_factor times faster; only matrices decay, and no embedding or class
    centre."""
    slow = {id(p) for p in pretrained.parameters()}
    groups = {}
    for name, p in task.named_parameters():
        if not p.requires_grad:
            continue
        factor = 1.0 if id(p) in slow else config.head_lr_factor
        decays = p.ndim >= 2 and not name.endswith(("pos_embed", "cls_token", "reg_token", "centres"))
        groups.setdefault((factor, decays), []).append(p)
    return [
        {"params": params, "lr": 0.0, "factor": factor, "weight_decay": config.weight_decay * decays}
        for (factor, decays), params in groups.items()
    ]


def lr_at(step: int, steps: int, config: Config) -> float:
    """The backbone's learning rate at a step: linear warm-up to lr, then a cosine down to min_lr."""
    warmup = config.warmup_share * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


def train(
    config: Config,
    model: nn.Module,
    objective: nn.Module,
    batches: FamilyBatches,
    validate: Callable[[nn.Module], dict[str, float]],
    run: Run,
    budget: TimeBudget,
) -> Progress:
    """Train until the last epoch or until the time budget is used up, either way ending in a checkpoint.

    validate: model -> figures, of which `eer` chooses the best checkpoint. Returns the progress; `finished` tells
    which end.
    """
    accelerator = Accelerator(
        mixed_precision=fit_precision(config.precision).replace("fp32", "no"),
        gradient_accumulation_steps=config.accumulation,
        cpu=not gpu_verdict()[0],
    )
    task = Task(model.train(), objective)
    optimizer = torch.optim.AdamW(parameter_groups(task, model.pretrained, config))
    task, optimizer = accelerator.prepare(task, optimizer)
    progress = run.restore(model, objective, optimizer, accelerator.scaler)
    if progress.finished:
        return progress
    progress.tracker_run = progress.tracker_run or secrets.token_hex(4)
    tracker = open_tracker(config, run.folder.name, progress.tracker_run)
    trainer = Trainer(config, accelerator, task, optimizer, batches, validate, run, budget, tracker, progress)
    try:
        trainer.run_epochs()
    finally:
        tracker.finish()
    return progress


class Trainer:
    """The loop's moving parts, together."""

    def __init__(self, config, accelerator, task, optimizer, batches, validate, run, budget, tracker, progress):
        self.config, self.accelerator, self.task, self.optimizer = config, accelerator, task, optimizer
        self.batches, self.validate, self.run, self.budget = batches, validate, run, budget
        self.tracker, self.progress = tracker, progress
        self.total = config.epochs * batches.steps_per_epoch
        self.parts = accelerator.unwrap_model(task)
        self.augmentation = Augmentation(
            rotation_deg=config.rotation_deg,
            shift=config.shift,
            scale=config.scale,
            brightness=config.brightness,
            contrast=config.contrast,
            flip_prob=config.flip_prob,
            erase_prob=config.erase_prob,
        )
        self.steps_now, self.recent, self.began = True, [], time.monotonic() - progress.seconds

    def run_epochs(self) -> None:
        """All batches that are left, with a validation and a checkpoint at the end of each epoch."""
        start, config = self.progress.batch, self.config
        loader = self.batches.loader(
            start, self.total, config.loader_workers, pin=self.accelerator.device.type == "cuda"
        )
        bar = progress_line(loader, desc="training", total=self.total, initial=start, unit="batch")
        for batch in bar:
            self.step(batch)
            self.progress.batch += 1
            if self.progress.batch % LOG_EVERY == 0:
                best = f", best EER {self.progress.best_eer:.1%}" if math.isfinite(self.progress.best_eer) else ""
                bar.set_postfix_str(f"loss {self.log_step():.3f}{best}", refresh=False)
            if self.progress.batch % self.batches.steps_per_epoch == 0:
                self.end_epoch(self.progress.batch // self.batches.steps_per_epoch)
            if self.progress.batch < self.total and self.steps_now and self.budget.used_up():
                self.flush()
                self.save()
                break
        bar.close()

    def step(self, batch: dict[str, Tensor]) -> None:
        """One batch: augment, forward, backward, and the optimiser once enough batches have come together."""
        accelerator, position = self.accelerator, self.progress.batch
        torch.manual_seed(self.config.seed * 1_000_003 + position)  # dropout depends on the step alone: nothing to save
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        batch["images"] = self.augmentation(batch["images"].float() / 255, seed=self.config.seed * 1_000_003 + position)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * lr_at(position, self.total, self.config)
        # Whether the optimiser steps follows from the batch, not from a count that an interruption would lose.
        place = position % self.batches.steps_per_epoch + 1
        self.steps_now = place % self.config.accumulation == 0 or place == self.batches.steps_per_epoch
        with nullcontext() if self.steps_now else accelerator.no_sync(self.task):
            with accelerator.autocast():
                loss, logs = self.task(batch)
            accelerator.backward(loss)
        if self.steps_now:
            accelerator.clip_grad_norm_(self.task.parameters(), self.config.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.recent.append(logs)

    def log_step(self) -> float:
        """Write the mean figures since the last time, and return the loss."""
        names = dict.fromkeys(name for logs in self.recent for name in logs)  # PWCA may have run in some batches only
        figures = {name: torch.stack([log[name] for log in self.recent if name in log]).mean().item() for name in names}
        self.recent = []
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(
                f"the loss is {figures['loss']} at batch {self.progress.batch}: lower lr (now {self.config.lr:g}), "
                "or raise warmup_share; going on starts from the last checkpoint."
            )
        lr = lr_at(self.progress.batch - 1, self.total, self.config)
        epoch = self.progress.batch / self.batches.steps_per_epoch
        self.run.log(batch=self.progress.batch, epoch=epoch, lr=lr, **figures)
        self.tracker.log(figures | {"epoch": epoch, "lr": lr}, self.progress.batch)
        return figures["loss"]

    def end_epoch(self, epoch: int) -> None:
        """Validate, keep the model if it is the best or its turn has come, and save."""
        began = time.monotonic()
        self.flush()
        if epoch % self.config.validate_every == 0 or self.progress.batch == self.total:
            figures = self.validate(self.parts.model)
            self.run.log(batch=self.progress.batch, epoch=epoch, **{f"validation/{k}": v for k, v in figures.items()})
            self.tracker.log({f"validation/{k}": v for k, v in figures.items()}, self.progress.batch)
            if figures["eer"] < self.progress.best_eer:
                self.progress.best_eer = figures["eer"]
                self.run.save_model("best", self.parts.model, epoch=epoch, **figures)
        if epoch % self.config.checkpoint_every == 0:
            self.run.save_model(f"epoch_{epoch}", self.parts.model, epoch=epoch)
        self.progress.finished = self.progress.batch == self.total
        self.save()
        self.budget.need(time.monotonic() - began)

    def flush(self) -> None:
        """Log what has come together, so that no model is kept after a loss that is no number."""
        if self.recent:
            self.log_step()

    def save(self) -> None:
        """Write the checkpoint from which training can go on."""
        self.progress.seconds = time.monotonic() - self.began
        self.run.save_last(
            self.parts.model, self.parts.objective, self.optimizer, self.accelerator.scaler, self.progress
        )
