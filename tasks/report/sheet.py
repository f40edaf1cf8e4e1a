"""The first cases of the report as one picture, for pages that can show no more than a picture by its URL."""

from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw

from tasks.report.cases import Case

_CASES, _PANELS = 4, 6
_HEIGHT, _TITLE, _GAP = 160, 16, 6
_BACKGROUND, _INK = "white", "black"


def sheet(cases: Sequence[Case]) -> bytes:
    """Draw the first target of the first cases, one below the other, as PNG; no names, no ids."""
    rows = [case.rows[0].panels[:_PANELS] for case in cases[:_CASES]]
    widths = [max(round(_HEIGHT * panel.aspect) for panel in row) for row in rows]
    across = max((len(row) * (width + _GAP) for row, width in zip(rows, widths, strict=True)), default=_HEIGHT)
    page = Image.new("RGB", (across + _GAP, max(1, len(rows)) * (_HEIGHT + _TITLE + _GAP) + _GAP), _BACKGROUND)
    pen = ImageDraw.Draw(page)
    for number, (row, width) in enumerate(zip(rows, widths, strict=True)):
        top = _GAP + number * (_HEIGHT + _TITLE + _GAP)
        for place, panel in enumerate(row):
            left = _GAP + place * (width + _GAP)
            picture = Image.open(BytesIO(b64decode(panel.uri.partition(",")[2])))
            pen.text((left, top), panel.title[: width // 6], _INK)
            page.paste(picture.resize((round(_HEIGHT * panel.aspect), _HEIGHT)), (left, top + _TITLE))
    sink = BytesIO()
    page.save(sink, "png", optimize=True)
    return sink.getvalue()
