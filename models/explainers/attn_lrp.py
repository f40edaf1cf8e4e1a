from typing import Literal

from pydantic import Field

from models.explainers.lrp import Composite, Relevance
from models.network import Network
from models.questions import Needs
from models.rules.attention import AttentionMode, require_attention


class AttnLRP(Relevance):
    """Attention-aware layer-wise relevance propagation (AttnLRP, Achtibat et al. 2024, arXiv:2402.05602, section 3).

    `lrp` hands relevance through the values of attention alone, since its weights count as constants. Here a product of
    weights and values, or of queries and keys, hands half of its relevance to each factor, and a softmax ``s`` of ``x``
    hands back ``x_i (R_i - s_i sum_j R_j)``. Gates by a sigmoid, and the scale of norms, stay constants. For images the
    authors take the gamma rule, whose values are to be tried out: the composite `gamma` has 0.25 for convolutions and
    0.05 for other linear layers, two of theirs. Relevance is summed over channels. A softmax and biases keep a part of
    it, so that the map does not sum to the logit.
    """

    mode = AttentionMode

    name: Literal["attn_lrp"] = "attn_lrp"
    composite: Composite = Field("gamma", description="Choice of a rule for each kind of layer")

    def needs(self, network: Network) -> Needs:
        needs = super().needs(network)
        require_attention(network)
        return needs
