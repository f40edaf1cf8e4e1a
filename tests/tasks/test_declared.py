"""New kinds of output, registered here alone: a vector an image, an artefact fitted before, a result over the cohort.

No other file of the project knows of them; they are planned, forecast, stored, killed, resumed, verified, mended,
withdrawn and reported as maps are.
"""

import multiprocessing
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from models.explainers import EXPLAINERS, Explainer
from models.fits import FITS, Fit
from models.network import Network
from models.outputs import IMAGE_ID, Axis, Computed, Frame, Output
from models.questions import Batch, Questions
from models.results import RESULTS, Arrays, Result, Stored
from tasks import run
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.engines import Engines
from tasks.work.finish import Incomplete, finish, summarise
from tests.faults import sabotage
from tests.tasks.outputs import Cohort, carry_out, planned, prepared, stored

FEATURES = ("mean", "deviation", "largest")


def features(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.stack([flat.mean(1), flat.std(1), flat.amax(1)], dim=1)


class Centre(Fit):
    """The mean of the features over some images."""

    name: Literal["centre"] = "centre"

    def declare(self, frame: Frame, network: Network, images: int) -> tuple[Output, ...]:
        axes = (Axis(name="feature", labels=FEATURES, long_name="feature"),)
        about = "mean of the features over some images"
        return (Output(name="centre", dims=("feature",), kind="artefact", long_name=about, axes=axes),)

    def compute(self, network: Network, images: Tensor) -> Computed:
        return {"centre": features(images).mean(0)}


class Moments(Explainer):
    """The features of an image, less those of the centre."""

    fits = (Centre,)
    name: Literal["moments"] = "moments"

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        axes = (Axis(name="feature", labels=FEATURES, long_name="feature"),)
        dims = (IMAGE_ID, "feature")
        about = "features of the image, less the centre"
        return (Output(name="moments", dims=dims, kind="vector", long_name=about, axes=axes, required=True),)

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        yield from ()
        return {"moments": features(batch.images) - batch.fitted["centre"]}


class Nearest(Result):
    """The nearest other image of each image, and how often an image is the nearest on average."""

    name: Literal["nearest"] = "nearest"

    def reads(self) -> tuple[str, ...]:
        return ("moments",)

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        row = Output(
            name="nearest_row",
            dims=(IMAGE_ID,),
            kind="result",
            long_name="row of the nearest other image",
            dtype="int32",
            fill=-1,
        )
        mean = Output(name="mean_moments", dims=("feature",), kind="result", long_name="mean over the cohort")
        axes = (Axis(name="feature", labels=FEATURES, long_name="feature"),)
        return (row, mean.model_copy(update={"axes": axes}))

    def compute(self, stored: Stored) -> Arrays:
        vectors = np.concatenate([block["moments"] for _, block in stored.blocks("moments")]).astype(float)
        there = np.flatnonzero(stored.explained)
        nearest = np.full(len(stored.ids), -1, np.int32)
        for row in there:
            apart = np.linalg.norm(vectors[there] - vectors[row], axis=1)
            apart[there == row] = np.inf
            nearest[row] = there[apart.argmin()]
        return {"nearest_row": nearest, "mean_moments": vectors[there].mean(0).astype(np.float32)}


def register() -> None:
    EXPLAINERS.add(Moments)
    FITS.add(Centre)
    RESULTS.add(Nearest)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register()
    yield
    EXPLAINERS.remove(Moments)
    FITS.remove(Centre)
    RESULTS.remove(Nearest)


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    return cohort.content(output, **{"explainers": ["saliency", "moments"], "results": ["nearest"]} | changes)


def by_hand(cohort: Cohort, rows: list[int], fitted: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and the nearest rows of some images."""
    images = np.stack([np.load(cohort.folder / f"{row}.npy") for row in range(10)])
    flat = images.reshape(10, -1).astype(float)
    vectors = np.stack([flat.mean(1), flat.std(1, ddof=1), flat.max(1)], axis=1)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    apart[np.diag_indices(10)] = np.inf
    apart[:, [row for row in range(10) if row not in rows]] = np.inf
    return vectors - vectors[fitted].mean(0), apart.argmin(1)


def test_they_are_planned_forecast_stored_and_shown(cohort: Cohort, output: Location) -> None:
    bare = prepared(cohort.content(output, explainers=["saliency"])).cost
    ready = prepared(content(cohort, output))
    assert [fit.title for fit in ready.plan.fits] == ["centre"] and len(ready.plan.fits[0].images) == 10
    per_image, whole = 3 * 4 + 4, 3 * 4 + 3 * 4
    assert ready.cost.bytes_stored - bare.bytes_stored == 10 * per_image + whole
    assert ready.plan.maps == ("saliency",)
    summary = carry_out(content(cohort, output), report=True)
    assert summary.explained == 10 and verify(output) == []
    assert summary.computed == {"centre": True, "nearest": True}
    dataset = open_store(output).load()
    vectors, nearest = by_hand(cohort, list(range(10)), list(range(10)))
    assert dataset.moments.dims == ("image_id", "feature") and list(dataset.feature.values) == list(FEATURES)
    assert np.allclose(dataset.moments.values, vectors, atol=1e-5)
    assert np.array_equal(dataset.nearest_row.values, nearest)
    assert np.allclose(dataset.mean_moments.values, vectors.mean(0), atol=1e-5)
    assert dataset.moments.attrs["kind"] == "vector" and dataset.nearest_row.attrs["kind"] == "result"
    page = (output / "report/index.html").read().decode()
    for shown in ("What else is in the store", "features of the image, less the centre", "10 image id × 3 feature"):
        assert shown in page


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.tasks.test_declared"])


def work(output: Location, folder: Path) -> None:
    register()
    sabotage.install(folder)
    run.complete(output, Engines())


@pytest.mark.timeout(600)
def test_whatever_write_they_are_killed_at_the_bytes_are_the_same(
    cohort: Cohort, output: Location, tmp_path: Path
) -> None:
    undisturbed = Location(url=str(tmp_path / "undisturbed"))
    carry_out(content(cohort, undisturbed))
    objects = sum("/c/" in key for key in stored(undisturbed) if key.split("/")[0] not in NOT_COMPUTED)
    assert objects == 1 + 3 * (7 + 2 + 1) + (3 + 1)
    planned(content(cohort, output))
    for death in range(0, objects, 7):  # the first is the artefact, the last are the result
        folder = sabotage.plan_deaths(tmp_path / f"deaths-{death}", [("writing", 3 if death else 0)])
        worker = _processes.Process(target=work, args=(output, folder))
        worker.start()
        worker.join()
        assert worker.exitcode == -9 or sabotage.deaths_left(folder)
        if worker.exitcode == 0:
            break
        with pytest.raises(Incomplete):
            finish(output)
        assert not summarise(output).computed["nearest"]
    run.complete(output, Engines())
    assert verify(output) == []
    without = [name for name in stored(output) if name != "zarr.json"]
    assert {name: stored(output)[name] for name in without} == {name: stored(undisturbed)[name] for name in without}


NOT_COMPUTED = (
    "image_id", "class", "target", "explainer", "channel", "world", "voxel", "feature", "label", "status", "shard",
    "present",
)  # fmt: skip


@pytest.mark.parametrize("how", ["truncate", "flip", "delete"])
def test_damage_is_found_and_mended_to_the_byte(cohort: Cohort, output: Location, how: str) -> None:
    carry_out(content(cohort, output))
    before = stored(output)
    names = [f"{NAME}/{key}" for key in before if "/c/" in key and key.split("/")[0] in COMPUTED]
    names += ["fits/centre.json", "results/nearest.json"]
    assert len(names) == 1 + 3 + 3 + 1 + 2
    for name in names:
        path = Path(output.path) / name
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes(data[:-1] if how == "truncate" else data[:9] + bytes([data[9] ^ 1]) + data[10:])
        found = verify(output)
        assert found, name
        repair(output, found)
        assert verify(output) == [] and stored(output) == before, name


COMPUTED = ("moments", "centre", "nearest_row", "mean_moments")


def test_what_is_withdrawn_leaves_them_all(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output), report=True)
    before = open_store(output).load()
    erased = withdraw(output, "patient-2")
    assert erased.images == (4, 5) and erased.fitted == 2 and erased.whole
    assert verify(output) == []
    after = open_store(output).load()
    rest = [row for row in range(10) if row not in (4, 5)]
    assert np.isnan(after.moments.values[4:6]).all()
    assert np.array_equal(after.moments.values[rest], before.moments.values[rest])  # as they were delivered
    _, nearest = by_hand(cohort, rest, rest)
    assert np.array_equal(after.nearest_row.values[rest], nearest[rest]) and (after.nearest_row.values[4:6] == -1).all()
    means = np.stack([np.load(cohort.folder / f"{row}.npy").mean() for row in rest])
    assert np.allclose(after.centre.values[0], means.mean(), atol=1e-6)
    assert len(Plan.read(output).fits[0].images) == 8
    again = stored(output)
    assert carry_out(content(cohort, output)).withdrawn == 2
    assert stored(output) == again


def test_they_extend_an_output_that_has_maps_alone(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(cohort.content(output, explainers=["saliency"]))
    before = stored(output)
    summary = carry_out(content(cohort, output), extend=True)
    assert verify(output) == [] and summary.explained == summarise(output).explained == 10
    after = stored(output)
    assert all(after[key] == data for key, data in before.items() if "/c/" in key)
    at_once = Location(url=str(tmp_path / "at-once"))
    carry_out(content(cohort, at_once))
    own = [key for key in after if key.split("/")[0] in COMPUTED]
    assert own and all(after[key] == stored(at_once)[key] for key in own)


def test_a_result_follows_what_it_is_computed_from(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    cohort.add([10])
    carry_out(content(cohort, output))
    dataset = open_store(output).load()
    assert verify(output) == [] and dataset.nearest_row.shape == (11,) and dataset.nearest_row.values[10] >= 0


def test_a_result_that_lacks_what_it_reads_is_refused(cohort: Cohort, output: Location) -> None:
    with pytest.raises(ValueError, match="results: nearest is computed from moments, which no explainer"):
        prepared(content(cohort, output, explainers=["saliency"]))


def test_an_artefact_is_never_exchanged_for_another(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    centre = stored(output)["centre/c/0"]
    cohort.add([3], version=1)  # one of the images that the artefact was computed from
    (output / "fits/centre.json").remove()
    assert carry_out(content(cohort, output)).explained == 10
    assert stored(output)["centre/c/0"] == centre and verify(output) == []
    cohort.add([10])
    (output / NAME / "centre/c/0").write(b"damaged")
    with pytest.raises(ValueError, match=r"the artefact 'centre' .* is damaged, and computed anew it is another"):
        carry_out(content(cohort, output))
    assert stored(output)["centre/c/0"] == b"damaged"
