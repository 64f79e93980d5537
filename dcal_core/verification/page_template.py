"""The report's page as a jinja2 template; what it is filled with is described in `page`."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 50rem; margin: 0 auto;
       padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; break-after: avoid; }
.synthetic { border: 4px solid #b30000; color: #8a0000; padding: .6rem 1rem; font-weight: bold; }
.verdict { font-size: 1.35rem; line-height: 1.3; font-weight: bold; margin-bottom: .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; }
th, td { border-bottom: 1px solid #999; padding: .35rem .5rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #1a1a1a; } caption { text-align: left; font-weight: bold; padding: .3rem 0; }
td small { display: block; color: #444; white-space: nowrap; } tr, figure { break-inside: avoid; }
.good { background: #d6e9f5; } .bad { background: #fbe0cd; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } dt { font-weight: bold; } dd { margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; overflow-wrap: anywhere; }
@media (max-width: 600px) { th, td { padding: .25rem .2rem; font-size: .8rem; min-width: 2.9rem; }
  caption { font-size: .9rem; } td small { white-space: normal; } }
@page { size: A4; margin: 16mm; }
@media print { body { font-size: 10.5pt; padding: 0; max-width: none; }
  .synthetic, .good, .bad { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { break-inside: avoid; } img { max-height: 95mm; } }
"""

MACROS = """
{% macro cell(estimate, unit, class="") %}
{# the interval on a line of its own, since a column is narrow on a phone #}
<td{% if class %} class="{{ class }}"{% endif %}>
{%- if estimate.value is none or estimate.low is none %}{{ estimate | interval(unit) }}
{%- else %}{{ estimate.value | shown(unit) }}
<small>{{ estimate.low | ends(estimate.high, unit) }}</small>{% endif %}</td>
{% endmacro %}
{% macro picture(name, caption) %}
<figure><img src="{{ figures[name].uri }}" alt="{{ figures[name].alt }}"><figcaption>{{ caption }}</figcaption></figure>
{% endmacro %}
"""

VERDICT = """
{% if "SYNTHETIC" in data %}
<p class="synthetic" role="note">SYNTHETIC DATA: drawn faces. This report shows that the machinery works; it says
nothing about accuracy on real twins.</p>
{% endif %}
<h1>Same person or identical twin? Verification report</h1>
{% set eer = metrics.eer %}
{% if eer.high is none %}
<p class="verdict">How often the system errs cannot be told from so few families.</p>
{% elif eer.high >= 0.5 %}
<p class="verdict">Not shown to be better than guessing.</p>
{% else %}
<p class="verdict">About {{ eer.value | shown("of 100") }} pairs of photographs are judged wrongly; the true figure may
lie anywhere from {{ eer.low | ends(eer.high, "of 100") }}.</p>
{% endif %}
<p>That is the <abbr title="equal error rate">EER</abbr>, {{ eer | interval("%") }}, in brackets its 95 % interval: the
error rate where co-twins are taken for one person as often as one person is taken for two. It was measured on
{{ metrics.counts.families }} families of twins ({{ data }}, split {{ split }}), who had no part in training:
{{ "{:,}".format(metrics.counts.genuine) }} <em>genuine</em> comparisons (two photographs of one person) and
{{ "{:,}".format(metrics.counts.impostor) }} <em>impostor</em> comparisons (one of each twin).</p>
<h2>What the system answers</h2>
<div class="wide"><table>
<caption>Of all pairs of a kind, the share that gets each answer, with its 95 % interval</caption>
<thead><tr><th scope="col">pairs of</th><th scope="col">&ldquo;same&rdquo;</th>
<th scope="col">&ldquo;undecided&rdquo;</th><th scope="col">&ldquo;different&rdquo;</th></tr></thead>
<tbody>
<tr><th scope="row">one person</th>{{ cell(verdict.genuine.same, "%", "good") }}
{{ cell(verdict.genuine.undecided, "%") }}{{ cell(verdict.genuine.different, "%", "bad") }}</tr>
<tr><th scope="row">co-twins</th>{{ cell(verdict.impostor.same, "%", "bad") }}
{{ cell(verdict.impostor.undecided, "%") }}{{ cell(verdict.impostor.different, "%", "good") }}</tr>
</tbody></table></div>
<p>Wrong, of the pairs that got an answer: <strong>{{ verdict.wrong | interval("%") }}</strong>. The answer is
&ldquo;same&rdquo; from a score of {{ verdict.thresholds.same_from | shown("score") }}, &ldquo;different&rdquo; below
{{ verdict.thresholds.different_below | shown("score") }} and &ldquo;undecided&rdquo; between; the limits were set for
{{ verdict.thresholds.error | shown("%") }} of wrong answers of each kind on other families
({{ verdict.thresholds.source }}).</p>
<p>Where one yes or no is needed, a pair <em>matches</em> from a score of {{ threshold.value | shown("score") }}, chosen
beforehand ({{ threshold.source }}) and not touched since. In the terms of ISO/IEC 19795-1 its false match rate (FMR),
the share of impostor comparisons that match, is {{ metrics.fmr | interval("%") }}, and its false non-match rate (FNMR),
the share of genuine ones that do not, {{ metrics.fnmr | interval("%") }}.</p>
"""

