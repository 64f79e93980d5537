"""The training loop: it knows a `Recipe`, its batches and objective, and a validator, and no system's name."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcal_core.data.batches import Batches
from dcal_core.distributed import broadcast, rank, world_size
from dcal_core.environment import TimeBudget, on_end_request
from dcal_core.errors import ConfigError, UserError
from dcal_core.progress import progress_line
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.learning import watch
from dcal_core.training.recipe import Part, Recipe
from dcal_core.training.task import Task, synchronise
from dcal_core.training.tracking import Tracker, open_tracker

LOG_EVERY = 10  # batches; reading a figure waits for the device


class MemoryShort(ConfigError):
    """The memory of one process's GPU does not hold its part of a batch; with more parts it may."""

    def __init__(self, accumulation: int):
        super().__init__(f"a GPU's memory does not hold a part of a batch: give accumulation={accumulation}")
        self.values = {"accumulation": accumulation}


class Diverged(UserError):
    """Too many steps in a row had no finite loss or gradient."""


@dataclass(eq=False)
class Trainer:
    """Trains a model and its objective. validate(model) returns metrics; `best_by` marks the best model."""

    recipe: Recipe
    accelerator: Accelerator
    model: nn.Module
    objective: nn.Module
    batches: Batches
    validate: Callable[[nn.Module], dict[str, float]]
    run: Run
    budget: TimeBudget

    def __post_init__(self):
        self.config = self.recipe.config
        self.device = self.accelerator.device
        self.total = self.config.epochs * self.batches.steps_per_epoch
        self.asked = ""  # why to end, once that is asked
        self.refreshed = -1  # the epoch that the batches were last refreshed for
        if self.config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.modules = {"model": self.model, "objective": self.objective}
        self.average = None
        if self.config.ema_decay:
            from timm.utils import ModelEmaV3  # takes seconds to import

            self.average = ModelEmaV3(self.model, decay=self.config.ema_decay, use_warmup=True).to(self.device)
            self.modules["average"] = self.average.module
        if world_size() > 1 and self.device.type == "cuda":
            synchronise(self.model)
        if self.config.compile:
            self.model.compile()
        task = Task(self.model.train(), self.objective)
        self.task, self.optimizer = self.accelerator.prepare(task, self.recipe.optimizer(task))
        self.statistics = [buffer for buffer in task.buffers() if buffer.numel()]  # of batch norms
        self.kept = self.modules.get("average", self.model)  # what is validated and kept

    def train(self) -> Progress:
        """Train until the last epoch, until patience or the time budget is used up or someone asks to end, and leave a
        checkpoint. Raises DataError where the memory cannot hold one group of images, MemoryShort where several
        processes must begin again with smaller parts, Diverged, and StorageError."""
        self.progress, sampling = self.run.restore(self.modules, self.optimizer, self.accelerator.scaler)
        progress = self.progress
        if broadcast(progress.batch) != progress.batch:
            raise ConfigError(
                f"process {rank()} sees another run than process 0 does: let all of them share {self.run.folder}."
            )
        if progress.finished:
            return progress
        if sampling:
            self.batches.load_state_dict(sampling)
        self.batches.cut(max(self.batches.parts, progress.parts))  # as the session before found that it must
        on_device = partial(torch.tensor, device=self.device)
        self.recent = [{name: on_device(value) for name, value in row.items()} for row in progress.recent]
        folder = self.run.folder
        self.tracker = Tracker() if rank() else open_tracker(self.config, folder, progress.tracker_run, progress.batch)
        progress.tracker_run = self.tracker.run_id or progress.tracker_run
        self.saved = time.monotonic()
        self.began = self.saved - progress.seconds
        with on_end_request(partial(setattr, self, "asked")):
            try:
                while not self.run_batches():
                    self.use_less_memory()
            finally:
                self.tracker.finish()
        return progress

    def run_batches(self) -> bool:
        """Train on the batches that are left, epoch by epoch; False where memory ran out."""
        progress = self.progress
        shown = {"desc": "training", "unit": "batch", "disable": rank() > 0}
        with progress_line(total=self.total, initial=progress.batch, **shown) as bar:
            ends, loss = False, ""
            while progress.batch < self.total and not (ends or progress.finished):
                self.refresh()
                for parts in self.loader():
                    if not self.find_gradients(parts):
                        return False
                    self.step()
                    bar.update()
                    if progress.batch % LOG_EVERY == 0:
                        loss = f"loss {self.log_step():.3f}"
                    ends, saves = self.due()
                    if progress.batch % self.batches.steps_per_epoch == 0:
                        self.end_epoch(progress.batch // self.batches.steps_per_epoch)
                    elif ends or saves:
                        self.save()
                    best = f", best EER {progress.best_eer:.1%}" if math.isfinite(progress.best_eer) else ""
                    bar.set_postfix_str(loss + best, refresh=False)
                    if progress.finished or ends:
                        break
        if ends and not progress.finished:
            print(f"{self.asked or 'Time budget used up'}: saved after {progress.batch} batches in {self.run.folder}.")
        if progress.finished and progress.batch < self.total:
            print(f"No better model in {progress.stale} validations (patience): it ends at batch {progress.batch}.")
        return True

    def refresh(self) -> None:
        """At the start of an epoch, let the recipe look at the model; all processes follow process 0."""
        epoch, inside = divmod(self.progress.batch, self.batches.steps_per_epoch)
        if inside or epoch == self.refreshed:  # or begun again in smaller parts
            return
        self.refreshed = epoch
        changed = self.recipe.refresh(self.model, self.batches, epoch)
        if world_size() > 1 and broadcast(changed):
            self.batches.load_state_dict(broadcast(self.batches.state_dict()))

    def loader(self) -> DataLoader:
        """The batches that are left; of this epoch alone where the next one's depend on the model then."""
        stop = self.total
        if self.batches.state_dict():
            steps = self.batches.steps_per_epoch
            stop = (self.progress.batch // steps + 1) * steps
        pin = self.device.type == "cuda"
        return self.batches.loader(self.progress.batch, stop, self.config.loader_workers, pin=pin)

    def find_gradients(self, parts: list[dict[str, Tensor]]) -> bool:
        """Forward and backward through the parts of a batch; False where the device's memory does not hold one."""
        self.before = [buffer.clone() for buffer in self.statistics]
        self.loss = 0
        try:
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                with nullcontext() if last else self.accelerator.no_sync(self.task):
                    with self.accelerator.autocast():
                        loss, logs = self.task(self.prepare(part, number))
                    self.accelerator.backward(loss / len(parts))
                self.recent.append(logs)
                self.loss = self.loss + loss.detach()
        except torch.OutOfMemoryError:
            del self.recent[len(self.recent) - number :]  # what this batch has logged so far
            self.take_back(torch.ones((), dtype=torch.bool, device=self.device))
            return False
        return True

    def prepare(self, part: Part, number: int) -> Part:
        """A part of a batch on the device, augmented."""
        key = (self.config.seed, self.progress.batch, number, rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)  # dropout and stochastic depth
        part = {name: value.to(self.device, non_blocking=True) for name, value in part.items()}
        return self.recipe.augment(part, seed)

    def step(self) -> None:
        """One step of the optimiser, which the device itself leaves out where the loss or a gradient is not finite."""
        began = self.progress.schedule_from
        self.lr = self.recipe.lr_at(self.progress.batch - began, self.total - began)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.lr
        norm = self.accelerator.clip_grad_norm_(self.task.parameters(), self.config.grad_clip)
        bad = ~torch.isfinite(norm + self.loss)
        self.optimizer.optimizer.found_inf = bad.float()  # with fp16 the gradient scaler sets its own
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.take_back(bad)
        self.recent[-1]["skipped"] = bad.float()
        self.progress.batch += 1
        if self.average:
            self.average.update(self.model, self.progress.batch)

    def take_back(self, bad: Tensor) -> None:
        """Where the batch was bad, put the batch norms' statistics back to what they were before it."""
        for buffer, before in zip(self.statistics, self.before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))

    def use_less_memory(self) -> None:
        """Work through batches in smaller parts from here on."""
        self.batches.halve()
        if world_size() > 1:  # the others wait for this process, which cannot tell them: all must begin again
            raise MemoryShort(self.batches.parts)
        self.optimizer.zero_grad()
        self.progress.parts = self.batches.parts
        torch.cuda.empty_cache()
        groups = self.batches.groups_per_batch // self.batches.parts
        print(
            f"Out of memory at batch {self.progress.batch}: from here on each batch is worked through in "
            f"{self.batches.parts} parts of {groups} {self.batches.groups} (accumulation)."
        )

    def due(self) -> tuple[bool, bool]:
        """Whether to end here, and whether to save; several processes ask the first of them, every few batches."""
        if world_size() > 1 and self.progress.batch % LOG_EVERY:
            return False, False
        ends = bool(self.asked) or self.budget.used_up()
        return broadcast((ends, time.monotonic() - self.saved >= 60 * self.config.save_minutes))

    def log_step(self) -> float:
        """Write the mean figures of the steps since the last time that were not skipped, and return the loss."""
        rows, self.recent = self.recent, []
        flags = [bool(row.pop("skipped")) for row in rows if "skipped" in row]
        figures = {"epoch": self.progress.batch / self.batches.steps_per_epoch, "lr": self.lr}
        for name in dict.fromkeys(name for row in rows for name in row):  # PWCA may have run in some batches only
            values = torch.stack([row[name] for row in rows if name in row])
            if (finite := values[values.isfinite()]).numel():
                figures[name] = finite.mean().item()
        if any(flags):
            figures["skipped"] = sum(flags)
        self.run.log(batch=self.progress.batch, **figures)
        self.tracker.log(figures, self.progress.batch)
        self.count_skipped(flags)
        return figures.get("loss", math.nan)

    def count_skipped(self, flags: list[bool]) -> None:
        """Count the steps that were skipped and say so; raises Diverged where there were too many in a row."""
        progress = self.progress
        longest = 0
        for skipped in flags:
            progress.skipped_in_row = progress.skipped_in_row + 1 if skipped else 0
            longest = max(longest, progress.skipped_in_row)
        progress.skipped += sum(flags)
        scaled = " (fp16 then lowers its scale)" if self.accelerator.scaler else ""
        if any(flags):
            print(
                f"Batch {progress.batch}: {sum(flags)} of the last {len(flags)} steps had no finite loss or gradient "
                f"and were skipped, {progress.skipped} so far{scaled}."
            )
        if longest > self.config.max_skipped:
            folder = self.run.folder
            again = "and run again: no checkpoint is there yet"
            if folder.saved:
                batch = self.run.progress().batch
                again = f"and give resume_from={folder} to start from its checkpoint of batch {batch}, before that"
            raise Diverged(
                f"more than max_skipped={self.config.max_skipped} steps in a row had no finite loss or gradient, up to "
                f"batch {progress.batch}: lower lr (now {self.config.lr:g}), warm up longer or give precision=fp32, "
                f"{again}."
            )

    def end_epoch(self, epoch: int) -> None:
        """Validate, keep the model if it is the best or its turn has come, and save."""
        began = time.monotonic()
        progress = self.progress
        if self.recent:
            self.log_step()
        progress.finished = progress.batch == self.total
        if epoch % self.config.validate_every == 0 or progress.finished:
            figures = self.validate(self.kept)
            validated = {f"validation/{name}": value for name, value in figures.items()}
            self.run.log(batch=progress.batch, epoch=epoch, **validated)
            self.tracker.log(validated, progress.batch)
            error = figures["eer"] if self.config.best_by == "eer" else 1 - figures["benchmarks"]
            progress.stale = 0 if error < progress.best_error else progress.stale + 1
            if not progress.stale:
                progress.best_error, progress.best_eer = error, figures["eer"]
                self.run.save_model(self.run.folder.best, self.kept, epoch=epoch, **figures)
            if self.config.patience and progress.stale >= self.config.patience:
                progress.finished = True
            watch(self.recipe, progress, self.total, figures.get("eer_low", 0.0))
        if epoch % self.config.checkpoint_every == 0:
            self.run.save_model(self.run.folder.epoch(epoch), self.kept, epoch=epoch)
        self.save()
        self.budget.need(time.monotonic() - began)

    def save(self) -> None:
        self.saved = time.monotonic()
        self.progress.seconds = self.saved - self.began
        self.progress.recent = [{name: value.item() for name, value in row.items()} for row in self.recent]
        sampling = self.batches.state_dict()
        self.run.save_last(self.modules, self.optimizer, self.accelerator.scaler, self.progress, sampling)
