"""Nothing of a patient is in what a run writes, says or sends to Prefect."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import save_file

from models.components import instantiate, locate
from models.network import NAMESPACES
from tasks import manifest, store
from tasks.storage import Location
from tests.integration.markers import NUMBERS, TEXT, bad_files, encode, leaks, pictures, planted


def model(folder: Path, shape: list[int]) -> dict[str, Any]:
    network = {
        "_target_": "monai.networks.nets.Classifier",
        "in_shape": [1, *shape],
        "classes": 2,
        "channels": [4],
        "strides": [2],
    }
    torch.manual_seed(0)
    save_file(instantiate(network, locate(network, NAMESPACES)).state_dict(), folder / "weights.safetensors")
    return {
        "network": network,
        "weights": str(folder / "weights.safetensors"),
        "classes": ["a", "b"],
        "input_shape": shape,
    }


def pictures_of_a_manifest(root: Path) -> str:
    """Readable and unreadable pictures below folders and names with the marker, named by a manifest full of it."""
    folder = root / f"{TEXT}-study" / TEXT.lower()
    folder.mkdir(parents=True)
    names = {f"{TEXT}-{number}.dcm": encode(planted(pixels)) for number, pixels in enumerate(pictures(12))}
    names |= {f"{TEXT}-{name}": data for name, data in bad_files().items()}
    rows = []
    for name, data in names.items():
        (folder / name).write_bytes(data)
        rows.append(
            {"id": f"{TEXT}/{name}", "uri": str((folder / name).relative_to(root)), "subject": f"{TEXT} {name}"}
        )
    rows.append({"id": f"{TEXT} lost", "uri": f"{TEXT}-study/lost.dcm", "subject": TEXT})
    rows.append({"id": f"{TEXT} mask", "uri": rows[0]["uri"], "mask": f"{TEXT}-study/lost.png"})
    rows.append({"id": f"{TEXT} mask 2", "uri": rows[0]["uri"], "mask": rows[15]["uri"]})
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return str(root / "manifest.csv")


def series_of_a_folder(root: Path) -> str:
    """Series, one of them with a gap, in folders with the marker; and files that are none."""
    for series in range(4):
        folder = root / f"{TEXT}-{series}" / NUMBERS
        folder.mkdir(parents=True)
        for number, pixels in enumerate(pictures(8)):
            height = number + 5 * (series == 3 and number > 4)
            made = planted(pixels, series, ImagePositionPatient=[0, 0, height], InstanceNumber=number)
            (folder / f"{TEXT}-{number}.dcm").write_bytes(encode(made))
    for name, data in bad_files().items():
        (root / f"{TEXT}-{name}").write_bytes(data)
    return f"{root}/"


def command(work: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line with a Prefect server of its own, everything below `work`."""
    ours = ("PREFECT", "DASK", "MPL", "PYTEST", "COHORTLENS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"HOME": str(work)}
    program = str(Path(sys.executable).with_name("cohortlens"))
    return subprocess.run(
        [program, *arguments], cwd=work, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.parametrize(
    ("write", "shape"), [(pictures_of_a_manifest, [16, 16]), (series_of_a_folder, [8, 16, 16])], ids=["2-D", "3-D"]
)
def test_no_marker_of_the_cohort_is_in_anything_a_run_leaves(write: Any, shape: list[int], tmp_path: Path) -> None:
    root, work = tmp_path / "cohort", tmp_path / "work"
    root.mkdir()
    work.mkdir()
    content = {
        "cohort": {"source": write(root), "allowed_failures": 1.0, "background": 2, "largest_image": "64KiB"},
        "model": model(tmp_path, shape),
        "explainers": ["saliency", {"name": "expected_gradients", "samples": 2}],
        "output": str(work / "out"),
        "compute": {"workers": 1, "batch_size": 4},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    output = Location(url=str(work / "out"))
    said = {"run": command(work, "run", str(config))}
    assert said["run"].returncode == 0, said["run"].stderr
    assert "a random key, which the output holds" in said["run"].stderr
    entries = manifest.read(output)
    reasons = {entry.reason for entry in entries if entry.reason}
    assert sum(not entry.reason for entry in entries) >= 3 and len(reasons) >= 9, reasons
    # A subject is withdrawn by the name that must not be seen, and the output is damaged so that a worker fails.
    if len(shape) == 2:
        said["withdraw"] = command(work, "withdraw", "out", "--subject", f"{TEXT} {TEXT}-3.dcm")
        assert said["withdraw"].returncode == 0 and "images erased     1" in said["withdraw"].stdout
    said["plan"] = command(work, "plan", str(config))
    said["again"] = command(work, "run", str(config))
    assert said["again"].returncode == 0, said["again"].stderr
    shutil.rmtree(work / "out" / store.NAME / "logit/c")
    (work / "out" / store.NAME / "logit/c").write_text("in the way")
    said["failing"] = command(work, "run", str(config))
    assert said["failing"].returncode != 0 and "<sources of" in said["failing"].stderr
    (work / "out" / store.NAME / "logit/c").unlink()
    said["repair"] = command(work, "verify", "out", "--repair")
    assert said["repair"].returncode == 0, said["repair"].stdout
    text = {f"{name} says": done.stdout + done.stderr for name, done in said.items()}
    assert (work / ".cohortlens/prefect/prefect.db").stat().st_size > 10**5
    assert leaks(work, **text) == []
    # Whoever has the cohort can find out.
    found = command(work, "which", str(config), entries[0].id)
    assert found.returncode == 0 and TEXT in found.stdout


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    def planted_in(name: str) -> Path:
        path = tmp_path / name / name
        path.parent.mkdir()
        return path

    planted_in("plain").write_bytes(b"\0\1" + TEXT.upper().encode())
    planted_in("wide").write_bytes(TEXT.encode("utf-16-le"))
    planted_in("uid").write_text(f"1.2.{NUMBERS}.7")
    planted_in("base64").write_text(__import__("base64").b64encode(b"x" + TEXT.encode() + b"yz").decode())
    planted_in("page.html").write_text(TEXT.replace("M", "&#77;"))
    frame = pd.DataFrame({"a": [TEXT] * 2000})
    frame.to_parquet(planted_in("table.parquet"), compression="zstd")
    pq.write_table(
        pq.read_table(tmp_path / "table.parquet/table.parquet").slice(0, 0).replace_schema_metadata({"k": TEXT}),
        planted_in("meta.parquet"),
    )
    with sqlite3.connect(planted_in("base.db")) as base:
        base.execute("CREATE TABLE t (a TEXT)")
        base.execute("INSERT INTO t VALUES (?)", ("x" * 4000 + TEXT,))
    xr.Dataset({"a": ("x", np.array(["", TEXT], np.dtypes.StringDType()))}).to_zarr(planted_in("a.zarr"), zarr_format=3)
    planted_in("log").with_name(f"{TEXT.lower()}.log").touch()
    assert leaks(tmp_path / "plain") == ["plain"]
    for folder in tmp_path.iterdir():
        assert leaks(folder), folder.name
    assert leaks(tmp_path / "nowhere", said=f"reading {TEXT}") == ["said"]
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/file").write_text("nothing")
    assert leaks(tmp_path / "clean") == []
