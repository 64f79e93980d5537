# ---
# jupyter:
#   kaggle: {accelerator: nvidiaTeslaT4, isGpuEnabled: true}
# ---

# %% [markdown]
# # Train a twin verifier
#
# ![Two families of drawn twins, and the error on held-out families falling as the model trains](pictures/train.jpg)
#
# Given two nearly identical face images: do they show one person, or two identical twins? This notebook trains a model
# that answers, and saves it for `evaluate.ipynb` and `attention.ipynb`. With no data attached it trains a small model on
# drawn twins, in minutes on a CPU, and marks every result SYNTHETIC.
#
# On Kaggle: choose *Settings > Accelerator > GPU T4 x2*, attach the ND-TWINS dataset (*Add Input*), switch the internet
# on, or attach the weights of the backbone, then *Run All*. Both T4s train together; where they cannot, one does.

# %% [markdown]
# ## Parameters
# The `preset` chooses the model and how it is trained: **DCAL**, Dual Cross-Attention Learning on a vision transformer,
# or **AdaFace**, a face network.
#
# <presets>
#
# Values here, or given by `papermill -p name value`, win over the preset; `None` leaves a value to it. These are the
# parameters that people change: every other one (`docs/parameters.md`) can be added to this cell.

# %% tags=["parameters"]
preset = "auto"  # auto: kaggle_t4x2 where there are data and a GPU, else demo
data_root = ""  # folder of the data (index files, or a folder a person); empty: search the attached inputs
run_dir = ""  # folder of this run; empty: named after the preset
resume = None  # None or True: go on with the run, or start it; False: start afresh
resume_from = ""  # an earlier run to continue; empty: this run's own, or an attached one
seed = 0  # of the split, the initialisation and the batches
# None leaves it to the preset:
epochs = None  # each of steps_per_epoch batches, or once over all families
lr = None  # peak learning rate of the backbone, such as 5e-5
image_size = None  # side of the square input, px
families_per_batch = None  # the batch of DCAL: families x 2 siblings x images_per_person
triplets_per_batch = None  # the batch of AdaFace: triplets x 3 images
weights = None  # file of pretrained weights
nproc = None  # GPUs that train together; 0: all
time_budget_hours = None  # then the run saves and ends; Kaggle stops a session after 12
tracker = None  # none, wandb, mlflow or tensorboard

# %%
# <embed dcal_core>

# %% [markdown]
# ## The model
# The next cells are the model itself, Dual Cross-Attention Learning
# ([Zhu et al., CVPR 2022](https://arxiv.org/abs/2205.02151)): the very files that run below, cut into parts. Change one
# and run from there on. (The presets `adaface_...` train another model, in the hidden cell of the package `models`.)
#
# A vision transformer turns a face into $N$ tokens: one summary token, CLS, and one token for each patch of the image.
# DCAL asks three questions of them:
#
# - **Self-attention (SA)**: what does the whole face look like?
# - **Global-local cross-attention (GLCA)**: what do the patches look like that matter most, seen once more?
# - **Pair-wise cross-attention (PWCA)**, in training only: is this person still recognised when another face distracts?

# %% [markdown]
# ### Queries, keys and values
# Each attention compares queries $Q$ with keys $K$ and mixes the values $V$. All three attentions of DCAL project their
# tokens with the weights of the transformer's own blocks.

# %%
# <embed dcal_core/models/attention.py: imports, rotate, project>

# %% [markdown]
# ### Self-attention
# $$f_\mathrm{SA}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V = S\,V$$
#
# (equation 1) The fused kernel computes it without ever writing the weights $S$ to memory. Rollout, further down, needs
# their mean over the heads, so that it is computed apart, without gradient.

# %%
# <embed dcal_core/models/attention.py: attend, attention_weights, attention_map, attend_and_map>

# %% [markdown]
# What follows the attention in each block is the transformer's own: a projection, then the feed-forward network, both
# added to the tokens.

