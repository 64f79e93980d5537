"""A model written as ONNX, with a batch of any size.

N faces or pairs; S the model's image size, px; D numbers in a descriptor.
"""

import contextlib
import io
import json
import warnings
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from onnxscript import FLOAT, INT64
from onnxscript import opset20 as op

from dcal_core.deploy.engine import ABOUT_FILE, compare_file
from dcal_core.deploy.graphs import Compare, Describe, examples_of, program_of
from dcal_core.storage import digest, whole_file

OPSET = 20


def stable_sort(values: FLOAT, stable: bool = True, dim: int = -1, descending: bool = False) -> tuple[FLOAT, INT64]:
    """PyTorch's stable sort: ONNX's TopK puts the lower index first among equal values, and takes all of them here."""
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def to_onnx(program: torch.export.ExportedProgram, inputs: list[str], output: str) -> ModelProto:
    """The ONNX model of a program, with these names, and "N" for the size of a batch."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter about itself
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=[output],
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
        )
    model = exported.model_proto
    old = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            size.dim_param = size.dim_param.replace(old, "N") if old else size.dim_param
    return model


def save_onnx(model: ModelProto, about: dict | None, file: Path) -> None:
    """Write an ONNX model, with what config.json holds in its metadata, whole or not at all."""
    if about is not None:
        onnx.helper.set_model_props(model, {ABOUT_FILE: json.dumps(about, allow_nan=False)})
    with whole_file(file) as new:
        onnx.save(model, new)


def write_onnx(describe: Describe, compare: Compare, about: dict, file: Path) -> None:
    """Write a model, its comparison beside it where scores are no dot products, and `about` in its metadata."""
    program = program_of(describe, examples_of(describe))
    digest_of_compare = ""
    if not compare.by_dot:
        pair = program_of(compare, examples_of(compare))
        save_onnx(to_onnx(pair, ["a", "b"], "scores"), None, compare_file(file))
        digest_of_compare = digest(compare_file(file))
    model = to_onnx(program, ["faces"], "descriptors")
    about = about | {"export": about["export"] | {"compare": digest_of_compare}}
    save_onnx(model, about, file)
