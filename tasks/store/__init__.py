"""The store: its arrays, and the records that speak of them."""
