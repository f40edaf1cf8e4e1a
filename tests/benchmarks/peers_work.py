"""The work that both sides of `make bench-peers` do, and how they are told; imports nothing but torch and numpy.

Each side is a process that reads one JSON a line, does a method at a setting, and answers with its CPU seconds.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TARGET = 1
CLASSES = 4
BATCHES = (1, 4, 8)
FEW = 1
"""Images of a method that asks much of each."""

SAMPLES, STEPS, NOISE = 25, 50, 0.15
WINDOW, STRIDE = 32, 16
POINTS = 16
ASKS_MUCH = {"SmoothGrad", "integrated gradients", "occlusion", "deletion"}


@dataclass(frozen=True)
class Work:
    """Images, masks of what is in them, and maps that metrics evaluate, as ``(image, *space)``."""

    images: Tensor
    masks: Tensor
    maps: Tensor

    @classmethod
    def read(cls, folder: Path) -> "Work":
        return cls(*(torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("images", "masks", "maps")))

    def of(self, method: str) -> "Work":
        """Take as many images as are worth the time."""
        count = FEW if method in ASKS_MUCH else len(self.images)
        return Work(self.images[:count], self.masks[:count], self.maps[:count])


Method = Callable[[nn.Module, Work, int], Tensor | NDArray[Any]]
"""Makes ``(image, ...)`` of a network, the work, and the images or questions that are put to it at once."""


def module_of(folder: Path, *, channels_last: bool) -> nn.Module:
    """Build the frozen ResNet-18 of MONAI with the weights that both sides have."""
    from monai.networks.nets import resnet18

    module = resnet18(spatial_dims=2, n_input_channels=1, num_classes=CLASSES, conv1_t_stride=2)
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last) if channels_last else module


def serve(folder: Path, methods: Mapping[str, Method], told: Mapping[str, Any]) -> None:
    """Answer until the input ends; what else is printed goes to the standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(told), file=answers, flush=True)
    work = Work.read(folder)
    for line in sys.stdin:
        asked = json.loads(line)
        method, part = methods[asked["key"]], work.of(asked["method"])
        module = module_of(folder, channels_last=asked["channels_last"])
        try:
            began = time.process_time()
            found = method(module, part, asked["batch"])
            answer = {"seconds": (time.process_time() - began) / len(part.images)}
            np.save(asked["answer"], np.asarray(found.detach() if isinstance(found, Tensor) else found))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
