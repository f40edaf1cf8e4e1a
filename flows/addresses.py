"""The address at which a browser finds an output."""

import os
from urllib.parse import quote

from tasks.storage.location import Location


def address_of(output: Location, told: str | None) -> str | None:
    """Tell where a browser finds an output's folder; None: nobody has said.

    `cohortlens view` serves the outputs that lie in ``COHORTLENS_VIEW_ROOT``, by their names, below
    ``COHORTLENS_VIEW_URL``; an output that lies elsewhere may have the name of one of these, and gets no address.

    Parameters
    ----------
    told
        The address by the configuration, which goes before the environment.
    """
    if told:
        return told.rstrip("/")
    url, root = os.environ.get("COHORTLENS_VIEW_URL"), os.environ.get("COHORTLENS_VIEW_ROOT")
    folder, _, name = output.url.rstrip("/").rpartition("/")
    if not url or not root or folder != root.rstrip("/"):
        return None
    return f"{url.rstrip('/')}/{quote(name, safe='')}"
