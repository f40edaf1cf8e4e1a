from typing import Literal

from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.fits.background import Background
from models.network import Network
from models.questions import Answer, Batch, Needs, Questions
from models.rules.relevance import require_same_scores
from models.rules.rescale import AskMultipliers, require_multipliers


class DeepSHAP(ChannelExplainer):
    """DeepSHAP (Lundberg and Lee 2017, arXiv:1705.07874, section 4.2; Chen et al. 2021, arXiv:1911.11888).

    ``map = mean_b sum_c (x - b) * m_b``, DeepLIFT against every image of the background. It sums to
    ``S(x) - mean_b S(b)``.
    """

    requires = RULES

    fits = (Background,)
    name: Literal["deepshap"] = "deepshap"

    def needs(self, network: Network) -> Needs:
        require_multipliers(network, network.synthetic(1))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        total, channels = batch.zeros(), batch.zeros(batch.images.shape[1])

        def make(image: Tensor, step: Tensor) -> Tensor:
            return batch.images[image]

        def fold(answer: Answer) -> None:
            require_same_scores(batch, answer)
            values = (batch.images[answer.image] - background[answer.step]) * answer.gradient
            total[answer.target].index_add_(0, answer.image, values.sum(1))
            channels[answer.target].index_add_(0, answer.image, values)

        ask = AskMultipliers(lambda image, step: background[step])
        yield Questions(len(background), make, fold, Needs(input_gradient=True), ask)
        return total / len(background), channels / len(background)
