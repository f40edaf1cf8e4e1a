"""The sending of exported cases to a PACS."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

from models.errors import ConfigurationError
from tasks.export import FORMATS
from tasks.export.dicom import Dicom
from tasks.export.export import Chosen, Exported
from tasks.export.folders import files_of, place_of
from tasks.export.pacs import Pacs
from tasks.plan import manifest
from tasks.storage.location import Location


class Sent(NamedTuple):
    """The number of objects that the PACS has taken, and why it has not taken others, by image and file."""

    taken: int
    refused: dict[tuple[str, str], str]


def check_sending(address: str, formats: Sequence[str]) -> Pacs:
    """Check that there will be something to send, and somewhere to send it.

    Raises
    ------
    ConfigurationError
        If no format is of DICOM, the address is none, what sends is not installed, or who asks has no
        title or certificate.
    """
    if not _of_dicom(formats):
        names = ", ".join(name for name, format in FORMATS.items() if isinstance(format, Dicom))
        raise ConfigurationError(f"--send: a PACS takes DICOM alone: name a --format among {names}")
    pacs = Pacs.of(address)
    package = "dicomweb_client" if pacs.url else "pynetdicom"
    if not find_spec(package):
        raise ConfigurationError(f"--send: {package} is not installed: install the extra `dicom`")
    pacs.check_asker()
    return pacs


def send(output: Location, to: Location, formats: Sequence[str], chosen: Chosen, done: Exported, pacs: Pacs) -> Sent:
    """Send the DICOM objects of cases that were exported, or were there already; a PACS keeps each of them once.

    Raises
    ------
    Unreachable
        If the PACS does not answer, or refuses who asks; objects that it has taken until then are kept there.
    """
    entries = manifest.read(output, sources=False)
    ids = [entries[row].id for row in chosen.rows if entries[row].id not in done.failed]
    taken, refused = 0, {}
    with pacs.connected() as store:
        for id in ids:
            for place in (place_of(to, format, id) for format in _of_dicom(formats)):
                for name in files_of(place):
                    reason = store((place / name).read())
                    if reason is None:
                        taken += 1
                    else:
                        refused[id, name] = reason
    return Sent(taken, refused)


def _of_dicom(formats: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(formats) if isinstance(FORMATS.get(name), Dicom)]
