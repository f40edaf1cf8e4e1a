"""The upkeep of an output: it is verified and mended, and subjects are withdrawn."""
