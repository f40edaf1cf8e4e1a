"""The base of a result: arrays over a whole cohort, computed from the stored outputs of its images."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.network import Network
from models.outputs import Frame, Output
from models.producer import Producer

Arrays = dict[str, NDArray[Any]]


class Stored(Protocol):
    """The store of a cohort whose images are all delivered, as a result reads it.

    Attributes
    ----------
    outputs
        The declarations of all that is stored, by name.
    ids, labels, subjects
        One for every row of the store; a label is empty where it is unknown or the image was withdrawn.
    concepts
        Names that labels may hold beside those of classes.
    covariates
        What is known of every row beside its label, by name of the covariate; empty where it is unknown.
    explained
        Whether the row holds an explanation, ``(image,)``; other rows hold fill values.
    measures
        By name, the numbers that the cohort has of images, ``(image,)``; NaN where it has none.
    network
        The explained network, which is built when it is asked for first.
    """

    @property
    def frame(self) -> Frame: ...

    @property
    def outputs(self) -> Mapping[str, Output]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def concepts(self) -> Collection[str]: ...

    @property
    def covariates(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def subjects(self) -> Sequence[str]: ...

    @property
    def explained(self) -> NDArray[np.bool_]: ...

    @property
    def measures(self) -> Mapping[str, NDArray[np.float64]]: ...

    @property
    def network(self) -> Network: ...

    def blocks(self, *names: str) -> Iterator[tuple[slice, Arrays]]:
        """Yield outputs stretch by stretch: the rows, and by name ``(image, ...)``."""
        ...

    def whole(self, *names: str) -> Arrays:
        """Read outputs of other results that have no dimension `image_id`."""
        ...

    def inputs(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read images as the network takes them, ``(row, channel, *space)``."""
        ...


class Result(Producer):
    """A named way to compute a result over all images; its fields are its parameters."""

    @property
    def names_in_labels(self) -> tuple[str, ...]:
        """Names that labels may hold beside those of classes."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Name the outputs that the result is computed from, those of other results among them."""
        raise NotImplementedError

    def also_reads(self, outputs: Mapping[str, Output]) -> tuple[str, ...]:
        """Name further outputs that the result is computed from where the store has them.

        They may be those of other results, which are then computed before, as long as no two read each other.
        """
        return ()

    def reads_measures(self) -> tuple[str, ...]:
        """Name the measures of the cohort that the result is computed from."""
        return ()

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        """Declare the arrays of the result; one with the dimension `image_id` has a place for every row.

        A dimension that an output of `reads` declares by itself, such as one of features, is known.
        """
        raise NotImplementedError

    def compute(self, stored: Stored) -> Arrays:
        """Compute the arrays, by name, from stored outputs alone."""
        raise NotImplementedError

    def passes(self, outputs: tuple[Output, ...]) -> tuple[int, int]:
        """Forecast the forward and backward passes of one image that a result with these outputs takes."""
        return 0, 0

    def check_network(self, network: Network) -> None:
        """Check that the network can be asked as the result has to ask.

        Raises
        ------
        ConfigurationError
            If it cannot.
        """
        network.require(self.title, self.requires)

    def check(self, outputs: Mapping[str, Output]) -> None:
        """Check that the store has the outputs that the result is computed from.

        Raises
        ------
        ConfigurationError
            If the store lacks an output.
        """
        if missing := [name for name in self.reads() if name not in outputs]:
            raise ConfigurationError(
                f"results: {self.title} is computed from {', '.join(missing)}, which no explainer, metric or other "
                "result of the run stores: add one, or leave the result out"
            )