# %%
# <embed dcal_core/models/attention.py: layer_scale, finish_block>

# %% [markdown]
# ### Pair-wise cross-attention
# An image's queries meet the keys of two images in one softmax, those of its own and those of its partner:
#
# $$f_\mathrm{PWCA}(Q_1, K_c, V_c) = \mathrm{softmax}\left(\frac{Q_1 [K_1; K_2]^\top}{\sqrt{d}}\right) [V_1; V_2]$$
#
# (equation 4) The label stays that of image 1. A network that attends to what another face has too is distracted by it,
# so it learns to attend to what is this person's own. First, keys or values followed by those of the partner:

# %%
# <embed dcal_core/models/attention.py: ConcatPartner>

# %% [markdown]
# Self-attention and pair-wise attention share all weights. One pass serves both: two streams along the batch, which
# differ in the attention alone.

# %%
# <embed dcal_core/models/attention.py: joint_block>

# %% [markdown]
# ### Global-local cross-attention
# Some tokens of the image, the *local* ones, query all of them:
#
# $$f_\mathrm{GLCA}(Q^l, K^g, V^g) = \mathrm{softmax}\left(\frac{Q^l {K^g}^\top}{\sqrt{d}}\right) V^g$$
#
# (equation 3) So the patches that matter get a second look at the whole face, through a block with weights of its own.

# %%
# <embed dcal_core/models/attention.py: rows_block>

# %% [markdown]
# ### Rollout: which patches matter?
# Attention rollout follows the attention through all layers back to the image. Each layer mixes its attention with the
# residual connection, and the layers multiply:
#
# $$\bar S_i = \tfrac{1}{2} S_i + \tfrac{1}{2} I, \qquad \hat S_i = \bar S_i\, \bar S_{i-1} \cdots \bar S_1$$
#
# (equation 2) The row of CLS in $\hat S_L$ says how much of each patch has reached the summary token. GLCA selects the
# share $R$ of the patches that it ranks highest.

# %%
# <embed dcal_core/models/attention.py: rollout_row>

# %% [markdown]
# ### The parts of the model
# Each branch has an embedding, and a batch-norm neck between the embedding and its losses.

# %% tags=["core"] _kg_hide-input=true jupyter={"source_hidden": true}
# <embed dcal_core/models/dcal.py: imports>

# %%
# <embed dcal_core/models/dcal.py: unit_concat>

# %% [markdown]
# The model holds the pretrained transformer, the blocks of GLCA, which begin as copies of its last one, and a readout.
# Which tokens a branch is read at matters: GLCA's CLS comes out the same whatever patches were selected, so the selected
# patches are read too.

# %%
# <embed dcal_core/models/dcal.py: DCAL, DCAL.__init__>

# %% tags=["core"] _kg_hide-input=true jupyter={"source_hidden": true}
# <embed dcal_core/models/dcal.py: DCAL.blank, DCAL.norm, DCAL.pretrained_depths>

# %% [markdown]
# ### What it offers
# Training calls the model and gets the embedding of each branch. Verification encodes every image once, then compares
# as many pairs as it likes: the score is the cosine of the SA and GLCA embeddings, each of unit length, side by side.

# %%
# <embed dcal_core/models/dcal.py: DCAL.forward, DCAL.encode, DCAL.compare, DCAL.compare_pairs, DCAL.vectors>

# %% [markdown]
# ### From an image to its embeddings
# The whole method in one function: tokens, all blocks, then SA read at the end; rollout selects patches, GLCA looks at
# them again; and PWCA is read like SA.

# %%
# <embed dcal_core/models/dcal.py: DCAL.branches, DCAL.embed>

# %% [markdown]
# SA and PWCA run through the blocks side by side. Until the first block that pairs images, both are the same and are
# computed once.

# %%
# <embed dcal_core/models/dcal.py: DCAL.run_blocks, DCAL.run_block>

