"""The log: sent to Prefect from wherever a run works; as JSON lines where ``COHORTLENS_LOGS=json`` asks for it.

A record says which run it is of; records of `tasks` say which shard and image, by pseudonym.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "COHORTLENS_LOGS"
LOGGERS = ("cohortlens", "tasks", "models")

_NOISY = ("httpx", "httpcore", "distributed", "botocore", "aiobotocore", "matplotlib", "fontTools", "alembic")


def set_up() -> None:
    """Log to the standard error, for people or for machines."""
    if _wants_json():
        logging.basicConfig(level=logging.INFO, handlers=[_json_handler()], force=True)
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: int) -> None:
    """Log more or less than usual to the standard error; what Prefect is told stays the same.

    Parameters
    ----------
    level
        ``logging.DEBUG``, which includes what the libraries say, or ``logging.WARNING``.
    """
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(level, logging.INFO))
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = logging.getLevelName(level)
    os.environ["DASK_LOGGING__DISTRIBUTED"] = logging.getLevelName(max(level, logging.INFO)).lower()


def forget() -> None:
    """Undo what was set up here, in a process that was forked from the one that it was set up in."""
    from prefect.logging.configuration import setup_logging

    logging.basicConfig(level=logging.WARNING, handlers=[], force=True)
    for logger in map(logging.getLogger, LOGGERS):
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
    setup_logging(incremental=False)  # it leaves out what it finds: where people read the log


def set_up_prefect() -> None:
    """Let Prefect's own loggers write JSON lines, too, if these are asked for."""
    from prefect.logging.configuration import ensure_logging_setup
    from prefect.logging.handlers import PrefectConsoleHandler

    ensure_logging_setup()
    logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)  # it is added once
    logging.getLogger("prefect.task_runs").addFilter(_without_traceback)
    if not _wants_json():
        return
    handler = _json_handler()
    for logger in [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]:
        for console in [one for one in logger.handlers if isinstance(one, PrefectConsoleHandler)]:
            logger.removeHandler(console)
            logger.addHandler(handler)


@contextmanager
def told_to_prefect() -> Iterator[None]:
    """Send what is logged in the body to Prefect: also in a process whose environment knows nothing of that."""
    from prefect.logging.handlers import APILogHandler

    set_up_prefect()
    for logger in map(logging.getLogger, LOGGERS):
        for handler in logging.getLogger("prefect.extra").handlers:
            logger.addHandler(handler)  # Prefect does so for the loggers that its settings name; it is added once
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        APILogHandler().flush()


def _wants_json() -> bool:
    return os.environ.get(VARIABLE) == "json"


def _json_handler() -> logging.Handler:
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(sys.stderr)
    names = {"levelname": "level", "name": "logger"}
    handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp=True))
    handler.addFilter(_with_run)
    return handler


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leave out where in the code an error was found if a user can mend it."""
    from flows.errors import Stopped
    from models.errors import ConfigurationError
    from tasks.work.failures import TooManyFailures

    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (ConfigurationError, Stopped, TooManyFailures)):
        record.exc_info, record.exc_text = None, None
    return True


def _with_run(record: logging.LogRecord) -> bool:
    """Enter the run, if there is one; not before Prefect is imported, which takes seconds."""
    if "prefect.runtime" in sys.modules and (run := sys.modules["prefect.runtime"].flow_run.get_id()):
        record.run = run
    return True
