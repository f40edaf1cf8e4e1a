"""Requirements of rules: a rule for every operation of the network, and answers that are its own."""

from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.folds import Folds
from models.layers import graph
from models.network import Network
from models.questions import Answer, Ask, Batch
from models.trial import alike, exact_convolutions, no_gradient, told


def require_rules(network: Network, ask: Ask) -> Tensor:
    """Check that the network has a rule for every operation; it is asked about synthetic images.

    Returns
    -------
    Tensor
        The gradient by the rules of what `total` makes of their logits, ``(image, channel, *space)``.

    Raises
    ------
    ConfigurationError
        If there is none for one, or if the network answers otherwise by the rules than plainly: then one of its
        operations changes a tensor in place, which rules do not.
    """
    inputs = network.synthetic().requires_grad_()
    index = torch.arange(len(inputs), device=inputs.device)
    try:
        with torch.enable_grad(), network.exact(), exact_convolutions(), told("fails under its rules"):
            logits = ask(network, inputs, index, index)
            require_same(network, logits.detach())
            reached = logits.requires_grad
            (gradient,) = torch.autograd.grad(total(logits).sum(), inputs, allow_unused=True) if reached else (None,)
            _reject_custom(logits.grad_fn)
    except ConfigurationError as error:
        ways_on = "use integrated_gradients instead"
        if isinstance(network.module, Folds) and network.module.is_of_probabilities:
            ways_on = f"set `model.combine: logits`, whose mean has rules, or {ways_on}"
        raise ConfigurationError(f"{network.name}: {error}; {ways_on}") from None
    if gradient is None:
        raise ConfigurationError(
            f"{no_gradient(network.name)}. Relevance stops at a sigmoid or softmax, too: leave a last one out"
        )
    if not gradient.isfinite().all():
        raise ConfigurationError(f"{network.name} gives relevance that is not finite")
    return gradient


def total(logits: Tensor) -> Tensor:
    """Sum ``(image, class[, *space])`` of each image with weights, by which opposite logits do not cancel out."""
    weights = torch.linspace(1, 2, logits.shape[1]).to(logits)
    return (logits.flatten(2).sum(-1) if logits.ndim > 2 else logits) @ weights


def require_same(network: Network, logits: Tensor) -> None:
    """Raise ConfigurationError if these are not the network's logits of the synthetic images."""
    with torch.no_grad(), network.exact(), exact_convolutions():
        expected = network(network.synthetic())
    if not alike(logits, expected):
        raise ConfigurationError(DIFFERS)


def require_same_scores(batch: Batch, answer: Answer) -> None:
    """Raise ConfigurationError if an answer by a rule, about images as they are, scores otherwise than the plain one.

    The scores are there anyway. In bf16 they cannot tell, since rules compute in fp32.
    """
    if batch.network.precision == "bf16":
        return
    plain, region = batch.scores[answer.target], batch.chosen.region
    places = 1 if region is None else region[:, answer.target].flatten(1).sum(1).clamp_min(1)[answer.image]
    found, expected = answer.score / places, plain[answer.image] / places
    if not alike(found, expected, among=torch.cat([batch.network.logits.flatten(), expected])):
        raise ConfigurationError(f"{batch.network.name}: {DIFFERS}")


DIFFERS = (
    "by its rules it answers otherwise than it does plainly, since it changes a tensor in place that is used again "
    "(such as by `nn.ReLU(inplace=True)` or `x.mul_(gate)`): write these without"
)


def _reject_custom(last: Any) -> None:
    """Raise ConfigurationError if a function with its own backward pass is on the way: no mode sees inside it."""
    for step in graph(last):
        if isinstance(step, torch.autograd.function.BackwardCFunction):
            raise ConfigurationError(f"there is no rule for {type(step).__name__.removesuffix('Backward')}")
