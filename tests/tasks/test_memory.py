"""A worker stays within the memory that its plan predicts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.tasks.outputs import NETWORK, squares_model

_SIDE, _COUNT = 2500, 6

_PLAN = """
import sys
from pathlib import Path
from flows.config import load
from tasks.store.template import set_up
from tests.tasks.outputs import prepared
config = load(Path(sys.argv[1]))
ready = prepared(config.model_dump(mode="json"))
ready.plan.write(config.output, ready.entries)
set_up(config.output, ready.plan, ready.entries)
print(ready.cost.memory_per_worker)
"""

_WORK = """
import sys
from pathlib import Path
from flows.config import load
from tests.tasks.outputs import explained
explained(load(Path(sys.argv[1])).output, [0])
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""


def printed(code: str, config: Path) -> int:
    # Through a shell of its own: the kernel counts what the parent takes as a child's peak, and pytest takes a lot.
    command = f"{shlex.join([sys.executable, '-c', code, str(config)])}; exit $?"
    return int(subprocess.check_output(["sh", "-c", command], text=True, timeout=250).splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process's peak")
def test_a_shard_takes_no_more_memory_than_planned(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(_COUNT):
        np.save(tmp_path / f"{number}.npy", generator.random((_SIDE, _SIDE)))  # float64: the file is twice the pixels
    pd.DataFrame({"uri": [f"{number}.npy" for number in range(_COUNT)]}).to_csv(tmp_path / "manifest.csv", index=False)
    content: dict[str, Any] = {
        "cohort": {
            "source": str(tmp_path / "manifest.csv"),
            "preprocessing": [
                {"_target_": "monai.transforms.ScaleIntensity"},
                {"_target_": "monai.transforms.Resize", "spatial_size": [16, 16]},
            ],
        },
        "model": squares_model(tmp_path, ("a", "b"), NETWORK),
        "explainers": ["saliency"],
        "compute": {"batch_size": _COUNT},
        "output": str(tmp_path / "out"),
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    planned, taken = printed(_PLAN, config), printed(_WORK, config)
    pixels = _SIDE * _SIDE * 4
    assert taken > 2 * pixels * _COUNT  # reading counts here: all files of the batch are held at once
    assert taken < planned < taken + 20 * pixels + 2**29
