"""The engine against bare passes and against Captum, as ratios, with the largest difference between the answers.

Both sides run in turn in one process with a worker's environment, on a GPU if there is one; the ratio is the median of
the pairs' ratios. The bare side is in the memory format and at the batch size that are best for it. Captum is given the
same frozen network, as it is loaded and in channels last, at the batch size that is best for it.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from captum import attr
from monai.networks.nets import resnet18
from torch import Tensor, nn

from flows.cluster import worker_environment
from models.engine import Engine
from models.explainers.base import Explainer
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
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes

PAIRS = 3
TARGET = 1
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
    goal: str
    oracle: Run | None = None
    faster: bool = False


def main() -> None:
    if "MALLOC_TOP_PAD_" not in os.environ:
        threads = len(os.sched_getaffinity(0))
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name], {**os.environ, **worker_environment(threads)})
    print(
        f"{DEVICE}, {torch.get_num_threads()} threads; seconds of ours and theirs, ratio, largest relative difference"
    )
    for cases in (plain_cases, path_cases, occlusion_cases, set_cases):
        for case in cases():
            print(line(case), flush=True)


def line(case: Case) -> str:
    ours, theirs = case.ours(), (case.oracle or case.theirs)()
    apart = (ours - theirs.to(ours)).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1).to(ours)
    pairs = [(seconds(case.ours), seconds(case.theirs)) for _ in range(PAIRS)]
    ratio = median(theirs / ours if case.faster else ours / theirs for ours, theirs in pairs)
    mine, other = (median(side) for side in zip(*pairs, strict=True))
    kind = "times faster" if case.faster else "times theirs"
    return (
        f"{case.name:58} {mine:7.2f} {other:7.2f}   {ratio:5.2f} {kind} (goal {case.goal})   {float(apart.max()):.0e}"
    )


def seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


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


def rows(network: Network, total: int, batch: int, backward: bool = True) -> Run:
    """Bare passes of `total` images."""
    dims = network.config.spatial_dims
    inputs = network.prepare(images_of(dims, min(batch, total)))

    def run() -> Tensor:
        for start in range(0, total, batch):
            part = inputs[: min(batch, total - start)].detach().requires_grad_(backward)
            with torch.set_grad_enabled(backward):
                score = network.module(part)[:, TARGET].sum()
            if backward:
                (answer,) = torch.autograd.grad(score, part)
        return answer[:, 0] if backward else score[None, None]

    return run


def best_batch(network: Network, backward: bool) -> int:
    """The batch size at which a bare pass of an image is fastest."""
    sizes = (4, 8, 16, 32) if DEVICE == "cpu" else (32, 64, 128, 256)
    return min(sizes, key=lambda size: min(seconds(rows(network, 2 * size, size, backward)) for _ in range(2)) / size)


def plain_cases() -> list[Case]:
    network, batch = network_of(2), best_batch(network_of(2), True)
    images = network.prepare(images_of(2, batch))
    six = [Prediction(), Saliency(), InputXGradient(), GradCAM(), GradCAMPlusPlus(), LayerCAM()]
    layer = network.module.get_submodule(network.layer(None))

    def captum_cam() -> Tensor:
        cam = attr.LayerGradCam(network.module, layer).attribute(images, TARGET, relu_attributions=True)
        return attr.LayerAttribution.interpolate(cam, SHAPES[2], "bilinear")[:, 0]

    both, forward = rows(network, batch, batch), rows(network, batch, batch, False)
    return [
        Case("six of one pass / forward and backward", ours(network, six, images, batch, 0), both, "1.10"),
        Case("Grad-CAM / forward", ours(network, [GradCAM()], images, batch), forward, "1.10", captum_cam),
    ]


def path_cases() -> list[Case]:
    network = network_of(2)
    batch = best_batch(network, True)
    cases = []
    for count in (1, 7):
        images = images_of(2, count)
        methods: list[tuple[Explainer, int]] = [
            (IntegratedGradients(steps=50), 50),
            (SmoothGrad(samples=25), 25),
            (ExpectedGradients(samples=25), 25),
        ]
        for explainer, steps in methods:
            run = ours(network, [explainer], images, batch)
            oracle = captum_path(network, images, steps, batch) if explainer.name == "integrated_gradients" else None
            name = f"{explainer.name} {steps}, {count} images / bare rows"
            cases.append(Case(name, run, rows(network, steps * count, batch), "1.05", oracle or run))
    return cases


def captum_path(network: Network, images: Tensor, steps: int, batch: int) -> Run:
    path = attr.IntegratedGradients(network.module)
    return lambda: path.attribute(images, target=TARGET, n_steps=steps, internal_batch_size=batch)[:, 0]


def occlusion_cases() -> list[Case]:
    cases = []
    for dims, window, stride in ((2, 32, 16), (3, 12, 12)):
        network, images = network_of(dims), images_of(dims, 1)
        batch = best_batch(network, False)
        starts = -(-(SHAPES[dims][0] - window) // stride) + 1
        run = ours(network, [Occlusion(window=window, stride=stride)], images, batch)
        default = captum_occlusion(as_loaded(dims), images, window, stride, 1)
        name = f"occlusion {window}/{stride}, {dims}-D"
        cases.append(Case(f"{name} / bare forward", run, rows(network, starts**dims, batch, False), "1.10", default))
        cases.append(Case(f"{name} / Captum's default", run, default, "", faster=True))
    return cases


def captum_occlusion(module: nn.Module, images: Tensor, window: int, stride: int, batch: int) -> Run:
    dims = images.ndim - 2
    sides, steps = (1, *[window] * dims), (1, *[stride] * dims)
    hide = attr.Occlusion(module)
    return lambda: hide.attribute(images, sides, steps, target=TARGET, perturbations_per_eval=batch)[:, 0]


def set_cases() -> list[Case]:
    """The set of the field's usual eight."""
    images = images_of(2, 2)
    network = network_of(2)
    batch = best_batch(network, True)
    head = [Saliency(), InputXGradient(), GradCAM(), GradCAMPlusPlus(), SmoothGrad(samples=25), GuidedBackprop()]
    exact = [*head, IntegratedGradients(steps=50), Occlusion(window=32, stride=16)]
    bounded = [*head, IntegratedGradients(steps=128, tolerance=0.01), Occlusion(window=32, stride=16)]
    loaded, last = as_loaded(2), as_loaded(2).to(memory_format=torch.channels_last)
    captum = {"Captum": captum_set(loaded, images, batch), "Captum in channels last": captum_set(last, images, batch)}
    if DEVICE == "cuda":
        captum["one image and one pass at a time"] = captum_loop(loaded, images)
    sets = {"the eight": (exact, "1.4"), "the eight, IG to 1 %": (bounded, "3")}
    return [
        Case(f"{title} / {name}", ours(network, explainers, images, batch, 6), run, goal, faster=True)
        for title, (explainers, goal) in sets.items()
        for name, run in captum.items()
    ]


