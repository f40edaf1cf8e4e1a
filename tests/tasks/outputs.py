"""Runs without Prefect and Dask, on pictures of 16 x 16, and what they leave, to be compared byte by byte."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from flows.config import RunConfig
from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks import run
from tasks.cohort.entry import Entry
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.prepare.prepare import Before, Prepared, prepare
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import set_up
from tasks.work.engines import Engines
from tasks.work.explain import explain_shards
from tasks.work.finish import Summary
from tasks.work.fit import fit
from tasks.work.images import find_again

NETWORK = {
    "_target_": "monai.networks.nets.Classifier",
    "in_shape": [1, 16, 16],
    "classes": 2,
    "channels": [4],
    "strides": [2],
}


def squares_model(folder: Path, classes: tuple[str, ...], network: dict[str, Any]) -> dict[str, Any]:
    """The model section for a network with random weights, which are written to `folder`."""
    torch.manual_seed(0)
    module: nn.Module = instantiate(network, locate(network, NAMESPACES))
    save_file(module.state_dict(), folder / "weights.safetensors")
    weights = str(folder / "weights.safetensors")
    return {"network": network, "weights": weights, "classes": list(classes), "input_shape": [16, 16]}


class Cohort:
    """Pictures in a folder, with a manifest; each is a function of its number and version."""

    def __init__(self, folder: Path, numbers: Iterable[int] = ()) -> None:
        self.folder = folder
        folder.mkdir()
        self.model = squares_model(folder, ("a", "b"), NETWORK)
        self.numbers: list[int] = []
        self.add(numbers)

    def add(self, numbers: Iterable[int], version: int = 0) -> None:
        for number in numbers:
            pixels = np.random.default_rng([number, version]).normal(size=(16, 16)).astype(np.float32)
            np.save(self.folder / f"{number}.npy", pixels)
            np.save(self.folder / f"{number}-mask.npy", (pixels > 1).astype(np.uint8))
            self.numbers += [number] * (number not in self.numbers)
        self._list()

    def take_away(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            (self.folder / f"{number}.npy").unlink()
            self.numbers.remove(number)
        self._list()

    def _list(self) -> None:
        rows = [
            {
                "id": f"id-{n}",
                "uri": f"{n}.npy",
                "mask": f"{n}-mask.npy",
                "subject": f"patient-{n // 2}",
                "label": f"l{n}",
            }
            for n in self.numbers
        ]
        pd.DataFrame(rows).to_csv(self.folder / "manifest.csv", index=False)

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        return {
            "cohort": {"source": str(self.folder / "manifest.csv"), "identifiers": "as given"},
            "model": self.model,
            "explainers": ["saliency", {"name": "smoothgrad", "samples": 2}],
            "compute": {"batch_size": 3},
            "output": output.model_dump(),
            **changes,
        }


def prepared(
    content: dict[str, Any], *, extend: bool = False, overwrite: bool = False, only: Selection = ALL
) -> Prepared:
    config = RunConfig.model_validate(content)
    return prepare(config.recipe, before=Before.read(config.output, overwrite), extend=extend, only=only)


def planned(content: dict[str, Any], **how: Any) -> Prepared:
    """Plan a run, write the plan and set up the store."""
    output = RunConfig.model_validate(content).output
    ready = prepared(content, **how)
    run.write_plan(output, ready, overwrite=how.get("overwrite", False))
    set_up(output, ready.plan, ready.entries)
    return ready


def carry_out(
    content: dict[str, Any],
    *,
    extend: bool = False,
    overwrite: bool = False,
    report: bool = False,
    only: Selection = ALL,
) -> Summary:
    """Do what the flow does."""
    output = RunConfig.model_validate(content).output
    ready = prepared(content, extend=extend, overwrite=overwrite, only=only)
    run.write_plan(output, ready, overwrite=overwrite)
    summary = run.complete(output, Engines(), ready.sources)
    if report:
        run.write_pages(output)
    return summary


def explained(output: Location, shards: Iterable[int], find: Find | None = None, engines: Engines | None = None) -> int:
    """Deliver some shards, by the engines of a worker that has just started if none are given."""
    own = engines or Engines()
    plan = Plan.read(output)
    if not plan.fitted:
        fit(output, find or find_again(output, plan), own)
    return explain_shards(output, list(shards), own, find)


def stored(output: Location) -> dict[str, bytes]:
    """Every byte of the store, by key."""
    folder = output / NAME
    return {key: (folder / key).read() for key in sorted(folder.sizes())}


def promised(output: Location) -> tuple[Plan, list[Entry]]:
    return Plan.read(output), manifest.read(output)
