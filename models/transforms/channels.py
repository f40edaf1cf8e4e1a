"""Transforms from several channels, such as time points or components, to fewer."""

from collections.abc import Sequence
from typing import Any

from monai.transforms import Transform


class MeanOverChannels(Transform):
    """Mean over the channels, such as the time average of an fMRI series: ``(channel, *space)`` to ``(1, *space)``."""

    def __call__(self, image: Any) -> Any:
        return image.mean(0, keepdim=True)


class SelectChannels(Transform):
    """Some channels, such as one component or time point: ``(channel, *space)`` to ``(len(channels), *space)``.

    Parameters
    ----------
    channels
        Their numbers from 0, in the order in which the network takes them.

    Raises
    ------
    ValueError
        If there are none, or one is negative.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        if not channels or min(channels) < 0:
            raise ValueError("channels are one number or more, counted from 0")
        self.channels = list(channels)

    def __call__(self, image: Any) -> Any:
        return image[self.channels]
