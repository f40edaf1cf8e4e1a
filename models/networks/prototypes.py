"""Classifier by prototypes: patches of training images to which an image is compared."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.attention_gated import conv_block

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_SMALL = 1e-4


class Patch(NamedTuple):
    """The patch of a training image that a prototype is: the image's number, and the place on the latent grid."""

    image: int
    place: tuple[int, ...]


class Similarity(nn.Module):
    """Similarity to prototypes (Chen et al. 2019, arXiv:1806.10574, section 2.1), ``s_j = log((d + 1) / (d + eps))``.

    ``d`` is the squared distance between the latent vector at a place and the prototype ``p_j``, and eps is 1e-4, so
    that the similarity lies between 0, far away, and 9.21, where both are equal.

    Parameters
    ----------
    prototypes
        Number of prototypes.
    features
        Length of a latent vector.

    Notes
    -----
    Input ``(batch, features, *space)``, output ``(batch, prototypes, *space)``.
    """

    def __init__(self, prototypes: int, features: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.rand(prototypes, features))

    def forward(self, latent: Tensor) -> Tensor:
        squared = self.distances(latent)
        return ((squared + 1) / (squared + _SMALL)).log()

    def distances(self, latent: Tensor) -> Tensor:
        """Compute the squared distances to the prototypes, ``(batch, prototypes, *space)``."""
        products = torch.einsum("jf,bf...->bj...", self.vectors, latent)
        own = self.vectors.square().sum(1).view(-1, *[1] * (latent.ndim - 2))
        return (latent.square().sum(1, keepdim=True) - 2 * products + own).clamp_min(0)


class PrototypeClassifier(nn.Module):
    """Prototypical part network (ProtoPNet; Chen et al. 2019, arXiv:1806.10574), small and of our own.

    ``logit_c = sum_j w_cj max_p s_j(p)``: the logit of a class is the sum of the similarities to its prototypes, each
    at the place where it is the greatest, with the weights of the last layer, which has no bias. Prototypes of other
    classes have the weight 0, where Chen et al. let these speak against a class.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels
        Channels of the image.
    num_classes
        Length of the logits.
    prototypes
        Prototypes of each class.
    features
        Channels of the blocks; between two blocks, each side is halved.
    latent
        Length of a latent vector, each of whose values lies in [0, 1].

    Notes
    -----
    Input ``(batch, in_channels, *space)``, output logits ``(batch, num_classes)``.
    """

    prototype_layer = "prototypes"

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        prototypes: int = 5,
        features: Sequence[int] = (12, 24, 48),
        latent: int = 16,
    ) -> None:
        super().__init__()
        channels = [in_channels, *features]
        self.blocks = nn.ModuleList(conv_block(spatial_dims, before, after) for before, after in pairwise(channels))
        self.pool = _POOL[spatial_dims](2)
        self.latent = nn.Sequential(_CONV[spatial_dims](features[-1], latent, kernel_size=1), nn.Sigmoid())
        self.prototypes = Similarity(num_classes * prototypes, latent)
        self.classifier = nn.Linear(num_classes * prototypes, num_classes, bias=False)
        self.classifier.weight.data = torch.eye(num_classes).repeat_interleave(prototypes, dim=1)

    @property
    def of_class(self) -> Tensor:
        """The class of each prototype, ``(prototype,)``."""
        classes, prototypes = self.classifier.weight.shape
        return torch.arange(classes).repeat_interleave(prototypes // classes)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the latent vectors at each place, ``(batch, latent, *space)``."""
        first, *others = self.blocks
        found = first(images)
        for block in others:
            found = block(self.pool(found))
        latent: Tensor = self.latent(found)
        return latent

    def similarity(self, images: Tensor) -> Tensor:
        """Compute the greatest similarity over space to each prototype, ``(batch, prototype)``."""
        similarity: Tensor = self.prototypes(self.encode(images))
        return similarity.flatten(2).amax(-1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.similarity(images))
        return logits

    @torch.no_grad()
    def project(self, images: Tensor, labels: Tensor, batch_size: int = 32) -> list[Patch]:
        """Set each prototype to the nearest latent vector of training images of its class (section 2.2, stage 2).

        Parameters
        ----------
        images
            ``(n, in_channels, *space)``.
        labels
            ``(n,)`` class indices.

        Returns
        -------
        list
            The patch that each prototype is now.
        """
        self.eval()
        nearest = torch.full((len(self.prototypes.vectors),), math.inf)
        vectors, found = self.prototypes.vectors.clone(), [Patch(-1, ())] * len(nearest)
        for numbers in torch.arange(len(images)).split(batch_size):
            latent = self.encode(images[numbers])
            apart = self.prototypes.distances(latent)
            for prototype, of_class in enumerate(self.of_class):
                own = apart[:, prototype].flatten(1)
                own = own.where((labels[numbers] == of_class)[:, None], math.inf)
                least, at = own.flatten().min(0)
                if least < nearest[prototype]:
                    image, place = divmod(int(at), own.shape[1])
                    nearest[prototype], vectors[prototype] = least, latent[image].flatten(1)[:, place]
                    where = torch.unravel_index(torch.tensor(place), latent.shape[2:])
                    found[prototype] = Patch(int(numbers[image]), tuple(int(index) for index in where))
        self.prototypes.vectors.copy_(vectors)
        return found

    def weigh(self, images: Tensor, labels: Tensor, batch_size: int = 32) -> None:
        """Fit the weights of the last layer by cross-entropy, the rest as it is (section 2.2, stage 3).

        They stay above 0, so that a prototype always speaks for its class.

        Parameters
        ----------
        images, labels
            As for `project`.
        """
        self.eval()
        with torch.no_grad():
            parts = [self.similarity(batch) for batch in images.split(batch_size)]
        similarity, exponent = torch.cat(parts), torch.zeros(len(self.prototypes.vectors), requires_grad=True)
        own = torch.eye(len(self.classifier.weight))[:, self.of_class]
        optimiser = torch.optim.LBFGS([exponent], max_iter=100, line_search_fn="strong_wolfe")

        def loss_of() -> Tensor:
            optimiser.zero_grad()
            loss = functional.cross_entropy(similarity @ (own * exponent.exp()).T, labels)
            loss.backward()
            return loss

        optimiser.step(loss_of)
        self.classifier.weight.data = own * exponent.detach().exp()


def push_and_pull(network: PrototypeClassifier, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss by which features and prototypes are trained (Chen et al. 2019, section 2.2, stage 1).

    Cross-entropy, plus 0.8 times the distance between an image and the nearest prototype of its class, which pulls
    them together (cluster cost), less 0.08 times that between it and the nearest of another class, which pushes these
    apart (separation cost); the weights are those of the paper.
    """
    apart = network.prototypes.distances(network.encode(images)).flatten(2).amin(-1)
    logits = network.classifier(((apart + 1) / (apart + _SMALL)).log())
    own = network.of_class == labels[:, None]
    cluster = apart.where(own, math.inf).amin(1).mean()
    separation = apart.where(~own, math.inf).amin(1).mean()
    return functional.cross_entropy(logits, labels) + 0.8 * cluster - 0.08 * separation
