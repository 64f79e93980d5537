"""The results of an evaluation as Markdown tables, for the notebook and the command."""

from dcal_core.markdown import table
from dcal_core.verification.words import COMPARED, interval, metric_name, metric_unit


def metrics_table(result: dict) -> str:
    """Every metric twice: each comparison counting the same, and each family counting the same."""
    counts, threshold = result["metrics"]["counts"], result["threshold"]
    text = (
        f"**{result['data']}**: {counts['genuine']:,} genuine and {counts['impostor']:,} co-twin comparisons of "
        f"{counts['families']} families. Threshold {threshold['value']:.3f}: {threshold['source']}.\n\n"
    )
    rows = []
    for name in result["metrics"]:
        if name != "counts":
            both = (
                interval(result[weighting][name], metric_unit(name)) for weighting in ("metrics", "metrics_per_family")
            )
            rows.append([metric_name(name), *both])
    return text + table(["metric", "each comparison counts the same", "each family counts the same"], rows)


def verdict_table(result: dict) -> str:
    """How often each kind of pair is called same, undecided, different."""
    verdict = result["verdict"]
    rows = [
        [kind, *(interval(verdict[name][value], "%") for value in ("same", "undecided", "different"))]
        for name, kind in (("genuine", "one person"), ("impostor", "co-twins"))
    ]
    source, wrong = verdict["thresholds"]["source"], interval(verdict["wrong"], "%")
    text = table(["the two images show", "called *same*", "*undecided*", "called *different*"], rows)
    return f"{text}\n\nWrong, of the pairs that got a verdict: {wrong}. The limits were set for {source}."


def calibration_table(result: dict) -> str:
    """Cllr of both calibrations, and the least that these scores allow."""
    found = result["calibration"]
    if "reason" in found:
        return f"No calibration: {found['reason']}."
    rows = [[found["kind"], interval(found["cllr"], "bits")]]
    rows += [[f"{kind}, not used", interval(cost, "bits")] for kind, cost in found["others"].items()]
    return table(
        ["calibration", "Cllr"], [*rows, ["Cllr min: the scores' own part", interval(found["cllr_min"], "bits")]]
    )


def security_table(result: dict) -> str:
    """What a threshold that is safe against strangers lets through of twins."""
    rows = [
        [f"{100 * line['fmr']:g} %", *(interval(line[name], "%") for name in ("unrelated_fmr", "twin_fmr", "fnmr"))]
        for line in result["security"]
    ]
    return table(["unrelated FMR aimed at", "unrelated FMR", "**twin FMR**", "FNMR"], rows)


def systems_table(systems: list[dict]) -> str:
    """The systems side by side."""
    rows = [[one["name"], *(interval(one["metrics"][name], metric_unit(name)) for name in COMPARED)] for one in systems]
    return table(["system", *map(metric_name, COMPARED)], rows)
