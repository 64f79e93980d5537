"""The report's page as a jinja2 template; `page` describes what fills it."""

PAGE = """
{% macro cell(content) %}
{# the interval is on its own line, since a column is narrow on a phone #}
{% if content is string or content.estimate.value is none or content.estimate.low is none %}
<td><bdi>{{ content }}</bdi></td>
{%- else %}
<td{% if content.look %} class="{{ content.look }}"{% endif %}>
{{- content.estimate.value | number_text(content.unit) }}
<small>{{ content.estimate | interval_text(content.unit) }}</small></td>
{%- endif %}
{% endmacro %}
{% macro table_of(table) %}
<div class="wide"><table><caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}
<tr><th scope="row"><bdi>{{ row[0] }}</bdi></th>{% for content in row[1:] %}{{ cell(content) }}{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro heading(name) %}
<h2 id="{{ name }}">{{ questions[name] }}</h2>
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
nav ul { columns: 2 18rem; padding-left: 1.2rem; }
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
code { white-space: pre-wrap; }
@media (max-width: 600px) { th, td { padding: .25rem .2rem; font-size: .8rem; min-width: 2.9rem; }
  caption { font-size: .9rem; } td small { white-space: normal; } td bdi { overflow-wrap: anywhere; } }
@page { size: A4; margin: 16mm; }
@media print { body { font-size: 10.5pt; padding: 0; max-width: none; }
  .synthetic, .good, .bad { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { break-inside: avoid; } img { max-height: 95mm; } }
</style></head><body><main>
{% if synthetic %}
<p class="synthetic" role="note">SYNTHETIC DATA: drawn faces. This report shows that the system runs; it says
nothing about accuracy on real twins.</p>
{% endif %}
<h1>Same person or {{ "identical twin" if co_twins else "somebody else" }}? Verification report</h1>
<p class="verdict">{{ answers.headline }}</p>
<p>That is at a threshold of {{ threshold.value | number_text("score") }}, frozen beforehand ({{ threshold.source }}),
on {{ metrics.counts.families }} {{ "families of twins" if co_twins else "people" }} that were not used for training
(<bdi>{{ data }}</bdi>, split {{ split }}): {{ "{:,}".format(metrics.counts.impostor) }} pairs of {{ terms.impostors }}
(one photograph of each; the field calls such a pair <em>impostor</em>)
and {{ "{:,}".format(metrics.counts.genuine) }} pairs of photographs of one person (<em>genuine</em>). In brackets: 95 %
intervals. In the terms of ISO/IEC 19795-1 the two are the false match rate (FMR),
{{ metrics.fmr | estimate_in_words("%") }}, and the false non-match rate (FNMR),
{{ metrics.fnmr | estimate_in_words("%") }}. At the threshold where they are equal on these same {{ terms.units }},
which nobody knows beforehand, both are {{ metrics.eer | estimate_in_words("%") }}: the equal error rate (EER).</p>
<nav aria-label="Contents"><ul>
{% for name, question in questions.items() %}
<li><a href="#{{ name }}">{{ question }}</a></li>
{% endfor %}
</ul></nav>
{{ heading("answers") }}
<p>{{ answers.answers }}</p>
{{ table_of(tables.verdict) }}
<p>{{ tables.verdict.after }}</p>

{{ heading("scores") }}
<p>{{ answers.scores }} This is the ROC-AUC.</p>
{{ picture("scores", "The less the two histograms overlap, the better. Scores beyond the threshold are errors.") }}
{{ picture("roc", "ROC: of the pairs of one person, the share taken for one (TAR), against that of the pairs of "
+ terms.impostors + " (FMR).") }}
{{ picture("det", "DET: both error rates, on logarithmic axes. Further down and left is better.") }}

{% if "others" in questions %}
{{ heading("others") }}
<ul>{% for difference in answers.others %}<li>{{ difference }}</li>{% endfor %}</ul>
{{ table_of(tables.systems) }}
{{ picture("systems", "If the interval of a difference excludes zero, one of the two is better.") }}
<p>Differences are paired: both systems are measured on the same drawn {{ terms.units }}. A system is called better only
if the interval excludes zero; &ldquo;no difference shown&rdquo; does not mean that there is none.</p>
{% endif %}

{% if "occlusion" in questions %}
{{ heading("occlusion") }}
<ul>{% for sentence in answers.occlusion %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% for table in tables.occlusion %}
{{ table_of(table) }}
{% endfor %}
{{ picture("occlusion", "The occluders are drawn: real ones lie otherwise, and look it.") }}
{% if "visibility" in figures %}
{{ picture("visibility", "Of each kind the image whose hidden cells are found neither best nor worst.") }}
{% endif %}
{% endif %}

{{ heading("trust") }}
<p>{{ answers.trust }}</p>
<p>{{ answers.propositions }}</p>
{% if calibration.reason is not defined %}
<p>A {{ calibration.kind }} calibration, fitted on the validation {{ terms.units }}, turns a score into a likelihood
ratio: how many times more often one person gives such a score than two
{{ terms.impostors }} do. The <abbr title="log-likelihood-ratio cost">Cllr</abbr> is the cost of wrong or timid ratios:
0 is perfect, 1 carries no information. A probability on this page is what a ratio gives at even prior odds: for a case,
report the ratio, and leave the odds to whoever decides.</p>
{{ table_of(tables.calibration) }}
{{ picture("tippett", answers.tippett) }}
{{ picture("pav", answers.pav) }}
{{ picture("ece", answers.ece) }}
{{ picture("reliability", "Points on the diagonal: of the pairs given a probability of x %, x % show one person. "
+ answers.tendency) }}
{% endif %}

{% if "twins" in questions %}
{{ heading("twins") }}
<p>{{ answers.twins }} Face recognition is set up on unrelated people, so that few of them pass.</p>
{{ table_of(tables.security) }}
{% endif %}

{{ heading("mistakes") }}
<p>{{ answers.mistakes }}</p>
{{ picture("confusable", "Above, " + terms.impostors + " with the highest scores; below, one person with the lowest "
+ "scores.") }}
{{ table_of(tables.mistakes) }}

{{ heading("maps") }}
<ul>{% for sentence in answers.maps %}<li>{{ sentence }}</li>{% endfor %}</ul>

{% if "sensitivity" in questions %}
{{ heading("sensitivity") }}
<ul>{% for sentence in answers.sensitivity %}<li>{{ sentence }}</li>{% endfor %}</ul>
{{ picture("sensitivity", "Marks planted into photographs of one person. Further left is better.") }}
{% endif %}

{{ heading("limits") }}
<ul>{% for sentence in conditions %}<li>{{ sentence }}</li>{% endfor %}
<li>{{ images }}</li>
<li>{{ answers.flattery }}</li>
</ul>

{{ heading("metrics") }}
<p><abbr title="true accept rate">TAR</abbr>, 1 &minus; FNMR, at an FMR is the share of the pairs of one person that are
taken for one at a threshold at which at most this share of the pairs of {{ terms.impostors }} is. Beside this page,
<a href="report.json">report.json</a> has every figure, and <a href="scores.csv">scores.csv</a> every pair with its
score, likelihood ratios and answer.</p>
{{ table_of(tables.metrics) }}
<dl><dt>Model</dt><dd><bdi>{{ model }}</bdi>{% if system.size %}, {{ "{:,}".format(system.size) }} weights{% endif %}
{% if weights %}, SHA-256 {{ weights }}{% endif %}</dd>
{% if lists is defined %}
<dt>Lists of images</dt>
<dd>{% for name, hash in lists.items() %}{{ name }} {{ hash }}{{ ", " if not loop.last }}{% endfor %}: the first
digits of the SHA-256 of all people with the names of their images</dd>
{% endif %}
<dt>Parameters</dt><dd>fingerprint {{ fingerprint }}</dd>
<dt>Command</dt><dd><bdi><code>{{ command }}</code></bdi></dd>
<dt>Code</dt><dd>{{ code }}</dd>
{% if seconds.training %}
<dt>Trained</dt><dd>in {{ seconds.training | duration_text }}</dd>
{% endif %}
<dt>Evaluated</dt><dd>{{ created }}, in {{ seconds.evaluation | duration_text }} on {{ device }}</dd>
{% if beside %}
<dt>Notebooks</dt>
<dd>{% for name in beside %}<a href="{{ name }}">{{ name }}</a>{{ ", " if not loop.last }}{% endfor %}</dd>
{% endif %}
</dl>
</main></body></html>
"""
