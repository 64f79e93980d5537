"""Models: `encode(images) -> Features`, `compare(a, b) -> scores`."""
