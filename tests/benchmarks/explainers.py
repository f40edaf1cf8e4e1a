"""The engine against bare passes and against Captum, as ratios, with the largest difference between the answers.

Both sides run in turn in one process with a worker's environment, on a GPU if there is one; the ratio is the median of
the pairs' ratios. The bare side is in the memory format and at the batch size that are best for it, and its gradients
are taken in the way that is fastest. Captum is given the same frozen network, as it is loaded and in channels last, at
the batch size that is best for it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch
from captum import attr
from monai.networks.nets import resnet18
from torch import Tensor, nn

from flows.forked import worker_environment
from models.engine import Engine
from models.explainers.base import Explainer
from models.explainers.deconvolution import Deconvolution
from models.explainers.expected_gradients import ExpectedGradients
from models.explainers.gradcam import GradCAM
from models.explainers.gradcam_plusplus import GradCAMPlusPlus
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.layercam import LayerCAM
from models.explainers.occlusion import Occlusion
from models.explainers.prediction import Prediction
from models.explainers.saliency import Saliency
from models.explainers.smoothgrad import SmoothGrad
from models.few_channels import few_channels
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes
from tests.benchmarks.ratios import Ratio
from tests.models.networks import difference

PAIRS = 3
TARGET = 1
EXACT = 6
"""The place of integrated gradients among the eight."""

SHAPES = {2: (224, 224), 3: (48, 48, 48)}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes
    ----------
    oracle
        Whose answer ours is compared with, where it is not theirs; ours itself where nobody else has the method.
    faster
        Whether the ratio says how many times faster we are, rather than what we cost of theirs.
    """

    name: str
    ours: Run
    theirs: Run
    goal: float | None
    oracle: Run | None = None
    faster: bool = False


def ratios() -> Iterator[Ratio]:
    """Measure what `make bench` holds."""
    network = network_of(2)
    path, hide = SmoothGrad(samples=25), Occlusion(window=32, stride=16)
    images, back, forward = images_of(2, 1), best_batch(2, True), best_batch(2, False)
    _, in_channels_last, *_ = set_cases(images, back)
    for case in (
        *plain_cases(),
        path_case(network, IntegratedGradients(steps=50), 50, 1),
        path_case(network, path, 25, 1),
        Case("occlusion / bare forward", ours(network, [hide], images, forward), rows(network, 169, forward, False),
             1.1, captum_occlusion(as_loaded(2), images, 32, 16, forward)),
        in_channels_last,
    ):  # fmt: skip
        yield measured(case)


def main() -> None:
    if "MALLOC_TOP_PAD_" not in os.environ:
        threads = len(os.sched_getaffinity(0))
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name], {**os.environ, **worker_environment(threads)})
    print(
        f"{DEVICE}, {torch.get_num_threads()} threads; seconds of ours and theirs, ratio, largest relative difference"
    )
    sets = lambda: set_cases(images_of(2, 2), best_batch(2, True))  # noqa: E731
    for cases in (plain_cases, path_cases, occlusion_cases, sets):
        for case in cases():
            print(line(case), flush=True)


def line(case: Case) -> str:
    found = measured(case)
    kind = "times faster" if case.faster else "times theirs"
    goal = "" if found.goal is None else f" (goal {found.goal})"
    return f"{case.name:58} {found.note}   {found.ratio:5.2f} {kind}{goal}   {found.error:.0e}"


def measured(case: Case) -> Ratio:
    """Measure the error, the largest of an image, and the seconds of both sides in turn."""
    error = difference(case.ours(), (case.oracle or case.theirs)())
    pairs = [(seconds(case.ours), seconds(case.theirs)) for _ in range(PAIRS)]
    ratio = median(theirs / ours if case.faster else ours / theirs for ours, theirs in pairs)
    mine, other = (median(side) for side in zip(*pairs, strict=True))
    note = f"{mine:.2f} s, and {other:.2f} s"
    return Ratio(case.name, ratio, case.goal, error, "higher" if case.faster else "lower", note)


