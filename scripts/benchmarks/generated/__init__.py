"""Generated data, sound and damaged, whose images are all accounted for."""
