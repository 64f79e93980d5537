"""What is exported gives the model's scores, on batches of any size, without PyTorch; or nothing is left."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny import adaface_config, dcal_config, model_of, oaml_config, twins
from tiny_predictor import RULE, written

from dcal_core.deploy import export as exporting
from dcal_core.deploy.engine import (
    ABOUT_FILE,
    FORMAT,
    ONNX_FILE,
    compare_file,
    dots,
    first_weights,
    open_engine,
    quick_engine,
)
from dcal_core.deploy.export import FORMS, LIMIT, ExportError, differences, export
from dcal_core.deploy.onnx_engine import OnnxEngine
from dcal_core.deploy.quantise import eer_cost, export_int8, integer_nodes, is_integer, quantise
from dcal_core.deploy.torch_files import Callables
from dcal_core.models.dcal import DCAL, unit_concat
from dcal_core.storage import DamagedError
from dcal_core.verification import bootstrap
from dcal_core.verification.protocol import pairs_of

ALL = {  # every recipe, similarity and readout
    **{f"dcal {readout}": dcal_config(readout=readout) for readout in ("cls", "tokens", "cls_alone")},
    "dcal local_tokens": dcal_config(readout="local_tokens", similarity="learned"),
    "dcal euclidean": dcal_config(similarity="euclidean"),
    "dcal registers": dcal_config(backbone="vit_small_patch14_reg4_dinov2", image_size=42),
    "dcal rotary": dcal_config(backbone="vit_small_patch16_dinov3"),
    "adaface": adaface_config(),
    "oaml": oaml_config(),
    "oaml blind": oaml_config(joint=True),
}


def about(model) -> dict:
    """What config.json holds of a model, as small as it can be."""
    known = {"format": FORMAT, "image_size": model.image_size, "fit": "stretch", "landmarks": None, "range": None}
    return known | {"architecture": model.architecture, "decision": RULE, "label": "SYNTHETIC", "provenance": {}}


def some_faces(size: int, count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def tied_model():
    """A small DCAL with a learnt comparison, whose patches get equal attention, so that all tie for selection."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    attention = vit.blocks[0].attn
    attention.qkv.weight.data[:64] = 0  # queries and keys
    attention.qkv.bias.data[:64] = 0
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    model = DCAL(vit=vit, image_size=32, readout="local_tokens", similarity="learned", **colours).eval()
    model.architecture = {}
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A DCAL model whose selection is all ties and whose comparison is learnt, as ONNX; with its file."""
    model = tied_model()
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    worst = export(model, about(model), file, "onnx", some_faces(model.image_size))
    assert 0 <= worst <= LIMIT
    return model, file


def test_ties_for_selection_go_to_the_first_patches_in_both(exported):
    model, file = exported
    faces = some_faces(model.image_size, 3)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(faces).permute(0, 3, 1, 2), trace=True)
    prefix = model.vit.num_prefix_tokens
    assert features.trace["selected"].tolist() == [list(range(prefix, prefix + model.selected))] * 3
    expected = torch.cat([part.flatten(1) for part in features.parts.values()], 1)
    np.testing.assert_allclose(OnnxEngine(file).encode(faces), expected, atol=1e-5)


def test_an_exported_model_is_enough_without_pytorch(exported, tmp_path):
    model, file = exported
    faces = some_faces(model.image_size, 5)
    np.save(tmp_path / "faces.npy", faces)
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        "import json, numpy as np\n"
        "from dcal_core.deploy.engine import open_engine\n"
        f"engine = open_engine({str(file)!r})\n"
        f"rows = engine.encode(np.load({str(tmp_path / 'faces.npy')!r}))\n"
        "print(json.dumps([engine.about['label'], engine.compare_pairs(rows[:-1], rows[1:]).tolist()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    label, scores = json.loads(done.stdout)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(faces).permute(0, 3, 1, 2))
        expected = model.compare_pairs(features[:-1], features[1:])
    assert label == "SYNTHETIC"
    np.testing.assert_allclose(scores, expected, atol=LIMIT)


@pytest.fixture
def both(exported, tmp_path):
    """The exported model in a packed folder, whose other weights are not needed here."""
    model, file = exported
    for part in (file, compare_file(file)):
        shutil.copyfile(part, tmp_path / part.name)
    (tmp_path / ABOUT_FILE).write_text(json.dumps(about(model)))
    return tmp_path


def test_two_pictures_are_verified_without_what_takes_time_to_import(both):
    code = (
        "import sys\n"
        "from dcal_core.__main__ import main\n"
        "assert main(['verify', *sys.argv[1:], '--aligned']) < 3\n"
        "slow = {'torch', 'timm', 'pydantic', 'scipy.sparse', 'scipy.fft', 'matplotlib', 'onnx'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    command = [sys.executable, "-c", code, *written(both, 2), "--model", both]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "SYNTHETIC" in done.stdout, done.stderr


@pytest.mark.parametrize("change", ["weights", "precision", "onnxruntime", "absent"])
def test_only_a_packed_folders_own_model_in_full_starts_sooner(change, both, monkeypatch):
    assert isinstance(quick_engine(both), OnnxEngine)
    if change == "weights":
        known = json.loads((both / ABOUT_FILE).read_text())
        (both / ABOUT_FILE).write_text(json.dumps(known | {"provenance": {"weights": "of another packing"}}))
    elif change == "precision":
        graph = onnx.load(both / ONNX_FILE)
        known = json.loads(graph.metadata_props[0].value)
        known["export"]["precision"] = "int8"
        onnx.helper.set_model_props(graph, {ABOUT_FILE: json.dumps(known)})
        onnx.save(graph, both / ONNX_FILE)
    elif change == "onnxruntime":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        (both / ONNX_FILE).unlink()
    assert quick_engine(both) is None


def test_of_several_onnx_files_the_packed_one_is_taken(both):
    shutil.copyfile(both / ONNX_FILE, both / "int8.onnx")
    assert first_weights(both).name == ONNX_FILE


def test_a_comparison_of_another_model_is_refused(exported, tmp_path):
    _, file = exported
    shutil.copyfile(file, tmp_path / file.name)
    graph = onnx.load(compare_file(file))
    graph.producer_name = "another"
    onnx.save(graph, compare_file(tmp_path / file.name))
    with pytest.raises(DamagedError, match="not the graph"):
        open_engine(tmp_path / file.name)


def test_what_is_no_exported_model_is_refused(exported, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(DamagedError, match="cannot be read as ONNX"):
        open_engine(tmp_path / "broken.onnx")
    with pytest.raises(DamagedError, match="carries no config.json"):
        open_engine(compare_file(exported[1]))


@pytest.mark.parametrize("form", ["torchscript", pytest.param("torch_export", marks=pytest.mark.faults)])
@pytest.mark.parametrize("config", [dcal_config(readout="tokens"), oaml_config()], ids=["vectors", "compared"])
def test_pytorchs_own_formats_give_the_models_scores(form, config, tmp_path):
    model = model_of(config)
    file = tmp_path / f"model{FORMS[form].ending}"
    assert export(model, about(model), file, form, some_faces(model.image_size)) <= LIMIT
    assert compare_file(file).is_file() == (model.architecture["recipe"] == "oaml")
    assert all(one.stem in ("model", "model.compare") for one in tmp_path.iterdir())


def test_a_file_whose_scores_differ_is_not_left(tmp_path, monkeypatch):
    model = model_of(adaface_config())
    monkeypatch.setattr(
        exporting, "Callables", lambda *given: Callables(lambda faces: -1 - faces[:, 0, 0].float(), None)
    )
    with pytest.raises(ExportError, match="differ from the model's by up to .* so it was not left"):
        export(model, about(model), tmp_path / "model.pt", "torchscript", some_faces(model.image_size))
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_no_numbers_are_not_left(tmp_path):
    model = model_of(adaface_config())
    model.backbone.input_layer[0].weight.data[0] = torch.nan
    with pytest.raises(ExportError, match="nan"):
        export(model, about(model), tmp_path / "model.pt", "torchscript", some_faces(model.image_size))


def test_a_format_that_is_not_installed_is_named(tmp_path):
    model = model_of(adaface_config())
    with pytest.raises(ExportError, match="--format tensorrt needs tensorrt, which is not installed: pip install"):
        export(model, about(model), tmp_path / "model.engine", "tensorrt", some_faces(model.image_size))


def test_vectors_are_those_whose_dot_products_are_scores():
    model = model_of(dcal_config()).eval()
    features = model.encode(torch.from_numpy(some_faces(model.image_size, 4)).permute(0, 3, 1, 2))
    vectors = model.vectors(features)
    torch.testing.assert_close(vectors @ vectors.T, model.compare(features, features))
    torch.testing.assert_close(vectors, unit_concat(features.parts))
    assert tied_model().vectors(features) is None and model_of(oaml_config()).vectors(features) is None


def test_8_bits_shrink_the_products_of_weights_and_these_run_as_whole_numbers(exported, tmp_path):
    model, file = exported
    faces = some_faces(model.image_size)
    assert quantise(file, tmp_path / "model.onnx", faces) == "dynamic"
    shutil.copyfile(compare_file(file), compare_file(tmp_path / "model.onnx"))
    nodes = integer_nodes(tmp_path / "model.onnx", faces)
    assert set(nodes) <= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
    # In SA and in GLCA: q, k and v at once or apart, proj, two of the feed-forward network; and two of the readout.
    assert sum(nodes.values()) == 4 + 5 + 2
    worst = differences(OnnxEngine(tmp_path / "model.onnx"), OnnxEngine(file), faces).max()
    assert LIMIT < worst < 0.3


def test_the_cost_in_eer_is_that_of_the_scores_by_the_bootstrap_of_the_reports():
    """Of engines that know the right answers, and the same with a quarter of the faces taken for another person."""
    split = twins(8)
    people = split.index.person_of
    places = {row.tobytes(): place for place, row in enumerate(split.images.images.transpose(0, 2, 3, 1))}

    class Known:
        def __init__(self, wrong):
            self.people = np.where(np.arange(len(people)) % 4 < wrong, people ^ 1, people)  # the co-twin

        def encode(self, faces):
            return np.eye(len(people), dtype=np.float32)[[self.people[places[face.tobytes()]] for face in faces]]

        compare_pairs = staticmethod(dots)

    pairs = pairs_of(split.index)
    found = []
    for engine in (Known(1), Known(0)):
        scores = (engine.people[pairs.a] == engine.people[pairs.b]).astype(float)
        found.append(bootstrap.replicate_eer(scores, pairs.genuine, pairs.family))
    cost = eer_cost(Known(1), Known(0), split)
    assert cost == bootstrap.differences(*found)["eer"] and cost["low"] > 0.05
    assert eer_cost(Known(0), Known(0), split)["value"] == 0


def test_only_products_of_whole_numbers_are_counted(exported):
    assert integer_nodes(exported[1], some_faces(exported[0].image_size, 2)) == {}
    assert is_integer("QLinearConv") and is_integer("MatMulInteger") and not is_integer("DynamicQuantizeLinear")


@pytest.mark.faults
@pytest.mark.parametrize("name", ALL)
def test_every_recipe_is_exported(name, tmp_path):
    model = model_of(ALL[name])
    assert export(model, about(model), tmp_path / "model.onnx", "onnx", some_faces(model.image_size)) <= LIMIT


@pytest.mark.faults
@pytest.mark.parametrize(
    ("config", "how"),
    [(dcal_config(readout="tokens"), "dynamic"), (adaface_config(), "static"), (oaml_config(), "static")],
)
def test_8_bits_are_written_with_what_they_cost(config, how, tmp_path):
    model = model_of(config)
    file = tmp_path / "model.onnx"
    faces = some_faces(model.image_size, 40)
    made = export_int8(model, about(model), file, faces, faces, twins(3))
    assert made.how == how and made.bytes[1] < made.bytes[0] / 2 and 0 < made.worst < 0.5
    assert sum(made.nodes.values()) > 12 and {"value", "low", "high"} <= set(made.cost)
    engine = open_engine(file)
    assert engine.about["export"]["precision"] == "int8" and engine.about["export"]["eer_cost"] == made.cost
    assert "points" in made.sentence(file)
    assert {one.name for one in tmp_path.iterdir()} <= {file.name, compare_file(file).name}
