for _name in globals().pop("_given", ()):  # of an earlier Run All in this kernel
    globals().pop(_name, None)
_known = set(globals())  # what is not a parameter
