# %% [markdown]
# # Evaluate a twin verifier
#
# How often does the trained model confuse identical twins, and how sure is that figure? Every image of the test
# families, none of which the model has seen, is encoded once. Then all **genuine** pairs (two images of one person)
# and all **co-twin** pairs (one image of each sibling) are scored. Unrelated people are left out: they would flatter
# the figures.
#
# It takes up the model that `train.ipynb` left, in the same place or attached as its output.

# %% tags=["core"] _kg_hide-input=true jupyter={"source_hidden": true}
_known = set(
    globals()
)  # so that the cell after the parameters can tell which names are new

# %% [markdown]
# ## Parameters
# Which run to take up; all else is as it was trained.

# %% tags=["parameters"]
preset = "auto"  # the preset that was trained; auto: what train.ipynb chooses here
data_root = ""  # folder with the index files; empty: search the attached inputs
run_dir = (
    ""  # folder of the trained run; empty: named after the preset, else the attached one
)

# %% tags=["core"] _kg_hide-input=true jupyter={"source_hidden": true}
given = {
    name: value
    for name, value in globals().items()
    if name not in _known and not name.startswith("_")
}

# %%
# <embed dcal_core>

# %% [markdown]
# A misspelt name or an impossible value stops the notebook here.

# %%
from dcal_core.config import check_given

check_given(given, PARAMS_DIR)

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.session import begin_with_trained

session = begin_with_trained("Evaluate a twin verifier", given, PARAMS_DIR)
config = session.config

# %% [markdown]
# ## Data and model
# The decision threshold is chosen on the validation families, which were held out from training, and then frozen: the
# test families have no say in it.

# %%
data = session.open_data(("validation", "test"))
for name, split in data.splits.items():
    index = split.index
    families, people = len(index.families), len(index.people)
    print(f"{name}: {families} families, {people} people, {len(index.paths):,} images")

# %%
import torch

from dcal_core.environment import gpu_verdict
from dcal_core.models.build import load_model
from dcal_core.verification.protocol import encode_images, score_pairs, twin_pairs

device = torch.device("cuda" if gpu_verdict()[0] else "cpu")
model = load_model(session.trained).to(device)
pairs, scores = {}, {}
for name, split in data.splits.items():
    pairs[name] = twin_pairs(split.index)
    features = encode_images(model, split.images, config.encode_batch, device)
    scores[name] = score_pairs(model, features, pairs[name], device=device)

# %% [markdown]
# ## The result
# Each figure with its 95 % interval from a bootstrap that draws whole families, since pairs of one family are no
# independent evidence. *EER*: the error rate where false matches (co-twins taken for one person) and false non-matches
# (one person taken for two) are equally frequent. *TAR at FMR x*: the share of genuine pairs accepted when a share x of
# the co-twin pairs is accepted too; where a single family could decide it, it is *not resolvable*. The columns differ
# where families have different numbers of images.

# %%
from IPython.display import Markdown, display

from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.report import as_markdown, evaluate, write_json

_, threshold = equal_error_rate(scores["validation"], pairs["validation"].genuine)
source = f"equal error rate of {len(data['validation'].index.families)} validation families"
test = data["test"]
result = evaluate(
    scores["test"],
    pairs["test"],
    test.index,
    threshold,
    source,
    data.label,
    draws=config.bootstrap_draws,
    seed=config.seed,
)
display(Markdown(as_markdown(result)))

# %% [markdown]
# ## Scores
# A verifier is good where the two hills stand apart. What lies on the wrong side of the threshold is an error.

# %%
from dcal_core.verification.report import (
    draw_confusable,
    draw_det,
    draw_histogram,
    draw_roc,
)

arguments = (scores["test"], pairs["test"].genuine, pairs["test"].family)
session.show(draw_histogram(*arguments, threshold, data.label), "scores")

# %% [markdown]
# ## ROC and DET curves
# The ROC shows what share of genuine pairs is accepted at each false match rate; the band is the 95 % interval. The DET
# shows the two error rates on normal-deviate axes, where small rates are not squeezed into a corner.

# %%
session.show(draw_roc(*arguments, data.label), "roc")

# %%
session.show(draw_det(*arguments, data.label), "det")

# %% [markdown]
# ## The worst mistakes
# Co-twins that look most like one person to the model, and images of one person that look least alike to it. Look at
# pose, light and blur before blaming the model.

# %%
session.show(draw_confusable(result, test.images), "confusable")

# %% [markdown]
# ## Report
# Everything above in one file.

# %%
report = session.folder / "report.json"
write_json(
    report,
    result
    | {
        "model": str(session.trained),
        "fingerprint": config.fingerprint(),
        "code": CORE_HASH,
    },
)
eer = result["metrics"]["eer"]
print(
    f"EER {eer['value']:.1%}, 95 % interval {eer['low']:.1%} to {eer['high']:.1%} ({data.label})"
)
print(f"Report: {report}\nFigures: {session.folder / 'figures'}")
