"""``python -m cohortlens`` is the command line."""

from flows.cli import main

main(prog_name="cohortlens")
