# The parameters: what the cell above defines, and what papermill adds to it.
if "_given" in globals():  # by now there are other names too
    raise RuntimeError("parameters are read once: to change them, choose Run All.")
_given = {name: value for name, value in globals().items() if name not in _known and not name.startswith("_")}
given = {name: value for name, value in _given.items() if value is not None}  # None leaves it to the preset
