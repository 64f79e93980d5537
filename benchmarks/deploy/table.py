"""The result of `python -m benchmarks.deploy` as Markdown."""

import numpy as np

from benchmarks.deploy.forms import PEER

BEGIN = "<!-- speed: made by python -m benchmarks.deploy -->"  # a table stands between these in a page
END = "<!-- end of speed -->"
FASTER = 1.6  # the goal of the best form's speed
SMALLER = 1 / 3  # of the size in 8 bits, as a share of fp32
COST = 0.5  # points of EER, in 8 bits, at most
COLUMNS = (
    "form",
    "batch 1: p50 / p95, ms",
    "speed, batch 1",
    "batch 32: pairs/s",
    "speed, batch 32",
    "MB",
    "peak, MB",
    "EER, points",
)


def line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def ratio(forms: dict, form: str, batch: int) -> np.ndarray:
    """How many times as fast as the eager one a form is, in each round."""
    eager, own = (np.array(forms[name]["seconds"][batch]) for name in ("eager", form))
    return eager / own


def row(forms: dict, form: str) -> str:
    """The line of one form; speeds are medians of the rounds, with their quartiles."""
    found = forms[form]
    if "failed" in found:
        return line([form, f"failed: {found['failed'][:80]}", *[""] * 6])
    p50, p95 = 1000 * np.percentile(found["seconds"][1], (50, 95))
    speeds = []
    for batch in (1, 32):
        low, median, high = np.percentile(ratio(forms, form, batch), (25, 50, 75))
        speeds.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
    pairs = 32 / 2 / np.median(found["seconds"][32])
    cost = ""
    if "eer_cost" in found:
        value, low, high = (100 * (found["eer_cost"][name] or 0) for name in ("value", "low", "high"))
        cost = f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
    size, peak = found["bytes"] / 1e6, found["peak"] / 1e6
    return line(
        [form, f"{p50:.1f} / {p95:.1f}", speeds[0], f"{pairs:.3g}", speeds[1], f"{size:.1f}", f"{peak:.0f}", cost]
    )


def goals(forms: dict) -> str:
    """Whether the best form and the one in 8 bits reach their goals."""
    done = [form for form in forms if "failed" not in forms[form] and form != PEER]
    speed, best = max((float(np.median(ratio(forms, form, 32))), form) for form in done)
    words = [f"fastest: {best}, {speed:.2f} times (goal {FASTER}: {'met' if speed >= FASTER else 'MISSED'})"]
    if "ONNX int8" in done:
        share = forms["ONNX int8"]["bytes"] / forms["eager"]["bytes"]
        words.append(f"int8: {share:.2f} of the size (goal {SMALLER:.2f}: {'met' if share <= SMALLER else 'MISSED'})")
        if "eer_cost" in forms["ONNX int8"]:
            cost = 100 * forms["ONNX int8"]["eer_cost"]["value"]
            words.append(f"{cost:+.2f} points of EER (goal {COST}: {'met' if cost <= COST else 'MISSED'})")
    return "; ".join(words) + "."


def table(result: dict) -> str:
    """A table for each subject."""
    flags = ", ".join(result["instructions"]) or "none"
    lines = [
        f"{result['device']}, {result['threads']} threads, instructions for 8 bits: {flags}; {result['date']}. A pair "
        "is two new faces. Speed: seconds of eager PyTorch in fp32 over a form's, by rounds, median and quartiles. "
        f"Load before and after each: {', '.join(f'{load:.1f}' for load in result['load'])}.",
        "",
    ]
    for subject in result["subjects"]:
        nodes = ", ".join(f"{count} {kind}" for kind, count in subject["nodes"].items())
        lines += [f"**{subject['subject']}** (ONNX int8: {subject['int8']}, runs {nodes})", "", line(COLUMNS)]
        lines += ["|---" * len(COLUMNS) + "|", *(row(subject["forms"], form) for form in subject["forms"])]
        lines += ["", goals(subject["forms"]), ""]
    return "\n".join(lines)


def with_table(page: str, new: str) -> str:
    """A page with another table between BEGIN and END."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{new.strip()}\n{END}{after}"
