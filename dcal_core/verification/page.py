"""The verification report as one HTML page for a laboratory: no scripts, no network, prints on A4, reads on a phone.

The result is a dictionary of plain values. It holds the texts `data`, `split`, `created` (ISO date), `model`, `code`
and `fingerprint`, and:

- `threshold`: {"value", "source"}; `metrics`, `metrics_per_family`: an estimate for each name, and `counts`:
  {"genuine", "impostor", "families", "draws"}
- `calibration`: {"cllr", "cllr_min": estimates in bits, "kind": text}, or {"reason"}
- `verdict`: {"thresholds": {"different_below", "same_from", "error", "source"}; "genuine", "impostor": {"same",
  "undecided", "different": estimates}; "wrong": estimate, of the pairs that got a verdict}
- `confusable`: as `most_confusable` gives it; `conditions`: sentences
- optional, `security`: [{"fmr", "threshold", "unrelated_fmr", "twin_fmr", "fnmr": estimates}]
- optional and together, `systems`: [{"name", "metrics": estimates}] and `differences`: [{"a", "b": names, "metric",
  "value", "low", "high", "better": "a", "b" or None}], a baseline being one of the systems

An estimate is {"value", "low", "high"}, a 95 % interval whose ends may be None, or {"value": None, "reason"}.
"""

import base64
from pathlib import Path

from jinja2 import Environment, StrictUndefined, UndefinedError

from dcal_core.storage import write_text
from dcal_core.verification.page_template import PAGE
from dcal_core.verification.report_tables import (
    Table,
    metrics_table,
    mistakes_table,
    security_table,
    systems_table,
    verdict_table,
)
from dcal_core.verification.words import difference_in_words, estimate_in_words, number_text, range_text

FIGURES = {
    "systems": "EER of each system, and the first one's minus each, with 95 % intervals",
    "scores": "Histograms of the scores of genuine and of co-twin comparisons, with the threshold",
    "roc": "ROC curve: share of genuine pairs accepted against share of co-twins accepted, with its 95 % band",
    "det": "DET curve: false non-match rate against false match rate on normal-deviate axes, with its 95 % band",
    "reliability": "Reliability diagram: predicted probability of one person against its observed share",
    "confusable": "Photographs of the most confusable pairs: co-twins above, pairs of one person below",
}
PNG = b"\x89PNG\r\n\x1a\n"


def _data_uri(figure: bytes | Path) -> str:
    content = figure if isinstance(figure, bytes) else Path(figure).read_bytes()
    if not content.startswith(PNG):
        raise ValueError("a figure of the report is not a PNG image")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _checked(result: dict, figures: dict) -> None:
    absent = {"reliability"} if "reason" in result.get("calibration", {}) else set()
    absent |= {"systems"} if len(result.get("systems", [])) < 2 else set()
    wanted = [name for name in FIGURES if name not in absent]
    if set(figures) != set(wanted):
        raise ValueError(f"the report takes the figures {', '.join(wanted)}, got {', '.join(figures) or 'none'}")
    if ("systems" in result) != ("differences" in result):
        raise ValueError("systems and differences come together: the report compares systems by paired differences")


def _tables(result: dict) -> dict[str, Table]:
    tables = {"verdict": verdict_table(result), "metrics": metrics_table(result), "mistakes": mistakes_table(result)}
    if "security" in result:
        tables["security"] = security_table(result)
    if "systems" in result:
        tables["systems"] = systems_table(result["systems"])
    return tables


def write_page(path, result: dict, figures: dict[str, bytes | Path]) -> None:
    """Write the report of a result (see above) with its figures, PNG files or their bytes, one for each of FIGURES.

    It is written whole or not at all. ValueError if the result lacks something or holds a value that cannot be shown,
    StorageError if the page cannot be written.
    """
    _checked(result, figures)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tools = (number_text, range_text, estimate_in_words, difference_in_words)
    environment.filters |= {tool.__name__: tool for tool in tools}
    images = {name: {"uri": _data_uri(figure), "alt": FIGURES[name]} for name, figure in figures.items()}
    try:
        page = environment.from_string(PAGE).render(result, figures=images, tables=_tables(result))
    except (UndefinedError, KeyError) as error:
        raise ValueError(f"the result is not what the report needs: {error}") from None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
