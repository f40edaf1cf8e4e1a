"""The files of infra/, and what is said in them."""

import re
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

CHECKOUT = Path(__file__).resolve().parents[2]
INFRA = CHECKOUT / "infra"
SETTINGS = {name: value or "" for name, value in dotenv_values(INFRA / "settings.env").items()}
IMAGE = (INFRA / "Dockerfile").read_text()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def image_environment() -> dict[str, str]:
    """Collect what the image's ENV instructions set."""
    instructions = re.findall(r"^ENV ((?:.*\\\n)*.*)$", IMAGE, re.MULTILINE)
    return dict(pair.split("=", 1) for text in instructions for pair in text.replace("\\\n", " ").split())
