"""What a run promises: the plan and the manifest."""
