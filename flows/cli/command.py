"""The behaviour that all commands share: how they end, how much they say, and what becomes of a closed pipe."""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import click

from flows import logs
from tasks.plain import plain_lines

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the number of the signal."""


class Command(click.Command):
    """A command that can be told to say more, or less."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += [
            _flag("-v", "--verbose", _say_more, "Log what the libraries say, and the traceback of any error."),
            _flag("-q", "--quiet", _say_less, "Log warnings and errors alone, and show no progress."),
        ]


command = functools.partial(click.command, cls=Command)
"""Makes a `Command` of a function."""


class Commands(click.Group):
    """Commands whose errors are told apart: what a user can mend, a run that ended early, a fault of the program."""

    def invoke(self, context: click.Context) -> Any:
        from models.errors import ConfigurationError

        _open_closed_streams()
        sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
        logs.set_up()
        try:
            return super().invoke(context)
        except (ConfigurationError, FileNotFoundError) as error:
            _trace()
            raise click.UsageError(plain_lines(str(error))) from error
        except click.ClickException as error:
            error.message = plain_lines(error.message)  # type: ignore[misc]  # final, but that is how click shows it
            raise
        except click.exceptions.Exit:
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted. What is delivered stays: run again to go on", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if not _ended_early(error):
                _show_traceback()
                click.echo("This is a fault of cohortlens itself: please report it, with the lines above.", err=True)
                sys.exit(4)
            _trace()
            click.echo(f"Error: {plain_lines(str(error))}", err=True)
            sys.exit(3)


def _open_closed_streams() -> None:
    """Open the standard streams that whoever started this process has closed: the next file would get their number.

    Processes below this one would take it for the stream, and keep it open.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode))


class _Lasting:
    """A standard stream that goes on in silence when its reader has gone, as in `cohortlens status … | head -1`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._while_read(lambda stream: stream.write(text))

    def flush(self) -> None:
        self._while_read(lambda stream: stream.flush())

    def _while_read(self, do: Callable[[TextIO], Any]) -> Any:
        try:
            return do(self._stream)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return do(self._stream)


def _flag(short: str, long: str, obey: Callable[[], None], help: str) -> click.Option:
    def callback(context: click.Context, parameter: click.Parameter, is_set: bool) -> None:
        if is_set:
            obey()

    return click.Option([short, long], is_flag=True, expose_value=False, is_eager=True, callback=callback, help=help)


def _say_more() -> None:
    logs.set_level(logging.DEBUG)


def _say_less() -> None:
    logs.set_level(logging.WARNING)


def _trace() -> None:
    if logging.getLogger("cohortlens").isEnabledFor(logging.DEBUG):
        _show_traceback()


def _show_traceback() -> None:
    click.echo(plain_lines(traceback.format_exc()), err=True, nl=False)


def _ended_early(error: Exception) -> bool:
    if isinstance(error, OSError):
        return True
    from prefect.exceptions import CancelledRun

    from flows.errors import Stopped
    from tasks.work.failures import TooManyFailures
    from tasks.work.finish import Incomplete

    return isinstance(error, (TooManyFailures, Incomplete, Stopped, CancelledRun))
