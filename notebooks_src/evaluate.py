# ---
# jupyter:
#   kaggle: {accelerator: none, isGpuEnabled: false}
# ---

# %% [markdown]
# # Evaluate a twin verifier
#
# ![Error rates of a verifier on unseen families of drawn twins](pictures/evaluate.jpg)
#
# How often does the trained model confuse identical twins, and how sure is that number? This notebook takes the model
# that `train.ipynb` saved, in the same place or attached as its output, and scores all pairs of images of families that
# the model has never seen. It writes `report.html`, `report.json` and `scores.csv`, every pair with its score, into the
# folder of the run. No GPU is needed: each image is encoded once.
#
# Pairs are **genuine** (two images of one person) or **co-twins** (one image of each sibling). Unrelated people are left
# out of all tables but one, since they are easy and would flatter the result.

# %% [markdown]
# ## Parameters
# Which run to evaluate, and what to compare it with. All other parameters are those of its training.

# %% tags=["parameters"]
preset = "auto"  # the preset that was trained; auto: what train.ipynb chooses here
data_root = ""  # folder of the data (index files, or a folder a person); empty: search the attached inputs
run_dir = ""  # folder of the run; empty: named after the preset, else the attached one
compare = ""  # folders of other runs to compare it with, separated by commas
baseline = False  # True: also a frozen face embedding, see requirements-faces.txt
fuse = False  # True: also all systems fused into one
verdict_error = 0.05  # share of wrong verdicts allowed for each kind of pair

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
# The validation families were held out from training. They set the decision threshold, the calibration and the limits of
# the verdict; these are then frozen, and the test families only measure them.

# %%
data = session.open_data(SPLITS)
print(*(split.index.counted() for split in data.splits.values()), sep="\n")

# %% [markdown]
# ## Scores
# Each image is encoded once, however many pairs it is part of.

# %%
from dcal_core.commands.evaluate import evaluate_systems, score_systems

systems = score_systems(session, data)
result = evaluate_systems(session, data, systems, f"evaluate.ipynb with {given}", CORE_HASH)

# %% [markdown]
# ## How often is it wrong?
# At the threshold that the validation families have set, with a 95 % interval from a bootstrap over families, since pairs
# of one family are not independent of each other. The EER comes second: nobody knows its threshold beforehand.

# %%
from dcal_core.verification import statements

print(
    statements.headline(result),
    statements.equal_errors(result),
    statements.flattery(result),
    sep="\n",
)

# %% [markdown]
# ## What does it answer?
# The answer that a user gets: *same*, *different*, or *undecided* if the score says too little.

# %%
from IPython.display import display

from dcal_core.verification.report_tables import (
    calibration_table,
    metrics_table,
    security_table,
    systems_table,
    verdict_table,
)

print(statements.limits(result))
display(verdict_table(result))

# %% [markdown]
# ## Error rates
# - *FMR*, the false match rate: the share of co-twin pairs taken for one person.
# - *FNMR*, the false non-match rate: the share of genuine pairs taken for two people.
# - *EER*, the equal error rate: the value at the threshold where both are equal.
# - *TAR at FMR x*: the share of genuine pairs accepted at the threshold that accepts a share x of the co-twin pairs. If a
#   single family could change it much, it is *not resolvable*.
#
# Where families have different numbers of images, a second column lets every family count the same.

# %%
display(metrics_table(result))

# %% [markdown]
# The less the two hills overlap, the better the verifier. Whatever lies on the wrong side of the threshold is an error; the
# density is logarithmic, so that a few errors can be seen.

# %% tags=["picture"]
from dcal_core.commands.evaluate import draw_report
from dcal_core.commands.session import show_picture

drawn = draw_report(result, systems, data)
pictures = {name: session.keep(figure, name) for name, figure in drawn}
print(statements.separation(result))
show_picture(pictures["scores"])

# %% [markdown]
# ## ROC and DET curves
# The ROC shows the share of genuine pairs accepted at each false match rate, with its 95 % interval as a band. In the grey
# area, a single family could decide the figure. The DET
# shows both error rates on logarithmic axes, which spread the small rates out.

# %%
show_picture(pictures["roc"])

# %% tags=["picture"]
show_picture(pictures["det"])

# %% [markdown]
# ## Side by side
# Every system on the same pairs, and its difference from the first one on the same bootstrap draws. `compare` adds other
# runs, `baseline` a face embedding that was never trained on twins, and `fuse` a fusion of all of them.

# %%
if "systems" in pictures:
    print(*statements.comparison(result), sep="\n")
    display(systems_table(result))
    show_picture(pictures["systems"])
else:
    print("One system only: nothing to compare it with.")

# %% [markdown]
# ## What do occluders change?
# With `occluded_share`, masks, glasses or scarves are drawn over that share of the images. A model with several readings
# (*global*, *local*) should lose less by one of them; the differences are paired.

# %%
from dcal_core.verification.report_tables import occlusion_tables

print(*statements.occlusion(result) or ["No occluders were drawn."], sep="\n")
for table in occlusion_tables(result):
    display(table)
for name in ("occlusion", "visibility"):
    if name in pictures:
        show_picture(pictures[name])

# %% [markdown]
# ## Can the probabilities be trusted?
# The calibration turns a score into a likelihood ratio: how many times more likely this score is for one person than for
# co-twins. *Cllr* is its cost in bits: 0 if it is perfect, 1 if it is useless; *Cllr min* is the part due to the scores
# themselves. In the plot, points on the diagonal mean that the stated probabilities are right.

# %% tags=["picture"]
print(
    statements.trust(result),
    statements.tendency(result),
    statements.propositions(result),
    sep="\n",
)
display(calibration_table(result))
if "reliability" in pictures:
    show_picture(pictures["reliability"])

# %% [markdown]
# The figures of a forensic examiner: how often the ratios mislead (Tippett), whether they are as large as they should be
# (PAV), and whether they are worth having at each prior (empirical cross-entropy).

# %%
if "tippett" in pictures:
    answers = {
        "tippett": statements.misleading,
        "pav": statements.calibrated,
        "ece": statements.useful,
    }
    for name, answer in answers.items():
        print(answer(result))
        show_picture(pictures[name])

# %% [markdown]
# ## How safe is it against a twin?
# A face recognition system is usually set so that strangers rarely match. The *twin FMR* says how often a co-twin gets
# through such a system.

# %%
print(statements.safety(result) or "No co-twins are known in this data.")
if result["security"]:
    display(security_table(result))

# %% [markdown]
# ## Which pairs does it get wrong?
# The co-twins with the highest scores, and the images of one person with the lowest. Look at pose, light and blur before
# blaming the model.

# %% tags=["picture"]
print(statements.mistakes(result))
show_picture(pictures["confusable"])

# %% [markdown]
# ## What do these figures hold for?

# %%
from dcal_core.markdown import Markdown, literal

display(Markdown("\n".join(f"- {literal(sentence)}" for sentence in result["conditions"])))

# %% [markdown]
# ## Report
# Everything above as one page, `report.html`, and as numbers, `report.json`; every pair with its score in `scores.csv`.

# %%
from dcal_core.commands.evaluate import write_report

files = write_report(session, result, pictures, systems[0], data)
print(statements.headline(result))
print("Report:", *files)
