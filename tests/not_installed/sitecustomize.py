"""Python runs this at its start where PYTHONPATH names this folder: it hides a checkout that `pip install -e` has
installed, so that notebooks and processes are seen to find the library by themselves."""

import sys

sys.meta_path[:] = [
    finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable___dcal_core")
]
