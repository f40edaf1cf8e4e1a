"""What workers do to a shard, and the end of a run."""
