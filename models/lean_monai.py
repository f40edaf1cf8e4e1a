"""MONAI with no more than its transforms and networks: with the rest, every process would import two seconds longer."""

import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_HIDDEN = ("transformers", "pandas", "matplotlib")
"""Libraries that MONAI imports for a network of texts, for tables and for notebooks, and does without."""

_WANTED = ("monai.apps", "monai.transforms", "monai.networks.nets")
"""Modules that MONAI's own walk would import first, as far as its transforms and networks need them."""


class LeanMonai(MetaPathFinder):
    """Finds MONAI, and has it import a part of its modules, from which some libraries are hidden meanwhile."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != "monai":
            return None
        sys.meta_path.remove(self)
        found = find_spec(fullname)
        if found and found.loader:
            found.loader = _Lean(found.loader)
        return found


class _Lean(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _hidden(), _without_walk():
            self._loader.exec_module(module)
            for name in _WANTED:
                import_module(name)


@contextmanager
def _hidden() -> Iterator[None]:
    """Let the import of libraries fail that nobody has imported yet."""
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type] # None: importing it fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _without_walk() -> Iterator[None]:
    """Let MONAI find no modules of its own, all of which it would import."""
    walk = pkgutil.walk_packages
    pkgutil.walk_packages = lambda *_, **__: iter(())
    try:
        yield
    finally:
        pkgutil.walk_packages = walk
