"""A trained model outside its run: one folder, and verdicts on photographs from it."""