COMPARISON = """
{% if systems is defined %}
<h2>Compared with other systems</h2>
<div class="wide"><table><caption>The same comparisons scored by each system, with 95 % intervals</caption>
<thead><tr><th scope="col">system</th>{% for metric in COMPARED %}<th scope="col">{{ metric | metric_name }}</th>
{% endfor %}</tr></thead><tbody>
{% for system in systems %}
<tr><th scope="row">{{ system.name }}</th>{% for metric in COMPARED %}
{{ cell(system.metrics[metric], metric | metric_unit) }}{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if figures.systems is defined %}
{{ picture("systems", "Where an interval of a difference leaves out zero, one of the two is better.") }}
{% endif %}
<ul>{% for difference in differences %}<li>{{ difference | compared }}</li>{% endfor %}</ul>
<p><abbr title="true accept rate">TAR</abbr> at an FMR is the share of genuine comparisons that match where no larger
share of the impostor ones does; ROC-AUC is the chance that a genuine comparison scores higher than an impostor one.
Differences are paired: both systems answer for the same drawn families. &ldquo;Better&rdquo; stands only where the
interval leaves out zero; no difference shown does not mean that there is none.</p>
{% endif %}
"""

CURVES = """
<h2>Scores and error curves</h2>
<p>The <abbr title="true accept rate">TAR</abbr>, the share of genuine comparisons that match, is 1 &minus; FNMR.</p>
{{ picture("scores", "The further the hills stand apart, the better; what lies beyond the threshold is an error.") }}
{{ picture("roc", "ROC: what share of genuine pairs is accepted (TAR) at the price of accepting co-twins (FMR).") }}
{{ picture("det", "DET: both error rates, on axes that spread small ones; further down and left is better.") }}
"""

CALIBRATION = """
<h2>Can the probabilities be trusted?</h2>
{% if calibration.reason is defined %}
<p>There are none: {{ calibration.reason }}.</p>
{% else %}
<p>Scores become likelihood ratios, how much more often one person than two twins gives such a score, by
{{ calibration.kind }} calibration on the validation families. <abbr title="log-likelihood-ratio cost">Cllr</abbr>, what
wrong or timid ratios cost, is {{ calibration.cllr | interval("bits") }}: 0 is perfect, 1 says nothing. With the best
calibration that these scores allow it would be {{ calibration.cllr_min | interval("bits") }}.</p>
{{ picture("reliability", "Points on the diagonal: of the pairs given a probability of x %, x % show one person.") }}
{% endif %}
{% if security is defined %}
<h2>How safe against a twin?</h2>
<div class="wide"><table><caption>Thresholds that are set on unrelated people, and what twins meet there</caption>
<thead><tr><th scope="col">FMR aimed at, unrelated</th><th scope="col">threshold</th>
<th scope="col">FMR, unrelated</th><th scope="col">FMR, co-twins</th><th scope="col">FNMR</th></tr></thead><tbody>
{% for row in security %}
<tr><th scope="row">{{ row.fmr | shown("%") }}</th>
{% if row.threshold is none %}
<td colspan="4">{{ row.twin_fmr.reason }}</td></tr>
{% else %}
<td>{{ row.threshold | shown("score") }}</td>
{{ cell(row.unrelated_fmr, "%") }}{{ cell(row.twin_fmr, "%") }}{{ cell(row.fnmr, "%") }}</tr>
{% endif %}
{% endfor %}
</tbody></table></div>
{% endif %}
"""

MISTAKES = """
<h2>The worst mistakes</h2>
{{ picture("confusable", "Above, co-twins with the highest scores; below, one person with the lowest.") }}
<div class="wide"><table><caption>The pairs in the picture, at most one of each kind from a family</caption>
<thead><tr><th scope="col">really</th><th scope="col">answer</th><th scope="col">score</th>
<th scope="col">images</th></tr></thead><tbody>
{% for pair in confusable %}
<tr><td>{{ "one person" if pair.genuine else "co-twins" }}</td>
<td>{{ "match" if pair.matched else "no match" }}{{ "" if pair.matched == pair.genuine else ", WRONG" }}</td>
<td>{{ pair.score | shown("score") }}</td>
<td>{% for path in pair.paths %}{{ path.split("/")[-2:] | join("/") }}<br>{% endfor %}</td></tr>
{% endfor %}
</tbody></table></div>
"""

CONDITIONS = """
<h2>Conditions and limits</h2>
<ul>{% for sentence in conditions %}<li>{{ sentence }}</li>{% endfor %}
</ul>
<div class="wide"><table><caption>All metrics, with 95 % intervals</caption><thead><tr><th scope="col">metric</th>
<th scope="col">each comparison counts the same</th><th scope="col">each family counts the same</th></tr></thead><tbody>
{% for metric in metrics if metric != "counts" %}
<tr><th scope="row">{{ metric | metric_name }}</th>{{ cell(metrics[metric], metric | metric_unit) }}
{{ cell(metrics_per_family[metric], metric | metric_unit) }}</tr>
{% endfor %}
</tbody></table></div>
<dl><dt>Model</dt><dd>{{ model }}</dd><dt>Code</dt><dd>{{ code }}</dd><dt>Parameters</dt><dd>{{ fingerprint }}</dd>
<dt>Created</dt><dd>{{ created }}</dd></dl>
"""

PAGE = f"""{MACROS}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Verification report: {{{{ data }}}}</title><style>{STYLE}</style></head><body><main>
{VERDICT}{COMPARISON}{CURVES}{CALIBRATION}{MISTAKES}{CONDITIONS}
</main></body></html>
"""
