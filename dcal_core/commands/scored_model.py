"""Which model `twins benchmark` scores, found or refused before torch is imported."""

from pathlib import Path

from dcal_core.commands.chosen import read_given, run_folder, trained_run
from dcal_core.config.shared import Config
from dcal_core.data.benchmarks.packed_pairs import benchmark_roots
from dcal_core.models.weight_kinds import check_file
from dcal_core.runs import RunFolder


def model_to_benchmark(given: dict, params_dir: Path) -> tuple[Config, RunFolder, Path | None]:
    """The parameters, the run's folder and that of its best model; None for the last where `weights` are given: a
    preset's model then has them as they are."""
    if given.get("weights"):
        preset, config = read_given(given, params_dir)
        check_file(Path(config.weights))
        found = config, run_folder(config.run_dir, preset), None
    else:
        found = trained_run(given, params_dir)
    benchmark_roots(found[0])
    return found
