"""One pair of faces as a page: no scripts, all pictures inside, for a screen of any width."""

from collections.abc import Sequence
from html import escape

from dcal_core.explain import paint
from dcal_core.explain.catalogue import MAPS, MARKED, PairView
from dcal_core.explain.regions import WHOSE_SIDES
from dcal_core.explain.trust import caveats, counted, trusted_for

STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 46em; margin: 0 auto; padding: 0 12px 2em; color: #111;
  background: #fff; overflow-wrap: anywhere }
h1 { font-size: 1.3em } h2 { font-size: 1.1em; margin: 1.6em 0 .3em }
.label { background: #d55e00; color: #fff; padding: .2em .6em }
.verdict { font-weight: bold; white-space: pre-line }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px }
.pair img { width: 100%; display: block } figure { margin: 0 } figcaption { font-size: .85em }
.scale { display: flex; justify-content: space-between; gap: 8px; font-size: .85em }
.ramp img { width: 100%; height: 12px; display: block; margin-top: 6px }
table { border-collapse: collapse; width: 100%; font-size: .9em } th, td { text-align: left; padding: .2em .4em;
  border-bottom: 1px solid #ccc; vertical-align: top } td:first-child { white-space: nowrap }
"""
RATIO = (
    "A likelihood ratio says how many times likelier such a score is for one person than for two, co-twins unless "
    "the answer says otherwise, or the other way round. It never goes beyond the number of families (or of unrelated "
    "people) that it was calibrated on: they show nothing rarer."
)
NOT_MEASURED = (
    "How far these maps can be believed has not been measured with this model yet: run <code>twins explain</code> "
    "without images, or attention.ipynb."
)


def pair_page(
    view: PairView, label: str, answer: str, statistics: dict, notes: Sequence[str] = (), trust: dict | None = None
) -> str:
    """The page of a pair, HTML.

    label: what the data is called; answer: what the score means; statistics: as `view_statistics`; notes: what is to be
    said before the score; trust: as `measure_maps`, of this model.
    """
    title = " and ".join(view.names)
    parts = [
        f"<h1>{escape(title)}</h1><p><span class='label'>{escape(label)}</span></p>",
        "".join(f"<p>{escape(note)}</p>" for note in notes),
        f"<p class='verdict'>{escape(answer)}</p><p>{RATIO}</p>",
        _pictures([paint.enlarged(face) for face in view.faces], view.names),
        "" if view.marks is None else f"<p>{MARKED}</p>",
        *(_map(view, name, trust) for name in view.kinds),
        f"<h2>{MAPS['distinctive'].title}, by part of the face</h2>{_regions(view, statistics)}<p>{WHOSE_SIDES}</p>",
        f"<h2>What to trust</h2>{_trust(trust)}",
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _pictures(pictures: Sequence, captions: Sequence[str]) -> str:
    shown = zip(pictures, captions, strict=True)
    tags = [(paint.image_tag(picture, caption, "JPEG"), escape(caption)) for picture, caption in shown]
    figures = (f"<figure>{tag}<figcaption>{caption}</figcaption></figure>" for tag, caption in tags)
    return f"<div class='pair'>{''.join(figures)}</div>"


def _map(view: PairView, name: str, trust: dict | None) -> str:
    """One map over both faces, what it means, and what it can be trusted for."""
    kind = MAPS[name]
    pictures, peak = paint.painted_pair(view, view.map(name), kind.signed)
    ends = paint.scale_ends(name, peak)
    words = "".join(f"<span>{escape(end)}</span>" for end in ends)
    known = f" Trust it for: {trusted_for(name, trust['maps'])}." if trust and name in trust["maps"] else ""
    return (
        f"<h2>{kind.title}</h2><p>{escape(kind.meaning + known)}</p>"
        f"{_pictures(pictures, [f'{kind.title}: {one}' for one in view.names])}"
        f"<div class='ramp'>{paint.colour_bar(kind.signed, ends)}</div><div class='scale'>{words}</div>"
    )


def _regions(view: PairView, statistics: dict) -> str:
    sides = [side.get("regions", {}) for side in statistics["distinctive"]["all"]]
    heads = ["part", *view.names, "share of the picture"]
    rows = []
    for region, first in sides[0].items():
        shares = [one[region]["share"] for one in sides]
        cells = [region, *("-" if share is None else f"{share:.0%}" for share in shares), f"{first['area']:.0%}"]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _trust(trust: dict | None) -> str:
    if trust is None:
        return f"<p>{NOT_MEASURED}</p>"
    measured = f"Measured on {counted(trust)} ({trust['data']})."
    return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in [measured, *caveats(trust["maps"])]) + "</ul>"
