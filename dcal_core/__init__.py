"""Telling identical twins apart by face: data, models, training, verification and explanation."""

import pkgutil

__version__ = "0.2.0"


def __getattr__(name: str):
    if name == "Predictor":  # found when it is asked for: most users of the library need nothing of it
        return pkgutil.resolve_name(f"{__name__}.deploy.predictor:Predictor")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
