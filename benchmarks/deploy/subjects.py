"""The models that are measured, each in a folder with all of its forms."""

import contextlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.deploy.forms import INT8, ONNX, OPENVINO_INT8, PEER_WEIGHTS, WEIGHTS
from dcal_core.audit.detector import face_weights
from dcal_core.commands.chosen import trained_config
from dcal_core.config.recipes import class_of
from dcal_core.data.splits import Split, open_data
from dcal_core.deploy.engine import ABOUT_FILE, FORMAT, open_engine
from dcal_core.deploy.export import export
from dcal_core.deploy.quantise import integer_nodes, quantise
from dcal_core.errors import ConfigError
from dcal_core.models.files import load_model, save_tensors
from dcal_core.models.verifier import Verifier
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import RunFolder
from dcal_core.storage import digest

FACES = 64  # random ones, on which a model without a run is compared and calibrated
CALIBRATED = 128  # training faces of a run
PEER_SIZE = 112  # px, what SFace takes


@dataclass(frozen=True)
class Subject:
    """A model to measure: a trained run, whose accuracy is measured too, or a network with random weights."""

    name: str
    run: Path | None = None
    values: dict = field(default_factory=dict)  # the parameters of a network with random weights


NETWORKS = (
    Subject("ViT-S/16, 224 px", values={"backbone": "vit_small_patch16_224", "image_size": 224}),
    Subject("ViT-B/16, 224 px", values={"backbone": "vit_base_patch16_224", "image_size": 224}),
    Subject("IR-50, 112 px", values={"recipe": "adaface", "backbone": "ir_50", "image_size": 112}),
)


def of_run(run: Path) -> Subject:
    """The subject of a trained run."""
    config = trained_config(RunFolder(run).best, {})
    return Subject(f"{config.backbone}, {config.image_size} px, trained", run=run)


def random_model(values: dict) -> Verifier:
    """A network with random weights, whose scores mean nothing."""
    torch.manual_seed(0)
    config = class_of(values.get("recipe", "dcal"))(**values, allow_random_init=True)
    return new_model(config, [], pretrained=False).eval()


def write_model(model: Verifier, label: str, folder: Path) -> None:
    """Write a model as a packed folder; it needs no evaluation, and gives scores alone."""
    save_tensors(folder / WEIGHTS, model.state_dict())
    about = {"format": FORMAT, "image_size": model.image_size, "fit": "stretch", "landmarks": None, "range": None}
    about |= {"architecture": model.architecture, "decision": {}, "label": label}
    about |= {"provenance": {"weights": digest(folder / WEIGHTS)}}
    (folder / ABOUT_FILE).write_text(json.dumps(about))


def channels_last(images, places: np.ndarray) -> np.ndarray:
    """Images of a store, [N, S, S, 3] uint8."""
    return np.ascontiguousarray(images.batch(places).permute(0, 2, 3, 1).numpy())


def write_forms(subject: Subject, folder: Path) -> tuple[dict, Split | None]:
    """Fill a folder with all forms of a subject; returns what is known of them, and the test families of a run."""
    split = None
    if subject.run:
        best = RunFolder(subject.run).best
        model = load_model(best)
        data = open_data(trained_config(best, {}), ("train", "test"))
        split = data["test"]
        faces = channels_last(split.images, np.arange(FACES))
        spread = np.linspace(0, len(data["train"].images.images) - 1, CALIBRATED).astype(int)
        calibration = channels_last(data["train"].images, spread)
    else:
        model = random_model(subject.values)
        shape = (FACES, model.image_size, model.image_size, 3)
        faces = calibration = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        if model.image_size == PEER_SIZE:
            with contextlib.suppress(ConfigError):  # the extra `faces` is not installed
                shutil.copy(face_weights()["recognizer"], folder / PEER_WEIGHTS)
    write_model(model, data.label if subject.run else "random weights", folder)
    engine = open_engine(folder / WEIGHTS)
    worst = export(engine.model, engine.about, folder / ONNX, "onnx", faces)
    how = quantise(folder / ONNX, folder / INT8, calibration)
    found = {"size": engine.about["image_size"], "worst": worst, "int8": how}
    return found | {"nodes": integer_nodes(folder / INT8, faces[:2])} | write_openvino(folder, how, calibration), split


def write_openvino(folder: Path, how: str, faces: np.ndarray) -> dict:
    """Write OpenVINO's form in 8 bits where it and nncf are installed; else says why not."""
    try:
        import nncf
        import openvino
    except ModuleNotFoundError as error:
        return {"openvino": f"{error.name} is not installed"}
    model = openvino.Core().read_model(folder / ONNX)
    kind = nncf.ModelType.TRANSFORMER if how == "dynamic" else None
    some = nncf.Dataset([face[None] for face in faces])
    quantised = nncf.quantize(model, some, model_type=kind, subset_size=len(faces))
    openvino.save_model(quantised, folder / OPENVINO_INT8, compress_to_fp16=False)
    return {"openvino": openvino.__version__}
