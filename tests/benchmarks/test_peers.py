"""Both sides of `make bench-peers` on a small picture: they do the same work, and are told so by lines of JSON."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet18

from tests.benchmarks import peers, peers_ours, peers_theirs
from tests.benchmarks.peers_work import CLASSES, POINTS, Work, module_of, serve

IMAGES, SHAPE = 2, (64, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = resnet18(spatial_dims=2, n_input_channels=1, num_classes=CLASSES, conv1_t_stride=2)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    drawn = np.random.default_rng(0).uniform(size=(IMAGES, 1, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", drawn)
    np.save(tmp_path / "masks.npy", drawn[:, 0] > 0.5)
    np.save(tmp_path / "maps.npy", drawn[:, 0] - 0.5)
    return tmp_path


@pytest.mark.parametrize("name", ["gradient", "gradient times image", "guided backprop"])
def test_both_sides_make_the_same_map(name: str, folder: Path) -> None:
    work = Work.read(folder)
    theirs = peers_theirs.captum()[name](module_of(folder, channels_last=True), work, 2)
    ours = peers_ours.METHODS[name](module_of(folder, channels_last=False), work, 2)
    apart, alike = peers.agreement(theirs.numpy(), ours.numpy())
    assert apart < 1e-4 and alike > 0.999


@pytest.mark.parametrize("name", peers_ours.METRICS)
def test_a_metric_has_a_value_an_image(name: str, folder: Path) -> None:
    made = peers_ours.Ready(peers_ours.EXPLAINERS["gradient"], peers_ours.METHODS[name].run)
    found = made(module_of(folder, channels_last=False), Work.read(folder), 2)
    assert found.shape == ((IMAGES, POINTS) if name == "deletion" else (IMAGES,))
    assert found.isfinite().all()


def test_a_side_answers_by_lines_and_says_what_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise ValueError("expect batch size of 1")

    asked = [{"key": key, "method": key, "batch": 1, "channels_last": False} for key in ("fails", "works")]
    lines = "".join(json.dumps(one | {"answer": str(folder / "answer.npy")}) + "\n" for one in asked)
    answers = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    monkeypatch.setattr(sys, "stdout", answers)
    serve(folder, {"fails": fail, "works": lambda module, work, batch: work.maps}, {"methods": []})
    told, failed, worked = map(json.loads, answers.getvalue().splitlines())
    assert told == {"methods": []}
    assert failed == {"error": "ValueError: expect batch size of 1"}
    assert worked["seconds"] >= 0
    assert np.load(folder / "answer.npy").shape == (IMAGES, *SHAPE)


def test_agreement_is_the_median_over_images() -> None:
    theirs = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    ours = theirs * np.array([[1.0], [1.5], [9.0]])
    assert peers.agreement(theirs, ours) == (0.5, pytest.approx(1.0))
    assert peers.agreement(theirs[0], theirs[0]) == (0.0, pytest.approx(1.0))
