"""Relevance through attention, whose products have no constant factor (Achtibat et al. 2024, arXiv:2402.05602).

A product of two tensors that both depend on the image, such as ``softmax(q k^T) v``, hands half of its relevance to
each factor (propositions 3.2 and 3.3); of a sum of products, each factor's half is shared as by the epsilon rule. A
softmax ``s`` of ``x`` hands back ``x_i (R_i - s_i sum_j R_j)`` (proposition 3.1). With ``R = value * gradient``, these
are half of the gradient, and the gradient of the softmax as it is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.errors import ConfigurationError
from models.network import Network
from models.overloads import as_function
from models.rules.relevance import PRODUCTS, Linear, RelevanceMode, count_varying, refused
from models.trial import exact_convolutions

_BILINEAR = {"mul", "__mul__", "__rmul__", "matmul", "__matmul__", "bmm", "einsum"}
_FUSED = "scaled_dot_product_attention"
assert _BILINEAR < PRODUCTS


class AttentionMode(RelevanceMode):
    """The rules of relevance, with those of attention before them.

    Attributes
    ----------
    shared
        The number of products that two factors have shared.
    """

    shared = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if name == "softmax":
            return func(*args, **kwargs)
        if name == _FUSED:
            self.shared += 1
            return _fused(*args, **kwargs)
        if name in _BILINEAR and count_varying(args, kwargs) == 2:
            self.shared += 1
            return _halved(func(*args, **kwargs))
        return super().__torch_function__(func, types, args, kwargs)


def require_attention(network: Network) -> None:
    """Check that the network has products to which the rules of attention apply; it is asked about synthetic images.

    Raises
    ------
    ConfigurationError
        If it has none, so that the rules would be those of `lrp`.
    """
    mode, images = AttentionMode(network, Linear.__call__), network.synthetic().requires_grad_()
    with torch.enable_grad(), network.exact(), exact_convolutions(), mode:
        network(images)
    if not mode.shared:
        raise ConfigurationError(
            f"{network.name} has no attention by softmax, nor another product of two tensors that depend on the image: "
            "its relevance is that of lrp, which says so; use that"
        )


def _halved(product: Tensor) -> Tensor:
    half = product / 2
    return half + half.detach()


def _product(one: Tensor, other: Tensor) -> Tensor:
    product = one @ other
    return _halved(product) if one.requires_grad and other.requires_grad else product


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kw: Any,
) -> Tensor:
    """Write fused attention out, as the steps that have rules."""
    if dropout_p or is_causal or any(kw.values()):
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **kw
        )
        outcome: Tensor = refused(found, f"{_FUSED} with dropout, causal order or groups")
        return outcome
    scores = _product(query, key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if is_bool else scores + attn_mask
    return _product(scores.softmax(-1), value)