def seconds(run: Run) -> float:
    """Measure CPU seconds, or on a GPU seconds."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    began = clock()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def network_of(dims: int) -> Network:
    torch.manual_seed(0)
    module = resnet18(spatial_dims=dims, n_input_channels=1, num_classes=4, conv1_t_stride=2)
    config = NetworkConfig(network={"_target_": "a.B"}, classes=tuple("abcd"), input_shape=SHAPES[dims])
    return Network(module, config, DEVICE)


def as_loaded(dims: int) -> nn.Module:
    """The same network without what we do to it but for its frozen parameters."""
    torch.manual_seed(0)
    module = resnet18(spatial_dims=dims, n_input_channels=1, num_classes=4, conv1_t_stride=2)
    return module.eval().requires_grad_(False).to(DEVICE)


def images_of(dims: int, count: int) -> Tensor:
    return torch.randn(count, 1, *SHAPES[dims], generator=torch.Generator().manual_seed(1)).to(DEVICE)


def ours(network: Network, explainers: Sequence[Explainer], images: Tensor, batch: int, take: int = 0) -> Run:
    """Explain; the answer compared is the map of explainer `take`."""
    background = images_of(network.config.spatial_dims, 4).flip(-1)
    engine = Engine(network, explainers, Classes(classes=("b",)), batch, fitted={"background": background})
    ids = [str(number) for number in range(len(images))]
    return lambda: engine.explain(images, ids).maps[:, 0, take]


def rows(network: Network, total: int, batch: int, backward: int = 1) -> Run:
    """Bare passes of `total` images, forward once and back as often as is said."""
    dims = network.config.spatial_dims
    inputs = network.prepare(images_of(dims, min(batch, total)))

    def run() -> Tensor:
        for start in range(0, total, batch):
            part = inputs[: min(batch, total - start)].detach().requires_grad_(backward > 0)
            with torch.set_grad_enabled(backward > 0), few_channels():
                score = network.module(part)[:, TARGET].sum()
            for left in reversed(range(backward)):
                (answer,) = torch.autograd.grad(score, part, retain_graph=left > 0)
        return answer[:, 0] if backward else score[None, None]

    return run


@cache
def best_batch(dims: int, backward: bool) -> int:
    """The batch size at which a bare pass of an image is fastest."""
    network, sizes = network_of(dims), (4, 8, 16, 32) if DEVICE == "cpu" else (32, 64, 128, 256)
    return min(sizes, key=lambda size: min(seconds(rows(network, max(sizes), size, backward)) for _ in range(2)))


def plain_cases() -> list[Case]:
    network, batch = network_of(2), best_batch(2, True)
    images = network.prepare(images_of(2, batch))
    six = [Prediction(), Saliency(), InputXGradient(), GradCAM(), GradCAMPlusPlus(), LayerCAM()]
    layer = network.module.get_submodule(network.layer(None))

    def captum_cam() -> Tensor:
        cam = attr.LayerGradCam(network.module, layer).attribute(images, TARGET, relu_attributions=True)
        return attr.LayerAttribution.interpolate(cam, SHAPES[2], "bilinear")[:, 0]

    loaded = as_loaded(2)

    def captum_guided() -> Tensor:
        return attr.GuidedBackprop(loaded).attribute(images.clone(), target=TARGET)[:, 0]

    guided, by_rules = [GuidedBackprop()], [Saliency(), GuidedBackprop(), Deconvolution()]
    forward, both, thrice = (rows(network, batch, batch, backward) for backward in (0, 1, 3))
    return [
        Case("six of one pass / forward and backward", ours(network, six, images, batch, 0), both, 1.1),
        Case("Grad-CAM / forward", ours(network, [GradCAM()], images, batch), forward, 1.1, captum_cam),
        Case("guided backprop / forward and backward", ours(network, guided, images, batch), both, 1.1, captum_guided),
        Case("three backward rules / forward and three backward", ours(network, by_rules, images, batch), thrice, 1.1),
    ]


def path_cases() -> list[Case]:
    network = network_of(2)
    methods: list[tuple[Explainer, int]] = [
        (IntegratedGradients(steps=50), 50),
        (SmoothGrad(samples=25), 25),
        (ExpectedGradients(samples=25), 25),
    ]
    return [path_case(network, explainer, steps, count) for count in (1, 7) for explainer, steps in methods]


def path_case(network: Network, explainer: Explainer, steps: int, count: int) -> Case:
    images, batch = images_of(2, count), best_batch(2, True)
    run = ours(network, [explainer], images, batch)
    oracle = captum_path(network, images, steps, batch) if explainer.name == "integrated_gradients" else None
    name = f"{explainer.name} of {steps}, {count} at once / bare rows"
    return Case(name, run, rows(network, steps * count, batch), 1.05, oracle or run)


def captum_path(network: Network, images: Tensor, steps: int, batch: int) -> Run:
    path = attr.IntegratedGradients(network.module)
    return lambda: path.attribute(images, target=TARGET, n_steps=steps, internal_batch_size=batch)[:, 0]


def occlusion_cases() -> list[Case]:
    cases = []
    for dims, window, stride in ((2, 32, 16), (3, 12, 12)):
        network, images = network_of(dims), images_of(dims, 1)
        batch = best_batch(dims, False)
        starts = -(-(SHAPES[dims][0] - window) // stride) + 1
        run = ours(network, [Occlusion(window=window, stride=stride)], images, batch)
        default = captum_occlusion(as_loaded(dims), images, window, stride, 1)
        name = f"occlusion {window}/{stride}, {dims}-D"
        cases.append(Case(f"{name} / bare forward", run, rows(network, starts**dims, batch, False), 1.1, default))
        cases.append(Case(f"{name} / Captum's default", run, default, None, faster=True))
    return cases


def captum_occlusion(module: nn.Module, images: Tensor, window: int, stride: int, batch: int) -> Run:
    dims = images.ndim - 2
    sides, steps = (1, *[window] * dims), (1, *[stride] * dims)
    hide = attr.Occlusion(module)
    return lambda: hide.attribute(images, sides, steps, target=TARGET, perturbations_per_eval=batch)[:, 0]


def set_cases(images: Tensor, batch: int) -> list[Case]:
    """The set of the field's usual eight, at equal answers."""
    loaded, last = as_loaded(2), as_loaded(2).to(memory_format=torch.channels_last)
    captum = {
        name: captum_set(module, module.layer4, images, batch, 32)
        for name, module in {"Captum as loaded": loaded, "Captum in channels last": last}.items()
    }
    if DEVICE == "cuda":
        captum["one image and one pass at a time"] = captum_loop(loaded, images)
    run = ours(network_of(2), the_eight(32), images, batch, EXACT)
    return [Case(f"the eight / {name}", run, theirs, 1.5, faster=True) for name, theirs in captum.items()]


