"""Telling identical twins apart by face: data, models, training, verification and explanation."""

__version__ = "0.2.0"


def __getattr__(name: str):
    if name == "Predictor":  # when it is asked for, since it needs packages that others here do not
        from dcal_core.deploy.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
