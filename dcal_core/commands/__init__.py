"""One file per command, which is one file per notebook."""
