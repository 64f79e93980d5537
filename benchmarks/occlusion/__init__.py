"""Whether matching places helps behind occluders, on drawn twins that nothing was tuned on."""
