"""A look at a few images before the whole run, in this process and into a folder of its own."""

import shutil
import tempfile

from flows.config import RunConfig
from flows.progress import bar
from tasks.cohort.selection import Selection
from tasks.run import run
from tasks.storage.location import Location
from tasks.work.finish import Summary


def explain_first(config: RunConfig, only: Selection) -> tuple[RunConfig, Summary]:
    """Explain some images as a run would, without its output: a folder that only this user can open takes its place.

    Neither workers nor Prefect are started. The folder is deleted again if the run fails.

    Parameters
    ----------
    only
        The images; its `first` says how many.

    Returns
    -------
    tuple
        The configuration with the folder for an output, and what became of the images.

    Raises
    ------
    ConfigurationError, TooManyFailures
        As a run does.
    """
    folder = tempfile.mkdtemp(prefix="cohortlens-first-")
    try:
        looked = config.model_copy(update={"output": Location(url=folder)})
        with bar("files read", "files") as progress:
            return looked, run(looked.recipe, looked.output, only=only, progress=progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
