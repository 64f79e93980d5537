"""Damaged trained runs, to be evaluated, with a judge that states anew what their files may hold."""

import functools
import io
import json
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from PIL import Image

from bad_inputs.folders import PICKLE, Changes, file_changes, files_of, judge_people, put, unseals
from bad_inputs.indexes import FILES, IMAGES, TREES, parsed
from bad_inputs.mutations import spoilt_json
from bad_inputs.parameters import fields_of, sound
from bad_inputs.trial import Kind, quiet
from dcal_core.commands.session import begin_with_trained
from dcal_core.config.recipes import load
from dcal_core.models.files import load_model
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import RunFolder
from dcal_core.training.checkpoints import Run

PARAMS = Path(__file__).parents[2] / "params"
MORE = {"train": ("14", "15", "16", "17"), "test": ("22", "23")}  # families enough to validate and to test on
BEST = "run/checkpoints/best"


def images_of(people: tuple[str, ...]) -> dict[str, list[str]]:
    return {person: [f"/old/set/{person}/{person}{letter}.jpg" for letter in "ab"] for person in people}


@functools.cache
def sound_trained() -> dict[str, bytes]:
    """The files of a trained run and of the data to evaluate it on."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        config = load("demo", PARAMS, {"image_size": 32, "run_dir": "run", "validation_share": 0.75})
        torch.manual_seed(0)
        run = Run(RunFolder(Path(folder) / "run"), config, "the people and images")
        run.remember("data", ["10", "11", "12", "13"])
        run.save_model(run.folder.best, new_model(config, []), epoch=1)
        for name, tree in TREES.items():
            people = MORE[name.partition("_")[0]]
            pairs = [list(pair) for pair in zip(people[::2], people[1::2], strict=True)]
            more = pairs if isinstance(tree, list) else images_of(people)
            (Path(folder) / name).write_text(json.dumps(tree + more if isinstance(tree, list) else tree | more))
        found = files_of(Path(folder))
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(out, "PNG")
    splits = [*IMAGES.values(), *map(images_of, MORE.values())]
    paths = [Path(path) for split in splits for paths in split.values() for path in paths]
    images = {f"data/{path.parent.name}/{path.name}": out.getvalue() for path in paths}
    return {f"data/{name}" if name in FILES else name: content for name, content in found.items()} | images


def lay_out_trained(folder: Path, changes: Changes) -> None:
    for name, content in sound_trained().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    put(folder, changes)


def evaluate(folder: Path, changes: Changes) -> None:
    """What the evaluation does before its first batch."""
    given = {"preset": "demo", "run_dir": "run", "data_root": "data"}
    session = begin_with_trained("Evaluate", given, PARAMS)
    load_model(session.trained)
    session.open_data(("test",))


def trained_is_damaged(folder: Path, changes: Changes) -> bool | None:
    """The judge of trained runs."""
    if "resealed" in changes:
        return True
    ((name, content),) = changes.items()
    if name.startswith(BEST):
        return unseals(sound_trained(), name, content)
    if name == "run/trained_on.json":
        seen = json.loads((folder / name).read_bytes())["people"] if not judge_people(folder / name) else ["20"]
        return bool({"20", "21"} & set(seen))
    try:
        kept = parsed(folder / name)
        if not fields_of(kept):
            return True
        return not sound({name: value for name, value in kept.items() if name in fields_of(kept)})
    except (OSError, ValueError, AttributeError, RecursionError):
        return True


def architecture_with(**facts) -> Changes:
    """A model.json of other facts, with the checksums made to fit."""
    tree = json.loads(sound_trained()[f"{BEST}/model.json"]) | facts
    return {f"{BEST}/model.json": json.dumps(tree).encode(), "resealed": BEST}


def bad_trained() -> dict[str, Changes]:
    """Trained runs that Hypothesis would not damage so."""
    people = "run/trained_on.json"
    return {
        "no model": {f"{BEST}/model.json": "missing"},
        "a folder in place of the model": {f"{BEST}/model.safetensors": "folder"},
        "a link in place of the model": {f"{BEST}/model.safetensors": "link"},
        "a pickle for weights, resealed": {f"{BEST}/model.safetensors": PICKLE, "resealed": BEST},
        "no weights, resealed": {f"{BEST}/model.safetensors": "missing", "resealed": BEST},
        "a pickle for the architecture, resealed": {f"{BEST}/model.json": PICKLE, "resealed": BEST},
        "architecture of a list, resealed": {f"{BEST}/model.json": b"[]", "resealed": BEST},
        "architecture of another size, resealed": architecture_with(image_size=64),
        "architecture of an odd size, resealed": architecture_with(image_size=33),
        "architecture of a name to fetch, resealed": architecture_with(backbone="hf-hub:owner/model"),
        "architecture of another kind, resealed": architecture_with(backbone="resnet18"),
        "architecture of a list of names, resealed": architecture_with(backbone=["hybrid_tiny"]),
        "architecture with too deep a layer, resealed": architecture_with(pwca_layers=[1, 40]),
        "architecture with layers out of order, resealed": architecture_with(pwca_layers=[2, 1]),
        "architecture with an infinite mean, resealed": architecture_with(mean=[0.5, 0.5, float("inf")]),
        "architecture with a deviation of 0, resealed": architecture_with(std=[0.5, 0.5, 0.0]),
        "architecture with a share of NaN, resealed": architecture_with(local_ratio=float("nan")),
        "architecture with one fact more, resealed": architecture_with(code="print()"),
        "no parameters": {"run/config.json": "missing"},
        "parameters in a folder": {"run/config.json": "folder"},
        "parameters of a list": {"run/config.json": b"[]"},
        "no list of people": {people: "missing"},
        "list of people in a folder": {people: "folder"},
        "nobody was trained on": {people: b'{"data": "data", "people": []}'},
        "people by number": {people: b'{"data": "data", "people": [10, 11]}'},
        "people in lists": {people: b'{"data": "data", "people": [["10"], ["11"]]}'},
        "people in one text": {people: b'{"data": "data", "people": "10 11"}'},
        "people of half a surrogate pair": {people: b'{"data": "\\ud800", "people": ["20"]}'},
        "people of the test": {people: b'{"data": "data", "people": ["10", "20"]}'},
        "data without a name": {people: b'{"data": null, "people": ["10"]}'},
    }


def trained_words(changes: Changes) -> tuple[str, ...]:
    """A refusal names the file that was changed or its folder, or people who were trained on."""
    return (
        "were trained on",
        "no trained model",
        *(word for n in changes for word in (Path(n).name, *n.split("/")[2:3])),
    )


TRAINED = Kind(
    name="trained runs",
    by_hand=bad_trained(),
    generated=st.one_of(
        file_changes(sound_trained(), BEST),
        spoilt_json({"data": "data", "people": ["10", "11"]}).map(lambda content: {"run/trained_on.json": content}),
        spoilt_json(json.loads(sound_trained()["run/config.json"])).map(lambda content: {"run/config.json": content}),
    ),
    count=80,
    lay_out=lay_out_trained,
    malformed=trained_is_damaged,
    use=evaluate,
    names=trained_words,
    example="no list of people",
)
