"""Fit a classifier, or an autoencoder, to tensors, the same way every time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def standardise(images: Tensor) -> Tensor:
    """Take each image of ``(n, channel, *space)`` to zero mean and unit variance."""
    axes = tuple(range(1, images.ndim))
    return (images - images.mean(axes, keepdim=True)) / images.std(axes, keepdim=True, correction=0)


Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""A function from a network, images ``(n, channel, *space)`` and labels ``(n,)`` to the scalar that is minimised."""


def cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of the logits."""
    return functional.cross_entropy(network(images), labels)


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    loss_of: Loss = cross_entropy,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train in place with AdamW, a one-cycle learning rate and random left-right flips.

    Parameters
    ----------
    images
        ``(n, channel, *space)``, as the network takes them; the last axis is left-right.
    labels
        ``(n,)`` class indices.
    report
        A function that is called after each epoch with its number (from 1) and mean loss.
    """

    def loss_of_batch(batch: Tensor, chosen: Tensor) -> Tensor:
        return loss_of(network, batch, labels[chosen])

    _fit(network, images, loss_of_batch, epochs, torch.Generator().manual_seed(seed), batch_size, learning_rate, report)


def fit_autoencoder(
    network: nn.Module,
    images: Tensor,
    *,
    epochs: int,
    seed: int,
    prior: float,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train a variational autoencoder in place, as `fit` trains a classifier.

    The loss is ``(|D(z) - x|^2 + prior * KL(q(z|x), N(0, 1))) / |x|``, in the mean over images (Higgins et al. 2017,
    beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl).

    Parameters
    ----------
    network
        Returns what was decoded, means, logarithms of variances, and what was drawn, as MONAI's `VarAutoEncoder`. It
        draws from torch's global generator.
    images
        ``(n, channel, *space)``, as the explained network takes them; the last axis is left-right.
    prior
        Weight of the divergence from the prior.
    report
        A function that is called after each epoch with its number (from 1) and mean loss.
    """

    def loss_of(batch: Tensor, _: Tensor) -> Tensor:
        decoded, means, logarithms, _ = network(batch)
        error = (decoded - batch).square().sum()
        divergence = (means.square() + logarithms.exp() - 1 - logarithms).sum() / 2
        return (error + prior * divergence) / batch.numel()

    _fit(network, images, loss_of, epochs, torch.Generator().manual_seed(seed), batch_size, learning_rate, report)


def _fit(
    network: nn.Module,
    images: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    generator: torch.Generator,
    batch_size: int,
    learning_rate: float,
    report: Callable[[int, float], None],
) -> None:
    """Train on a loss of some images as they are shown, and their places among `images`."""
    steps = -(-len(images) // batch_size)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps)
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
            batch = images[chosen]
            flipped = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(flipped.view(-1, *[1] * (batch.ndim - 1)), batch.flip(-1), batch)
            loss = loss_of(batch, chosen)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        report(epoch, total / len(images))
    network.eval()


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Compute class probabilities ``(n, class)`` by softmax."""
    network.eval()
    return torch.cat([network(batch).softmax(1) for batch in images.split(batch_size)])
