"""Backward rules and ways to compute that replace those of torch while an explainer asks the network."""
