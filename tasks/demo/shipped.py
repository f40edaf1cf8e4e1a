"""Files that ship with the packages, wherever these are installed: the demo's configurations, and its weights."""

from importlib.resources import files
from pathlib import Path

CONFIGURATIONS = Path(str(files("tasks.demo")))
WEIGHTS = Path(str(files("models"))) / "networks/weights"
