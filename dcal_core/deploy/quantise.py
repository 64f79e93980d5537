"""A model in ONNX with weights of 8 bits, and matrix products or convolutions of whole numbers.

Attention's products of activations, norms, activations and softmax stay in fp32: they are little of the work, and
suffer most. N faces; S the model's image size, px.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from dcal_core.data.splits import Split
from dcal_core.deploy.engine import Engine, compare_file
from dcal_core.deploy.export import ExportError, describe_all, differences, left_whole, write_checked
from dcal_core.deploy.onnx_engine import OnnxEngine, open_session
from dcal_core.deploy.onnx_files import save_onnx
from dcal_core.models.verifier import Verifier
from dcal_core.verification import bootstrap
from dcal_core.verification.protocol import pairs_of

CPU = Path("/proc/cpuinfo")
INTEGER_DOTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # what makes integers faster than fp32
BATCH = 16  # faces by which ranges are calibrated


def integer_flags() -> list[str]:
    """The instructions of this machine's CPU for products of 8-bit integers; Linux alone tells."""
    words = CPU.read_text().split() if CPU.is_file() else []
    return [flag for flag in INTEGER_DOTS if flag in words]


class Faces(CalibrationDataReader):
    """Batches of faces, from which the ranges of activations are taken."""

    def __init__(self, faces: np.ndarray):
        self.batches: Iterator[np.ndarray] = iter(np.split(faces, range(BATCH, len(faces), BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"faces": batch}


def has_attention(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "Softmax" for node in model.graph.node)


def quantise(source: Path, target: Path, faces: np.ndarray) -> str:
    """Write `source` in 8 bits as `target`, and return how.

    Transformers: matrix products whose ranges are taken from each batch, "dynamic". Convolutional networks: ranges
    measured on `faces` [N, S, S, 3] uint8, "static"; their first convolution stays in fp32.
    """
    narrow = not integer_flags()  # without these instructions sums of 16 bits may overflow
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        if has_attention(model):
            quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                reduce_range=narrow,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            return "dynamic"
        first = next(node.name for node in model.graph.node if node.op_type == "Conv")
        quantize_static(
            prepared,
            target,
            Faces(faces),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            nodes_to_exclude=[first],
            per_channel=True,
            reduce_range=narrow,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return "static"


def integer_nodes(file: Path, faces: np.ndarray) -> dict[str, int]:
    """How many nodes of whole numbers run when a model describes faces [N, S, S, 3], by their kind, as onnxruntime's
    profile has it."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(file, profile=f"{folder}/profile")
        session.run(None, {"faces": faces})
        events = json.loads(Path(session.end_profiling()).read_text())
    kinds = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and "op_name" in event["args"]]
    return dict(Counter(kind for kind in kinds if is_integer(kind)))


def is_integer(kind: str) -> bool:
    """Whether a kind of node multiplies whole numbers."""
    return kind.startswith(("QLinear", "QGemm")) or "Integer" in kind or kind == "DynamicQuantizeMatMul"


@dataclass(frozen=True)
class Int8:
    """What became of a model in 8 bits.

    how: see `quantise`. nodes: of whole numbers, that run, by their kind. worst: the largest difference of a score from
    the model's own. bytes: of the file in fp32 and in 8 bits. cost: the EER in 8 bits less that in fp32 on validation
    families, as `bootstrap.differences` gives it; None where they were not given.
    """

    how: str
    nodes: dict[str, int]
    worst: float
    bytes: tuple[int, int]
    cost: dict | None

    def sentence(self, file: Path) -> str:
        """What became of the model, in words, the CPU's instructions for 8 bits beside it."""
        exact, narrow = self.bytes
        nodes = ", ".join(f"{count} {kind}" for kind, count in self.nodes.items())
        flags = ", ".join(integer_flags()) or "none, without which 8 bits are hardly faster than fp32"
        text = (
            f"{file}: 8 bits, {self.how} ranges; {narrow / 1e6:.1f} MB, {narrow / exact:.2f} of fp32; it runs {nodes} "
            f"(this CPU's instructions for them: {flags}); a score differs by up to {self.worst:.2g}"
        )
        if self.cost is None:
            return f"{text}; what that costs in accuracy was not measured: give the model's run as --faces."
        low, high = (100 * self.cost[end] for end in ("low", "high"))
        return f"{text}; EER {100 * self.cost['value']:+.2f} points ({low:+.2f} to {high:+.2f}) on validation families."


def eer_cost(quantised: Engine, exact: Engine, split: Split) -> dict:
    """The EER of one engine less that of another on the pairs of a split, paired over its families."""
    faces = split.images.batch(np.arange(len(split.images.images))).permute(0, 2, 3, 1).numpy()
    pairs = pairs_of(split.index)
    found = []
    for engine in (quantised, exact):
        rows = describe_all(engine, faces)
        found.append(
            bootstrap.replicate_eer(engine.compare_pairs(rows[pairs.a], rows[pairs.b]), pairs.genuine, pairs.family)
        )
    return bootstrap.differences(*found)["eer"]


def export_int8(
    model: Verifier, about: dict, file: Path, faces: np.ndarray, calibration: np.ndarray, validation: Split | None
) -> Int8:
    """Write a model as ONNX in 8 bits, and measure what that costs.

    about: what config.json holds. faces, calibration: [N, S, S, 3] uint8, to compare on and to measure ranges on.
    ExportError, and no file, where onnxruntime then runs no node of whole numbers.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-fp32-") as folder, left_whole(file) as new:
        exact = Path(folder) / new.name
        write_checked(model, about, exact, "onnx", faces)
        how = quantise(exact, new, calibration)
        if compare_file(exact).is_file():
            shutil.copyfile(compare_file(exact), compare_file(new))
        nodes = integer_nodes(new, faces[:2])
        if not nodes:
            raise ExportError(f"{file.name}: onnxruntime runs no product of whole numbers in it, so it was not left.")
        about = OnnxEngine(exact).about
        about["export"] |= {"precision": "int8", "how": how, "integer_nodes": nodes}
        save_onnx(onnx.load(new), about, new)
        engines = OnnxEngine(new), OnnxEngine(exact)
        cost = eer_cost(*engines, validation) if validation else None
        save_onnx(onnx.load(new), about | {"export": about["export"] | {"eer_cost": cost}}, new)
        worst = float(differences(*engines, faces).max())
        return Int8(how, nodes, worst, (exact.stat().st_size, new.stat().st_size), cost)