# %% [markdown]
# Selection by rollout, and the second look:

# %%
# <embed dcal_core/models/dcal.py: DCAL.select, DCAL.global_local, DCAL.last_tokens>

# %% tags=["core"] _kg_hide-input=true jupyter={"source_hidden": true}
# <embed dcal_core/models/dcal.py: DCAL.place_parts, ARCHITECTURE, architecture_of, check_architecture, assemble,
#  rebuild>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.start import begin_training

session = begin_training("Train a twin verifier", given, PARAMS_DIR)

# %% [markdown]
# ## The twins
# People are grouped into *families*, the co-twins together. A share of the families is held out for validation, so no
# face, and no face of a co-twin, is both trained on and validated on.

# %%
from dcal_core.commands.train import open_training_data

data = open_training_data(session.config)
print(*(split.index.counted() for split in data.splits.values()), sep="\n")

# %% [markdown]
# Each row below is one family: some images of one sibling, then of the other. Look for what stays the same within a
# person and differs between the two; light, pose and expression do not help.

# %% tags=["picture"]
from dcal_core.data.family_sheet import draw_family_sheet

session.show(
    draw_family_sheet(data["train"].index, data["train"].images, data.label), "families"
)

# %% [markdown]
# ## Training
# What a step learns from depends on the `recipe` of the preset:
#
# - **dcal**: a batch holds some families, two siblings each, with several images of each person. Each branch must name
#   the person among all (margin softmax) and tell the person from the co-twin. The losses of the branches are weighted
#   by learned uncertainties $w$: $L = \tfrac{1}{2} \sum_i \left(e^{-w_i} L_i + w_i\right)$.
# - **adaface**: a batch holds triplets, two images of a person and one of the co-twin. One embedding must bring the first
#   two nearer to each other than to the third, by `twin_margin`, and name the person if `softmax_weight` is not 0.
#
# After every epoch the model verifies the held-out families. Their equal error rate (EER) chooses the best checkpoint.
# Should it stay at chance, 50 %, a line says so early on, with the most likely cures.
# When the time budget is used up, you press *stop* or the system asks the process to end, the run saves and stops; the
# next session continues from there. After a kill it continues from the last checkpoint: there is one at every epoch and every
# `save_minutes` within one.

# %%
from dcal_core.commands.train import train_run

run, progress = train_run(session.config, session.folder, data)

# %% [markdown]
# ## Curves
# The total is the loss that the progress bar shows. The twin losses should fall and level off. The identity losses tell
# all people apart, fall slowly and count by `softmax_weight`. A triplet with its co-twin farther away than the same
# person, by the margin, has no loss, so
# the active share falls and training slows down. The curves of a run that has stopped early are marked *unfinished*.

# %% tags=["picture"]
from dcal_core.commands.session import show_picture
from dcal_core.commands.train import leave_results

left = leave_results(session, run, data.label)
show_picture(left["loss_curves"])

# %% [markdown]
# If the EER of the held-out families rises again while the losses fall, the network learns its training families by
# heart. These families choose the epoch, so their EER flatters the model: `evaluate.ipynb` measures it on others.

# %% tags=["picture"]
show_picture(left["validation_curves"])

# %% [markdown]
# ## What has come out

# %%
from dcal_core.commands.session import scratch_size
from dcal_core.commands.train import tell_outcome

print(scratch_size())
if progress.skipped:
    print(f"{progress.skipped} steps had no finite loss or gradient and were skipped.")
if run.folder.best.is_dir():
    print(f"Model: {run.folder.best}", *left["exported"], sep="\n")
tell_outcome(run, progress, data.label)

# %% [markdown]
# ## Next
# `evaluate.ipynb` verifies unseen families with this model and writes the report; `attention.ipynb` shows where it
# looks. On Kaggle, attach this notebook's output to them (*Add Input > Notebook Output*).
