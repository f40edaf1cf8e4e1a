"""What comes out: the arrays of the store, and the commits that speak of them."""
