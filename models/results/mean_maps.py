from typing import Literal

import numpy as np

from models.outputs import Frame, Output
from models.results.base import Arrays, Result, Stored


class MeanMaps(Result):
    """The mean map of every explainer and class, over all images that it was made of.

    Each map is divided by the mean of its magnitude before, so that every image counts the same: 1 is what a map that
    says nothing would have everywhere. Maps that are blank or missing are left out.
    """

    name: Literal["mean_maps"] = "mean_maps"

    def reads(self) -> tuple[str, ...]:
        return ("attribution", "target_class")

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        of, attrs = ("class", "explainer"), {"class_of": "target"}
        about = "mean over images of the maps of the class, each divided by the mean of its magnitude"
        return (
            Output(name=self.title, dims=(*of, *frame.space), kind="result", long_name=about, attrs=attrs),
            Output(
                name=f"{self.title}_count",
                dims=of,
                kind="result",
                long_name="maps in the mean",
                dtype="int32",
                fill=0,
                attrs=attrs,
            ),
        )

    def compute(self, stored: Stored) -> Arrays:
        shape = (len(stored.frame.classes), len(stored.frame.explainers), *stored.frame.grid)
        total, counts = np.zeros(shape), np.zeros(shape[:2], np.int32)
        for _, block in stored.blocks(*self.reads()):
            for maps, classes in zip(block["attribution"], block["target_class"], strict=True):
                for of_target, index in zip(maps.astype(np.float64), classes, strict=True):
                    magnitude = np.abs(of_target).reshape(len(of_target), -1).mean(1)
                    there = np.isfinite(magnitude) & (magnitude > 0) & (index >= 0)
                    scaled = of_target[there] / magnitude[there].reshape(-1, *[1] * len(stored.frame.grid))
                    total[index, there] += scaled
                    counts[index, there] += 1
        divisor = np.where(counts > 0, counts, np.nan).reshape(*counts.shape, *[1] * len(stored.frame.grid))
        return {self.title: (total / divisor).astype(np.float32), f"{self.title}_count": counts}
