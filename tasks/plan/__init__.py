"""The promise of a run: recipe, plan and manifest."""
