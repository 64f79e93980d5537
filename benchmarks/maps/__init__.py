"""How far every map can be believed, with several seeds, on drawn families that no map was chosen on."""
