# %% [markdown]
# # Evaluate a twin verifier
#
# How often does the trained model confuse identical twins, and how sure is that figure? Every image of the test
# families, none of which the model has seen, is encoded once. Then all **genuine** pairs (two images of one person)
# and all **co-twin** pairs (one image of each sibling) are scored. Unrelated people are left out of all but one table:
# they would flatter the figures.
#
# It takes up the model that `train.ipynb` left, in the same place or attached as its output, and leaves `report.html`
# and `report.json` beside it. Several runs can be compared.

# %% [markdown]
# ## Parameters
# Which run to take up, and what to stand beside it; all else is as it was trained.

# %% tags=["parameters"]
preset = "auto"  # the preset that was trained; auto: what train.ipynb chooses here
data_root = ""  # folder with the index files; empty: search the attached inputs
run_dir = ""  # folder of the run; empty: named after the preset, else the attached one
compare = ""  # folders of other runs to stand beside it, separated by commas
baseline = False  # a frozen face embedding too: pip install -r requirements-faces.txt
fuse = False  # all of them made into one, too
verdict_error = 0.05  # share of wrong verdicts allowed in each class

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.evaluate import SPLITS, TITLE
from dcal_core.commands.session import begin_with_trained

session = begin_with_trained(TITLE, given, PARAMS_DIR)
config = session.config

# %% [markdown]
# ## Data
# The validation families were held out from training. On them the decision threshold, the calibration and the
# verdict's thresholds are chosen, and then frozen: the test families have no say in it.

# %%
data = session.open_data(SPLITS)
for name, split in data.splits.items():
    index = split.index
    families, people = len(index.families), len(index.people)
    print(f"{name}: {families} families, {people} people, {len(index.paths):,} images")

# %% [markdown]
# ## Scores
# Each image is encoded once, however many pairs it stands in.

# %%
from dcal_core.commands.evaluate import evaluate_systems, score_systems

systems = score_systems(session, data)
result = evaluate_systems(session, data, systems, CORE_HASH)

# %% [markdown]
# ## The verdict
# What a user meets: a pair is called *same*, *different* or, where the score says too little, *undecided*.
# Each figure comes with its 95 % interval from a bootstrap that draws whole families, since pairs of one family are no
# independent evidence.

# %%
from IPython.display import Image, Markdown, display

from dcal_core.verification.tables import (
    metrics_table,
    security_table,
    systems_table,
    verdict_table,
)

display(Markdown(verdict_table(result)))

# %% [markdown]
# ## Error rates
# *FMR*, the false match rate: the share of co-twin pairs taken for one person. *FNMR*, the false non-match rate: the
# share of genuine pairs taken for two. *EER*: where both are equal. *TAR at FMR x*: the share of genuine pairs accepted
# when a share x of the co-twin pairs is accepted too; where a single family could decide it, it is *not resolvable*.
# The columns differ where families have different numbers of images.

# %%
display(Markdown(metrics_table(result)))

# %% [markdown]
# A verifier is good where the two hills stand apart. What lies on the wrong side of the threshold is an error.

# %%
from dcal_core.commands.evaluate import figures

drawn = figures(result, systems, data)
pictures = {name: session.keep(figure, name) for name, figure in drawn}
display(Image(filename=pictures["scores"]))

# %% [markdown]
# ## ROC and DET curves
# The ROC shows what share of genuine pairs is accepted at each false match rate; the band is the 95 % interval. The DET
# shows the two error rates on normal-deviate axes, where small rates are not squeezed into a corner.

# %%
display(Image(filename=pictures["roc"]))

# %%
display(Image(filename=pictures["det"]))

# %% [markdown]
# ## Side by side
# Every system on the same pairs, and how it differs from the first on the same bootstrap draws. With `compare` further
# runs stand here, with `baseline` a face embedding that was never trained on twins, with `fuse` all of them as one.

# %%
from dcal_core.verification.words import compared

display(Markdown(systems_table(result["systems"])))
if "systems" in pictures:
    display(Image(filename=pictures["systems"]))
print(*map(compared, result["differences"]), sep="\n")

# %% [markdown]
# ## How sure is a score?
# The calibration turns a score into a likelihood ratio: how many times likelier it is for one person than for co-twins.
# *Cllr* is its cost in bits, 0 for a perfect and 1 for a useless one; *Cllr min* is the part that lies in the scores
# themselves. In the plot, what was promised should come true: points on the diagonal.

# %%
from dcal_core.verification.tables import calibration_table

display(Markdown(calibration_table(result)))
if "reliability" in pictures:
    display(Image(filename=pictures["reliability"]))

# %% [markdown]
# ## What strangers say about twins
# A face recognition system is usually set up so that strangers rarely match. The *twin FMR* is how often a co-twin gets
# through such a system.

# %%
display(Markdown(security_table(result)))

# %% [markdown]
# ## The worst mistakes
# Co-twins that look most like one person to the model, and images of one person that look least alike to it. Look at
# pose, light and blur before blaming the model.

# %%
display(Image(filename=pictures["confusable"]))

# %% [markdown]
# ## Conditions and limits

# %%
display(Markdown("\n".join(f"- {sentence}" for sentence in result["conditions"])))

# %% [markdown]
# ## Report
# Everything above in one page, `report.html`, and as figures to compute with, `report.json`.

# %%
from dcal_core.commands.evaluate import headline, write_report

files = write_report(session, result, pictures)
print(headline(result))
print("Report:", *files)
