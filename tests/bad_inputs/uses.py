"""Wrong uses of the command line, as people type them, in a folder with a run, pictures and files of weights."""

import io
import os
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import tiny
import torch
from PIL import Image

from dcal_core import __main__
from dcal_core.commands import chosen, start, train
from dcal_core.config.recipes import load
from dcal_core.data import splits
from dcal_core.installation import presets_folder

AT_ONCE, WITH_TORCH = "at once", "after torch is loaded"
DATA = "--data_root faces"
USES = {  # what is typed after `twins`, and words of the answer
    # commands and options
    "": "usage:",
    "trian --preset demo": "no command 'trian'",
    "compare a.png b.png": "no command 'compare'",
    "verify a.png b.png": "holds no run that was trained and evaluated",
    "train demo": "unknown option 'demo'",
    "train --epoch 3": "did you mean epochs?",
    "train --Epochs=3": "did you mean epochs?",
    "train --learning_rate 0.1": "unknown option '--learning_rate'",
    "train --epochs": "expected one argument",
    "train -p epochs": "give one name and its value",
    "train -p epochs 3 lr": "give one name and its value",
    "train -p epochz 3": "did you mean epochs?",
    "train -p epochs=3 --epochs 4": "given more than once",
    "train --preset": "expected one argument",
    "train --preset kagle": "takes one of auto",
    "train --preset mine.yaml": "cannot be read (No such file or directory",
    "train --preset demo.yml": "cannot be read (No such file or directory",
    "train --preset ../demo": "takes one of auto",
    "train -f mine.yaml": "no such file",
    "train -f picture.png": "let its name end in .yaml",
    "train -f list.yaml": "write one `name: value` a line",
    "train -f typo.yaml": "unknown parameter 'epoch' in typo.yaml",
    "train -f runs/demo/config.json": "unknown parameter 'fingerprint' in config.json",
    # values
    "train --epochs many": "takes a whole number",
    "train --epochs 2.5": "takes a whole number",
    "train --epochs 0": "takes 1 to",
    "train --lr fast": "takes a number",
    "train --lr -1": "takes 0 to 10",
    "train --resume perhaps": "takes true or false",
    "train --seed -3": "takes 0 to",
    "train --image_size 8": "takes 32 to",
    "train --precision half": "takes one of auto, fp32",
    "train --tracker neptune": "takes one of",
    "train --recipe siamese": "takes one of dcal, adaface",
    "train --preset demo --triplets_per_batch 8": "belongs to adaface",
    "train --preset adaface_demo --twin_loss supcon": "belongs to dcal",
    "train --preset demo --min_lr 1": "min_lr=1 is above lr",
    "train --preset demo --nproc 3": "cannot be cut",
    "train --preset demo --backbone ir_50": "is a face network",
    "train --preset adaface_demo --image_size 100": "take a multiple of 16",
    "train --preset demo --resume false --resume_from runs/demo": "leave one of them out",
    "train --preset demo --mlflow_uri http://me:secret@host": "holds a name or a password",
    # what is not there
    "train --preset kaggle_t4x2": "for real data, and none was found",
    "train --preset adaface_full": "for real data, and none was found",
    f"train --preset kaggle_t4x2 {DATA}": "is for a GPU",
    f"train --preset adaface_frozen {DATA}": "is for a GPU",
    "train --preset demo --data_root nowhere": "no such folder",
    "train --preset demo --run_dir new --backbone resnet50": "is not a plain vision transformer",
    "train --preset demo --run_dir new --backbone vit_bse_patch16_224": "is no timm model",
    "train --preset demo --run_dir new --allow_random_init false": "has no pretrained weights",
    "train --preset adaface_demo --allow_random_init false": "give weights=",
    "train --preset demo --run_dir new --weights gone.pth": "there is no such file",
    "train --preset demo --run_dir new --weights faces": "is a folder",
    "train --preset demo --run_dir new --weights picture.png": "is a PNG picture",
    "train --preset adaface_demo --weights pointer.ckpt": "is a pointer of Git LFS",
    "train --preset demo --run_dir new --weights page.pth": "is a web page",
    "train --preset demo --run_dir new --weights other.pth": "lacks",
    "train --preset adaface_demo --weights other.pth": "holds no input_layer.0.weight",
    "train --preset demo --run_dir new --precision fp16": "needs a GPU",
    "train --preset demo --resume_from nowhere": "neither a run with a checkpoint nor a model",
    "train --preset demo --resume_from faces": "neither a run with a checkpoint nor a model",
    "train --preset demo --resume true --run_dir runs/dmo": "there is no run in",
    "train --preset demo --run_dir picture.png": "is a file: give a folder",
    "train --preset demo --epochs 99": "was trained with other parameters",
    # evaluate, explain, prepare
    "evaluate --preset demo --run_dir runs/dmo": "no trained model in",
    "evaluate --preset adaface_demo": "no trained model in",
    "evaluate --preset demo --compare runs/none": "compare=",
    "evaluate --preset demo --lr 1": "was trained with",
    "explain --preset demo --images a.png": "expected 2 arguments",
    "explain --preset demo --same pairs.txt": "give both",
    "explain --preset demo --images pictur.png picture.png": "the folder holds 'picture.png'",
    "explain --preset demo --same list.yaml --twins gone.txt": "--twins gone.txt: there is no such file",
    "explain --run_dir runs/dmo": "no trained model in",
    "prepare --preset kaggle_t4x2": "for real data, and none was found",
    "prepare --data_root nowhere": "no such folder",
    "synth": "arguments are required: OUT, --like",
    "synth out --like nowhere": "it has no train_dataset_infor.json",
    "synth out --like faces --sizes 600 300": "the smaller first",
    "synth out --like faces --difficulty 2": "give 0 (large differences) to 1",
    "synth out --preset demo": "arguments are required: --like",
}


