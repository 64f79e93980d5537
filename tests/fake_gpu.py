"""A GPU that is not there: tensors on `cuda` with shapes, types and devices, and no values.

PyTorch's FakeTensorMode refuses what mixes devices, and what asks for a value, for which a GPU would have to be waited
for. What else a GPU refuses or takes is added here. A backward pass needs a real device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
OF_ONE_TYPE = {  # what takes floats of one type alone, which fake tensors do not check
    ATEN.mm,
    ATEN.addmm,
    ATEN.linear,
    ATEN.convolution,
    ATEN.grid_sampler_2d,
    ATEN.index_copy,
    ATEN.index_copy_,
    ATEN.index_add,
    ATEN.index_add_,
}


class OneType(TorchDispatchMode):
    """Refuses floats of several types where a GPU does; below autocast, which makes one type of them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in OF_ONE_TYPE:
            tensors = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
            assert len(found) == 1, f"{func} of {found}"
        if func.overloadpacket is ATEN._fused_sgd_:  # which has no fake form; it changes what it is given in place
            assert {leaf.device.type for leaf in tree_leaves(args) if isinstance(leaf, Tensor)} == {"cuda"}
            return None
        return func(*args, **(kwargs or {}))


class WithoutValues(TorchFunctionMode):
    """Pinned memory is ordinary memory, and an array of a tensor on the CPU holds zeros."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.numpy:
            (tensor,) = args
            assert tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16, f"numpy of {tensor}"
            return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """Mixed precision on `cuda`; torch.autocast itself switches it off where there is no GPU."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
        torch.clear_autocast_cache()


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside the block, `cuda` is a device, and what is made or moved has no values."""
    with FakeTensorMode(allow_non_fake_inputs=True), OneType(), WithoutValues():
        yield
