"""The packages' side of `make bench-peers`, in an environment of their own: nothing of ours is imported here."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.peers_work import (
    NOISE,
    POINTS,
    SAMPLES,
    STEPS,
    STRIDE,
    TARGET,
    WINDOW,
    Method,
    Work,
    serve,
)

Methods = dict[str, Method]


def by_batch(work: Work, batch: int, run: Callable[[Tensor], Any]) -> Tensor:
    """Give a package so many images at once; returns the one channel of what it makes."""
    made = [torch.as_tensor(run(part.clone())) for part in work.images.split(batch)]
    return torch.cat([values[:, 0] if values.ndim == 4 else values for values in made])


def detached(run: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
    return run(*arguments, **named).detach()


def last_norm_learns(module: nn.Module) -> nn.Module:
    """Let no gradient go further back than a package's hook at the last layer needs."""
    module.layer4[-1].bn2.requires_grad_(True)
    return module


def captum() -> Methods:
    from captum import attr

    def cam(module: nn.Module, work: Work, batch: int) -> Tensor:
        explain = attr.LayerGradCam(module, module.layer4)

        def run(images: Tensor) -> Tensor:
            small = explain.attribute(images, TARGET, relu_attributions=True)
            return attr.LayerAttribution.interpolate(small, images.shape[2:], "bilinear").detach()

        return by_batch(work, batch, run)

    def plain(kind: Any, module: nn.Module, work: Work, batch: int, **named: Any) -> Tensor:
        explain = partial(kind(module).attribute, target=TARGET, **named)
        return by_batch(work, batch, lambda images: explain(images.requires_grad_()).detach())

    def smooth(module: nn.Module, work: Work, batch: int) -> Tensor:
        explain = attr.NoiseTunnel(attr.Saliency(module))
        spread = [NOISE * float(image.max() - image.min()) for image in work.images]
        made = [
            explain.attribute(
                image, nt_samples=SAMPLES, nt_samples_batch_size=batch, stdevs=stdev, target=TARGET, abs=False
            )
            for image, stdev in zip(work.images.split(1), spread, strict=True)
        ]
        return torch.cat(made)[:, 0]

    def occlusion(module: nn.Module, work: Work, batch: int) -> Tensor:
        explain = attr.Occlusion(module)
        sides, steps = (1, WINDOW, WINDOW), (1, STRIDE, STRIDE)
        return by_batch(
            work, 1, lambda images: explain.attribute(images, sides, steps, target=TARGET, perturbations_per_eval=batch)
        )

    def path(module: nn.Module, work: Work, batch: int) -> Tensor:
        explain = partial(attr.IntegratedGradients(module).attribute, target=TARGET, n_steps=STEPS)
        return by_batch(work, len(work.images), lambda images: explain(images, internal_batch_size=batch).detach())

    return {
        "gradient": partial(plain, attr.Saliency, abs=False),
        "gradient times image": partial(plain, attr.InputXGradient),
        "Grad-CAM": cam,
        "guided backprop": partial(plain, attr.GuidedBackprop),
        "SmoothGrad": smooth,
        "integrated gradients": path,
        "occlusion": occlusion,
    }


def monai() -> Methods:
    from monai import visualize

    def cam(kind: Any, module: nn.Module, work: Work, batch: int) -> Tensor:
        explain = kind(last_norm_learns(module), "layer4", postprocessing=lambda found: found)
        return by_batch(work, batch, lambda images: explain(images, class_idx=TARGET).detach())

    def gradient(kind: Any, module: nn.Module, work: Work, batch: int, **named: Any) -> Tensor:
        explain = kind(module, **named)
        return by_batch(work, 1, lambda images: explain(images, index=TARGET))

    def occlusion(module: nn.Module, work: Work, batch: int) -> Tensor:
        with torch.no_grad():
            explain = visualize.OcclusionSensitivity(
                module, WINDOW, batch, verbose=False, mode=0.0, overlap=1 - STRIDE / WINDOW, activate=False
            )
            return by_batch(work, 1, lambda images: module(images)[:, TARGET] - explain(images)[0][:, TARGET])

    smooth = {"stdev_spread": NOISE, "n_samples": SAMPLES, "magnitude": False, "verbose": False}
    return {
        "gradient": partial(gradient, visualize.VanillaGrad),
        "Grad-CAM": partial(cam, visualize.GradCAM),
        "Grad-CAM++": partial(cam, visualize.GradCAMpp),
        "guided backprop": partial(gradient, visualize.GuidedBackpropGrad),
        "SmoothGrad": partial(gradient, visualize.SmoothGrad, **smooth),
        "occlusion": occlusion,
    }


