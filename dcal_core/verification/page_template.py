"""The report's page as a jinja2 template; `page` describes what fills it."""

PAGE = """
{% macro cell(content) %}
{# the interval is on its own line, since a column is narrow on a phone #}
{% if content is string or content.estimate.value is none or content.estimate.low is none %}
<td>{{ content }}</td>
{%- else %}
<td{% if content.look %} class="{{ content.look }}"{% endif %}>
{{- content.estimate.value | number_text(content.unit) }}
<small>{{ content.estimate.low | range_text(content.estimate.high, content.unit) }}</small></td>
{%- endif %}
{% endmacro %}
{% macro table_of(table) %}
<div class="wide"><table><caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for content in row[1:] %}{{ cell(content) }}{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro picture(name, caption) %}
<figure><img src="{{ figures[name].uri }}" alt="{{ figures[name].alt }}"><figcaption>{{ caption }}</figcaption></figure>
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Verification report: {{ data }}</title><style>
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
</style></head><body><main>
{% if "SYNTHETIC" in data %}
<p class="synthetic" role="note">SYNTHETIC DATA: drawn faces. This report shows that the system runs; it says
nothing about accuracy on real twins.</p>
{% endif %}
<h1>Same person or identical twin? Verification report</h1>
{% set eer = metrics.eer %}
{% if eer.high is none %}
<p class="verdict">How often the system errs cannot be told from so few families.</p>
{% elif eer.high >= 0.5 %}
<p class="verdict">Not shown to be better than guessing.</p>
{% else %}
<p class="verdict">About {{ eer.value | number_text("of 100") }} pairs of photographs are judged wrongly; the true
figure may lie anywhere from {{ eer.low | range_text(eer.high, "of 100") }}.</p>
{% endif %}
<p>This is the <abbr title="equal error rate">EER</abbr>, {{ eer | estimate_in_words("%") }}, with its 95 % interval in
brackets: the error rate at the threshold where co-twins are taken for one person as often as one person is taken for
two. It was measured on {{ metrics.counts.families }} families of twins that were not used for training ({{ data }},
split {{ split }}): {{ "{:,}".format(metrics.counts.genuine) }} <em>genuine</em> comparisons (two photographs of one
person) and {{ "{:,}".format(metrics.counts.impostor) }} <em>impostor</em> comparisons (one photograph of each
twin).</p>
<h2>What the system answers</h2>
{{ table_of(tables.verdict) }}
<p>Of the pairs that got an answer, <strong>{{ verdict.wrong | estimate_in_words("%") }}</strong> are wrong. The answer
is &ldquo;same&rdquo; from a score of {{ verdict.thresholds.same_from | number_text("score") }}, &ldquo;different&rdquo;
below {{ verdict.thresholds.different_below | number_text("score") }} and &ldquo;undecided&rdquo; between. These limits
allow {{ verdict.thresholds.error | number_text("%") }} wrong answers of each kind on other families
({{ verdict.thresholds.source }}).</p>
<p>For a plain yes or no, a pair <em>matches</em> from a score of {{ threshold.value | number_text("score") }}. This
threshold was chosen beforehand ({{ threshold.source }}). In the terms of ISO/IEC 19795-1, the false match rate (FMR),
the share of impostor comparisons that match, is {{ metrics.fmr | estimate_in_words("%") }}. The false non-match rate
(FNMR), the share of genuine comparisons that do not match, is {{ metrics.fnmr | estimate_in_words("%") }}.</p>

<h2>Compared with other systems</h2>
{{ table_of(tables.systems) }}
{% if figures.systems is defined %}
{{ picture("systems", "If the interval of a difference excludes zero, one of the two is better.") }}
{% endif %}
<ul>{% for difference in differences %}<li>{{ difference | difference_in_words }}</li>{% endfor %}</ul>
<p><abbr title="true accept rate">TAR</abbr> at an FMR is the share of genuine comparisons that match at a threshold
that lets at most this share of the impostor comparisons match. ROC-AUC is the chance that a genuine comparison scores
higher than an impostor one. Differences are paired: both systems are measured on the same drawn families. A system is
called better only if the interval excludes zero; &ldquo;no difference shown&rdquo; does not mean that there is
none.</p>

<h2>Scores and error curves</h2>
<p>The <abbr title="true accept rate">TAR</abbr>, the share of genuine comparisons that match, is 1 &minus; FNMR.</p>
{{ picture("scores", "The further apart the two histograms, the better. Scores beyond the threshold are errors.") }}
{{ picture("roc", "ROC: the share of genuine pairs that match (TAR) against the share of co-twins that do (FMR).") }}
{{ picture("det", "DET: both error rates, on axes that spread small rates. Further down and left is better.") }}

<h2>Can the probabilities be trusted?</h2>
{% if calibration.reason is defined %}
<p>There are none: {{ calibration.reason }}.</p>
{% else %}
<p>A {{ calibration.kind }} calibration, fitted on the validation families, turns a score into a likelihood ratio: how
many times more often one person gives such a score than two twins do. The
<abbr title="log-likelihood-ratio cost">Cllr</abbr>, the cost of wrong or timid ratios, is
{{ calibration.cllr | estimate_in_words("bits") }}: 0 is perfect, 1 carries no information. The best calibration of
these scores would reach {{ calibration.cllr_min | estimate_in_words("bits") }}.</p>
{{ picture("reliability", "Points on the diagonal: of the pairs given a probability of x %, x % show one person.") }}
{% endif %}
<h2>How safe against a twin?</h2>
{{ table_of(tables.security) }}

<h2>The worst mistakes</h2>
{{ picture("confusable", "Above, co-twins with the highest scores; below, one person with the lowest scores.") }}
{{ table_of(tables.mistakes) }}

<h2>Conditions and limits</h2>
<ul>{% for sentence in conditions %}<li>{{ sentence }}</li>{% endfor %}
</ul>
{{ table_of(tables.metrics) }}
<dl><dt>Model</dt><dd>{{ model }}</dd><dt>Code</dt><dd>{{ code }}</dd><dt>Parameters</dt><dd>{{ fingerprint }}</dd>
<dt>Created</dt><dd>{{ created }}</dd></dl>
</main></body></html>
"""
