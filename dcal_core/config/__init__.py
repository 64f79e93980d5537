"""Parameters: their types, ranges and meanings, and how they are read; nothing here imports torch."""
