"""cohortlens: explain every image of a medical imaging cohort, and say how far the maps can be trusted.

The public names, for scripts and notebooks; nothing here needs Prefect or a cluster:

>>> import cohortlens
>>> config = cohortlens.load("mine.yaml")        # doctest: +SKIP
>>> cohortlens.plan(config).cost.bytes_stored    # doctest: +SKIP
>>> cohortlens.run(config).explained             # doctest: +SKIP
>>> dataset = cohortlens.open_output("out/mine") # doctest: +SKIP
"""

from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from flows.config import RunConfig
    from tasks.prepare.prepare import Prepared
    from tasks.work.finish import Summary

__all__ = ["__version__", "load", "open_output", "plan", "run"]

__version__ = version("cohortlens")


def load(source: "str | PathLike[str] | Mapping[str, Any]") -> "RunConfig":
    """Read and check a configuration: a YAML file, or its content.

    Raises
    ------
    ConfigurationError
        With one line for each wrong field: where it is, what was found and what is allowed.
    """
    from flows.config import check
    from flows.config import load as load_file

    return check(source) if isinstance(source, Mapping) else load_file(Path(source))


def plan(config: "RunConfig", *, extend: bool = False, overwrite: bool = False) -> "Prepared":
    """Say what a configuration would run and what that would cost; nothing is written.

    Parameters
    ----------
    extend
        Whether explainers may be added to those that the output holds.
    overwrite
        Whether a run that the output holds would be deleted first.

    Raises
    ------
    ConfigurationError
        If the run could not be carried out: which field, what was found, what to do.
    """
    from tasks.prepare.place import HERE
    from tasks.prepare.prepare import Before, prepare

    return prepare(config.recipe, HERE, Before.read(config.output, overwrite), extend=extend)


def run(config: "RunConfig", *, extend: bool = False, overwrite: bool = False) -> "Summary":
    """Explain a cohort in this process, without Prefect and Dask; `compute` of the configuration is not used.

    Of an output that is there, only what is new, changed or missing is done. The bytes are those of `cohortlens run`.

    Parameters
    ----------
    extend
        Whether explainers may be added to those that the output holds.
    overwrite
        Whether a run that the output holds is deleted first.

    Raises
    ------
    ConfigurationError
        If the run cannot be carried out, or another run is at work on the output.
    TooManyFailures
        If more images than `cohort.allowed_failures` cannot be explained.
    """
    from tasks.run import run as run_recipe

    return run_recipe(config.recipe, config.output, extend=extend, overwrite=overwrite)


def open_output(url: "str | PathLike[str]", endpoint_url: str | None = None) -> "xr.Dataset":
    """Open the store of an output for reading; arrays are read when they are asked for.

    Parameters
    ----------
    url
        The output's folder or ``s3://`` prefix.
    endpoint_url
        The S3 server, if it is not Amazon's.

    Raises
    ------
    FileNotFoundError
        If there is no store at `url`.
    """
    from tasks.storage.location import Location
    from tasks.store.template import open_store

    return open_store(Location(url=str(url), endpoint_url=endpoint_url))
