"""The statements of a verification report: each of its questions answered in a sentence.

Every function takes a result as `report.evaluate` gives it.
"""

from dcal_core.verification.words import (
    apart,
    difference_in_words,
    estimate_in_words,
    most_ratio,
    number_text,
    of_100,
    percent_text,
    ratio_text,
)

TWICE = 2  # a likelihood ratio that is off by this factor, on average, is no longer called right


def headline(result: dict) -> str:
    """How often the frozen threshold errs on either kind of pair, and whether that is better than chance."""
    metrics = result["metrics"]
    impostors = of_100(metrics["fmr"], f"pairs of {result['terms']['impostors']}")
    same = of_100(metrics["fnmr"], "pairs of one person")
    errors = f"{impostors} are taken for one person, and {same} for two people"
    if metrics["eer"]["high"] is None:
        return f"How often the system errs cannot be told from so few {result['terms']['units']}: here {errors}."
    if is_guessing(result):
        return f"Not shown to be better than guessing: {errors}."
    return f"{errors}."


def is_guessing(result: dict) -> bool:
    """Whether the system is not shown to be better than guessing."""
    high = result["metrics"]["eer"]["high"]
    return high is not None and high >= 0.5


def equal_errors(result: dict) -> str:
    """The EER with its interval, and the data."""
    return f"EER {estimate_in_words(result['metrics']['eer'], '%')}, {result['data']}"


def limits(result: dict) -> str:
    """From which scores each answer is given."""
    thresholds = result["verdict"]["thresholds"]
    low = thresholds["different_below"]
    high = thresholds["same_from"]
    if low == high:
        return f"“Same” from a score of {number_text(low, 'score')} and “different” below it; no pair is undecided."
    low, high = apart(low, high)
    return f"“Same” from a score of {high}, “different” below {low}, and “undecided” between."


def flattery(result: dict) -> str:
    """Why the EER of the validation families differs from that of the test families."""
    families = result["verdict"]["thresholds"]["families"]
    units = result["terms"]["units"]
    chosen_on = result["threshold"]["eer"]
    tested = result["metrics"]["eer"]
    text = f"The EER of the {families} validation {units} is {number_text(chosen_on, '%')}, that of the "
    text += f"{result['metrics']['counts']['families']} test {units} {number_text(tested['value'], '%')}"
    if chosen_on < tested["value"]:
        text += ": the former chose the epoch and the threshold, which flatters them"
    if tested["low"] is not None and tested["low"] <= chosen_on <= tested["high"]:
        text += f"; between so few {units}, that may be chance"
    return f"{text}. Only the test {units} chose nothing, so their figures count."


def separation(result: dict) -> str:
    """How far apart one person and two people score."""
    cases = of_100(result["metrics"]["roc_auc"], "cases")
    return f"In {cases}, a pair of one person scores higher than a pair of {result['terms']['impostors']}."


def comparison(result: dict) -> list[str]:
    """Every difference of the first system from the others, that of the EER first."""
    return [difference_in_words(one) for one in result["differences"]]


def occlusion(result: dict) -> list[str]:
    """What occluders change, and how well they are seen; nothing where none were drawn."""
    if "occlusion" not in result:
        return []
    found = result["occlusion"]
    clear, covered = found["groups"][:2]
    name = next(iter(clear["eer"]))
    drawn = ", ".join(f"{count:,} {kind}" for kind, count in found["images"].items())
    pairs = sum(covered["counts"].values())
    share = pairs / (pairs + sum(clear["counts"].values()))
    said = [
        f"Occluders were drawn over test images ({drawn}), so that {number_text(share, '%')} of the pairs hold one.",
        f"EER of {name}: {estimate_in_words(clear['eer'][name], '%')} without an occluder, "
        f"{estimate_in_words(covered['eer'][name], '%')} with one.",
        *(f"With an occluder: {difference_in_words(one)}" for one in covered["differences"]),
    ]
    if one := found.get("visibility"):
        iou = estimate_in_words(one[0]["visible"], "score")
        said.append(
            f"What is visible is found with an IoU (intersection over union) of {iou}; a model that takes all for "
            f"visible would reach {estimate_in_words(one[0]['all_visible'], 'score')}."
        )
    return said


