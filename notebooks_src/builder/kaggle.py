"""`make kaggle USER=name`: folders that the official tool publishes on Kaggle.

    build/kaggle/library/    the library as a dataset: kaggle datasets create -p build/kaggle/library --dir-mode zip
    build/kaggle/train/      a notebook without the library: kaggle kernels push -p build/kaggle/train

Every field of the metadata is written: documents and code of the tool disagree about defaults. A notebook has a GPU if
its script asks for one, and the outputs of the notebooks before it.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import jupytext
from build_notebooks import ROOT, build

LIBRARY = "twins-library"
SOURCES = {"evaluate": ["train"], "attention": ["evaluate"], "deploy": ["evaluate"]}  # whose outputs a notebook reads
ONLINE = {"train"}  # fetches pretrained weights
T4_TWICE = "NvidiaTeslaT4"  # Kaggle's name for two of them
USER = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
DATASET = re.compile(rf"{USER.pattern}/{USER.pattern}")


def kernel_metadata(script: Path, user: str, data: list[str]) -> dict:
    """What `kaggle kernels push` reads of a notebook. data: datasets to attach."""
    name = script.stem
    asked = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent").metadata.get("kaggle", {})
    gpu = asked.get("isGpuEnabled", False)
    return {
        "id": f"{user}/twins-{name}",
        "title": f"Twins {name}",
        "code_file": f"{name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": gpu,
        "enable_tpu": False,
        "enable_internet": name in ONLINE,
        "machine_shape": T4_TWICE if gpu else None,
        "dataset_sources": [f"{user}/{LIBRARY}", *data],
        "competition_sources": [],
        "kernel_sources": [f"{user}/twins-{before}" for before in SOURCES.get(name, [])],
        "model_sources": [],
        "keywords": [],
        "docker_image": None,
        "docker_image_pinning_type": "latest",
    }


def dataset_metadata(user: str) -> dict:
    """What `kaggle datasets create` reads of the library."""
    return {
        "id": f"{user}/{LIBRARY}",
        "title": "Twins library",
        "subtitle": "dcal_core: tells identical twins apart by face",
        "description": "The library that the notebooks twins-train, twins-evaluate and others import.",
        "licenses": [{"name": "MIT"}],
        "keywords": [],
        "resources": [],
    }


def prepare(user: str, folder: Path, data: list[str], root: Path = ROOT) -> list[Path]:
    """Write all folders anew, and return them, in the order in which they are published."""
    if folder.exists():
        shutil.rmtree(folder)
    library = folder / "library"
    for name in ("dcal_core", "params"):
        shutil.copytree(root / name, library / name, ignore=shutil.ignore_patterns("__pycache__"))
    write(library / "dataset-metadata.json", dataset_metadata(user))
    scripts = sorted((root / "notebooks_src").glob("*.py"), key=lambda script: (len(chain(script.stem)), script))
    for script in scripts:
        metadata = kernel_metadata(script, user, data)
        write(folder / script.stem / "kernel-metadata.json", metadata)
        (folder / script.stem / metadata["code_file"]).write_text(build(script, root, thin=True), encoding="utf-8")
    return [library, *(folder / script.stem for script in scripts)]


def chain(name: str) -> list[str]:
    """The notebooks that must have run before one."""
    return [one for before in SOURCES.get(name, []) for one in [*chain(before), before]]


def write(file: Path, metadata: dict) -> None:
    """Write metadata as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Write the folders and say how they are published."""
    parser = argparse.ArgumentParser(prog="make kaggle", description="Prepare what the tool `kaggle` publishes.")
    parser.add_argument("user", help="your name on Kaggle, as in its addresses")
    parser.add_argument("--data", nargs="*", default=[], metavar="OWNER/NAME", help="datasets of faces to attach")
    parser.add_argument("--output", type=Path, default=ROOT / "build/kaggle")
    options = parser.parse_args(arguments)
    if not USER.fullmatch(options.user):
        parser.error(f"USER={options.user}: a name on Kaggle has small letters, digits and hyphens")
    for dataset in options.data:
        if not DATASET.fullmatch(dataset):
            parser.error(f"DATA={dataset}: give owner/name, as in the dataset's address")
    library, *notebooks = prepare(options.user, options.output, options.data)
    print("Publish the library, then each notebook once those before it have run (kaggle kernels status NAME):")
    print(f"kaggle datasets create -p {library} --dir-mode zip")
    print(*(f"kaggle kernels push -p {notebook}" for notebook in notebooks), sep="\n")


if __name__ == "__main__":
    main()
