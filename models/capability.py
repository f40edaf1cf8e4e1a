"""The ways in which a network can be asked, which depend on the form that it is in."""

from enum import Enum


class Capability(Enum):
    """A way to look into a network, in words; a network without any can only be asked about changed images."""

    GRADIENT = "gradients"
    LAYERS = "outputs of layers"
    RULES = "other backward rules"
    WEIGHTS = "weights that can be changed"


Capabilities = frozenset[Capability]

ALL: Capabilities = frozenset(Capability)
GRADIENT: Capabilities = frozenset({Capability.GRADIENT})
LAYERS: Capabilities = frozenset({Capability.LAYERS})
RULES: Capabilities = frozenset({Capability.RULES}) | GRADIENT
WEIGHTS: Capabilities = frozenset({Capability.WEIGHTS})
