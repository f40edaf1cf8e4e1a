"""Workers that are killed, whatever an image is made of and however the model is held."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from tasks.plan import manifest
from tasks.storage.location import Location
from tests.faults import sabotage
from tests.faults.conftest import Measured
from tests.faults.workers import begin, end, plan_and_set_up, work_through, work_together
from tests.tasks.every_result import of_every_result
from tests.tasks.outputs import NETWORK, squares_model
from tests.tasks.slides.made import with_tissue, write_tiff

IMAGES = 12
CLASSES = ("a", "b")
GREY = {"photometric": "minisblack"}
EXPLAINERS = ["saliency", {"name": "occlusion", "window": 8, "stride": 8}]


def pixels(number: int, place: int = 0) -> Any:
    return np.random.default_rng([number, place]).normal(size=(16, 16)).astype(np.float32)


def table(folder: Path, rows: list[dict[str, Any]], **cohort: Any) -> dict[str, Any]:
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return {"source": str(folder / "manifest.csv"), "identifiers": "as given", **cohort}


def of_sequences_and_a_record(folder: Path) -> dict[str, Any]:
    network = {"_target_": "models.networks.JointFusionClassifier", "spatial_dims": 2, "in_channels": 2}
    rows = []
    for number in range(IMAGES):
        for place, sequence in enumerate(("t1", "t2")):
            np.save(folder / f"{number}_{sequence}.npy", pixels(number, place))
        rows.append({"id": f"id-{number}", "t1": f"{number}_t1.npy", "t2": f"{number}_t2.npy", "age": 40 + number})
    return {
        "cohort": table(folder, rows, columns={"uri": ["t1", "t2"], "id": "id"}, record=["age"]),
        "model": squares_model(folder, CLASSES, network | {"num_classes": 2, "fields": 1, "features": [4, 4, 4, 4]})
        | {"channels": 2},
        "channels": "keep",
    }


def of_frames(folder: Path) -> dict[str, Any]:
    rows = []
    for number in range(IMAGES // 4):
        tifffile.imwrite(folder / f"{number}.tif", np.stack([pixels(number, place) for place in range(4)]), **GREY)
        rows.append({"id": f"id-{number}", "uri": f"{number}.tif"})
    return {
        "cohort": table(folder, rows, frames="images"),
        "model": squares_model(folder, CLASSES, NETWORK),
    }


def of_windows_by_folds(folder: Path) -> dict[str, Any]:
    rows = []
    for number in range(IMAGES):
        np.save(folder / f"{number}.npy", pixels(number))
        rows.append({"id": f"id-{number}", "uri": f"{number}.npy"})
    model = squares_model(folder, CLASSES, NETWORK | {"in_shape": [1, 8, 8]})
    return {
        "cohort": table(folder, rows),
        "model": model
        | {"input_shape": [8, 8], "windows": {"image_shape": [16, 16]}, "weights": [model["weights"]] * 2},
    }


def of_slides(folder: Path) -> dict[str, Any]:
    (folder / "slides").mkdir()
    for number in range(IMAGES // 2):
        write_tiff(folder / "slides" / f"{number}.tif", with_tissue(16 * number, 64, 96, 128))
    network = {"_target_": "models.networks.bag_of_slices.BagOfSlices", "in_channels": 3, "num_classes": 2}
    return {
        "cohort": {
            "source": str(folder / "slides"),
            "identifiers": "as given",
            "slides": {"microns_per_pixel": 0.5, "tile": 32, "tiles": 4},
        },
        "model": squares_model(folder, CLASSES, network) | {"channels": 3, "input_shape": [4, 32, 32]},
        "explainers": ["mil_attention"],
    }


FORMS = (of_sequences_and_a_record, of_frames, of_windows_by_folds, of_slides, of_every_result)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.__name__)
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Location], Any]:
    folder = tmp_path_factory.mktemp("form")
    stated = {"explainers": EXPLAINERS, "metrics": ["gini"], "results": ["mean_maps"], "batch_size": 3, "compute": {}}
    own = stated | request.param(folder)
    return lambda output: own | {"output": output.model_dump()}


def test_workers_are_killed_at_several_stages(
    content: Any, local: Location, tmp_path: Path, measured: Measured, request: pytest.FixtureRequest
) -> None:
    output = plan_and_set_up(content(local))
    deaths = [("explaining", 1), ("committing", 0), ("evaluating", 0), ("computing results", 0)]
    folder = sabotage.plan_deaths(tmp_path / "deaths", deaths)
    died = work_through(output, folder)
    assert died == len(deaths) and sabotage.deaths_left(folder) == 0
    form = request.node.callspec.id.replace("_", " ")
    images = len(manifest.read(output, sources=False))
    measured(f"images {form}: workers killed", died, [output], sabotage.explained(folder) / images)


@pytest.mark.parametrize("content", [of_every_result], indirect=True)
def test_every_result_is_the_same_from_four_workers_in_any_order(
    content: Any, local: Location, tmp_path: Path, measured: Measured
) -> None:
    output, plan = begin(content(local))
    folder = sabotage.plan_deaths(tmp_path / "deaths", [])
    assert work_together(output, plan, folder, workers=4, seed=1, kills=0) == 0
    end(output)
    images = len(manifest.read(output, sources=False))
    measured("every result by four workers, shuffled", 1, [output], sabotage.explained(folder) / images)
