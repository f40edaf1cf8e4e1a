"""The locks: they have all that pyproject.toml asks for, in its ranges, and each with hashes."""

import re
import tomllib
from importlib.metadata import requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from infra.lock import LOCKS, PROJECT, RUNNING, TORCH, pythons
from tests.infra.files import CHECKOUT

_TEXTS = {file: (CHECKOUT / file).read_text() for file in LOCKS}
_PROJECT: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]


def pins(*texts: str) -> dict[str, Version]:
    return {
        canonicalize_name(name): Version(version)
        for text in texts
        for name, version in re.findall(r"^([\w.-]+)==([\w.+-]+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("file", LOCKS)
def test_what_the_project_asks_for_is_pinned_within_its_ranges(file: str) -> None:
    extras, _ = LOCKS[file]
    pinned = pins(_TEXTS[RUNNING], _TEXTS[file], TORCH.read_text())
    optional = [line for extra in extras for line in _PROJECT["optional-dependencies"][extra]]
    for line in [*_PROJECT["dependencies"], *optional]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


def test_what_torch_wants_on_any_machine_is_pinned_though_torch_is_not() -> None:
    wanted = [Requirement(line) for line in requires("torch") or ()]
    anywhere = {canonicalize_name(one.name): one.specifier for one in wanted if not one.marker}
    pinned = pins(_TEXTS[RUNNING])
    assert anywhere and all(specifier.contains(pinned[name]) for name, specifier in anywhere.items())
    assert "torch" not in pins(*_TEXTS.values())


@pytest.mark.parametrize("file", LOCKS)
def test_every_line_has_hashes_and_what_is_repeated_is_the_same(file: str) -> None:
    running, pinned = pins(_TEXTS[RUNNING]), pins(_TEXTS[file])
    assert len(pinned) > 3 and all(running.get(name, version) == version for name, version in pinned.items())
    for requirement in re.split(r"\n(?=[a-z])", _TEXTS[file])[1:]:
        assert re.search(r"\\\n    --hash=sha256:[0-9a-f]{64}\b", requirement), requirement.partition(" ")[0]


def test_they_were_resolved_for_the_pythons_that_the_project_is_for() -> None:
    assert pythons() and all(f" for Python {', '.join(pythons())}." in text for text in _TEXTS.values())
