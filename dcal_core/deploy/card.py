"""The model card of a packed folder: what the evaluation's report says, with its limits."""

from dcal_core.data.twins import SYNTHETIC
from dcal_core.deploy.ranges import MEASURES
from dcal_core.markdown import table
from dcal_core.verification.statements import equal_errors, headline, limits
from dcal_core.verification.words import estimate_in_words, metric_name, metric_unit

DRAWN = (
    "**SYNTHETIC.** This model was trained and measured on drawn faces. Its figures show that the system runs, and say "
    "nothing about photographs of real twins."
)
USE = """\
```bash
twins verify a.jpg b.jpg --model FOLDER
```

```python
from dcal_core import Predictor

predictor = Predictor.load("FOLDER")
print(predictor.sentence(predictor.verify("a.jpg", "b.jpg")))
```"""
NOT_FOR = """\
- Not for a decision about a person by itself: an answer is evidence of limited weight, as its likelihood ratio says.
- It does not check whether a picture is an unedited photograph of a live person.
- Errors hold for families, cameras and ages like those of the evaluation, and inside the validated range."""


def card_of(about: dict, report: dict) -> str:
    """A README.md with the Hub's front matter. about: config.json; report: the evaluation's result, or {}."""
    synthetic = SYNTHETIC in about["label"]
    tags = ["face-verification", "twins", *(["synthetic"] if synthetic else [])]
    front = ["---", "library_name: dcal_core", "pipeline_tag: image-feature-extraction", "tags:"]
    front += [*(f"- {tag}" for tag in tags), "---"]
    parts = [
        "\n".join(front),
        "# Twin verifier",
        "Tells from two face images whether they show one person or two identical twins.",
        *([DRAWN] if synthetic else []),
        "## Use",
        USE,
        "## How often it errs",
        *(measured(report) if report else ["The evaluation's report was not there when this folder was packed."]),
        "## Validated range",
        range_table(about["range"]),
        "## Limits",
        NOT_FOR,
        "\n".join(f"- {one}" for one in report.get("conditions", [])),
        "## Provenance",
        provenance_table(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def measured(report: dict) -> list[str]:
    """The figures of a report, with their intervals."""
    rows = []
    for name in ("eer", "fmr", "fnmr", "roc_auc"):
        if name in report["metrics"]:
            rows.append([metric_name(name), estimate_in_words(report["metrics"][name], metric_unit(name))])
    return [
        f"{equal_errors(report)}. {headline(report)}",
        table(["metric", "on test families (95 % interval)"], rows),
        limits(report),
    ]


def range_table(found: dict | None) -> str:
    """The limits of the validated range."""
    if found is None:
        return "Not measured: answers cannot say whether a picture is inside it."
    rows = []
    for name, limit in found["limits"].items():
        for end, words in (("low", "at least"), ("high", "at most")):
            if end in limit:
                rows.append([MEASURES[name].words, f"{words} {limit[end]:.3g}", limit[f"{end}_because"]])
    return f"{found['about']}\n\n" + table(["measure", "inside", "because"], rows)


def provenance_table(about: dict) -> str:
    """Where the model comes from."""
    known = about["provenance"]
    rows = [
        ["data", about["label"]],
        ["people trained on", f"{known['trained_on']['people']:,}"],
        ["hash of their list", known["trained_on"]["sha256"][:16]],
        ["weights", known["weights"][:16]],
        ["code", known["code"] or "not known"],
        ["seed", str(known["seed"])],
        ["evaluated", known["evaluated"]["created"] or "not known"],
    ]
    return table(["what", "value"], rows)
