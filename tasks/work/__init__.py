"""The work on shards, artefacts and results, and the end of a run."""
