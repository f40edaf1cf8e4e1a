from collections.abc import Generator
from typing import Literal

from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels, strongest_channel
from models.network import Network
from models.questions import Answer, Ask, Batch, Needs, Questions
from models.rules.relevance import require_same_scores
from models.rules.relu import guided, require_relu


class GuidedBackprop(ChannelExplainer):
    """Guided backpropagation (Springenberg et al. 2014, arXiv:1412.6806, section 3.4).

    The gradient with respect to the image, where every ReLU passes positive values back, at places that were positive
    on the way forward; at each place that of the channel with the largest magnitude, signed. It does not depend on the
    later layers' weights as an explanation should (Adebayo et al. 2018, arXiv:1810.03292).
    """

    requires = RULES

    name: Literal["guided_backprop"] = "guided_backprop"

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        gradients = yield from gradients_by_rule(batch, guided)
        return strongest_channel(gradients, channel=2), gradients


def gradients_by_rule(batch: Batch, rule: Ask) -> Generator[Questions, None, Tensor]:
    """Ask about each image once by `rule`; return the gradients ``(target, image, channel, *space)``."""
    found = batch.zeros(batch.images.shape[1])

    def fold(answer: Answer) -> None:
        require_same_scores(batch, answer)
        found[answer.target, answer.image] = answer.gradient

    def make(image: Tensor, step: Tensor) -> Tensor:
        return batch.images[image]

    yield Questions(1, make, fold, Needs(input_gradient=True), rule, key=rule)
    return found
