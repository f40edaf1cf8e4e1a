"""Before a run: what can be checked is checked, and the plan is drawn up."""
