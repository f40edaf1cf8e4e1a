"""Flags: reasons to doubt a prediction or a map, image by image."""

from collections.abc import Mapping
from enum import IntFlag

import torch
from torch import Tensor


class ImageFlag(IntFlag):
    """Marks on an image or its prediction that is odd; bits that add up.

    A mask is unplaced where it or its image has no geometry that could be held against the other's. An image is partly
    covered where one of its files does not reach as far as the first. A slide has no tissue where none was found: what
    is explained is a bag of white tiles.
    """

    CONSTANT = 1
    NOT_FINITE = 2
    SATURATED = 4
    MASK_UNPLACED = 8
    PARTLY_COVERED = 16
    NO_TISSUE = 32


class MapFlag(IntFlag):
    """Marks on a map that is odd; bits that add up.

    A map is inexact where its explainer was given a `tolerance`, and did not reach it with the questions it may ask.
    """

    BLANK = 1
    NOT_FINITE = 2
    NO_SOURCE = 4
    INEXACT = 8


def in_words(output: str, flags: Mapping[str, int]) -> dict[str, int]:
    """Name the flags of an output in words, such as "map blank", each with its bit."""
    about = output.removesuffix("_flags").replace("_", " ")
    return {f"{about} {flag.replace('_', ' ')}": bit for flag, bit in flags.items()}


def flag_images(images: Tensor, probability: Tensor | None) -> Tensor:
    """Flag ``(image, channel, *space)``: uint8 ``(image,)``.

    `probability` is ``(image, class)``, or None for a regression. A probability that single precision cannot tell from
    1 is saturated: the gradient of a softmax vanishes there.
    """
    flat = images.flatten(1)
    flags = (flat.amax(1) == flat.amin(1)) * ImageFlag.CONSTANT.value
    flags |= (~flat.isfinite().all(1)) * ImageFlag.NOT_FINITE.value
    if probability is not None:
        flags |= (probability.amax(1).float() == 1) * ImageFlag.SATURATED.value
    return flags.to(torch.uint8)


def flag_maps(maps: Tensor) -> Tensor:
    """Flag ``(image, target, *space)``: uint8 ``(image, target)``."""
    flat = maps.flatten(2)
    flags = (flat == 0).all(-1) * MapFlag.BLANK.value
    flags |= (~flat.isfinite().all(-1)) * MapFlag.NOT_FINITE.value
    return flags.to(torch.uint8)
