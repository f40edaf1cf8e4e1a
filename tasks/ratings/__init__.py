"""Ratings: what readers think of predictions and maps, kept beside the store and folded into the evidence."""
