"""The engine beside other packages on the same work: `make bench-peers`, which writes `peers.json` for docs/speed.md.

The packages live in an environment of their own (`.cache/peers`), since some of their licences forbid that anything of
ours depends on them. Both sides are processes of one thread that do each method in turn; what is compared is the CPU
seconds an image, and the maps. Each side first tries batch sizes, theirs also channels last, and keeps the fastest.
"""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import torch
from monai.networks.nets import resnet18
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import zoom

from flows.forked import worker_environment
from tasks.demo.cohort import SEED
from tasks.demo.phantom import phantom
from tests.benchmarks.peers_record import RECORDED as PEERS
from tests.benchmarks.peers_record import Line, Peers
from tests.benchmarks.peers_work import ASKS_MUCH, BATCHES, CLASSES, POINTS, TARGET
from tests.benchmarks.record import RECORDED, Machine, Record
from tests.benchmarks.speed_page import write_page

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".cache/peers"
WORK = ROOT / ".cache/peers-work"
IMAGES, SHAPE = 8, (224, 224)
ROUNDS = 3
ALONE = ["captum==0.9.0", "monai==1.6.1"]
QUANTUS = ["cachetools", "opencv-python-headless", "pandas", "scikit-image", "scikit-learn", "scipy", "tqdm"]
"""Packages that Quantus 0.6 imports, with an OpenCV that needs no display."""
TORCHVISION = "torchvision==0.28.0"
"""The release for torch 2.13, without its dependencies, since they are another build of torch."""
WITH_TORCHVISION = ["grad-cam==1.5.7", "zennit==0.5.1", "pnpxai==0.1.4"]

NOTES = {
    "captum: SmoothGrad": "other noise",
    "monai: SmoothGrad": "other noise; one image and one sample a pass",
    "monai: gradient": "one image a pass",
    "monai: guided backprop": "the plain gradient: no module of MONAI's own ResNet has the name that it looks for",
    "monai: Grad-CAM++": "fails for several images a pass",
    "monai: occlusion": "no window hangs over the edge",
    "grad-cam: Grad-CAM": "each map scaled to [0, 1]",
    "grad-cam: Grad-CAM++": "each map scaled to [0, 1]",
    "grad-cam: LayerCAM": "each map scaled to [0, 1]",
    "zennit: integrated gradients": "the right-hand sum",
    "zennit: SmoothGrad": "other noise",
    "captum: integrated gradients": "Gauss-Legendre on both sides",
    "quantus: deletion": f"in {POINTS} steps, pixel by pixel",
    "quantus: Gini index": "adds 1e-7 to each place",
}
"""Why maps differ, or what a package cannot do."""

ONE_A_PASS = {"monai: gradient", "monai: Grad-CAM++", "monai: guided backprop", "monai: SmoothGrad"}
"""Methods that take no more at once."""

Setting = tuple[int, bool]
"""Images or questions at once, and whether the network is in channels last."""


