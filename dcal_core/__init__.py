"""Telling identical twins apart by face: data, models, training, verification and explanation."""

__version__ = "0.2.0"
