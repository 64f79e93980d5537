"""Which part of the method helps, and by how much: training with parts left out or exchanged, on drawn twins."""