class Side:
    """A process that does methods when it is told to."""

    def __init__(self, python: str | Path, module: str) -> None:
        environment = {
            **os.environ,
            **worker_environment(threads=1),
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.process = subprocess.Popen(
            [python, "-m", f"tests.benchmarks.{module}", WORK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.answer = WORK / f"{module}.npy"
        self.told = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def seconds(self, key: str, method: str, setting: Setting) -> float:
        """Do a method; returns CPU seconds an image.

        Raises
        ------
        RuntimeError
            If the package fails.
        """
        asked = {"key": key, "method": method, "batch": setting[0], "channels_last": setting[1]}
        assert self.process.stdin
        print(json.dumps(asked | {"answer": str(self.answer)}), file=self.process.stdin, flush=True)
        answered = self._read()
        if "error" in answered:
            raise RuntimeError(f"{key}: {answered['error']}")
        return float(answered["seconds"])

    def found(self) -> NDArray[Any]:
        return np.load(self.answer).astype(np.float64)

    def best(self, key: str, method: str, formats: tuple[bool, ...]) -> Setting:
        """Find the batch size and memory format at which a method is fastest."""
        tries = 1 if method in ASKS_MUCH else 2
        settings = list(product((1,) if key in ONE_A_PASS else BATCHES, formats))
        return min(settings, key=lambda one: min(self.seconds(key, method, one) for _ in range(tries)))

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended; what it printed last says why")
        return dict(json.loads(line))


def main() -> None:
    install()
    write_work()
    with Side(ENVIRONMENT / "bin/python", "peers_theirs") as theirs, Side(sys.executable, "peers_ours") as ours:
        missing = dict(theirs.told["missing"])
        known: dict[str, Setting] = {}
        lines = []
        for key in theirs.told["methods"]:
            package, method = key.split(": ", 1)
            print(f"comparing {key}", file=sys.stderr, flush=True)
            if method not in known:
                known[method] = ours.best(method, method, (False,))
            try:
                lines.append(compare(theirs, ours, package, method, known[method]))
            except RuntimeError as error:
                missing[key] = str(error)
    found = Peers(Machine.here(), IMAGES, SHAPE, tuple(lines), missing)
    found.write(PEERS)
    write_page(Record.read(RECORDED))
    print_table(found)


def install() -> None:
    """Make the environment, with the build of torch that is installed here."""
    complete, torch_here = ENVIRONMENT / "complete", version("torch").partition("+")[0]
    if complete.exists() and complete.read_text() == torch_here:
        return
    venv.create(ENVIRONMENT, with_pip=True, clear=True)

    def pip(*arguments: str) -> None:
        subprocess.run([ENVIRONMENT / "bin/pip", *arguments], check=True)

    pip("install", f"torch=={torch_here}", *ALONE, *QUANTUS)
    pip("install", "--no-deps", "quantus==0.6.0", TORCHVISION)
    pip("install", *WITH_TORCHVISION)
    complete.write_text(torch_here)


def write_work() -> None:
    """Write the weights, slices of the demo cohort at the network's size, their lesions, and gradients as maps."""
    WORK.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    module = resnet18(spatial_dims=2, n_input_channels=1, num_classes=CLASSES, conv1_t_stride=2)
    torch.save(module.state_dict(), WORK / "weights.pt")
    drawn = [phantom(2 * number + 1, spatial_dims=2, seed=SEED) for number in range(IMAGES)]

    def sized(picture: NDArray[Any], order: int) -> NDArray[Any]:
        return zoom(picture, [side / own for side, own in zip(SHAPE, picture.shape, strict=True)], order=order)

    images = torch.tensor(np.stack([sized(one.pixels, 1) for one in drawn])[:, None], requires_grad=True)
    (maps,) = torch.autograd.grad(module.eval()(images)[:, TARGET].sum(), images)
    np.save(WORK / "images.npy", images.detach().numpy())
    np.save(WORK / "masks.npy", np.stack([sized(one.lesion.astype(np.uint8), 0) for one in drawn]).astype(bool))
    np.save(WORK / "maps.npy", maps[:, 0].numpy())


def compare(theirs: Side, ours: Side, package: str, method: str, setting: Setting) -> Line:
    """Let both sides do a method in turn, each at its best setting."""
    key = f"{package}: {method}"
    chosen = theirs.best(key, method, (False, True))
    pairs = [(theirs.seconds(key, method, chosen), ours.seconds(method, method, setting)) for _ in range(ROUNDS)]
    their_ms, our_ms = (1000 * median(side) for side in zip(*pairs, strict=True))
    apart, alike = agreement(theirs.found(), ours.found())
    return Line(
        package,
        method,
        their_ms,
        our_ms,
        median(their / our for their, our in pairs),
        apart,
        alike,
        in_words(*chosen),
        in_words(*setting),
        NOTES.get(key, ""),
    )


def agreement(theirs: NDArray[Any], ours: NDArray[Any]) -> tuple[float, float]:
    """Compare ``(image, ...)``: medians over images of relative L2 and of Pearson's correlation.

    One number an image is compared over the images.
    """
    rows = [(theirs, ours)] if theirs.ndim == 1 else list(zip(theirs, ours, strict=True))
    both = [(their.ravel(), our.ravel()) for their, our in rows]
    apart = median(float(np.linalg.norm(their - our) / np.linalg.norm(their)) for their, our in both)
    return apart, median(float(np.corrcoef(their, our)[0, 1]) for their, our in both)


def in_words(batch: int, channels_last: bool) -> str:
    return f"batches of {batch}{', channels last' if channels_last else ''}"


def print_table(found: Peers) -> None:
    table = Table(*("package, method", "theirs, ms", "ours, ms", "ratio", "relative L2", "correlation", "note"))
    for line in found.lines:
        numbers = (f"{line.theirs_ms:.1f}", f"{line.ours_ms:.1f}", f"{line.ratio:.2f}")
        table.add_row(line.title, *numbers, f"{line.relative_l2:.1e}", f"{line.correlation:.3f}", line.note)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for name, reason in found.missing.items():
        console.print(f"{name}: not compared, {reason}")


if __name__ == "__main__":
    main()
