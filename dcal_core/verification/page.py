"""The verification report as one HTML page for a laboratory: no scripts, no network, prints on A4, reads on a phone."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined, UndefinedError

from dcal_core.storage import write_text
from dcal_core.verification import report_tables, statements, words
from dcal_core.verification.page_template import PAGE

FIGURES = {
    "systems": "EER of each system, and the first one's minus each, with 95 % intervals",
    "occlusion": "EER of each system by what occluders hide, and the first one's minus each, with 95 % intervals",
    "visibility": "An image with each kind of occluder, what it hides, and what the model takes for hidden",
    "scores": "Histograms of the scores of one person and of two people with a logarithmic density, and the threshold",
    "roc": "ROC curve: share of pairs of one person taken for one against the logarithm of the FMR, with its 95 % band",
    "det": "DET curve: false non-match rate against false match rate on logarithmic axes, with its 95 % band",
    "tippett": "Tippett plot: share of pairs with at least a likelihood ratio, of one person and of two people",
    "pav": "PAV plot: likelihood ratios before and after the best rising calibration, beside the diagonal",
    "ece": "Empirical cross-entropy of the likelihood ratios, of the best calibration and of none, by prior odds",
    "reliability": "Reliability diagram: predicted probability of one person against its observed share",
    "sensitivity": "Marks of rising size on a face; the score's fall and the share seen, by size and part of the face",
    "confusable": "Photographs of the most confusable pairs: two people above, one person below",
}
PNG = b"\x89PNG\r\n\x1a\n"


def _data_uri(figure: bytes | Path) -> str:
    content = figure if isinstance(figure, bytes) else Path(figure).read_bytes()
    if not content.startswith(PNG):
        raise ValueError("a figure of the report is not a PNG image")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _check_figures(result: dict, figures: dict) -> None:
    absent = {"reliability", "tippett", "pav", "ece"} if "reason" in result["calibration"] else set()
    absent |= {"systems"} if len(result["systems"]) < 2 else set()
    absent |= {"occlusion"} if "occlusion" not in result else set()
    absent |= {"visibility"} if "visibility" not in result.get("occlusion", {}) else set()
    absent |= {"sensitivity"} if "sensitivity" not in result else set()
    wanted = [name for name in FIGURES if name not in absent]
    if set(figures) != set(wanted):
        raise ValueError(f"the report takes the figures {', '.join(wanted)}, got {', '.join(figures) or 'none'}")


QUESTIONS = {
    "answers": "What does the system answer?",
    "scores": "How far apart are one person and {impostors}?",
    "others": "How good is it beside other systems?",
    "occlusion": "What do occluders change?",
    "trust": "Can the probabilities be trusted?",
    "twins": "How safe is it against a twin?",
    "mistakes": "Which pairs does it get wrong?",
    "maps": "How far can its maps be believed?",
    "sensitivity": "How small a difference does it see?",
    "limits": "What do these figures hold for?",
    "metrics": "All metrics",
}
ANSWERS = {
    "headline": statements.headline,
    "answers": statements.limits,
    "scores": statements.separation,
    "trust": statements.trust,
    "tendency": statements.tendency,
    "propositions": statements.propositions,
    "twins": statements.safety,
    "mistakes": statements.mistakes,
    "flattery": statements.flattery,
    "others": statements.comparison,
    "occlusion": statements.occlusion,
    "maps": lambda result: result["maps"],
    "sensitivity": lambda result: result.get("sensitivity", []),
}

OF_RATIOS = {"tippett": statements.misleading, "pav": statements.calibrated, "ece": statements.useful}


def questions_of(result: dict) -> dict[str, str]:
    """The page's headings, by their anchors; one system is compared with none, occluders may not be drawn, and
    co-twins may not be known."""
    absent = {"others"} if len(result["systems"]) < 2 else set()
    absent |= {"occlusion"} if "occlusion" not in result else set()
    absent |= {"sensitivity"} if "sensitivity" not in result else set()
    absent |= {"twins"} if not result["co_twins"] else set()
    return {name: text.format(**result["terms"]) for name, text in QUESTIONS.items() if name not in absent}


def answers_of(result: dict) -> dict:
    """What the page says first below each of its headings."""
    of_ratios = () if "reason" in result["calibration"] else OF_RATIOS
    return {name: answer(result) for name, answer in (ANSWERS | dict(of_ratios)).items()}


def write_page(path, result: dict, figures: dict[str, bytes | Path], beside: Sequence[str] = ()) -> None:
    """Write the report of a result with its figures, PNG files or their bytes, whole or not at all.

    result: as `report.evaluate` gives it, and `synthetic`, whether drawn faces are in it, the texts `created` (date and
    time), `device`, `model`, `command`, `code` and `fingerprint`, the `seconds` of `training` (or None) and
    `evaluation`, `conditions` and `maps` (sentences), `images` (one), and `occlusion` where occluders were drawn.
    figures: one for each of FIGURES that the result gives. beside: pages in the same folder, to link to. ValueError if
    the result lacks something or holds a value that cannot be shown.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tools = (words.number_text, words.interval_text, words.estimate_in_words, words.duration_text)
    environment.filters |= {tool.__name__: tool for tool in tools}
    try:
        _check_figures(result, figures)
        images = {name: {"uri": _data_uri(figure), "alt": FIGURES[name]} for name, figure in figures.items()}
        tables = {
            "verdict": report_tables.verdict_table(result),
            "metrics": report_tables.metrics_table(result),
            "mistakes": report_tables.mistakes_table(result),
            "calibration": report_tables.calibration_table(result),
            "security": report_tables.security_table(result),
            "systems": report_tables.systems_table(result),
            "occlusion": report_tables.occlusion_tables(result),
        }
        page = environment.from_string(PAGE).render(
            result,
            figures=images,
            tables=tables,
            answers=answers_of(result),
            questions=questions_of(result),
            beside=beside,
        )
    except (UndefinedError, KeyError) as error:
        raise ValueError(f"the result is not what the report needs: {error}") from None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