@dataclass(frozen=True)
class Answer:
    """What came of a use: its sentence, when it came, the exit status, and whether the folder is as it was."""

    sentence: str
    when: str
    status: int
    printed: str
    untouched: bool


def lay_out(folder: Path) -> None:
    """A folder as people have it: a trained run, a folder without data, and files that are not what they are taken
    for."""
    config = load("demo", presets_folder(), {})
    run = tiny.new_run(folder / "runs" / "demo", config, batch=3)
    run.save_model(run.folder.best, tiny.linear_model())
    (folder / "faces").mkdir()
    for split in ("train", "test"):
        for part in ("dataset_infor", "twin_pairs"):
            (folder / "faces" / f"{split}_{part}.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    (folder / "pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    (folder / "page.pth").write_text("<!DOCTYPE html><html><title>404</title></html>")
    torch.save({"weight": torch.zeros(2)}, folder / "other.pth")
    (folder / "list.yaml").write_text("- epochs\n")
    (folder / "typo.yaml").write_text("epoch: 3\n")


def opened(*_, **__):
    raise AssertionError("data was drawn, read or decoded before the refusal")


def answer_to(use: str, folder: Path) -> Answer:
    """Type a use in the folder, on a machine without a GPU whose inputs hold no data."""
    before = tiny.files(folder)
    out, err, imported = io.StringIO(), io.StringIO(), []
    load_module = __main__.importlib.import_module

    def note(name: str, *rest):
        imported.append(name)
        return load_module(name, *rest)

    with (
        mock.patch.object(sys, "argv", ["twins"]),
        mock.patch.object(__main__.importlib, "import_module", note),
        mock.patch.object(chosen, "gpu_verdict", lambda: (False, "no GPU")),
        mock.patch.object(start, "gpu_verdict", lambda: (False, "no GPU")),
        mock.patch.object(splits, "draw_twins", opened),
        mock.patch.object(splits, "open_images", opened),
        mock.patch.object(train, "train_run", opened),
        mock.patch.object(torch.cuda, "is_available", lambda: False),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            status = __main__.main(shlex.split(use))
        except SystemExit as end:  # argparse
            status = end.code
    lines = (err.getvalue() or out.getvalue()).strip().splitlines()
    sentence = lines[-1] if status == 2 and err.getvalue().startswith("usage") else lines[0]
    written = tiny.files(folder) != before or os.path.exists(folder / "runs" / "scratch")
    waited = [name for name, command in __main__.COMMANDS.items() if command.refuses]  # until torch was imported
    with_torch = any(f"dcal_core.commands.{command}" in imported for command in waited)
    return Answer(
        sentence=sentence.replace(f"{folder}/", "").replace(str(folder), "the folder"),
        when=WITH_TORCH if with_torch else AT_ONCE,
        status=status,
        printed=out.getvalue() + err.getvalue(),
        untouched=not written,
    )
