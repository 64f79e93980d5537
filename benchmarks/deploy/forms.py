"""The forms of a model, each opened from a folder that `subjects.py` has filled; nothing is imported before it is used,
so that the memory of a form is that of what it needs.

A form is a function of faces [N, S, S, 3] uint8 that returns descriptors [N, D].
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

WEIGHTS, ONNX, INT8, OPENVINO_INT8 = "model.safetensors", "model.onnx", "int8.onnx", "openvino_int8.xml"
PEER_WEIGHTS = "sface.onnx"
PEER = "peer: SFace by OpenCV"  # another network, 128 numbers of aligned faces of 112 px, as its users run it
Form = Callable[[np.ndarray], np.ndarray]


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def eager(folder: Path) -> Form:
    """PyTorch, fp32."""
    import torch

    from dcal_core.deploy.engine import open_engine

    torch.set_num_threads(threads())
    return open_engine(folder / WEIGHTS).encode


def bf16(folder: Path) -> Form:
    """PyTorch, products in bf16."""
    import torch

    encode = eager(folder)

    def encode_in_bf16(faces: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(faces)

    return encode_in_bf16


def compiled(folder: Path) -> Form:
    """PyTorch, fp32, by torch.compile."""
    import torch

    from dcal_core.deploy.engine import open_engine

    torch.set_num_threads(threads())
    engine = open_engine(folder / WEIGHTS)
    describe = torch.compile(engine.describe, dynamic=False)

    def encode(faces: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return describe(torch.from_numpy(faces)).numpy()

    return encode


def onnx(folder: Path) -> Form:
    """onnxruntime, fp32."""
    from dcal_core.deploy.onnx_engine import OnnxEngine

    return OnnxEngine(folder / ONNX).encode


def int8(folder: Path) -> Form:
    """onnxruntime, 8 bits."""
    from dcal_core.deploy.onnx_engine import OnnxEngine

    return OnnxEngine(folder / INT8).encode


def by_openvino(file: Path, precision: str) -> Form:
    """A file by OpenVINO, products in "f32" or "bf16" where they are not in 8 bits."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads()}
    model = core.compile_model(core.read_model(file), "CPU", options)
    return lambda faces: model(faces)[0]


def peer(folder: Path) -> Form:
    """SFace by OpenCV, one face at a time, since it takes no more."""
    import cv2

    cv2.setNumThreads(threads())
    network = cv2.FaceRecognizerSF.create(str(folder / PEER_WEIGHTS), "")
    return lambda faces: np.concatenate([network.feature(face[..., ::-1]) for face in faces])


FORMS: dict[str, tuple[str, Callable[[Path], Form]]] = {  # the file whose size counts, and what opens it
    "eager": (WEIGHTS, eager),
    "eager bf16": (WEIGHTS, bf16),
    "compiled": (WEIGHTS, compiled),
    "ONNX": (ONNX, onnx),
    "ONNX int8": (INT8, int8),
    "OpenVINO": (ONNX, lambda folder: by_openvino(folder / ONNX, "f32")),
    "OpenVINO bf16": (ONNX, lambda folder: by_openvino(folder / ONNX, "bf16")),
    "OpenVINO int8": (OPENVINO_INT8, lambda folder: by_openvino(folder / OPENVINO_INT8, "f32")),
    PEER: (PEER_WEIGHTS, peer),
}
