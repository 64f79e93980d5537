_known = set(globals())  # what is not a parameter
