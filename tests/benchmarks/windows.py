"""Saliency of volumes larger than the network, against MONAI's inferer and autograd, written by hand.

Both sides take the same windows of the same network, `BATCH` at once, in turn in one process; the ratio is that of
their CPU seconds, the median over pairs. By hand, the graphs of all windows are held until the one backward pass. Here
those of a batch are held: where it holds all windows, or where the part of each in the score is known beforehand, each
window is asked about once, and else twice. Peak memory is that of a process which explains one image in one way.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import Tensor

from models.engine import Engine
from models.explainers.saliency import Saliency
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Region
from models.windows import Windows
from tests.benchmarks.ratios import Ratio
from tests.models.networks import difference

PAIRS, BATCH, WINDOW = 3, 8, (32, 32, 32)
CASES = {
    "8 windows, in one batch": ((56, 56, 56), "predicted", 0.95),
    "64 windows, of a region that is known": ((104, 104, 104), "mask", 0.95),
    "64 windows, of a region that is predicted": ((104, 104, 104), "predicted", None),
}


def sides(case: str) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Explain one image, here and by hand; the answers are the maps."""
    shape, of, _ = CASES[case]
    torch.manual_seed(0)
    module = UNet(3, 1, 2, (16, 32, 64), (2, 2), num_res_units=1).eval().requires_grad_(False)
    image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    inside = torch.rand(1, *shape, generator=torch.Generator().manual_seed(2)) > 0.5
    inferer = SlidingWindowInferer(WINDOW, BATCH, 0.25, "gaussian")

    def by_hand() -> Tensor:
        pixels = image.clone().requires_grad_()
        logits = inferer(pixels, module)
        region = inside if of == "mask" else logits.argmax(1) == 1
        return torch.autograd.grad((logits[:, 1] * region).sum(), pixels)[0][:, 0]

    windows = Windows(image_shape=shape, weights="gaussian")
    network = Network(module, NetworkConfig(classes=("rest", "organ"), input_shape=WINDOW, windows=windows))
    engine = Engine(network, [Saliency()], Region(classes=("organ",), of=of), BATCH)
    return lambda: engine.explain(image, ["a"], inside).maps[:, 0, 0], by_hand


def seconds(run: Callable[[], Tensor]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def peak(case: str, side: int) -> str:
    """Measure by how much one explanation raises the memory of a process of its own at most, in MiB."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.windows", case, str(side)], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def memory(kind: str) -> int:
    """Look up a kind of this process's memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def ratios() -> Iterator[Ratio]:
    for case, (_, _, goal) in CASES.items():
        ours, theirs = sides(case)
        error = difference(ours(), theirs())
        ratio = median(1 / (seconds(ours) / seconds(theirs)) for _ in range(PAIRS))
        note = f"peak memory {peak(case, 0)} MiB here, {peak(case, 1)} MiB by hand"
        yield Ratio(f"{case}: by hand / ours", ratio, goal, error, note=note)


if __name__ == "__main__":
    run = sides(sys.argv[1])[int(sys.argv[2])]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = memory("VmRSS")
    run()
    print((memory("VmHWM") - before) // 1024)
