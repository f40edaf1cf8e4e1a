"""Merging: the answers about the windows of an image become that about the image."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.network import Network
from models.targets import Chosen


@dataclass(frozen=True, eq=False)
class Plain:
    """The answers about images as they are, and about their windows.

    Attributes
    ----------
    images
        ``(image, channel, *grid)``.
    logits
        ``(image, class[, *grid])``.
    windows
        ``(image * window, class[, *window])``.
    """

    images: Tensor
    logits: Tensor
    windows: Tensor


class Merging:
    """The logits of some images, as those of their windows come.

    Attributes
    ----------
    windows
        ``(image * window, class[, *window])``, the logits of windows; None where they are not kept.
    """

    is_linear = True
    windows: Tensor | None = None

    def add(self, numbers: Tensor, logits: Tensor) -> None:
        """Take the logits of some windows, ``(window, class[, *window])``."""
        raise NotImplementedError

    @property
    def whole(self) -> Tensor:
        """The logits of the images, ``(image, class[, *grid])``."""
        raise NotImplementedError

    def shares(self, numbers: Tensor, chosen: Chosen, logits: Tensor) -> Tensor:
        """Compute what some windows add to the scores of their images: ``(window, target)``."""
        raise NotImplementedError

    def matter(self, chosen: Chosen) -> Tensor:
        """Tell which windows have a part in any score: ``(image * window,)`` bool."""
        raise NotImplementedError


class Alone(Merging):
    """The logits of images that the network takes at once, which are its answers."""

    def add(self, numbers: Tensor, logits: Tensor) -> None:
        self._logits = logits

    @property
    def whole(self) -> Tensor:
        return self._logits

    def shares(self, numbers: Tensor, chosen: Chosen, logits: Tensor) -> Tensor:
        return chosen.score(logits)


class Pooled(Merging):
    """One logit of each class: the mean, the largest, or the mean of the largest over windows."""

    def __init__(self, network: Network, images: int, plain: Tensor | None) -> None:
        self._tiles, self._images = network.tiles, images
        self.is_linear = self._tiles.windows.is_linear
        self.windows = plain

    def add(self, numbers: Tensor, logits: Tensor) -> None:
        if self.windows is None:
            self.windows = logits.new_zeros(self._images * self._tiles.count, logits.shape[1])
        self.windows[numbers] = logits

    @property
    def _by_image(self) -> Tensor:
        assert self.windows is not None
        return self.windows.view(self._images, self._tiles.count, -1)

    @property
    def whole(self) -> Tensor:
        return self._tiles.windows.pooled(self._by_image)

    def _factors(self) -> Tensor:
        """Find by how much each logit of a window counts in that of its image."""
        with torch.enable_grad():
            logits = self._by_image.detach().requires_grad_()
            (factors,) = torch.autograd.grad(self._tiles.windows.pooled(logits).sum(), logits)
        return factors.flatten(0, 1)

    def shares(self, numbers: Tensor, chosen: Chosen, logits: Tensor) -> Tensor:
        factors = 1 / self._tiles.count if self.is_linear else self._factors()[numbers]
        return _of_windows(chosen, numbers // self._tiles.count).score(logits * factors)

    def matter(self, chosen: Chosen) -> Tensor:
        by_image = self._factors().view(self._images, self._tiles.count, -1) != 0
        classes = [chosen.classes, *([] if chosen.against is None else [chosen.against])]
        explained = torch.cat(classes, 1).clamp_min(0)[:, None].expand(-1, self._tiles.count, -1)
        return by_image.gather(2, explained).any(-1).flatten()


class Stitched(Merging):
    """A logit of each class at each place: the mean over the windows that cover it, by their weights."""

    def __init__(self, network: Network, images: int, plain: Plain | None, image: Tensor, keep: bool) -> None:
        self._tiles, self._images, self._keep = network.tiles, images, keep
        self._plain = None if plain is None else plain.windows.view(-1, self._tiles.count, *plain.windows.shape[1:])
        self._image = image
        self._total = None if plain is None else self._tiles.pad(plain.logits[image]).contiguous()

    def add(self, numbers: Tensor, logits: Tensor) -> None:
        if self._total is None:
            self._total = logits.new_zeros(self._images, logits.shape[1], *self._tiles.padded)
        if self._keep and self.windows is None:
            self.windows = logits.new_zeros(self._images * self._tiles.count, *logits.shape[1:])
        if self.windows is not None:
            self.windows[numbers] = logits
        if self._plain is not None:
            logits = logits - self._plain[self._image[numbers // self._tiles.count], numbers % self._tiles.count]
        self._tiles.add(self._total, numbers, logits * self._tiles.factors(logits, numbers))

    @property
    def whole(self) -> Tensor:
        assert self._total is not None
        return self._tiles.crop(self._total)

    def shares(self, numbers: Tensor, chosen: Chosen, logits: Tensor) -> Tensor:
        assert chosen.region is not None
        region = self._tiles.cut(self._tiles.pad(chosen.region), numbers)
        own = _of_windows(chosen, numbers // self._tiles.count, region)
        return own.score(logits * self._tiles.factors(logits, numbers))

    def matter(self, chosen: Chosen) -> Tensor:
        assert chosen.region is not None
        region = self._tiles.pad(chosen.region)
        return self._tiles.touched(region, torch.zeros_like(region[:1]).expand_as(region))


def _of_windows(chosen: Chosen, image: Tensor, region: Tensor | None = None) -> Chosen:
    """Take what is explained of each window's image, and the part of the region that lies in the window."""
    return replace(replace(chosen, region=None).rows(image), region=region)


def merging(network: Network, image: Tensor, plain: Plain | None, keep: bool) -> Merging:
    """Choose how the answers about windows become one.

    Parameters
    ----------
    image
        ``(question,)``, the image that each question is about.
    plain
        The answers about these images as they are, if only windows that differ are asked about.
    keep
        Whether the logits of windows are kept at each place.
    """
    if network.tiles.is_whole:
        return Alone()
    if network.segments:
        return Stitched(network, len(image), plain, image, keep)
    count = network.tiles.count
    known = None if plain is None else plain.windows.view(-1, count, plain.windows.shape[1])[image].flatten(0, 1)
    return Pooled(network, len(image), known)