def grad_cam() -> Methods:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def cam(kind: Any, module: nn.Module, work: Work, batch: int) -> Tensor:
        with kind(last_norm_learns(module), [module.layer4]) as explain:
            return by_batch(work, batch, lambda images: explain(images, [ClassifierOutputTarget(TARGET)] * len(images)))

    return {
        "Grad-CAM": partial(cam, pytorch_grad_cam.GradCAM),
        "Grad-CAM++": partial(cam, pytorch_grad_cam.GradCAMPlusPlus),
        "LayerCAM": partial(cam, pytorch_grad_cam.LayerCAM),
    }


def zennit() -> Methods:
    from zennit import attribution, composites

    def method(kind: Any, module: nn.Module, work: Work, batch: int, composite: Any = None, **named: Any) -> Tensor:
        chosen = nn.functional.one_hot(torch.tensor(TARGET), module.fc.out_features).float()
        with kind(module, composite() if composite else None, **named) as explain:
            return by_batch(
                work,
                batch,
                lambda images: explain(images.requires_grad_(), chosen.expand(len(images), -1))[1].detach(),
            )

    return {
        "gradient": partial(method, attribution.Gradient),
        "guided backprop": partial(method, attribution.Gradient, composite=composites.GuidedBackprop),
        "SmoothGrad": partial(method, attribution.SmoothGrad, noise_level=NOISE, n_iter=SAMPLES),
        "integrated gradients": partial(method, attribution.IntegratedGradients, n_iter=STEPS),
    }


def pnpxai() -> Methods:
    from pnpxai import explainers

    def method(kind: Any, module: nn.Module, work: Work, batch: int, **named: Any) -> Tensor:
        explain = kind(module, **named)

        def run(images: Tensor) -> Tensor:
            return explain.attribute(images, torch.full((len(images),), TARGET)).detach()

        return by_batch(work, batch, run)

    return {
        "gradient": partial(method, explainers.Gradient),
        "integrated gradients": partial(method, explainers.IntegratedGradients, n_steps=STEPS),
    }


def quantus() -> Methods:
    import quantus as metrics

    def method(kind: Any, module: nn.Module, work: Work, batch: int, softmax: bool = False, **named: Any) -> Any:
        measure = kind(disable_warnings=True, normalise=False, **named)
        images, maps, masks = (
            part.numpy() for part in (work.images.contiguous(), work.maps[:, None], work.masks[:, None])
        )
        classes = np.full(len(images), TARGET)
        with torch.no_grad():
            return np.stack(
                measure(
                    model=module,
                    x_batch=images.copy(),
                    y_batch=classes,
                    a_batch=maps.copy(),
                    s_batch=masks,
                    softmax=softmax,
                    batch_size=batch,
                    channel_first=True,
                )
            )

    step = 224 * 224 // POINTS  # which has to leave no rest
    return {
        "Gini index": partial(method, metrics.Sparseness, abs=True),
        "entropy": partial(method, metrics.Complexity, abs=True),
        "relevance rank": partial(method, metrics.RelevanceRankAccuracy, abs=False),
        "deletion": partial(method, metrics.PixelFlipping, features_in_step=step, softmax=True),
    }


OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
"""Declarations last as long as the object that they are made in."""


def make_torchvision_importable() -> None:
    """Declare the operators that torchvision's Python code asks for, if its compiled part is for another torch.

    No method that is compared calls one of them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


PACKAGES: dict[str, Callable[[], Methods]] = {
    "captum": captum,
    "monai": monai,
    "quantus": quantus,
    "grad-cam": grad_cam,
    "zennit": zennit,
    "pnpxai": pnpxai,
}


def main(folder: Path) -> None:
    make_torchvision_importable()
    methods: Methods = {}
    missing = {}
    for package, made in PACKAGES.items():
        try:
            methods |= {f"{package}: {name}": method for name, method in made().items()}
        except Exception as error:
            missing[package] = f"{type(error).__name__}: {error}".splitlines()[0]
    serve(folder, methods, {"methods": list(methods), "missing": missing})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
