"""A run that is refused before it begins, and the background that a plan promises."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.explainers.base import Explaining
from models.explainers.saliency import Saliency
from models.fits import Background
from models.loading import NAMESPACES, build
from models.network import Network
from models.network_config import NetworkConfig
from models.questions import Batch
from tasks.prepare.trial import try_network
from tasks.storage.location import Location
from tasks.store.commit import stamps
from tasks.work.engines import Engines
from tasks.work.fit import fit
from tasks.work.images import find_again
from tests.tasks.conftest import SQUARES, Planned, delivered_squares
from tests.tasks.outputs import explained, squares_model

CLASSIFIER = {
    "_target_": "monai.networks.nets.Classifier",
    "in_shape": [1, 16, 16],
    "classes": 2,
    "channels": [4],
    "strides": [2],
}


@pytest.fixture
def comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explainer whose map is the image less the mean of the background."""

    def explain(self: Saliency, batch: Batch) -> Explaining:
        yield from ()
        return (batch.images - batch.fitted["background"].mean(0)).mean(1)[None].expand(len(batch.answers), -1, -1, -1)

    monkeypatch.setattr(Saliency, "fits", (Background,))
    monkeypatch.setattr(Saliency, "explain", explain)


def content(squares: Path, **cohort: Any) -> dict[str, Any]:
    return {
        "cohort": {"source": str(squares), "identifiers": "as given", **cohort},
        "model": squares_model(squares.parent, ("a", "b"), CLASSIFIER),
        "explainers": ["saliency"],
        "target": {"name": "predicted"},
    }


def test_a_fixed_window_is_refused_where_images_would_stay_as_they_are(
    tmp_path: Path, planned: Planned, squares: Path
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"window is for DICOM, and 20 of 20 .* a_min: -160, a_max: 240, b_min"
    ):
        planned(Location(url=str(tmp_path / "out")), **content(squares, window={"center": 40, "width": 400}))
    assert planned(Location(url=str(tmp_path / "out")), **content(squares, window="file")).cohort.window == "file"


def test_no_background_is_chosen_where_nobody_needs_it(tmp_path: Path, planned: Planned, squares: Path) -> None:
    assert planned(Location(url=str(tmp_path / "out")), **content(squares)).fits == ()


@pytest.mark.usefixtures("comparing")
def test_the_background_is_spread_over_the_cohort_and_handed_to_the_explainers(
    tmp_path: Path, planned: Planned, squares: Path
) -> None:
    output = Location(url=str(tmp_path / "out"))
    plan = planned(output, **content(squares, background=4))
    assert plan.fits[0].images == ("square-0", "square-5", "square-10", "square-15")
    dataset = delivered_squares(output, plan)
    images = dataset.image.values[:, 0]
    expected = images - images[[0, 5, 10, 15]].mean(0)
    assert np.abs(dataset.attribution.values[:, 0, 0] - expected).max() < 2**-8 * np.abs(expected).max()


