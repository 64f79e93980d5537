"""What commands there are, and what each takes; imports nothing that takes time, so that a command starts at once."""

from dataclasses import dataclass, field
from pathlib import Path

TRAINED = "data_root run_dir exclusions max_lost_share encode_batch"  # what commands on a trained run share


@dataclass(frozen=True)
class Command:
    """One of our commands.

    meaning: what it does. refuses: a function, `module:name`, that raises what the command cannot work with before
    torch is imported, which takes seconds; "" for a command without a recipe's parameters. shown: the parameters that
    people change, in --help; --help-all lists the others. own: options of its own.
    """

    meaning: str
    example: str
    refuses: str = ""
    shown: str = ""
    own: dict[str, dict] = field(default_factory=dict)


COMMANDS = {  # by name, also of the module
    "prepare": Command(
        "check the data and write what to leave out",
        "-p data_root /data/nd-twin",
        "chosen:data_to_check",
        "data_root run_dir exclusions drop_suggested align align_size align_missing align_relaxed landmarks face_score "
        "face_sharpness face_px face_turn_deg clean_by image_size fit validation_share max_lost_share "
        "families_per_batch",
    ),
    "train": Command(
        "train a preset's model; also what torchrun starts",
        "--preset demo --epochs 3",
        "new_run:run_to_train",
        "data_root run_dir resume resume_from extend epochs lr image_size backbone weights families_per_batch "
        "images_per_person triplets_per_batch nproc accumulation gradient_checkpointing precision time_budget_hours "
        "benchmarks_root best_by tracker seed",
    ),
    "evaluate": Command(
        "report on a trained run, alone or beside others",
        "--preset demo",
        "chosen:trained_run",
        f"{TRAINED} occluded_share occluded_kinds flip_fusion compare baseline fuse verdict_error calibration "
        "bootstrap_draws",
    ),
    "explain": Command(
        "show where a trained run looks, and how far to believe it",
        "--preset demo --images a.png b.png",
        "chosen:trained_run",
        f"{TRAINED} pairs_per_family",
        {
            "--images": dict(nargs=2, type=Path, metavar=("A", "B"), help="two face images, not the test families"),
            "--same": dict(
                type=Path, metavar="LIST", help="same-person pairs, two images a line, to compare with --twins"
            ),
            "--twins": dict(type=Path, metavar="LIST", help="co-twin pairs, to compare with"),
        },
    ),
    "benchmark": Command(
        "score a trained run, or pretrained weights, on published face benchmarks",
        "--preset demo --benchmarks_root /data/faces",
        "scored_model:model_to_benchmark",
        "run_dir benchmarks_root data_root weights trust_weights encode_batch bootstrap_draws",
        {
            "--mode": dict(
                default="N1D1F1",
                choices=[f"N{n}D{d}F{f}" for n in (0, 1) for d in (0, 1) for f in (0, 1)],
                help="what counts in a template: N norms, D detector's confidence; F mirror images too; N1D1F1",
            ),
            "--reading": dict(metavar="NAME", help="one of the model's readings, such as global; all of them"),
        },
    ),
    "diagnose": Command(
        "say why a run does not learn; exit status 3 where something is found",
        "runs/demo",
        "run_to_diagnose:run_to_diagnose",
        "run_dir data_root weights trust_weights exclusions max_lost_share encode_batch",
        {"run_folder": dict(nargs="?", metavar="RUN", help="the run's folder; else the preset's, or run_dir")},
    ),
    "pack": Command("write a trained run as one folder", "runs/demo models/demo"),
    "verify": Command("tell whether two pictures show one person", "a.jpg b.jpg"),
    "sensitivity": Command(
        "how small a mark a trained run sees, by part of the face",
        "runs/demo",
        "chosen:trained_run",
        TRAINED,
        {
            "run_folder": dict(nargs="?", metavar="RUN", help="the run's folder; else the preset's, or run_dir"),
            "--images": dict(
                type=Path, metavar="FOLDER", help="aligned faces, a folder for each person, not the test families"
            ),
        },
    ),
    "serve": Command("compare photographs on a page in a browser", "models/demo"),
    "export": Command(
        "write a packed model as ONNX or for another runtime, in fp32 or 8 bits",
        "models/demo models/demo/model.onnx --faces runs/demo",
    ),
    "synth": Command("draw photographs under the names of index files, to rehearse with", "OUT --like INDEX"),
}
