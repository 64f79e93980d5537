# The parameters: what the cell above defines, and what papermill adds to it.
given = {name: value for name, value in globals().items() if name not in _known and not name.startswith("_")}
