"""A small variational autoencoder, whose latent space is a coarse grid."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn


class ConvolutionalAutoencoder(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114) of convolutions alone.

    Each of `features` halves the sides of the image; each place of the coarse grid that is left has `latent` numbers,
    so that a finding is drawn by the numbers where it lies. The sides have to be multiples of ``2 ** len(features)``.
    """

    def __init__(self, spatial_dims: int, in_channels: int, features: Sequence[int], latent: int) -> None:
        super().__init__()
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]

        def block(before: int, after: int, stride: int = 1) -> list[nn.Module]:
            return [conv(before, after, 3, stride=stride, padding=1, bias=False), norm(after), nn.ReLU()]

        encoder: list[nn.Module] = []
        for before, after in pairwise([in_channels, *features]):
            encoder += [*block(before, after, stride=2), *block(after, after)]
        decoder = block(latent, features[-1])
        for coarse, fine in pairwise([*features[::-1], features[0]]):
            decoder += [*block(coarse, fine), nn.Upsample(scale_factor=2)]
        self.encoder = nn.Sequential(*encoder, conv(features[-1], 2 * latent, 1))
        self.decoder = nn.Sequential(*decoder, conv(features[0], in_channels, 3, padding=1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take ``(image, channel, *space)`` to means and logarithms of variances, ``(image, latent, *grid)``."""
        means, logarithms = self.encoder(images).chunk(2, dim=1)
        return means, logarithms

    def decode(self, latent: Tensor) -> Tensor:
        """Take ``(image, latent, *grid)`` to ``(image, channel, *space)``."""
        images: Tensor = self.decoder(latent)
        return images

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is decoded, means, logarithms of variances, and what was drawn from these."""
        means, logarithms = self.encode(images)
        drawn = means + (logarithms / 2).exp() * torch.randn_like(means)
        return self.decode(drawn), means, logarithms, drawn
