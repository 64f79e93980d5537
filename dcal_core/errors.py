"""Errors that the user can correct, and how their messages quote a value."""

import reprlib

QUOTED = reprlib.Repr()
QUOTED.maxlevel = 2
QUOTED.maxstring = 100
QUOTED.maxother = 100


class UserError(ValueError):
    """Something that the user can correct: its message says what is wrong, where, and what to do."""

    def _render_traceback_(self):  # IPython calls it: below a notebook cell the sentence stands alone
        return [f"{type(self).__name__}: {self}"]


class ConfigError(UserError):
    """A parameter that is unknown, of the wrong type or out of range."""


def quoted(value):
    """A value as a message can quote it, however long, deep or often shared its parts are."""
    try:
        return QUOTED.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"
