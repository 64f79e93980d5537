# ---
# jupyter:
#   kaggle: {accelerator: none, isGpuEnabled: false}
# ---

# %% [markdown]
# # Put the verifier to use
#
# ![Two drawn co-twins, the answer to whether they are one person, and what tells them apart](pictures/deploy.jpg)
#
# A trained and evaluated run becomes one folder that works on any machine, without the run and without its data. This
# notebook makes it, asks it about two photographs and about a list of pairs, writes it in smaller and faster forms, and
# measures them. It takes the model that `train.ipynb` saved and `evaluate.ipynb` gave a meaning to; attach the output of
# the latter on Kaggle. No GPU is needed.

# %% [markdown]
# ## Parameters
# Which run to take. All other parameters are those of its training.

# %% tags=["parameters"]
preset = "auto"  # the preset that was trained; auto: what train.ipynb chooses here
data_root = ""  # folder of the data (index files, or a folder a person); empty: search the attached inputs
run_dir = ""  # folder of the run; empty: named after the preset, else the attached one

# %%
# <embed dcal_core>

# %% [markdown]
# ## Where this runs

# %%
from dcal_core.commands.deploy import TITLE
from dcal_core.commands.session import begin_with_trained

session = begin_with_trained(TITLE, given, PARAMS_DIR)

# %% [markdown]
# ## One folder
# `config.json` holds what is known of the model: how a face is read, thresholds, calibration, where it comes from, how
# well it did, and the range of blur, light, size and turn in which it was validated. The names are those of the Hugging
# Face Hub, `README.md` is the model card; to publish it is up to you. `model.onnx` is the same model for machines without
# PyTorch, compared with it on validation faces; a line says so where `onnx` and `onnxruntime` are not installed
# (`requirements-export.txt`). The same as `twins pack`.

# %%
from dcal_core.commands.deploy import pack_run

folder = pack_run(session)
print(*sorted(file.name for file in folder.iterdir()), sep="\n")

# %% [markdown]
# ## Two photographs
# Write two files of yours into `photographs`, or leave it empty for images of the test families. Where the packages that
# find faces are installed (`requirements-faces.txt`), raw photographs are aligned; else pictures are taken as aligned
# faces. The answer says whether both lie inside the validated range, and what was not checked.

# %% tags=["picture"]
from dcal_core.commands.deploy import pairs_to_show, show_answer
from dcal_core.deploy.predictor import Predictor

photographs = []

predictor = Predictor.load(folder)
data = session.open_data(("test",))
asked = {"not known": photographs} if photographs else pairs_to_show(data)
for kind, files in asked.items():
    print(f"\nIn truth {kind}:")
    show_answer(session, predictor, files, f"answer_{kind.replace(' ', '_')}")
print("Not checked:", *predictor.unchecked, sep="\n- ")

# %% [markdown]
# ## A list of pairs
# A CSV file, two images a line, becomes another one with score, verdict, likelihood ratios and range. Each image is
# encoded once. The same as `twins verify --pairs`, which goes on where it was interrupted.

# %%
from IPython.display import display

from dcal_core.commands.deploy import results_table, verify_list, write_pairs

results = verify_list(predictor, write_pairs(session, data))
display(results_table(results))
print(results)

# %% [markdown]
# ## Other runtimes
# ONNX in 8 bits, too, compared with the model on validation faces; what 8 bits cost is measured as a difference in EER on
# the same pairs, with its interval over families. The same as `twins export`.

# %%
from dcal_core.commands.deploy import export_forms

forms = export_forms(session, folder)

# %% [markdown]
# ## How fast they are
# On this machine, with the threads that it has. 8 bits are faster than 32 only on CPUs with instructions for them.

# %%
from dcal_core.commands.deploy import times_table

display(times_table(forms))

# %% [markdown]
# ## Elsewhere
# Download the folder. `twins verify a.jpg b.jpg --model FOLDER` answers in a shell, `twins serve FOLDER` on a page in a
# browser, `Predictor.load(folder)` in Python; a file in ONNX can stand in the place of the folder.

# %%
print(f"Packed: {folder}")
