"""Remarks on what is odd in a run: each says what was seen, what that means and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.report.agreement import Others

_MUCH = 2.0
"""The factor over an even map that an explainer has on the border before this is remarked on."""

_MEANING = {
    "image constant": (
        "all places of the image have one value",
        "look at the file: it may be empty, or a window or a threshold of cohort.preprocessing cuts all of it off",
    ),
    "image not finite": (
        "the image holds values that are not finite",
        "look for NaN in the file, and for divisions by zero in cohort.preprocessing",
    ),
    "image saturated": (
        "the probability cannot be told from 1: metrics that look at it (deletion, insertion, road) hardly move, "
        "whatever is hidden",
        "read the metrics of the logit (sensitivity_n, infidelity) for such images; if there are many, calibrate the "
        "model, by a temperature for instance",
    ),
    "image mask unplaced": (
        "the mask or the image has no geometry, as in PNG and NPY: their shapes agree, but nothing tells whether the "
        "mask is turned or mirrored, and hit_rate, relevance_mass and the like follow it",
        "look at the outlines below; or give image and mask in a format with geometry (DICOM, NIfTI)",
    ),
    "image partly covered": (
        "a file of the image does not reach as far as the first one, on whose grid it was put: beyond its end it is 0, "
        "which a network may take for a finding",
        "look at such images; crop the first file to what all of them cover, or name another one first",
    ),
    "image no tissue": (
        "no tissue was found on the slide, so that a bag of white tiles was explained",
        "look at the slide; if there is tissue, it is pale: state cohort.slides.tissue: {saturation: 0.03}, or none",
    ),
    "map blank": (
        "the map is zero everywhere: nothing it looks at speaks for the target, as when all gradients are cut off by a "
        "ReLU, or Grad-CAM's sum is negative throughout",
        "leave such maps out, or explain by a method without a ReLU at its end (saliency, integrated_gradients), or at "
        "another layer",
    ),
    "map not finite": (
        "the map has overflowed, or was divided by nearly zero, or no counterfactual was found; it is stored as NaN",
        "compute in fp32 (precision: fp32); for a relevance rule, give it a larger epsilon or take another rule; let a "
        "counterfactual take more steps",
    ),
    "map no source": (
        "the image had vanished from the cohort before this explainer was added, so there is no map",
        "bring the file back and run again",
    ),
    "map inexact": (
        "the explainer did not reach its tolerance with as many questions as it may ask; the map is the "
        "best it came to",
        "let it ask more (steps, samples), or state a larger tolerance",
    ),
}


@dataclass(frozen=True)
class Remark:
    """A remark says what was seen, of how many images, what that means, and what to do about it."""

    seen: str
    images: int
    meaning: str
    remedy: str


def remarks_on(flags: Mapping[str, int]) -> list[Remark]:
    """Explain the flags of a run, given the number of images by flag, the most frequent first."""
    unknown = ("an output of this run has raised it", "see what the page of whatever computes it says of its flags")
    return [
        Remark(flag, images, *_MEANING.get(flag, unknown))
        for flag, images in sorted(flags.items(), key=lambda item: (-item[1], item[0]))
        if images
    ]


def remarks_on_borders(others: Others | None) -> list[Remark]:
    """Say which explainers mark one side of most of the drawn images, as layers that pad their input may."""
    if others is None:
        return []
    found = []
    for number, explainer in enumerate(others.explainers):
        marked = others.on_border[:, number] >= _MUCH  # NaN, no evidence, is not
        side = int(marked.sum(0).argmax())
        if 2 * marked[:, side].sum() > len(marked):
            much = float(np.mean(others.on_border[marked[:, side], number, side]))
            found.append(
                Remark(
                    f"{explainer} marks the border",
                    int(marked[:, side].sum()),
                    f"in so many of {len(marked)} drawn images the outer tenth along the same side holds {much:.1f} "
                    "times the evidence of an even map: layers that pad their input answer to the padding, which "
                    "shows as a bar, or all images have something there, such as a marker",
                    "look at the images there; if there is nothing, do not read the bar as evidence: explain at an "
                    "earlier layer (`layer`), or crop or pad the images in cohort.preprocessing",
                )
            )
    return found
