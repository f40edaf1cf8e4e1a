"""How a run ends that does not come to its end; `models.errors` has what a user can mend."""


class Stopped(Exception):
    """A run that ended before its end: why, and what to do. What it delivered stays, and the next run goes on."""


class CalledOff(Stopped):
    """A run that was cancelled in Prefect's UI."""


class Damaged(Exception):
    """An output whose stored bytes are not what was promised."""
