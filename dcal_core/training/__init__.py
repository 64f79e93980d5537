"""Objectives, the training loop, checkpoints."""
