"""Measurements of the project itself, outside the library: speed and memory, and the ablation."""