def shown_bins(calibration: dict) -> list[dict]:
    """The bins of the reliability plot that enough families fill."""
    return [one for one in calibration.get("reliability", ()) if one["observed"]]


def tendency(result: dict) -> str:
    """Whether the predicted probabilities look too high or too low, or "" where too few pairs tell it."""
    shown = shown_bins(result["calibration"])
    if not shown:
        return ""
    below = sum(one["observed"]["value"] < one["posterior"] for one in shown)
    text = f"{below} of {len(shown)} points are below the diagonal"
    if 2 * below != len(shown):
        text += f", as if the probabilities of one person were too {'high' if 2 * below > len(shown) else 'low'}"
    crossing = sum(covers(one) for one in shown)
    if crossing < len(shown):
        return f"{text}; the intervals of {crossing} reach the diagonal."
    return f"{text}; the interval of each reaches it, so that may be chance."


def covers(one: dict) -> bool:
    """Whether the interval of a bin of the reliability plot contains what was predicted."""
    observed = one["observed"]
    return observed["low"] is None or observed["low"] <= one["posterior"] <= observed["high"]


def overconfident(one: dict) -> bool:
    """Whether a bin shows, interval and all, less of the likelier answer than was predicted."""
    if covers(one):
        return False
    too_high = one["observed"]["high"] < one["posterior"]
    return too_high == (one["posterior"] > 0.5)


def trust(result: dict) -> str:
    """Whether the probabilities can be trusted, and why."""
    found = result["calibration"]
    if "reason" in found:
        return f"There are none: {found['reason']}."
    cost = found["cllr"]
    words = estimate_in_words(cost, "bits")
    if cost["value"] >= 1:
        return f"No, because their cost, a Cllr of {words}, is not below that of no answer at all (1 bit)."
    shown = shown_bins(found)
    wrong = sum(map(overconfident, shown))
    if wrong:
        of_all = f"{wrong} of {len(shown)} ranges of probability"
        return f"No, because in {of_all} the likelier answer is right less often than predicted, interval and all."
    if cost["high"] is None or cost["high"] >= 1:
        return f"That cannot be told, because the interval of their cost is too wide: a Cllr of {words}."
    least = found["cllr_min"]
    if least["high"] is not None and cost["value"] > least["high"]:
        best = estimate_in_words(least, "bits")
        return f"No, because they cost more than these scores need: a Cllr of {words} where {best} would do."
    shown = f"{result['metrics']['counts']['families']} {result['terms']['units']}"
    sized = is_sized_right(found["devpav"])
    return (
        f"{'Yes' if sized else 'In part'}, as far as {shown} can show: no range of probability is shown to be too "
        f"sure, and their cost, a Cllr of {words}, is below that of no answer at all (1 bit)"
        f"{'.' if sized else '; but the ratios are not shown to be as large as they should be (below).'}"
    )


def is_sized_right(devpav: dict) -> bool:
    """Whether ratios are shown to be off by less than a factor of two, on average."""
    return devpav["value"] is not None and devpav["high"] is not None and 10 ** devpav["high"] < TWICE


def largest_ratio(result: dict) -> str:
    """Where the likelihood ratios stop, and why; "" without a calibration."""
    fitted = result["calibration"].get("fitted")
    if not fitted:
        return ""
    most = most_ratio(fitted["families"], result["terms"]["units"])
    return f"A likelihood ratio is {most}: so few cannot show anything rarer."


def safety(result: dict) -> str:
    """Whether a threshold that keeps strangers out keeps co-twins out too; "" where no co-twins are known."""
    if not result["co_twins"]:
        return ""
    told = [line for line in result["security"] if line["twin_fmr"]["value"] is not None]
    if not told:
        return f"That cannot be told: {result['security'][0]['twin_fmr']['reason']}."
    line = told[-1]
    twins = line["twin_fmr"]
    seen = f"at a threshold that {percent_text(line['fmr'])} of unrelated pairs pass, "
    seen += f"{estimate_in_words(twins, 'rare %')} of co-twins do, "
    seen += f"{ratio_text(twins['value'] / line['fmr'])} times as many"
    if twins["low"] is None or twins["low"] <= line["fmr"] <= twins["high"]:
        return f"Not shown to be less safe than against unrelated people: {seen}."
    if twins["low"] > line["fmr"]:
        return f"No, less safe than against unrelated people: {seen}."
    return f"Yes, safer than against unrelated people: {seen}."


