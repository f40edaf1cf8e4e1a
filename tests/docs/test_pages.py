"""Every command, program and configuration in README.md and docs/ is run, in order, in a checkout of its own."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import SkipTest
from unittest.mock import patch

import nbclient
import nbformat
import pytest
import yaml
from click.testing import CliRunner
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from flows.cli import main
from flows.config import RunConfig
from flows.demo import demo_config, demo_content
from models import networks
from models.explainers import EXPLAINERS
from models.metrics import METRICS
from tasks.cohort.pseudonyms import VARIABLE
from tasks.plan.ensemble import UNCERTAINTY
from tests.seaweedfs import free_ports
from tests.tasks.outputs import carry_out

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LEFT_OUT = {
    "CONTRIBUTING.md": ["the tests are what it runs"],
    "README.md": ["the tests run a smaller demo, and are the test"],
    "cluster.md": [
        "it needs SLURM; `make slurm` runs the demo cohort by jobs of one",
        "it needs a container engine",
        "it needs an account at Amazon",
        "it needs a Kubernetes cluster",
        "it needs a Kubernetes cluster",
        "it needs a Kubernetes cluster",
    ],
    "export.md": ["it needs a PACS"],
    "operations.md": ["make e2e does as much", "make e2e does as much"],
    "schedule.md": ["make e2e runs it", "make e2e does as much", "make e2e does as much"],
}
"""By page, why some of its blocks are not run; in the page it says so before the block: <!-- skip: next "why" -->."""

_PARTS = ("docs", "cohortlens", "flows", "models", "tasks", "deployments", "infra")
_OF_THE_TESTS = (VARIABLE, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
_SEE_ONE_CORE = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
"""So that a run starts one worker: most of what these small runs take is the start of processes."""
_COMMAND = re.compile(r"\.venv/bin/(python \w+\.py|cohortlens +(?!evaluate|run|view)[^|&;<>$`#]+)(#.*)?")
"""A command that starts no process: it is called here, since a process imports for longer than most of them work."""
_FILE = re.compile(r"# ([\w/.-]+\.(?:py|ya?ml))\n")


class Reader:
    """Does what a page says.

    A block whose first line is a comment that names a file is that file. Any other yaml is a part of a configuration,
    and must be valid as one. What is exported or defined holds for the blocks that follow, as at a prompt.

    Parameters
    ----------
    checkout
        Where commands are run.
    replaced
        What stands for some text of the page: addresses, since two tests at once cannot have the same.
    """

    def __init__(self, checkout: Path, environment: dict[str, str], replaced: dict[str, str]) -> None:
        self.checkout = checkout
        self.environment = environment
        self.replaced = replaced
        self.sessions: list[int] = []

    def read(self, page: Path) -> list[str]:
        """Run the page's blocks in their order; returns why some of them were not run."""
        parsers = [CodeBlockParser(language, getattr(self, language)) for language in ("sh", "python", "yaml")]
        text = page.read_text()
        for address, stand_in in self.replaced.items():
            text = text.replace(address, stand_in)
        copy = self.checkout / "out" / page.name
        copy.write_text(text)
        left_out = []
        for example in Document.parse(str(copy), SkipParser(), *parsers):
            try:
                example.evaluate()
            except SkipTest as reason:
                left_out.append(str(reason))
        return left_out

    def sh(self, example: Example) -> str | None:
        lines = example.parsed.replace("\\\n", "").splitlines()
        for is_command, some in groupby(lines, lambda line: bool(_COMMAND.fullmatch(line))):
            follow = self._call if is_command else self._start
            said = follow([*some])
            if said is not None:
                return said
        return None

    def _call(self, lines: list[str]) -> str | None:
        for line in lines:
            program, *words = shlex.split(line, comments=True)
            with self._at_the_prompt():
                if program.endswith("python"):
                    runpy.run_path(words[0], run_name="__main__")
                    continue
                done = CliRunner().invoke(main, words)
            if done.exit_code:
                return f"{line} ends with {done.exit_code}:\n{done.output}"
        return None

    def _start(self, lines: list[str]) -> str | None:
        log, kept = self.checkout / "out/log", self.checkout / "out/environment"
        script = "\n".join(["set -e", *lines, f"env --null > {kept}", ""])
        with log.open("w") as sink:
            shell = subprocess.Popen(
                [*_SEE_ONE_CORE, "bash", "-c", script],
                cwd=self.checkout,
                env=self.environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.append(shell.pid)
        if code := shell.wait(600):
            return f"it ends with {code}:\n{log.read_text()}"  # a text that is empty would be no failure
        self.environment = dict(entry.split("=", 1) for entry in kept.read_text().split("\0") if entry)
        return None

    @contextmanager
    def _at_the_prompt(self) -> Iterator[None]:
        own = str(self.checkout / "models/networks")  # where a page adds a module
        with (
            chdir(self.checkout),
            patch.dict(os.environ, self.environment, clear=True),
            patch.object(networks, "__path__", [*networks.__path__, own]),
        ):
            yield

    def python(self, example: Example) -> str | None:
        if self._is_file(example):
            return None
        with self._at_the_prompt():
            return PythonEvaluator()(example)

    def yaml(self, example: Example) -> None:
        if not self._is_file(example):
            demo = demo_content("manifest.csv", "out/part", spatial_dims=2)
            RunConfig.model_validate(demo | yaml.safe_load(example.parsed))

    def _is_file(self, example: Example) -> bool:
        named = _FILE.match(example.parsed)
        if named:
            (self.checkout / named[1]).write_text(example.parsed)
        return bool(named)

    def end(self) -> None:
        """End what commands left running."""
        for session in self.sessions:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGTERM)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `make demo` was run, with fewer images."""
    folder = tmp_path_factory.mktemp("demo") / "checkout"
    for part in _PARTS:
        shutil.copytree(ROOT / part, folder / part)
    (folder / ".venv").symlink_to(sys.prefix)
    with chdir(folder), patch.dict(os.environ):
        del os.environ[VARIABLE]
        carry_out(demo_config("out/demo", spatial_dims=2, images=24).model_dump(), report=True)
    return folder


@pytest.fixture
def reader(demo: Path, tmp_path: Path, prefect: str) -> Iterator[Reader]:
    checkout = tmp_path / "checkout"
    shutil.copytree(demo, checkout, symlinks=True)
    flags = ("-s3.port", "-master.port", "-volume.port", "-filer.port", "-admin.port", "-metricsPort")
    view, *ports = free_ports(1 + len(flags))
    own = [f"{flag}={port}" for flag, port in zip(flags, ports, strict=True)]
    weed = " ".join(["weed mini -s3.port.iceberg=0 -s3.port.lance=0", *own])
    replaced = {"127.0.0.1:8333": f"127.0.0.1:{ports[0]}", "weed mini": weed, "8445": str(view)}
    reader = Reader(checkout, _environment(checkout), replaced)
    try:
        yield reader
    finally:
        reader.end()


def _environment(checkout: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name not in _OF_THE_TESTS}
    scratch = checkout / "out" / "scratch"
    scratch.mkdir()
    return mine | {"PYTHONPATH": str(checkout), "BROWSER": "true", "TMPDIR": str(scratch)}


@pytest.mark.timeout(900)  # where the machine is busy: a page starts up to a dozen processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_can_be_done(page: Path, reader: Reader) -> None:
    assert reader.read(page) == LEFT_OUT.get(page.name, [])


@pytest.mark.parametrize("command", [".venv/bin/cohortlens status nowhere", ".venv/bin/python broken.py", "false"])
def test_a_command_that_fails_fails_its_page(command: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "broken.py").write_text("assert False")
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n{command}\n```\n")
    with pytest.raises(AssertionError):
        Reader(tmp_path, {**os.environ}, {}).read(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_a_kind_that_is_run_or_read_or_are_text(page: Path) -> None:
    text = page.read_text()
    fences = re.findall(r"^ *```+(.*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= {"sh", "python", "yaml", "json", "text"}
    assert set(fences[1::2]) <= {""}
    for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        json.loads(block)


@pytest.mark.parametrize(
    ("page", "names"),
    [("explainers.md", EXPLAINERS.kinds), ("metrics.md", METRICS.kinds), ("metrics.md", UNCERTAINTY.kinds)],
    ids=["explainers", "metrics", "uncertainty"],
)
def test_every_name_of_a_registry_is_on_its_page(page: str, names: dict[str, Any]) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    named = {target for target in targets if target and "://" not in target}
    assert {target for target in named if not (page.parent / target).exists()} == set()


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs(notebook: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    cells = nbformat.read(notebook, as_version=4)
    nbformat.validate(cells)
    assert not [cell for cell in cells.cells if cell.get("outputs")], "keep it without outputs: they go stale"
    nbclient.NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(demo / "docs")}}).execute()
    assert any("image/png" in output.get("data", {}) for cell in cells.cells for output in cell.get("outputs", []))
