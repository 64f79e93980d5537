"""Everything that is claimed of a GPU, measured in one command of a few minutes; part by part, so that none is lost."""
