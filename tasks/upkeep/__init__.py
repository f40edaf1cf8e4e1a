"""What keeps an output right: it is verified, mended, and subjects are withdrawn."""
