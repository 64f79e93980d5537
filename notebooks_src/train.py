# %% [markdown]
# # Train a twin verifier
#
# Given two nearly identical face images: one person, or two identical twins? This notebook trains a model that answers
# and leaves a checkpoint that `evaluate.ipynb` and `attention.ipynb` take up. The preset chooses which: **Dual
# Cross-Attention Learning** (DCAL, CVPR 2022) on a vision transformer, or **AdaFace** (CVPR 2022), a face network
# fine-tuned on triplets of twins (`adaface_*`).
#
# On Kaggle: choose *Settings > Accelerator > GPU T4 x2*, attach the ND-TWINS dataset, switch the internet on (or attach
# the backbone's weights), then *Run All*. With no data attached it trains a small model on drawn twins, in minutes and
# on a CPU, and marks every result SYNTHETIC.

# %% [markdown]
# ## Parameters
# Values here, or given by `papermill -p name value`, win over the preset. **Every** parameter of `dcal_core/config.py`
# (in a hidden cell further down) may be added to this cell (`epochs = 3`) or given with `-p`, whether it stands here or
# not.

# %% tags=["parameters"]
preset = "auto"  # auto, demo, kaggle_t4x2, kaggle_p100, local_2080ti, adaface_demo, adaface_full, adaface_frozen
resume = True  # go on from the newest checkpoint; False: old run aside, start fresh
seed = 0  # of the split, the initialisation and the batches
data_root = ""  # folder with the index files; empty: search the attached inputs
run_dir = ""  # folder of this run; empty: named after the preset
resume_from = ""  # an earlier run to go on from; empty: this run's own, or an attached one

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.session import begin_training

session = begin_training("Train a twin verifier", given, PARAMS_DIR)

# %% [markdown]
# ## The twins
# People are grouped into *families*, the co-twins together. A share of the families is held out for validation, so that
# no face, and no face of a co-twin, is both trained on and validated on.

# %%
from dcal_core.data.splits import open_data

data = open_data(session.config, ("train", "validation"))
for name, split in data.splits.items():
    index = split.index
    families, people = len(index.families), len(index.people)
    print(f"{name}: {families} families, {people} people, {len(index.paths):,} images")

# %% [markdown]
# Each row below is one family: some images of one sibling, then of the other. Look for what stays the same within a
# person and differs between the two; light, pose and expression are no help.

# %%
from dcal_core.data.family_sheet import draw_family_sheet

session.show(
    draw_family_sheet(data["train"].index, data["train"].images, data.label), "families"
)

# %% [markdown]
# ## Training
# What a step learns from depends on the `recipe`:
#
# - **dcal**: a batch holds some families, two siblings each, several images of each person. Three branches learn from
#   it: self-attention (SA) sees the whole face; global-local cross-attention (GLCA) looks again at the patches that
#   attention rollout ranks highest; pair-wise cross-attention (PWCA, in training only) lets another person's image
#   distract the network. Each branch must name the person among all (margin softmax) and tell the person from the
#   co-twin.
# - **adaface**: a batch holds triplets, two images of a person and one of the co-twin. One embedding must bring the first
#   two nearer to each other than to the third, by `twin_margin`, and name the person where `softmax_weight` is not 0.
#
# After every epoch the held-out families are verified. Their equal error rate (EER) chooses the best checkpoint. When
# the time budget is used up, or the system asks to end, the run saves and ends cleanly; the next session goes on from
# there, and after a kill from the last checkpoint, of which there is one at every epoch and every `save_minutes` within
# one. With `nproc = 2` both GPUs of a T4 x2 share each batch; what their processes print comes out here.

# %%
from dcal_core.commands.train import train_run

run, progress = train_run(session.config, session.folder, data)

# %%
import sys

if not progress.finished:
    print("On Kaggle, attach this output to the next session, and run all again.")
    sys.exit(0)

# %% [markdown]
# ## Curves
# The twin losses (dashed) should fall and level off; the identity losses (solid) tell all people apart, fall slowly and
# count by `softmax_weight`. Triplets whose co-twin is farther than the same person by the margin have no loss, so the
# share that is active falls, and training slows down.

# %%
from IPython.display import Image, display

from dcal_core.commands.train import leave_results

left = leave_results(session, run, data.label)
display(Image(filename=left["loss_curves"]))

# %% [markdown]
# Where the EER of the held-out families rises again while the losses fall, the network learns its training families by
# heart.

# %%
display(Image(filename=left["validation_curves"]))
minutes = progress.seconds / 60
print(
    f"Best validation EER {progress.best_eer:.1%} ({data.label}), {minutes:.1f} min of training"
)
if progress.skipped:
    print(f"{progress.skipped} steps had no finite loss or gradient and were skipped.")
print(f"Model: {run.folder.best}", *left["exported"], sep="\n")

# %% [markdown]
# ## Next
# `evaluate.ipynb` verifies unseen families with this model and writes the report; `attention.ipynb` shows where it
# looks. On Kaggle, attach this notebook's output to them (*Add Input > Notebook Output*).
