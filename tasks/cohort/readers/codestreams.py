"""Read what compressed frames say of their own size, which need not be what the file around them says."""

from tasks.cohort.reading import Unreadable

_SCAN, _APP0 = 0xDA, 0xE0
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG and JPEG-LS; the three that are left out are tables."""


def check_codestream(frame: bytes, rows: int, columns: int) -> None:
    """Check, before it is decoded, that a JPEG, JPEG-LS or JPEG 2000 frame has the size that is allocated for it.

    Parameters
    ----------
    rows, columns
        The size that the file around the frame declares.

    Raises
    ------
    Unreadable
        If it has another, or does not say.
    """
    found = _jpeg(frame) if frame.startswith(b"\xff\xd8") else _jpeg2000(frame)
    if found is None:
        raise Unreadable(
            "a compressed frame does not say how large it is, or has a damaged header: copy the file again"
        )
    if found != (rows, columns):
        raise Unreadable(f"a compressed frame is {found[0]} x {found[1]}, but the file declares {rows} x {columns}")


def _jpeg(frame: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the scan. GDCM ends the process on gaps and odd JFIF, of which libjpeg only warns."""
    found: tuple[int, int] | None = None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4])
        if marker == _SCAN:
            return found
        if marker in _FRAME_HEADERS:
            found = int.from_bytes(frame[at + 5 : at + 7]), int.from_bytes(frame[at + 7 : at + 9])
        if marker == _APP0 and frame[at + 4 : at + 9] == b"JFIF\0" and frame[at + 9] != 1:
            return None
        if marker == 0xFF:  # fill
            at += 1
        else:
            at += 2 if marker in _WITHOUT_LENGTH else 2 + length
    return None


def _jpeg2000(frame: bytes) -> tuple[int, int] | None:
    at = frame.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(frame) < at + 24:
        return None
    right, bottom, left, top = (int.from_bytes(frame[at + 8 + 4 * n : at + 12 + 4 * n]) for n in range(4))
    return bottom - top, right - left
