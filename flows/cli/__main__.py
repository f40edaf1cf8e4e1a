"""``python -m flows.cli`` is the command line."""

from flows.cli import main

main()
