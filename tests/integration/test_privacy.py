"""Nothing of a patient is in what a run writes, says or sends to Prefect."""

import os
import shutil
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file

from flows.cli import main
from flows.config import RunConfig
from flows.errors import Stopped
from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks.cohort.pseudonyms import VARIABLE
from tasks.plan import manifest
from tasks.storage.location import Location
from tasks.store import objects
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tests.integration.markers import NUMBERS, TEXT, bad_files, encode, leaks, pictures, planted
from tests.integration.processes import Cluster


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
            uid = f"1.2.{NUMBERS}.{series}.{number}"
            made = planted(
                pixels, series, ImagePositionPatient=[0, 0, height], InstanceNumber=number, SOPInstanceUID=uid
            )
            (folder / f"{TEXT}-{number}.dcm").write_bytes(encode(made))
    for name, data in bad_files().items():
        (root / f"{TEXT}-{name}").write_bytes(data)
    return f"{root}/"


@pytest.mark.parametrize(
    ("write", "shape"), [(pictures_of_a_manifest, [16, 16]), (series_of_a_folder, [8, 16, 16])], ids=["2-D", "3-D"]
)
def test_no_marker_of_the_cohort_is_in_anything_a_run_leaves(
    write: Any,
    shape: list[int],
    tmp_path: Path,
    cluster: Cluster,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.logging.handlers import APILogHandler

    from flows.explain import explain_cohort

    said_before = cluster.said
    monkeypatch.delenv(VARIABLE)
    root, output = tmp_path / "cohort", Location(url=str(tmp_path / "work/out"))
    root.mkdir()
    content = {
        "cohort": {"source": write(root), "allowed_failures": 1.0, "background": 2, "largest_image": "64KiB"},
        "model": model(tmp_path, shape),
        "explainers": ["saliency", {"name": "expected_gradients", "samples": 2}],
        "output": output.url,
        "metrics": ["gini"],
        "results": ["mean_maps"],
        "batch_size": 4,
        "compute": {"scheduler": cluster.address, "performance_report": True},
    }
    config = RunConfig.model_validate(content)
    explain_cohort(config)
    entries = manifest.read(output)
    reasons = {entry.reason for entry in entries if entry.reason}
    assert sum(not entry.reason for entry in entries) >= 3 and len(reasons) >= 9, reasons

    # A subject is withdrawn by the name that must not be seen; a worker fails; what it could not write is mended.
    with_ids = len(shape) == 2
    if with_ids:
        assert len(withdraw(output, f"{TEXT} {TEXT}-3.dcm").images) == 1
    blocked = tmp_path / "work/out" / objects.NAME / "logit/c"
    shutil.rmtree(blocked)
    blocked.write_text("in the way")
    with pytest.raises(Stopped, match="logit"):
        explain_cohort(config)
    blocked.unlink()
    repair(output, verify(output))
    assert verify(output) == []
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    planned = CliRunner().invoke(main, ["plan", str(tmp_path / "run.yaml")])
    assert "a random key, which the output holds" in planned.output

    APILogHandler().flush()
    said = capfd.readouterr()
    elsewhere = cluster.said[len(said_before) :]
    assert "is quarantined" in elsewhere and "Task run failed" in elsewhere
    told = {"out": said.out, "err": said.err, "logged": caplog.text, "planned": planned.output, "elsewhere": elsewhere}
    assert leaks(tmp_path / "work", **told) == []
    home = Path(os.environ["PREFECT_HOME"])
    assert (home / "prefect.db").stat().st_size > 10**5
    assert leaks(home) == []
    # Whoever has the cohort can find out.
    found = CliRunner().invoke(main, ["which", str(tmp_path / "run.yaml"), entries[0].id])
    assert found.exit_code == 0 and TEXT in found.output


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    def planted_in(name: str) -> Path:
        path = tmp_path / name / name
        path.parent.mkdir()
        return path

    planted_in("plain").write_bytes(b"\0\1" + TEXT.upper().encode())
    planted_in("wide").write_bytes(TEXT.encode("utf-16-le"))
    planted_in("uid").write_text(f"1.2.{NUMBERS}.7")
    planted_in("base64").write_text(b64encode(b"x" + TEXT.encode() + b"yz").decode())
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