def captum_set(module: nn.Module, images: Tensor, batch: int) -> Run:
    """One method after the other, each at its best batch size; returns integrated gradients."""
    if module.conv1.weight.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        attr.Saliency(module).attribute(images.clone(), target=TARGET, abs=False)
        attr.InputXGradient(module).attribute(images.clone(), target=TARGET)
        attr.LayerGradCam(module, module.layer4).attribute(images, TARGET)
        plusplus(module, images)
        attr.GuidedBackprop(module).attribute(images.clone(), target=TARGET)
        noise = attr.NoiseTunnel(attr.Saliency(module))
        noise.attribute(
            images, nt_samples=25, nt_samples_batch_size=max(1, batch // len(images)), target=TARGET, abs=False
        )
        captum_occlusion(module, images, 32, 16, max(1, batch // len(images)))()
        path = attr.IntegratedGradients(module)
        return path.attribute(images, target=TARGET, n_steps=50, internal_batch_size=batch)[:, 0]

    return run


def captum_loop(module: nn.Module, images: Tensor) -> Run:
    """How a notebook does it."""
    each = [captum_set(module, image, 1) for image in images.split(1)]
    return lambda: torch.cat([run() for run in each])


def plusplus(module: nn.Module, images: Tensor) -> None:
    """Captum has no Grad-CAM++: what it would take is Grad-CAM once more."""
    attr.LayerGradCam(module, module.layer4).attribute(images, TARGET)


if __name__ == "__main__":
    main()
