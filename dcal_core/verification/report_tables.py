"""The tables of an evaluation's result, for a notebook and a shell in Markdown and for the report's page in HTML."""

from dataclasses import dataclass

from dcal_core.markdown import literal, table
from dcal_core.verification.statements import largest_ratio
from dcal_core.verification.words import estimate_in_words, metric_name, metric_unit, number_text, percent_text


@dataclass(frozen=True)
class Estimate:
    """A cell with an estimate; look: "good" or "bad" for a share of right or of wrong answers."""

    estimate: dict
    unit: str
    look: str = ""

    def __str__(self) -> str:
        return estimate_in_words(self.estimate, self.unit)


@dataclass(frozen=True)
class Table:
    """Rows of text and `Estimate` cells below a head. As text it is Markdown, with sentences before and after it."""

    caption: str
    head: list[str]
    rows: list[list]
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        rows = [[str(cell) for cell in row] for row in self.rows]
        caption = f"{self.caption}:" if self.caption else ""
        parts = [self.before, caption, table(self.head, rows) if rows else "", self.after]
        return "\n\n".join(part for part in parts if part)

    __repr__ = _repr_markdown_ = __str__  # by which a log and a notebook display it


def metrics_table(result: dict) -> Table:
    """Every metric with each comparison counting the same and, if that gives other figures, with each family doing so.

    FNMR at an FMR is 1 - TAR, so it has no row.
    """
    counts = result["metrics"]["counts"]
    terms = result["terms"]
    threshold = result["threshold"]
    names = [name for name in result["metrics"] if name != "counts" and not name.startswith("fnmr_at")]
    by_comparison = [Estimate(result["metrics"][name], metric_unit(name)) for name in names]
    by_family = [Estimate(result["metrics_per_family"][name], metric_unit(name)) for name in names]
    columns = {"each comparison counts the same": by_comparison, f"each {terms['unit']} counts the same": by_family}
    if list(map(str, by_comparison)) == list(map(str, by_family)):
        columns = {"value, 95 % interval": by_comparison}
    return Table(
        "All metrics, with 95 % intervals",
        ["metric", *columns],
        [list(row) for row in zip(map(metric_name, names), *columns.values(), strict=True)],
        before=f"**{literal(result['data'])}**: {counts['genuine']:,} pairs of one person and "
        f"{counts['impostor']:,} of {terms['impostors']}, from {counts['families']} {terms['units']}. Threshold "
        f"{threshold['value']:.3f}: {threshold['source']}.",
    )


def verdict_table(result: dict) -> Table:
    """How often each kind of pair is called same, undecided and different."""
    verdict = result["verdict"]
    thresholds = verdict["thresholds"]
    answers = ["same", "undecided", "different"]
    after = f"The limits allow {thresholds['source']}."
    if thresholds["different_below"] == thresholds["same_from"]:
        answers.remove("undecided")
    else:
        after = f"Of the pairs that got a verdict, {estimate_in_words(verdict['wrong'], '%')} are wrong. {after}"
    rows = []
    for kind, name, right in (
        ("genuine", "one person", "same"),
        ("impostor", result["terms"]["impostors"], "different"),
    ):
        looks = {answer: "good" if answer == right else "bad" for answer in answers} | {"undecided": ""}
        rows.append([name, *(Estimate(verdict[kind][answer], "%", looks[answer]) for answer in answers)])
    return Table(
        "Of all pairs of a kind, the share that gets each answer, with its 95 % interval",
        ["pairs of", *(f"“{answer}”" for answer in answers)],
        rows,
        after=after,
    )


def calibration_table(result: dict) -> Table:
    """Cllr of both calibrations, and the least that these scores allow."""
    found = result["calibration"]
    if "reason" in found:
        return Table("", [], [], after=f"No calibration: {found['reason']}.")
    impostors = result["terms"]["impostors"]
    rows = [[f"Cllr, one person against {impostors} ({found['kind']})", Estimate(found["cllr"], "bits")]]
    rows += [["Cllr min: the scores' own part", Estimate(found["cllr_min"], "bits")]]
    rows += [["Cllr cal: the calibration's part", Estimate(found["cllr_cal"], "bits")]]
    rows += [["devPAV: mean distance from calibrated, log10", Estimate(found["devpav"], "score")]]
    rows += [
        [f"Cllr by {kind} calibration, not used", Estimate(cost, "bits")] for kind, cost in found["others"].items()
    ]
    if second := found["against_unrelated"]:
        rows += [["Cllr, one person against unrelated people", Estimate(second["cllr"], "bits")]]
    return Table("What wrong or timid likelihood ratios cost", ["figure", "value"], rows, after=largest_ratio(result))


def security_table(result: dict) -> Table:
    """What a threshold that is safe against unrelated people lets through of co-twins."""
    rows = [
        [
            percent_text(line["fmr"]),
            "" if line["threshold"] is None else number_text(line["threshold"], "score"),
            *(Estimate(line[name], "rare %") for name in ("twin_fmr", "fnmr")),
        ]
        for line in result["security"]
    ]
    return Table(
        "Thresholds that are set on unrelated people, and the error rates there",
        ["FMR, unrelated people", "threshold", "FMR, co-twins", "FNMR"],
        rows,
    )


def systems_table(result: dict) -> Table:
    """The systems side by side."""
    names = result["terms"]["compared"]
    rows = [
        [system["name"], *(Estimate(system["metrics"][name], metric_unit(name)) for name in names)]
        for system in result["systems"]
    ]
    caption = "The same comparisons scored by each system, with 95 % intervals"
    return Table(caption, ["system", *map(metric_name, names)], rows)


def occlusion_tables(result: dict) -> list[Table]:
    """The EER of each system on pairs with and without occluders, and how well what is visible is seen; none where no
    occluders were drawn."""
    if "occlusion" not in result:
        return []
    groups = result["occlusion"]["groups"]
    rows = [
        [
            one["pairs"],
            *(f"{count:,}" for count in one["counts"].values()),
            *(Estimate(eer, "%") for eer in one["eer"].values()),
        ]
        for one in groups
    ]
    head = ["pairs with", "one person", result["terms"]["impostors"], *(f"EER, {name}" for name in groups[0]["eer"])]
    caption = (
        "Pairs by the share of the picture that is hidden in either image, and by the kind where there is no other"
    )
    tables = [Table(caption, head, rows)]
    if seen := result["occlusion"].get("visibility"):
        rates = {"visible": "IoU, visible", "hidden": "IoU, hidden", "all_visible": "IoU if all is taken for visible"}
        rows = [[one["images"], f"{one['count']:,}", *(Estimate(one[rate], "score") for rate in rates)] for one in seen]
        caption = "What the model takes for visible, against what is, on the cells of its map"
        tables.append(Table(caption, ["images with", "images", *rates.values()], rows))
    return tables


def mistakes_table(result: dict) -> Table:
    """The most confusable pairs: what they show, what the verifier answered, and their images."""
    rows = []
    for pair in result["confusable"]:
        really = "one person" if pair["genuine"] else result["terms"]["impostors"]
        answer = "one person" if pair["matched"] else "two people"
        if pair["matched"] != pair["genuine"]:
            answer += ", WRONG"
        rows.append([really, answer, number_text(pair["score"], "score"), *pair["paths"]])
    caption = f"The pairs in the picture, at most one of each kind from a {result['terms']['unit']}"
    return Table(caption, ["really", "answer", "score", "one image", "the other"], rows)
