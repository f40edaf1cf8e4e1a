"""Errors that end a run early; those that a user can mend are in `models.errors`."""


class Stopped(Exception):
    """A run that ended early: why, and what to do. All that it delivered stays, and the next run goes on."""


class CalledOff(Stopped):
    """A run that was cancelled in Prefect's UI."""


class Damaged(Exception):
    """An output whose stored bytes are not what was promised."""
