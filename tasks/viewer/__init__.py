"""The page that shows an output in a browser: the page itself, its tables, and the server of both."""

from tasks.storage.location import Location
from tasks.store.scales import Reaches
from tasks.viewer.page import write_page
from tasks.viewer.scales import remove_scales, write_scales
from tasks.viewer.worklist import remove_worklist, write_worklist


def write_viewer(output: Location, reaches: Reaches) -> None:
    """Write all that the viewer of a finished output needs beside the store, given how far its maps reach."""
    write_worklist(output)
    write_scales(output, reaches)
    write_page(output)


def remove_tables(output: Location) -> None:
    """Remove what the viewer was told of the images of an output."""
    remove_worklist(output)
    remove_scales(output)
