"""The base of a kind of uncertainty: the members that it makes of a network."""

from typing import ClassVar

from pydantic import Field

from models.explainers.base import MANTISSA_KEPT
from models.network import Network
from models.outputs import EXPLAINER, IMAGE_ID, Computed, Frame, Output
from models.producer import Producer
from models.uncertainty.members import Member
from models.uncertainty.spread import Spread


class Uncertainty(Producer):
    """A named way to make members; its fields are its parameters."""

    about: ClassVar[str]

    explainers: tuple[str, ...] | None = Field(
        None, strict=False, description="Explainers whose maps every member makes; none: all"
    )

    def check(self, network: Network) -> None:
        """Raise ConfigurationError if the network can have no such members."""

    def members(self, network: Network) -> list[Member]:
        """Make the members of a network."""
        raise NotImplementedError

    @property
    def variable(self) -> str:
        """The beginning of the names of its outputs."""
        return f"uncertainty_{self.title}"

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        """Declare the spread of the members: of the prediction, and of each map."""
        between = f"between {self.about}"
        maps = (IMAGE_ID, "target", EXPLAINER)

        def one(name: str, dims: tuple[str, ...], about: str, units: str = "1", mantissa: int | None = None) -> Output:
            return Output(
                name=name,
                dims=dims,
                kind="uncertainty",
                long_name=about,
                units=units,
                mantissa=mantissa,
                attrs={"of": self.title, "members": self.about, "references": self.references},
            )

        found = [
            one(f"{self.variable}_outputs", (IMAGE_ID, "class"), f"standard deviation of the prediction {between}")
        ]
        if frame.activation != "identity":
            due = f"entropy that is due to differences {between}"
            found += [
                one(f"{self.variable}_entropy", (IMAGE_ID,), "entropy of the mean prediction", "bit"),
                one(f"{self.variable}_mutual_information", (IMAGE_ID,), due, "bit"),
            ]
        if frame.explainers:
            mean, deviation = f"mean map {between}", f"standard deviation of the map {between}"
            of_map, stem = (*maps, *frame.space), f"attribution_{self.title}"
            found += [
                one(f"{self.variable}_maps", maps, f"spread of maps {between}, as a share of their mean"),
                one(f"{stem}_mean", of_map, mean, mantissa=MANTISSA_KEPT),
                one(f"{stem}_spread", of_map, deviation, mantissa=MANTISSA_KEPT),
            ]
        return tuple(found)

    def by_output(self, spread: Spread) -> Computed:
        """Arrange the spread of the members by name of the output."""
        found = {
            f"{self.variable}_outputs": spread.outputs,
            f"{self.variable}_entropy": spread.entropy,
            f"{self.variable}_mutual_information": spread.mutual_information,
            f"{self.variable}_maps": spread.maps,
            f"attribution_{self.title}_mean": spread.mean,
            f"attribution_{self.title}_spread": spread.spread,
        }
        return {name: values for name, values in found.items() if values is not None and values.numel()}
