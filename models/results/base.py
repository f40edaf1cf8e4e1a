"""The base of a result: arrays over a whole cohort, computed from the stored outputs of its images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.outputs import Frame, Output
from models.producer import Producer

Arrays = dict[str, NDArray[Any]]


class Stored(Protocol):
    """The store of a cohort whose images are all delivered, as a result reads it.

    Attributes
    ----------
    ids, labels, subjects
        One for every row of the store; a label is empty where it is unknown or the image was withdrawn.
    covariates
        What is known of every row beside its label, by name of the covariate; empty where it is unknown.
    explained
        Whether the row holds an explanation, ``(image,)``; other rows hold fill values.
    """

    @property
    def frame(self) -> Frame: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def covariates(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def subjects(self) -> Sequence[str]: ...

    @property
    def explained(self) -> NDArray[np.bool_]: ...

    def blocks(self, *names: str) -> Iterator[tuple[slice, Arrays]]:
        """Yield outputs shard by shard: the rows, and by name ``(image, ...)``."""
        ...


class Result(Producer):
    """A named way to compute a result over all images; its fields are its parameters."""

    @property
    def names_in_labels(self) -> tuple[str, ...]:
        """Names that labels may hold beside those of classes."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Name the outputs that the result is computed from."""
        raise NotImplementedError

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        """Declare the arrays of the result; one with the dimension `image_id` has a place for every row.

        A dimension that an output of `reads` declares by itself, such as one of features, is known.
        """
        raise NotImplementedError

    def compute(self, stored: Stored) -> Arrays:
        """Compute the arrays, by name, from stored outputs alone."""
        raise NotImplementedError

    def check(self, outputs: Mapping[str, Output]) -> None:
        """Check that the store has the outputs that the result is computed from.

        Raises
        ------
        ConfigurationError
            If the store lacks an output.
        """
        if missing := [name for name in self.reads() if name not in outputs]:
            raise ConfigurationError(
                f"results: {self.title} is computed from {', '.join(missing)}, which no explainer or metric of the run "
                "stores: add one, or leave the result out"
            )
