"""A model written as a TensorRT engine, from its ONNX form, for the GPU of this machine.

N faces or pairs. No test runs this: none of the machines that test has an NVIDIA GPU.
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorrt as trt
import torch

from dcal_core.deploy.engine import compare_file, dots
from dcal_core.deploy.graphs import Compare, Describe
from dcal_core.deploy.onnx_files import write_onnx
from dcal_core.errors import ConfigError

BATCHES = (1, 8, 32)  # faces: the least, the one to be fast at, the most
LOG = trt.Logger(trt.Logger.WARNING)


def write_engine(describe: Describe, compare: Compare, about: dict, file: Path) -> None:
    """Write the engine, and beside it that of the graph that compares, where it is needed; ConfigError where TensorRT
    cannot read the model."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(describe, compare, about, source)
        for graph, target in ((source, file), (compare_file(source), compare_file(file))):
            if graph.is_file():
                target.write_bytes(_build(graph))


def _build(graph: Path) -> bytes:
    builder = trt.Builder(LOG)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse_from_file(str(graph)):
        raise ConfigError(f"TensorRT cannot read the model ({parser.get_error(0).desc():.200}): take --format onnx.")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # which would miss the limit of the difference
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        given = network.get_input(number)
        profile.set_shape(given.name, *((size, *given.shape[1:]) for size in BATCHES))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


class TensorRTEngine:
    """The engine of what `write_engine` has written."""

    def __init__(self, file: Path):
        runtime = trt.Runtime(LOG)
        files = [one for one in (file, compare_file(file)) if one.is_file()]
        self.contexts = [runtime.deserialize_cuda_engine(one.read_bytes()).create_execution_context() for one in files]

    def encode(self, faces: np.ndarray) -> np.ndarray:
        return _run(self.contexts[0], faces=faces)

    def compare_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if len(self.contexts) == 1:
            return dots(a, b)
        parts = range(0, len(a), BATCHES[-1])
        scores = [_run(self.contexts[1], a=a[i : i + BATCHES[-1]], b=b[i : i + BATCHES[-1]]) for i in parts]
        return np.concatenate(scores).astype(np.float64)


def _run(context, **inputs: np.ndarray) -> np.ndarray:
    """The one output of an engine, for inputs by name."""
    held = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in inputs.items()}
    for name, tensor in held.items():
        context.set_input_shape(name, tuple(tensor.shape))
        context.set_tensor_address(name, tensor.data_ptr())
    names = [context.engine.get_tensor_name(number) for number in range(context.engine.num_io_tensors)]
    (name,) = set(names) - set(held)
    output = torch.empty(tuple(context.get_tensor_shape(name)), device="cuda")
    context.set_tensor_address(name, output.data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return output.cpu().numpy()
