# ---
# jupyter:
#   kaggle: {accelerator: nvidiaTeslaT4, isGpuEnabled: true}
# ---

# %% [markdown]
# # Where does the verifier look?
#
# ![Two drawn co-twins, and the patches that tell them apart for the model](pictures/attention.jpg)
#
# Attention maps are often decoration. Here they answer a question, *what tells these two faces apart?*, and each map is
# measured: on drawn twins the true differences are known. This notebook takes the model that `train.ipynb` saved and
# goes from one face to all test families, which the model has never seen:
#
# 1. **One image**: what each layer attends to.
# 2. **A pair**: what tells these two faces apart, by the model's own score.
# 3. **A family**: whether the same places are found in every image of two siblings.
# 4. **All test families**: pairs of co-twins against pairs of one person.
# 5. **Browse** any pair by hand.
# 6. **What to believe**: what each map can and cannot be trusted for.
#
# A GPU is worth its hours here for a ViT-B: measuring the maps runs the model thousands of times.

# %% [markdown]
# ## Parameters
# Which run to explain. All other parameters are those of its training.

# %% tags=["parameters"]
preset = "auto"  # the preset that was trained; auto: what train.ipynb chooses here
data_root = ""  # folder of the data (index files, or a folder a person); empty: search the attached inputs
run_dir = ""  # folder of the trained run; empty: found by preset, or attached
pairs_per_family = 1  # of each kind, to measure the maps on; more: surer and slower

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.maps import TITLE
from dcal_core.commands.session import begin_with_trained

session = begin_with_trained(TITLE, given, PARAMS_DIR)

# %% [markdown]
# ## Model and test families
# Every image is encoded once, and every pair within a family scored once. What a score means is read from
# `decision.json`, which `evaluate.ipynb` saves beside the model.

# %%
from dcal_core.commands.maps import open_explorer

explorer = open_explorer(session)
index, label = explorer.index, explorer.label
pair = explorer.confusing(0)
view = explorer.view(*pair)
print(f"{index.counted()}; {len(explorer.scored.pairs):,} pairs to look at")
print(f"{len(view.kinds)} kinds of maps of {view.pairs.grid} x {view.pairs.grid} patches")

# %% [markdown]
# ## One image
# **Attention rollout** follows all that has reached the summary token (CLS) up to a layer; **CLS attention** is what CLS
# attends to in one layer alone. Both come from this image by itself: they know nothing of the image it is compared
# with. Colour shows the share of each patch; the face stays visible if there is little.

# %%
from dcal_core.explain.pair_figures import draw_layers

if view.depth[0]:
    title = f"Attention in {view.names[0]} ({label})"
    session.show(draw_layers(view, 0, title), "layers")
else:
    print("This model has no attention; its maps come from the score alone.")

# %% [markdown]
# ## A pair
# The two co-twins with the highest score: the model's worst mistake. **What tells them apart** asks the score itself:
# which patches make this face like itself and unlike the other one? *Thorough* finds the same by covering one patch
# after another. **For and against one person** has a sign: covering an orange patch makes the two faces more alike.

# %% tags=["picture"]
from dcal_core.explain.pair_figures import draw_matches, draw_view

about_pair = ["distinctive", "occlusion", "contribution"]
heading = f"{label}\n{explorer.judged(*pair)}"
session.show(draw_view(view, about_pair, heading), "co-twins")

# %% [markdown]
# The attention that the method itself uses: rollout and, in DCAL, the patches that global-local cross-attention selects
# by it, and what these attend to.

# %%
attention = ["rollout", "cls_attention", "selection", "glca_attention"]
attention = [kind for kind in attention if kind in view.kinds]
if attention:
    session.show(draw_view(view, attention, heading), "co-twins_attention")

# %% [markdown]
# The exact terms of the score, if it is a sum over patches, and how well each patch is matched by one near the same
# place in the other face. A model that matches places itself, as OAML does, shows what each of its matches adds to the
# local score, what it takes to be visible, and which place answers which.

# %%
parts = [kind for kind in ("place", "match", "local", "visible") if kind in view.kinds]
if parts:
    session.show(draw_view(view, parts, heading), "co-twins_parts")
if "local" in view.kinds:
    session.show(draw_matches(view, heading), "co-twins_matches")

# %% [markdown]
# The same in numbers: how much of the map lies on each part of the face, beside the share of an even spread. The parts
# are those of an aligned face; left and right are those of the image.

# %%
from dcal_core.explain.regions import draw_regions
from dcal_core.commands.maps import regions_of

regions = regions_of(explorer.data.as_drawn, explorer.model.image_size)
session.show(draw_regions(view, "distinctive", regions, heading), "co-twins_regions")

# %%
from IPython.display import display

from dcal_core.explain.regions import statistics_table, view_statistics
from dcal_core.markdown import Markdown

found = view_statistics(view, regions)
shown = {kind: found[kind] for kind in about_pair}  # all of them are in the file below
display(Markdown(statistics_table(shown, view.names)))

# %% [markdown]
# ### One person, twice
# The two images of one person with the lowest score. The person is the same, so what is coloured is pose, light or
# expression that the model takes for a difference.

# %%
alone = explorer.confusing(1)
heading_alone = f"{label}\n{explorer.judged(*alone)}"
session.show(draw_view(explorer.view(*alone), about_pair, heading_alone), "one_person")

