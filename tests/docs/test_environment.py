"""The page of the environment names every variable that the code reads, and none besides."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/environment.md").read_text()
SETTINGS = (ROOT / "infra/settings.env").read_text()


def variables() -> Iterator[str]:
    """All names in capitals that are looked up in the environment, or are the value of a constant `VARIABLE`."""
    for folder in ("cohortlens", "flows", "tasks", "models", "deployments", "infra"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name))):
                        yield name
                    case ast.Call(
                        func=ast.Attribute(value=ast.Attribute(attr="environ")),
                        args=[ast.Constant(value=str(name)), *_],
                    ):
                        yield name
                    case ast.Assign(targets=[ast.Name(id="VARIABLE")], value=ast.Constant(value=str(name))):
                        yield name


def test_every_variable_is_on_the_page() -> None:
    found = set(variables())
    assert {"COHORTLENS_PSEUDONYM_KEY", "COHORTLENS_LOGS", "ALERT_WEBHOOK", "PREFECT_API_URL"} <= found
    in_settings = set(re.findall(r"^([A-Z_]+)=", SETTINGS, re.MULTILINE))
    assert not {name for name in found - in_settings if f"`{name}`" not in PAGE}


def test_no_variable_of_our_own_is_invented() -> None:
    code = "".join(
        path.read_text()
        for folder in ("flows", "tasks", "models", "infra", "tests", "deployments")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml"} and path != Path(__file__)
    )
    ours = re.findall(r"`((?:COHORTLENS|ALERT|UP|POSTGRES)_[A-Z_]+)`", PAGE)
    assert ours and not [name for name in ours if name not in code]
