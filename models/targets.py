"""Targets: which outputs are explained."""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class _Target(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Predicted(_Target):
    """The predicted class of each image, or the `k` classes with the largest logits, the largest first."""

    name: Literal["predicted"] = "predicted"
    k: int = Field(1, ge=1)

    def labels(self) -> tuple[str, ...]:
        return tuple(f"rank {rank}" for rank in range(1, self.k + 1))

    def check(self, classes: tuple[str, ...]) -> None:
        if self.k > len(classes):
            raise ValueError(f"target.k is {self.k}, but the model has {len(classes)} classes")

    def select(self, logits: Tensor, classes: tuple[str, ...]) -> Tensor:
        return logits.topk(self.k, dim=1).indices


class Classes(_Target):
    """The same classes for every image."""

    name: Literal["classes"] = "classes"
    classes: tuple[str, ...] = Field(strict=False, min_length=1)

    def labels(self) -> tuple[str, ...]:
        return self.classes

    def check(self, classes: tuple[str, ...]) -> None:
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise ValueError(f"target.classes names {unknown}, but model.classes are {list(classes)}")

    def select(self, logits: Tensor, classes: tuple[str, ...]) -> Tensor:
        wanted = torch.tensor([classes.index(name) for name in self.classes], device=logits.device)
        return wanted.expand(len(logits), -1)


TargetConfig = Annotated[Predicted | Classes, Field(discriminator="name")]
