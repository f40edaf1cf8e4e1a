"""The engines of a worker: one network, whatever is asked of it, built of what an output holds."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.engine import Engine
from models.explainers.base import Explainer
from models.loading import build
from models.network import Network
from models.precision import check_instructions
from models.uncertainty import Member, Uncertainty
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.objects import read_whole


def device() -> str:
    """The device on which this process computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class PlanEngines:
    """The engines of one plan, which share its network.

    Attributes
    ----------
    parts
        One engine for each part of the plan.
    whole
        The engine of all explainers, which metrics and uncertainty ask.
    """

    network: Network
    parts: tuple[Engine, ...]
    whole: Engine
    _members: dict[str, list[Member]] = field(default_factory=dict)

    def members(self, uncertainty: Uncertainty) -> list[Member]:
        """The members of a kind, which are made when they are asked for first."""
        if uncertainty.title not in self._members:
            self._members[uncertainty.title] = uncertainty.members(self.network)
        return self._members[uncertainty.title]


class Engines:
    """The engines of a process: those of the plan that was worked on last, whatever the number of its tasks.

    Attributes
    ----------
    turn
        Held by the task that asks the network; another one of the process reads or writes meanwhile.
    """

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._kept: tuple[tuple[Location, str], PlanEngines] | None = None
        self._network: tuple[str, Network] | None = None

    def of(self, output: Location, plan: Plan) -> PlanEngines:
        """Build the engines of a plan whose artefacts are fitted, or take those that were built last.

        Raises
        ------
        OSError
            If an artefact is missing or damaged.
        """
        key = output, plan.digest
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # before the next is built: memory holds one network
            self._kept = key, self._build(output, plan)
        return self._kept[1]

    def network(self, plan: Plan) -> Network:
        """Build the network of a plan, or take that which was built last."""
        key = plan.model.model_dump_json() + plan.precision + repr(plan.cohort.record)
        if self._network is None or self._network[0] != key:
            self._network = None
            check_instructions(plan.precision, device())
            built = build(plan.model, plan.model.read(), device(), plan.precision, plan.cohort.record)
            self._network = key, built
        return self._network[1]

    def _build(self, output: Location, plan: Plan) -> PlanEngines:
        network, fitted = self.network(plan), read_fitted(output, plan)

        def engine(explainers: Sequence[Explainer]) -> Engine:
            keeps = plan.channels == "keep"
            return Engine(network, explainers, plan.target, plan.batch_size, fitted, keeps_channels=keeps)

        parts = tuple(engine(part.explainers) for part in plan.parts)
        return PlanEngines(network, parts, parts[0] if len(parts) == 1 else engine(plan.explainers))


def read_fitted(output: Location, plan: Plan) -> dict[str, Tensor]:
    """Read the artefacts of a plan, by name of the output; each is the one that the plan names.

    Raises
    ------
    OSError
        If one is missing or damaged.
    """
    found: dict[str, Tensor] = {}
    for planned in plan.fits:
        block = read_whole(output, plan, planned.outputs, planned.objects)
        if block is None:
            raise OSError(
                f"the artefact {planned.title!r} of {output} is missing or damaged: run again, or `cohortlens verify "
                "--repair` mends it"
            )
        found |= {name: torch.from_numpy(values) for name, values in block.items()}
    return found
