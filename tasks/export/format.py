"""The terms between formats and those who ask them: a format writes the files of one case to a folder."""

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from models.errors import ConfigurationError
from tasks.export.case import Case


class CannotExport(Exception):
    """A case that a format cannot hold. The message says why and what to do, and names nothing of a file."""


class Format(ABC):
    """A format that cases are written in.

    Attributes
    ----------
    name
        As the command line names it; the cases lie in a folder of that name.
    version
        A number that is raised whenever the files that are written of the same case change.
    package, extra
        The package that the format needs, and the extra of cohortlens that brings the package; empty: none.
    identifies
        Whether the files name the patient as the source's do, so that they must not lie in the output.
    shows_drawn
        Whether the files hold the regions that raters drew, so that they are other ones after another rating.
    marks
        Whether the files show where maps are strongest, so that they are other ones for another threshold.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    identifies: ClassVar[bool] = False
    shows_drawn: ClassVar[bool] = False
    marks: ClassVar[bool] = False

    @abstractmethod
    def write(self, case: Case, folder: Path) -> None:
        """Write the files of one case to an empty folder of this machine.

        Raises
        ------
        CannotExport
            If the format cannot hold this case.
        """

    def check(self) -> None:
        """Raise ConfigurationError if what the format needs is not installed."""
        if self.package and not find_spec(self.package):
            raise ConfigurationError(
                f"--format {self.name}: {self.package} is not installed: install the extra `{self.extra}`"
            )
