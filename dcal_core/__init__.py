"""Telling identical twins apart by face: data, models, training, verification and explanation."""
