"""From index files and photographs to batches."""
