"""A model and its objective as what is trained, and the device and precision that they are trained on."""

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from dcal_core.environment import fit_precision, gpu_verdict
from dcal_core.training.recipe import Recipe


class Task(nn.Module):
    """A model and its objective as one module, so that what is distributed over GPUs runs whole inside one forward."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch)


def synchronise(module: nn.Module) -> None:
    """Let the batch norms of pixels take their statistics over all processes; those of embeddings get the rows of all
    anyway. timm's conversion, since PyTorch's drops the activation that timm joins to a norm."""
    from timm.layers import convert_sync_batchnorm  # takes seconds to import

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, convert_sync_batchnorm(child))
        else:
            synchronise(child)


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Device, precision and, where several processes have joined, how they train together."""
    return Accelerator(
        mixed_precision=fit_precision(recipe.config.precision).replace("fp32", "no"),
        cpu=not gpu_verdict()[0],
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.skips_layers)],
    )
