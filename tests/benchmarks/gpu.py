"""The measured part of docs/gpu.md, made on the first visible GPU: `make bench-gpu`.

What takes a device is measured on a processor just as well, which is how it is tested where there is no GPU.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import cudnn

from flows.demo import demo_content
from models.draws import Draws
from models.engine import Engine
from models.explainers import Explainer
from models.explainers.gradcam import GradCAM
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.explainers.smoothgrad import SmoothGrad
from models.loading import build
from models.network import Network, Precision
from models.network_config import NetworkConfig
from models.precision import deviation
from models.targets import Classes
from models.transfer import Sent
from tasks.demo.cohort import SEED
from tasks.demo.phantom import phantom
from tests.benchmarks import explainers as bare
from tests.benchmarks.gpu_findings import (
    Card,
    Copies,
    Findings,
    Halving,
    Method,
    Noise,
    Rounded,
    write_section,
)
from tests.benchmarks.gpu_flow import flow
from tests.benchmarks.peers_ours import EXPLAINERS
from tests.benchmarks.peers_theirs import captum
from tests.benchmarks.peers_work import TARGET, Work

T = TypeVar("T")

CLASSES = "abcd"
BATCHES = (16, 32, 64, 128, 256)
IMAGES, FEW = 256, 16
ASKS_MUCH = {"SmoothGrad", "integrated gradients", "occlusion"}
ROUNDS = 3
_LEFT = 0.6
_COPIED = 20


def main() -> int:
    if not torch.cuda.is_available():
        print("There is no GPU that torch can use here, so nothing was measured and docs/gpu.md stays as it is.")
        return 2
    with tempfile.TemporaryDirectory(dir=".") as folder:
        of_the_flow = told(flow(Path(folder)))  # first, while this process holds nothing of the GPU
    device = torch.device("cuda")
    findings = Findings(
        card=told(card()),
        flow=of_the_flow,
        noise=told(noise(device)),
        copies=told(copies(device)),
        rounded=tuple(map(told, rounded(device))),
        methods=tuple(map(told, methods(device, IMAGES, FEW, BATCHES))),
        halving=told(halving(device, max(BATCHES))),
    )
    write_section(findings)
    return 0


def told(part: T) -> T:
    """Print what was measured, so that it is known whatever happens after."""
    print(part, flush=True)
    return part


def card() -> Card:
    import pynvml

    pynvml.nvmlInit()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Card(
        torch.cuda.get_device_name(0),
        memory,
        pynvml.nvmlSystemGetDriverVersion(),
        str(torch.version.cuda),
        torch.__version__,
    )


def methods(device: torch.device, images: int, few: int, batches: tuple[int, ...]) -> Iterator[Method]:
    """Compare each explainer with Captum, and with a loop over images that lets Captum ask one question at a time."""
    module = bare.as_loaded(2).to(device)
    for name, theirs in captum().items():
        count = few if name in ASKS_MUCH else images
        own = work(device, count)
        ids = [str(number) for number in range(count)]
        engines = {size: engine_of(bare.as_loaded(2), EXPLAINERS[name], device, size) for size in batches}

        def ours(size: int, engines: dict[int, Engine] = engines, own: Work = own, ids: list[str] = ids) -> Tensor:
            return engines[size].explain(own.images, ids).maps[:, 0, 0]

        def peer(size: int, run: Callable[..., Tensor] = theirs, own: Work = own) -> Tensor:
            return run(module, own, size)

        def loop(run: Callable[..., Tensor] = theirs, own: Work = own) -> Tensor:
            parts = zip(own.images.split(1), own.masks.split(1), own.maps.split(1), strict=True)
            return torch.cat([run(module, Work(*part), 1) for part in parts])

        our_ms, our_batch = fastest(ours, batches, device)
        captum_ms, captum_batch = fastest(peer, batches, device)
        loop_ms = median(milliseconds(loop, device) for _ in range(ROUNDS))
        error = None if name == "SmoothGrad" else apart(ours(our_batch), peer(captum_batch))
        yield Method(name, our_ms / count, captum_ms / count, loop_ms / count, our_batch, captum_batch, error)


def rounded(device: torch.device) -> Iterator[Rounded]:
    """Compare TF32 and bf16 with fp32 on the demo network and its slices."""
    images = slices(32).to(device)
    ids = [str(number) for number in range(len(images))]
    asked: list[Explainer] = [
        *(Saliency(), GradCAM(), IntegratedGradients(steps=20), SmoothGrad(samples=10)),
        Occlusion(window=28, stride=14),
    ]
    names = [explainer.title for explainer in asked]
    engines = {precision: demo_engine(asked, device, precision) for precision in ("fp32", "bf16")}

    def explain(precision: str, tf32: bool) -> tuple[object, float]:
        with tensor_cores(tf32):
            found = engines[precision].explain(images, ids)
            took = median(milliseconds(lambda: engines[precision].explain(images, ids), device) for _ in range(ROUNDS))
        return found, took

    exact, took = explain("fp32", False)
    for title, precision in (("TF32", "fp32"), ("bf16", "bf16")):
        found, faster = explain(precision, True)
        told = deviation(exact, found, names)
        agreement = {name: (one.relative_l2, one.rank_correlation) for name, one in told.items()}
        yield Rounded(title, took / faster, agreement)


@contextmanager
def tensor_cores(allowed: bool) -> Iterator[None]:
    """Allow TF32 in convolutions, where torch allows it by itself, and in products of matrices; or in neither."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    with cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=allowed):
        yield
    torch.set_float32_matmul_precision(before)


