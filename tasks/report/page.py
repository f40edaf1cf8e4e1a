"""The page as HTML: its templates, and how they write text, numbers and links."""

import math
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from models.phrases import counted, percent
from tasks.plain import plain_lines
from tasks.report.numbers import UNKNOWN, interval, number, with_interval


def render(**parts: Any) -> str:
    """Fill the page with its parts; all text is escaped, and no character of it is obeyed."""
    environment = Environment(
        loader=PackageLoader("tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain_lines(value) if type(value) is str else value,
    )
    environment.filters |= {"number": number, "percent": _percent, "anchor": _anchor, "in_url": _in_url}
    environment.globals |= {"counted": counted, "interval": interval, "with_interval": with_interval}
    return environment.get_template("page.html.j2").render(parts)


def _percent(share: float) -> str:
    return UNKNOWN if math.isnan(share) else percent(share)


def _anchor(text: str) -> str:
    """Name a place of the page after a text that may hold anything."""
    return f"at-{sha256(text.encode()).hexdigest()[:12]}"


def _in_url(text: str) -> str:
    return quote(text, safe="")
