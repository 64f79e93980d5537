"""Checking and repairing a data set: what is wrong with it, duplicates, alignment, and the review of findings."""
