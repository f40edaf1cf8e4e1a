"""Small cohorts whose sources have geometry, colour or several files, and runs on them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks.storage.location import Location
from tests.tasks.outputs import carry_out

RNG = np.random.default_rng(8)
OBLIQUE = np.array([[1.4, 0.2, -0.3, -31], [-0.15, 1.6, 0.2, 12], [0.3, -0.25, 2.1, -55], [0, 0, 0, 1]])
"""Index (x, y, z) to RAS mm, with spacings of 1.4, 1.6 and 2.1 mm or so, without shear."""

STRAIGHT = np.array([[-1.5, 0, 0, 31], [0, 1.25, 0, 12], [0, 0, 2.0, -55], [0, 0, 0, 1.0]])


def transform(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", **arguments}


def without_shear(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the axes of an affine perpendicular; their lengths stay."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    turned, _ = np.linalg.qr(affine[:3, :3] / lengths)
    turned *= np.sign(np.diag(turned))
    mended = affine.copy()
    mended[:3, :3] = turned * lengths
    return mended


def run_on(
    folder: Path,
    source: str,
    grid: tuple[int, ...],
    channels: int = 1,
    explainers: tuple[Any, ...] = ("saliency", "input_x_gradient"),
    model: dict[str, Any] | None = None,
    top: dict[str, Any] | None = None,
    **cohort: Any,
) -> Location:
    """Explain the files of a folder by a network with random weights; say where the output is."""
    network = {
        "_target_": "monai.networks.nets.Classifier",
        "in_shape": [channels, *grid],
        "classes": 2,
        "channels": [4],
        "strides": [2],
    }
    torch.manual_seed(0)
    module: nn.Module = instantiate(network, locate(network, NAMESPACES))
    save_file(module.state_dict(), folder / "weights.safetensors")
    output = Location(url=str(folder / "out"))
    content = {
        "cohort": {"source": str(folder / source), "identifiers": "as given", **cohort},
        "model": {
            "network": network,
            "weights": str(folder / "weights.safetensors"),
            "classes": ["a", "b"],
            "input_shape": list(grid),
            "channels": channels,
            **(model or {}),
        },
        "explainers": list(explainers),
        "output": output.model_dump(),
        **(top or {}),
    }
    carry_out(content)
    return output


def write_volume(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64], qform: bool = False) -> None:
    """Write a smooth NIfTI volume ``(x, y, z)``."""
    values = sum(np.cos(axis / 3 + place) for place, axis in enumerate(np.indices(shape)))
    image = nibabel.Nifti1Image(np.asarray(values, np.float32), None)
    image.set_sform(affine, 0 if qform else 1)
    image.set_qform(affine, 1 if qform else 0)
    nibabel.save(image, path)


def write_colours(folder: Path, count: int, shape: tuple[int, int] = (20, 26)) -> None:
    for number in range(count):
        pixels = RNG.integers(0, 256, (*shape, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