def test_a_background_gives_the_same_store_in_either_order(tmp_path: Path, planned: Planned, squares: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    explainers = [{"name": "expected_gradients", "samples": 4}]
    plan = planned(output, **content(squares) | {"explainers": explainers})
    assert [len(fit.images) for fit in plan.fits] == [16]
    delivered_squares(output, plan)
    stored = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.zarr/*/c/**/*") if path.is_file()}
    assert len(stored) > 20
    for path in (tmp_path / "out/commits").iterdir():
        path.unlink()
    for shard in (0, 1):
        explained(output, range(shard, shard + 1))
    assert len(stamps(output)) == 2
    assert {path: path.read_bytes() for path in stored} == stored


@pytest.mark.usefixtures("comparing")
def test_what_cannot_be_read_is_no_background(tmp_path: Path, planned: Planned, squares: Path) -> None:
    (squares.parent / "5.npy").write_bytes((squares.parent / "5.npy").read_bytes()[:200])
    np.save(squares.parent / "10.npy", np.ones((3, 3)))
    (squares.parent / "15.npy").write_bytes(b"no image")  # known to be none before it is decoded
    plan = planned(Location(url=str(tmp_path / "out")), **content(squares, background=50))
    left_out = {"square-5", "square-10", "square-15"}
    assert plan.fits[0].images == tuple(name for n in range(SQUARES) if (name := f"square-{n}") not in left_out)
    output = Location(url=str(tmp_path / "out"))
    engines = Engines()
    (engine,) = engines.of(output, fit(output, find_again(output, plan), engines)).parts
    assert len(engine.fitted["background"]) == SQUARES - 3


@pytest.mark.usefixtures("comparing")
def test_a_background_that_changed_stops_the_worker(tmp_path: Path, planned: Planned, squares: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    planned(output, **content(squares))
    np.save(squares.parent / "0.npy", np.zeros((16, 16)))
    with pytest.raises(
        ConfigurationError, match=r"'square-0', which the artefact 'background' is computed from, .* changed after"
    ):
        explained(output, range(1))


@pytest.mark.usefixtures("comparing")
def test_a_cohort_without_a_readable_background_is_refused(tmp_path: Path, planned: Planned, squares: Path) -> None:
    for number in range(SQUARES):
        np.save(squares.parent / f"{number}.npy", np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"cohort\.background: none of 16 images, such as 'square-0', can be read"):
        planned(Location(url=str(tmp_path / "out")), **content(squares))
    for number in range(SQUARES):
        (squares.parent / f"{number}.npy").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cohort\.background: none of 0 images"):
        planned(Location(url=str(tmp_path / "out")), **content(squares))


def test_preprocessing_that_fits_no_image_is_told_before_anything_is_computed(
    tmp_path: Path, planned: Planned, squares: Path
) -> None:
    output = Location(url=str(tmp_path / "out"))
    np.save(squares.parent / "0.npy", np.ones((3, 3)))
    planned(output, **content(squares))  # one that does not fit is refused when its turn comes
    for number in range(SQUARES):
        np.save(squares.parent / f"{number}.npy", np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"none of 3 images .* shape \(3, 3\) after .* mend cohort\.preprocessing"):
        planned(Location(url=str(tmp_path / "other")), **content(squares))


def test_a_region_of_the_mask_needs_a_cohort_with_masks(tmp_path: Path, planned: Planned, squares: Path) -> None:
    bare = squares.with_name("bare.csv")
    pd.read_csv(squares)[["id", "uri"]].to_csv(bare, index=False)
    changes = content(bare)
    changes["model"] = squares_model(
        squares.parent,
        ("a", "b"),
        {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "channels": [4, 8],
            "strides": [2],
        },
    )
    changes["target"] = {"name": "region", "classes": ["b"], "of": "mask"}
    with pytest.raises(ValueError, match="no image of the cohort has a mask"):
        planned(Location(url=str(tmp_path / "out")), **changes)
    assert planned(
        Location(url=str(tmp_path / "out")), **changes | {"target": {"name": "region", "classes": ["b"]}}
    ).segments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": ["batch", {"track_running_stats": False}]}, "when other images are in its batch"),
        ({"last_act": "softmax"}, "returns probabilities already"),
        ({"last_act": "sigmoid"}, "returns probabilities already"),
    ],
)
def test_a_network_that_is_no_function_of_the_image_is_not_planned(
    tmp_path: Path, planned: Planned, squares: Path, arguments: dict[str, Any], message: str
) -> None:
    changes = content(squares)
    changes["model"] = squares_model(squares.parent, ("a", "b"), CLASSIFIER | arguments)
    with pytest.raises(ConfigurationError, match=message):
        planned(Location(url=str(tmp_path / "out")), **changes)


def wrapped(state: dict[str, torch.Tensor]) -> tuple[Network, bytes]:
    weights = save(state)
    config = NetworkConfig(network=CLASSIFIER, classes=("a", "b"), input_shape=(16, 16))
    return build(config, weights), weights


def random_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(instantiate(CLASSIFIER, locate(CLASSIFIER, NAMESPACES)).state_dict())


@pytest.mark.parametrize("count", [1, 3])
def test_a_network_is_tried_on_images_of_the_cohort(count: int, caplog: pytest.LogCaptureFixture) -> None:
    network, weights = wrapped(random_state())
    images = torch.randn(count, 1, 16, 16)
    try_network(network, weights, images)
    assert not caplog.records
    with pytest.raises(ConfigurationError, match="answers NaN or infinity about all of"):
        try_network(*wrapped({name: part * 1e30 for name, part in random_state().items()}), images)
    _, others = wrapped({name: part * 2 for name, part in random_state().items()})
    with pytest.raises(ConfigurationError, match="otherwise about images of the cohort than as it was trained"):
        try_network(network, others, images)


def test_answers_that_are_all_the_same_are_told(caplog: pytest.LogCaptureFixture) -> None:
    network, weights = wrapped({name: part * 0 for name, part in random_state().items()})
    try_network(network, weights, torch.randn(3, 1, 16, 16))
    assert "gives the same answer about all of 3 images" in caplog.text
