"""What ships with the packages, wherever they are installed: the demo's configurations, and weights trained for it."""

from importlib.resources import files
from pathlib import Path

CONFIGURATIONS = Path(str(files("tasks.demo")))
WEIGHTS = Path(str(files("models"))) / "networks/weights"
