"""The media types of files that a browser is to show, or to run, by the ends of their names."""

import os

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
}


def media_type(name: str) -> str:
    """Look up the media type of a file; of one that no browser shows it is that of any bytes."""
    return _TYPES.get(os.path.splitext(name)[1], "application/octet-stream")