def the_eight(window: int, tolerance: float | None = None) -> list[Explainer]:
    return [
        *(Saliency(), InputXGradient(), GradCAM(), GradCAMPlusPlus(), SmoothGrad(samples=25), GuidedBackprop()),
        IntegratedGradients(steps=50, tolerance=tolerance),
        Occlusion(window=window, stride=window // 2),
    ]


def captum_set(module: nn.Module, layer: nn.Module, images: Tensor, batch: int, window: int) -> Run:
    """One method after the other, each at its best batch size; returns integrated gradients."""
    if next(layer.parameters()).stride()[1] == 1:
        images = torch.empty_like(images, memory_format=torch.channels_last).copy_(images)

    def run() -> Tensor:
        attr.Saliency(module).attribute(images.clone(), target=TARGET, abs=False)
        attr.InputXGradient(module).attribute(images.clone(), target=TARGET)
        attr.LayerGradCam(module, layer).attribute(images, TARGET)
        attr.LayerGradCam(module, layer).attribute(images, TARGET)  # in the stead of Grad-CAM++, which Captum lacks
        attr.GuidedBackprop(module).attribute(images.clone(), target=TARGET)
        noise = attr.NoiseTunnel(attr.Saliency(module))
        noise.attribute(
            images, nt_samples=25, nt_samples_batch_size=max(1, batch // len(images)), target=TARGET, abs=False
        )
        captum_occlusion(module, images, window, window // 2, max(1, batch // len(images)))()
        path = attr.IntegratedGradients(module)
        return path.attribute(images, target=TARGET, n_steps=50, internal_batch_size=batch)[:, 0]

    return run


def captum_loop(module: nn.Module, images: Tensor) -> Run:
    """How a notebook does it."""
    each = [captum_set(module, module.layer4, image, 1, 32) for image in images.split(1)]
    return lambda: torch.cat([run() for run in each])


if __name__ == "__main__":
    main()
