from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from models.capability import RULES
from models.errors import ConfigurationError
from models.explainers.base import ChannelExplainer, ExplainingChannels, strongest_channel
from models.explainers.by_rule import gradients_by_rule
from models.fits.background import Background
from models.network import Network
from models.overloads import as_function
from models.questions import Batch, Needs
from models.rules.patterns import PatternMode, learn_patterns, pattern_of
from models.rules.relevance import GATES, LINEAR, Linear, count_varying, refused
from models.rules.requirements import require_rules


class PatternNet(ChannelExplainer):
    """PatternNet (Kindermans et al. 2018, arXiv:1705.05598, section 4), in direction.

    The score is handed back through the network with every weight replaced by the pattern of `pattern_attribution`,
    which gives the signal: the part of the image that the score responds to. Signals grow from layer to layer beyond
    all numbers; each layer's is therefore scaled to a largest magnitude of 1, as iNNvestigate does, and so is the map:
    its direction is the signal's, its size is not. Where branches meet, to scale one would turn the sum: networks with
    residuals or other branches are refused. At each place it is the value of the channel with the largest magnitude,
    signed.
    """

    requires = RULES

    fits = (Background,)
    name: Literal["patternnet"] = "patternnet"

    def needs(self, network: Network) -> Needs:
        if not network.tiles.is_whole:
            raise ConfigurationError(
                "has a direction but no size, and with model.windows each window has its own: use pattern_attribution"
            )
        require_rules(network, _AskSignal({}))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        patterns = batch.once("patterns", lambda: learn_patterns(batch.network, background))
        signals = yield from gradients_by_rule(batch, _AskSignal(patterns))
        signals = torch.stack([_scaled(signal) for signal in signals])
        signals = signals * batch.scores.sign().view(*batch.scores.shape, *[1] * (signals.ndim - 2))
        return strongest_channel(signals, channel=2), signals


def _scaled(values: Tensor) -> Tensor:
    """Scale each row of ``(image, ...)`` to a largest magnitude of 1; zeros stay."""
    largest = values.abs().amax(tuple(range(1, values.ndim)), keepdim=True)
    return values / largest.where(largest > 0, 1.0)


@dataclass(frozen=True, eq=False)
class _AskSignal:
    """A way to ask by which the input's gradient is the signal, in direction."""

    patterns: Mapping[str, Tensor]

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        with _ChainMode(network, self._rule, len(inputs)):
            answers = network.answers(inputs)
        return network.logits_of(answers)  # of one output, two opposite logits, which are no branches

    def _rule(self, layer: Linear) -> Tensor:
        pattern = pattern_of(layer, self.patterns)
        inputs = layer.inputs.view_as(layer.inputs)
        inputs.register_hook(_scaled)
        return layer(inputs) if pattern is None else layer.unbiased(inputs, pattern.to(layer.weight))


class _ChainMode(PatternMode):
    """The rules, for a network whose layers follow one another, each with a row for each image."""

    def __init__(self, network: Network, rule: Any, rows: int) -> None:
        super().__init__(network, rule)
        self.rows = rows

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        branches, name = count_varying(args, kwargs) > 1, getattr(func, "__name__", "")
        if name in GATES:
            return refused(func(*args, **kwargs), name, args)  # a gate is a branch, and no constant
        other_rows = func in LINEAR and len(args[0]) != self.rows
        outcome = super().__torch_function__(func, types, args, kwargs)
        if branches and name == "__setitem__":  # which returns nothing that could be refused
            raise ConfigurationError(f"there is no rule for {name} of two branches")
        if branches:
            return refused(outcome, f"{name} of two branches", args)
        return refused(outcome, f"{name} of another number of rows than there are images") if other_rows else outcome