def halving(device: torch.device, batch: int) -> Halving:
    """Leave a batch less memory than it needs, by holding the rest, and let CUDA refuse it."""
    images = work(device, batch).images
    ids = [str(number) for number in range(batch)]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    whole = engine_of(bare.as_loaded(2), Saliency(), device, batch).explain(images, ids).maps
    needed = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    engine = engine_of(bare.as_loaded(2), Saliency(), device, batch)
    free = torch.cuda.mem_get_info(device)[0]
    left = int(_LEFT * needed)
    held_back = torch.empty(max(0, free - left), dtype=torch.uint8, device=device)
    found = engine.explain(images, ids).maps
    del held_back
    return Halving(batch, left / 2**20, engine.halvings, engine.batch_size, apart(found[:, 0, 0], whole[:, 0, 0]))


def copies(device: torch.device, batch: int = 64) -> Copies:
    """Time copies of a batch alone, and explain batches with a copy before each, or with the next one sent ahead."""
    engine = engine_of(bare.as_loaded(2), Saliency(), device, batch)
    here = work(torch.device("cpu"), batch).images
    there, ids = here.to(device), [str(number) for number in range(batch)]
    gigabytes = _COPIED * here.nbytes / 1e9

    def in_line() -> None:
        for _ in range(_COPIED):
            engine.explain(here.to(device), ids)

    def ahead() -> None:
        sent = Sent(here, device)
        for _ in range(_COPIED):
            following = Sent(here, device)
            engine.explain(sent.take(), ids)
            sent = following

    def alone() -> None:
        for _ in range(_COPIED):
            engine.explain(there, ids)

    pinned = here.pin_memory() if device.type == "cuda" else here
    pageable_ms, pinned_ms = (
        median(milliseconds(lambda one=one: [one.to(device) for _ in range(_COPIED)], device) for _ in range(ROUNDS))
        for one in (here, pinned)
    )
    took = [median(milliseconds(run, device) for _ in range(ROUNDS)) / _COPIED for run in (alone, in_line, ahead)]
    return Copies(1000 * gigabytes / max(pageable_ms, 1e-6), 1000 * gigabytes / max(pinned_ms, 1e-6), *took)


def noise(device: torch.device, samples: int = 64) -> Noise:
    """Draw the same noise on the device and on the processor."""
    names, image = ["a", "b"], torch.arange(samples) % 2

    def drawn(where: torch.device) -> Callable[[], Tensor]:
        draws = Draws("gaussian", names, where)
        of, sample = image.to(where), torch.arange(samples, device=where)
        return lambda: draws.gaussian((1, *bare.SHAPES[2]), of, sample)

    processor = torch.device("cpu")
    equal = torch.equal(drawn(device)().cpu(), drawn(processor)())
    took = [
        1000 * median(milliseconds(drawn(where), where) for _ in range(ROUNDS)) / samples
        for where in (device, processor)
    ]
    return Noise(equal, *took)


def fastest(run: Callable[[int], Tensor], batches: tuple[int, ...], device: torch.device) -> tuple[float, int]:
    """Find the batch size at which `run` is fastest; returns the median milliseconds and the size.

    A size for which memory does not suffice is left out.
    """
    took = {}
    for size in batches:
        try:
            took[size] = milliseconds(lambda size=size: run(size), device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    best = min(took, key=lambda size: took[size])
    return median(milliseconds(lambda: run(best), device) for _ in range(ROUNDS)), best


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Time by the clock until the device has done all; the first run of two is not counted."""
    run()
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return 1000 * (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def engine_of(module: nn.Module, explainer: Explainer, device: torch.device, batch: int) -> Engine:
    config = NetworkConfig(network={"_target_": "a.B"}, classes=tuple(CLASSES), input_shape=bare.SHAPES[2])
    return Engine(Network(module, config, device), [explainer], Classes(classes=(CLASSES[TARGET],)), batch)


def demo_engine(asked: list[Explainer], device: torch.device, precision: Precision) -> Engine:
    """The engine of the demo's network, as it is trained."""
    from flows.config import RunConfig

    model = RunConfig.model_validate(demo_content("manifest.csv", "out", spatial_dims=2)).model
    network = build(model, model.read(), str(device), precision)
    return Engine(network, asked, Classes(classes=("lesion",)), 32)


def slices(count: int) -> Tensor:
    """Draw slices of the demo cohort, ``(image, 1, y, x)``, as its preprocessing makes them."""
    drawn = np.stack([phantom(number, spatial_dims=2, seed=SEED).pixels for number in range(count)])
    scaled = (drawn - drawn.mean((1, 2), keepdims=True)) / drawn.std((1, 2), keepdims=True)
    return torch.from_numpy(scaled.astype(np.float32))[:, None]


def work(device: torch.device, count: int) -> Work:
    """Make slices at the size of the ResNet."""
    images = nn.functional.interpolate(slices(min(count, 16)), bare.SHAPES[2], mode="bilinear")
    images = images.repeat(-(-count // len(images)), 1, 1, 1)[:count].to(device)
    return Work(images, images[:, 0] > 0, images[:, 0])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2, the median over images."""
    pairs = zip(ours, theirs.to(ours), strict=True)
    return median(float((our - their).norm() / their.norm()) for our, their in pairs)


if __name__ == "__main__":
    sys.exit(main())
