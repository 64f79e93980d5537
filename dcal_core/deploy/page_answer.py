"""What the page says of two pictures, as HTML; nothing of them is kept."""

import base64
import math
from collections.abc import Sequence
from html import escape

from dcal_core.data.decoding import Unreadable
from dcal_core.data.twins import SYNTHETIC
from dcal_core.deploy.answers import CO_TWINS, DRAWN, STRANGERS, Answer, ratios
from dcal_core.deploy.predictor import Predictor
from dcal_core.verification.decision import WORDS

MOST_MB = 12  # of the file of a picture
NO_MAP = "Where the faces differ can be shown for a model in PyTorch only, not for this one."
RANGES = {
    True: "Both pictures are inside: blur, light, size and turn are as in the validation images.",
    False: "Outside: rely less on this answer.",
    None: "How far a picture may be blurred, dark or turned was not measured for this model.",
}


def reply(predictor: Predictor, given: str) -> str:
    """The answer to two pictures. given: both as data URLs, with a blank between."""
    try:
        pictures = pictures_of(given)
    except Unreadable as reason:
        return refusal(str(reason))
    answer = predictor.verify(*pictures)
    if answer.error:
        return refusal(answer.error)
    return answer_html(predictor, answer, _difference(predictor, pictures))


def pictures_of(given: str) -> list[bytes]:
    """The files of two pictures; raises Unreadable."""
    urls = given.split() if isinstance(given, str) else []
    if len(urls) != 2:
        raise Unreadable("give two pictures")
    pictures = []
    for number, url in enumerate(urls, start=1):
        try:
            pictures.append(base64.b64decode(url.partition(",")[2], validate=True))
        except ValueError:
            raise Unreadable(f"picture {number}: not the file of a picture") from None
        if len(pictures[-1]) > MOST_MB * 2**20:
            raise Unreadable(f"picture {number}: more than {MOST_MB} MB")
    return pictures


def refusal(reason: str) -> str:
    """Why there is no answer."""
    return f"<div class='twins answer' role='status'><p class='verdict'>No answer</p><p>{escape(reason)}.</p></div>"


def answer_html(predictor: Predictor, answer: Answer, difference: str) -> str:
    """Verdict, likelihood ratios, validated range and doubts. difference: where the faces differ, HTML."""
    verdict = WORDS[answer.verdict]
    parts = [
        f"<p class='verdict'>{escape(verdict[0].upper() + verdict[1:])}</p>",
        *([f"<p>{DRAWN}.</p>"] if SYNTHETIC in answer.label else []),
        *(f"<p>{escape(clause[0].upper() + clause[1:])}.</p>" for clause in ratios(answer, predictor.rule)),
        _scale(predictor, answer),
        f"<h2>Validated range</h2>{_range(answer)}",
        f"<h2>Where they differ</h2>{difference}",
        f"<h2>Not checked</h2>{_list(answer.unchecked)}",
        f"<p class='small'>Score {answer.score:.3f}; {escape(answer.label)}</p>",
    ]
    return f"<div class='twins answer' role='status'>{''.join(parts)}</div>"


def _difference(predictor: Predictor, pictures: Sequence[bytes]) -> str:
    if not hasattr(predictor.engine, "model"):
        return f"<p>{NO_MAP}</p>"
    from dcal_core.deploy.difference import difference_html  # imports PyTorch

    return difference_html(predictor, pictures)


def _scale(predictor: Predictor, answer: Answer) -> str:
    """The likelihood ratio against the impostors of the calibration, as a place between its two limits."""
    if answer.log10_lr is None:
        return ""
    most = predictor.rule.calibration.families
    place = 50 + 50 * answer.log10_lr / math.log10(most)
    others = CO_TWINS if predictor.rule.co_twins else STRANGERS
    ends = f"{most:,} times likelier for {others}", "equally likely", f"{most:,} times likelier for one person"
    words = "".join(f"<span>{escape(end)}</span>" for end in ends)
    return (
        f"<div class='ratio' aria-hidden='true'><i style='left:{place:.1f}%'></i></div><div class='ends'>{words}</div>"
    )


def _range(answer: Answer) -> str:
    return f"<p>{RANGES[answer.inside]}</p>{_list([*answer.reasons, *answer.doubts])}"


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>" if sentences else ""
