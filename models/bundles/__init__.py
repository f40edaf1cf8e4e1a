"""MONAI bundles, read as text: nothing that a bundle says is called or evaluated."""