# %% [markdown]
# ## A family
# What belongs to a face should be found in each of its images. Four images of one sibling against four of the other:
# do the same places light up all down the sheet?

# %%
from dcal_core.explain.pair_figures import draw_contact_sheet

family = next(one for one in index.families if len(one) > 1)
siblings = [index.images_of(index.people.index(person)) for person in family[:2]]
met = list(zip(*siblings, strict=False))[:4]
views = [explorer.view(*images) for images in met]
titles = [f"Score {one.score:.2f}" for one in views]
session.show(draw_contact_sheet(views, "distinctive", titles, label, columns=1), "family")

# %% [markdown]
# ## All test families
# Pairs of co-twins against pairs of one person, equally many from each family. A map of the difference between two faces
# should change with what is compared. Bars are 95 % intervals over families.

# %% tags=["picture"]
from dcal_core.commands.maps import compare_kinds, sampled, write_result
from dcal_core.explain.comparison import draw_comparison, mean_face

pairs = sampled(explorer, session.config)
comparison = compare_kinds(
    explorer.model, explorer.images, pairs, explorer.data.as_drawn, index.co_twins
)
print(write_result(session.folder.explained, "comparison", {"data": label} | comparison))
face = mean_face(explorer.images)
session.show(draw_comparison(comparison, "distinctive", face, label), "comparison")

# %% [markdown]
# Rollout for comparison: does it change at all?

# %%
if "rollout" in comparison["maps"]:
    drawn = draw_comparison(comparison, "rollout", face, label)
    session.show(drawn, "comparison_rollout")

# %%
from dcal_core.explain.comparison import comparison_table

display(Markdown(comparison_table(comparison, "distinctive")))

# %% [markdown]
# ## Browse
# Choose a family, two images and a map; press a patch to see where the other face matches it; *Previous* and *Next
# confusing pair* go through the mistakes, the worst first. Two photographs of your own: upload them, or type their paths.
# In a notebook that was run and saved, a still picture of the most confusing pairs stands in the browser's place.

# %%
turns = [explorer.confusing(turn) for turn in range(min(6, len(explorer.order)))]
titles = [explorer.judged(*images) for images in turns]
shown = [explorer.view(*images) for images in turns]
sheet = draw_contact_sheet(shown, "distinctive", titles, label)
stand_in = session.keep(sheet, "browse")

# %%
from dcal_core.explain.browser import Browser

Browser(explorer, session.folder.explained).show(stand_in)

# %% [markdown]
# ## What to believe
# Every map is measured on co-twins of the test families:
#
# * **Pointing**, if the true marks are known: is the hottest patch on one? Compared with guesses that know nothing about
#   this face, among them the *usual places of marks*.
# * **Energy**: how much more of the map lies on the marks than their area would give.
# * **Deletion and insertion**: does the score change faster if patches are covered, or shown, hottest first? Deletion
#   beats a random order easily, as the middle of the image does too; insertion says more.
# * **Shuffled weights**: a map that stays the same when the model's weights are shuffled shows nothing of what the model
#   has learned. Such maps are drawn hollow.

# %%
from dcal_core.commands.maps import trust_of

trust = trust_of(session, explorer)
print(write_result(session.folder.explained, "faithfulness", trust))

# %% tags=["picture"]
from dcal_core.explain.trust import draw_faithfulness
from dcal_core.commands.maps import trust_title

session.show(draw_faithfulness(trust["maps"], trust_title(trust)), "faithfulness")

# %%
from dcal_core.explain.trust import faithfulness_table

display(Markdown(faithfulness_table(trust["maps"])))

# %% [markdown]
# ### What these maps can be trusted for
# "Not shown" is no verdict against a map: with fewer families intervals are wider. On 120 pairs of drawn
# co-twins, both maps of *what tells them apart* say where the faces differ with all of five models, and what decides the
# score with four.

# %%
from dcal_core.explain.trust import caveats, conclusions_table, counted

print(f"{counted(trust)}, {label}")
display(Markdown(conclusions_table(trust["maps"])))
display(Markdown("\n".join(f"- {sentence}" for sentence in caveats(trust["maps"]))))

# %% [markdown]
# ## How small a difference is seen
# Maps say where, not how closely. Here round marks of known size and contrast are planted into images of one person: from
# which size on does the score fall below those of 95 % of such pairs without a mark, of other families? The figure has
# the marks, the fall of the score, the share that is seen, and where on the face.

# %%
from dcal_core.commands.maps import faces_of_test, sensitivity_figure, sensitivity_of

faces = faces_of_test(explorer.data)
smallest = sensitivity_of(session, explorer.model, faces)
print(write_result(session.folder.path, "sensitivity", smallest))
session.show(sensitivity_figure(smallest, faces), "sensitivity")
display(Markdown("\n".join(f"- {sentence}" for sentence in smallest["sentences"])))

# %% [markdown]
# ## The pair as a page
# The two co-twins from above: one page (`.html`) with their verdict, their maps and what each can be trusted for, the
# maps as pictures, and the numbers as JSON.

# %%
from dcal_core.commands.maps import write_view

print(*write_view(session, view, label, explorer.judged(*pair)), sep="\n")
print(f"Figures: {session.folder.figures}\nFiles: {session.folder.explained}")
