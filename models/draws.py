"""Random draws that are the same on every device, and depend on a name, a purpose and a number alone."""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from math import prod

import numpy as np
import torch
from torch import Tensor

from models.sorting import stable_order

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WORD = 0xFFFFFFFF


class Draws:
    """Streams of random draws for one purpose, a stream for each name.

    A stream is known by a hash of purpose and name, a draw by a counter: Philox4x32-10 takes both to random bits
    (Salmon et al. 2011, doi:10.1145/2063384.2063405). No draw depends on those before it, so that questions may be
    asked in any order and in any batch. Integer arithmetic makes the bits the same on every device. A purpose is for
    one kind of draw: draws of another kind or shape would be made of the same bits.

    In the methods, `image` is ``(row,)`` of indices into the names, None for each name once, or for one name in all
    rows, and `sample` is ``(row,)``, or one number for all rows, below 2**32.

    Parameters
    ----------
    purpose
        A word for what is drawn.
    names
        Names of the images.
    device
        The device that draws.
    """

    def __init__(self, purpose: str, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        hashed = [blake2b(f"{purpose}\0{name}".encode(), digest_size=16).digest() for name in names]
        words = np.frombuffer(b"".join(hashed), "<u4").reshape(-1, 4).astype(np.int64)
        self._keys = torch.from_numpy(words).to(device)

    def gaussian(self, shape: Sequence[int], image: Tensor | None = None, sample: Tensor | int = 0) -> Tensor:
        """Draw from the normal distribution, ``(row, *shape)`` in float32.

        The distribution has 2**16 values, each as likely: the normal quantiles at the midpoints of as many parts,
        scaled to unit variance. Mean and variance are those of the normal distribution, the kurtosis is 2.9992, no
        value is above 4.326, and the distribution function is off by less than 1.1e-5. A logarithm and a cosine, by
        which normal numbers are mostly made, differ between devices.
        """
        count = prod(shape)
        halves = self._blocks(-(-count // 8), image, sample).view(torch.int16).flatten(1)[:, :count]
        places = halves.flatten().int().add_(2**15)
        return _quantiles(self._keys.device).index_select(0, places).view(len(halves), *shape)

    def uniform(self, shape: Sequence[int], image: Tensor | None = None, sample: Tensor | int = 0) -> Tensor:
        """Draw multiples of 2**-24 from [0, 1), each as likely, ``(row, *shape)`` in float32."""
        words = self._words(prod(shape), image, sample)
        return ((words >> 8).float() * 2.0**-24).view(len(words), *shape)

    def below(self, bounds: Tensor, image: Tensor | None = None, sample: Tensor | int = 0) -> Tensor:
        """Draw whole numbers from 0 to below each of `bounds`, ``(row, *bounds.shape)`` in int64.

        A number is more likely than another by a share of ``bound / 2**32`` at most.
        """
        words = self._words(bounds.numel(), image, sample)
        return words.view(len(words), *bounds.shape) * bounds.to(words) >> 32

    def order(self, count: int, image: Tensor | None = None, sample: Tensor | int = 0) -> Tensor:
        """Draw orders of the numbers below `count`, ``(row, count)`` in int64, by sorting random words.

        Two words are the same with odds of ``count**2 / 2**33`` in a row; their numbers stay in order then.
        """
        return stable_order(self._words(count, image, sample))

    def _words(self, count: int, image: Tensor | None, sample: Tensor | int) -> Tensor:
        """Draw ``(row, count)`` words of 32 bits, in int64."""
        return self._blocks(-(-count // 4), image, sample).flatten(1)[:, :count].long() & _WORD

    def _blocks(self, count: int, image: Tensor | None, sample: Tensor | int) -> Tensor:
        """Draw ``(row, count, 4)``, the four words of each counter, in int32."""
        keys = self._keys if image is None else self._keys[image]
        places, numbers = torch.arange(count, device=keys.device), torch.as_tensor(sample, device=keys.device)
        words = torch.broadcast_tensors(places, numbers.view(-1, 1), keys[:, 2:3], keys[:, 3:])
        first, second, third, fourth = (word.clone(memory_format=torch.contiguous_format) for word in words)
        return torch.stack([word.int() for word in philox(first, second, third, fourth, keys[:, :2])], dim=-1)


def philox(
    first: Tensor, second: Tensor, third: Tensor, fourth: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt counters by Philox4x32-10 (Salmon et al. 2011, section 3.3).

    Parameters
    ----------
    first, second, third, fourth
        The four words of each counter, ``(row, counter)`` in int64 from 0 to below 2**32; they are written over.
    keys
        The two words of each row's key, ``(row, 2)`` alike.

    Returns
    -------
    tuple
        Four words ``(row, counter)``, in the lower 32 bits of int64; the upper ones are to be left out.
    """
    low, high = torch.empty_like(first), torch.empty_like(first)
    weyl = torch.tensor(_WEYL, device=keys.device)
    for turn in range(_ROUNDS):
        left, right = ((keys + turn * weyl) & _WORD).split(1, dim=1)
        # A product of two words overflows int64, whose bits are right all the same.
        torch.mul(first, _MULTIPLIERS[0], out=low)
        torch.mul(third, _MULTIPLIERS[1], out=high)
        torch.bitwise_right_shift(high, 32, out=first).bitwise_xor_(second).bitwise_xor_(left).bitwise_and_(_WORD)
        torch.bitwise_right_shift(low, 32, out=third).bitwise_xor_(fourth).bitwise_xor_(right).bitwise_and_(_WORD)
        second, fourth, low, high = high, low, fourth, second
    return first, second, third, fourth


@cache
def _quantiles(device: torch.device) -> Tensor:
    parts = 2**16
    values = torch.special.ndtri((torch.arange(parts, dtype=torch.float64) + 0.5) / parts)
    return (values / values.square().mean().sqrt()).float().to(device)
