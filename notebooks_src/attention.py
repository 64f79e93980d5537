# %% [markdown]
# # Where does the verifier look?
#
# For pairs of images, three maps over the patches of each face:
#
# * **Attention rollout**: how much each patch has gone into the summary (CLS) token through all layers. GLCA uses it.
# * **GLCA selection**: the patches that global-local cross-attention therefore looks at again.
# * **Pair saliency**: how strongly each patch bears on *this pair's score* (gradient x input).
#
# Only the last one is about the difference between two faces. Rollout is shown as what it is: the selector of GLCA.
# No map proves that the model is right.

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

session = begin_with_trained("Where does the verifier look?", given, PARAMS_DIR)

# %% [markdown]
# ## Model and test families

# %%
from dcal_core.models.build import load_model

data = session.open_data(("test",))
index, images = data["test"].index, data["test"].images
model = load_model(session.trained)
grid = model.vit.patch_embed.grid_size[0]
print(
    f"{len(index.families)} test families; GLCA selects {model.selected} of {grid} x {grid} patches"
)

# %% [markdown]
# ## Pairs and their maps

# %%
import torch

from dcal_core.explain.figures import draw_pair
from dcal_core.explain.maps import pair_saliency, rollout_map, selection_map


def explain(pair):
    """The score of two images and their maps, each [2, g, g]."""
    faces = images.batch(pair)
    with torch.no_grad():
        features = model.encode(faces, trace=True)
        score = model.compare(features[:1], features[1:]).item()
    maps = {
        "rollout": rollout_map(features, grid),
        "GLCA selection": selection_map(features, grid),
    }
    maps["pair saliency"] = torch.cat(pair_saliency(model, faces[:1], faces[1:], grid))
    return (
        faces.permute(0, 2, 3, 1).numpy(),
        score,
        {name: m.numpy() for name, m in maps.items()},
    )


# %% [markdown]
# Yellow is most, dark blue nothing. On drawn twins the marks that tell each person from the co-twin are known: they are
# outlined in red on the drawings and in white on the maps. The verdict is that of the threshold in `report.json`, which
# `evaluate.ipynb` writes.

# %%
import json

from dcal_core.data.synthetic import marks_of

report = session.folder / "report.json"
threshold = (
    json.loads(report.read_text())["threshold"]["value"] if report.is_file() else None
)


def show_pair(pair, what, name, masks=None):
    """Draw a pair and its maps, titled with who, how alike, and the verdict."""
    faces, score, maps = explain(pair)
    people = " and ".join(dict.fromkeys(index.people[index.person_of[i]] for i in pair))
    title = f"{what}: {people}, score {score:.2f}"
    if threshold is not None:
        verdict = "one person" if score >= threshold else "two people"
        title += f", threshold {threshold:.2f}: {verdict}"
    session.show(draw_pair(faces, maps, f"{title} ({data.label})", masks), name)


# %% [markdown]
# ### Co-twins
# The model should find what differs. Look whether the saliency lies where the two faces really differ, and whether it
# lies on the same places in both.

# %%
for family in range(3):
    first, second = (
        index.images_of(index.people.index(person))[0]
        for person in index.families[family][:2]
    )
    masks = (
        marks_of(data.root, [index.paths[i] for i in (first, second)])
        if data.synthetic
        else None
    )
    show_pair([first, second], "co-twins", f"co-twins_{family}", masks)

# %% [markdown]
# ### One person, twice
# Nothing stable differs between these two images. Saliency shows what the model holds on to.

# %%
for family in range(2):
    first, second = index.images_of(index.people.index(index.families[-1 - family][0]))[:2]
    show_pair([first, second], "one person, two images", f"one_person_{family}")

# %% [markdown]
# ## What these maps can be trusted for
# They are derivatives and attention weights of one model, not causes. Rollout and selection say nothing about a pair:
# they are made from each image alone, and often fall on the same places in every face. Saliency is local: it says which
# patches would change the score if they changed a little. A face examiner should look at the places it points to, and
# then decide by looking.

# %%
print(f"Figures: {session.folder / 'figures'}")
