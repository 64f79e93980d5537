"""The colours of all figures, which colour-blind readers can tell apart (Okabe and Ito, 2008)."""

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