def propositions(result: dict) -> str:
    """What the two likelihood ratios weigh against each other, and how far they go."""
    text = "Proposition 1: both photographs show one person. Proposition 2: they show "
    text += "two identical twins" if result["co_twins"] else "two unrelated people"
    found = result["calibration"].get("against_unrelated")
    if not found:
        return f"{text}. {largest_ratio(result)}".strip()
    text += ", one each; a second ratio takes two unrelated people instead. Choose the one that the case asks for: "
    return f"{text}a ratio against unrelated people says nothing where a twin is possible. {largest_ratio(result)}"


def misleading(result: dict) -> str:
    """Whether ratios support the wrong proposition."""
    found = result["calibration"]["misleading"]
    impostors = result["terms"]["impostors"]
    wrong = any(one["value"] for one in found.values())
    text = "Does the evidence mislead? " + ("At times: " if wrong else "In no pair here: ")
    text += f"{of_100(found['impostors'], f'pairs of {impostors}')} have a ratio of 1 or more, "
    text += f"{of_100(found['one_person'], 'pairs of one person')} one below 1."
    second = result["calibration"].get("against_unrelated")
    if not second:
        return text
    found = second["misleading"]
    text += f" The second ratio is 1 or more in {of_100(found['impostors'], 'pairs of unrelated people')}, "
    return f"{text}and below 1 in {of_100(found['one_person'], 'pairs of one person')}."


def calibrated(result: dict) -> str:
    """Whether ratios are as large as they should be, by devPAV."""
    found = result["calibration"]["devpav"]
    question = "Are the ratios as large as they should be? "
    if found["value"] is None:
        return f"{question}That cannot be told: devPAV is {found['reason']}."
    factor = 10 ** found["value"]
    more = factor >= TWICE
    off = f"off by a factor of {ratio_text(factor)} on average, {'more' if more else 'less'} than the limit of {TWICE}"
    if found["low"] is None:
        text = f"{question}Not certain: {off}, without an interval"
    else:
        ends = f"interval ({ratio_text(10 ** found['low'])} to {ratio_text(10 ** found['high'])})"
        if is_sized_right(found):
            text = f"{question}Yes: {off}, as is the whole {ends}"
        elif 10 ** found["low"] >= TWICE:
            text = f"{question}Apparently not: {off}, as is the whole {ends}"
        else:
            text = f"{question}Not certain: {off}, but the {ends} includes {'smaller' if more else 'larger'} ones"
    text += f". The devPAV is {number_text(found['value'], 'score')}; "
    text += f"{number_text(found['bold'], '%')} of that is where they are too bold, the rest where too timid; devPAV "
    return f"{text}follows every {result['terms']['unit']}, so that few of them make it look worse than it is."


def useful(result: dict) -> str:
    """Whether the ratios cost less than none at every prior."""
    found = result["calibration"]["ece"]
    costs = zip(found["prior"], found["ratios"], found["none"], strict=True)
    worse = [prior for prior, with_ratios, without in costs if with_ratios > without]
    question = "Are they better than no ratio, whatever the prior odds? "
    if not worse:
        return f"{question}Yes, from 1 to 1,000 up to 1,000 to 1."
    ends = " to ".join(dict.fromkeys(f"{end:g}" for end in (min(worse), max(worse))))
    return f"{question}No: not at log10 prior odds of {ends}."


def mistakes(result: dict) -> str:
    """How many pairs of either kind the threshold judges wrongly."""
    metrics = result["metrics"]
    counts = metrics["counts"]
    terms = result["terms"]
    impostors = round(metrics["fmr"]["value"] * counts["impostor"])
    same = round(metrics["fnmr"]["value"] * counts["genuine"])
    text = f"{impostors:,} of {counts['impostor']:,} pairs of {terms['impostors']} and {same:,} of "
    text += f"{counts['genuine']:,} pairs of one person"
    return f"{text}; the worst of each kind are shown, at most one from a {terms['unit']}."
