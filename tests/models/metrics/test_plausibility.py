"""Plausibility: maps and masks drawn by hand, and scikit-learn's average precision."""

from math import nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from sklearn.metrics import average_precision_score
from torch import Tensor

from models.metrics import METRICS, spacing_of
from models.metrics.auprc import AUPRC
from models.metrics.hit_rate import HitRate
from models.metrics.iou import IoU
from models.metrics.relevance_mass import RelevanceMass
from models.metrics.relevance_rank import RelevanceRank
from tests.models.metrics.cases import SHAPES, boxes, images, linear, values_of

ALL = (HitRate(), HitRate(tolerance_mm=2.0), IoU(), AUPRC(), RelevanceMass(), RelevanceRank())


def value(metric: Any, maps: Tensor, masks: Tensor, **given: Any) -> Tensor:
    dims = maps.ndim - 1
    return values_of(linear(dims)[0], metric, images(dims, len(maps)), maps, masks=masks, **given).value[:, 0, 0]


def noise(dims: int, count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPES[dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dims", [2, 3])
def test_an_empty_mask_is_undefined_for_all_and_not_a_hit(dims: int) -> None:
    masks = boxes(dims)
    masks[1] = False
    for metric in ALL:
        found = value(metric, noise(dims), masks, spacing=torch.ones(3, dims))
        assert found.isnan().tolist() == [False, True, False], metric.name
        assert not bool(found[1] == 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_blank_map_gets_the_chance_or_is_undefined(dims: int) -> None:
    masks = boxes(dims)
    chance = masks.flatten(1).float().mean(1)
    for maps in (torch.zeros(masks.shape), torch.full(masks.shape, -2.0)):
        for metric in (HitRate(), AUPRC(), RelevanceRank()):
            torch.testing.assert_close(value(metric, maps, masks), chance)
        for metric in (IoU(), RelevanceMass()):
            assert value(metric, maps, masks).isnan().all()
    torch.testing.assert_close(value(RelevanceMass(), torch.ones(masks.shape), masks), chance)


@pytest.mark.parametrize("dims", [2, 3])
def test_only_what_speaks_for_the_target_counts(dims: int) -> None:
    masks = boxes(dims)
    maps = torch.where(masks, 0.1, 0.0) - 5 * torch.roll(masks.float(), 5, 1)
    maps = maps.where(~masks, 0.1)
    for metric in ALL:
        found = value(metric, maps, masks, spacing=torch.ones(3, dims))
        torch.testing.assert_close(found, torch.ones(3), msg=metric.name)


@pytest.mark.parametrize("dims", [2, 3])
def test_hit_rate_is_where_the_largest_value_lies(dims: int) -> None:
    masks = boxes(dims)
    maps = torch.zeros(3, *SHAPES[dims])
    maps[0][(2,) * dims] = 1.0  # inside
    maps[1][(0,) * dims] = 1.0  # outside
    maps[2][(4,) * dims] = 1.0  # one inside of two
    maps[2][(0,) * dims] = 1.0
    assert value(HitRate(), maps, masks).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_tolerance_of_a_hit_is_in_mm_along_each_axis(dims: int) -> None:
    masks = torch.zeros(4, *SHAPES[dims], dtype=torch.bool)
    masks[(slice(None), *(3,) * dims)] = True
    maps = torch.zeros(4, *SHAPES[dims])
    maps[0][(5,) + (3,) * (dims - 1)] = 1.0  # two places of 3 mm along the first axis
    maps[1][(3,) * (dims - 1) + (5,)] = 1.0  # two places of 0.5 mm along the last
    maps[2][(4,) * dims] = 1.0
    maps[3][(3,) * dims] = 1.0
    spacing = torch.tensor([3.0, 1.0, 0.5][3 - dims :] if dims == 3 else [3.0, 0.5]).repeat(4, 1)
    spacing[3] = nan
    diagonal = sqrt(float((spacing[0] ** 2).sum()))
    for tolerance, expected in ((0.9, [0, 0, 0]), (1.0, [0, 1, 0]), (diagonal + 1e-3, [0, 1, 1]), (6.0, [1, 1, 1])):
        found = value(HitRate(tolerance_mm=tolerance), maps, masks, spacing=spacing)
        assert found[:3].tolist() == expected, tolerance
        assert found[3].isnan()


def test_spacing_is_read_from_the_affine_in_the_order_of_the_axes() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    affine = torch.eye(4).repeat(2, 1, 1)
    affine[0, :3, :3] = turn * torch.tensor([5.0, 2.0, 0.5])
    affine[1] = nan
    torch.testing.assert_close(spacing_of(affine, 3)[0], torch.tensor([5.0, 2.0, 0.5]))
    torch.testing.assert_close(spacing_of(affine, 2)[0], torch.tensor([2.0, 0.5]))
    assert spacing_of(affine, 2)[1].isnan().all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_auprc_equals_scikit_learns_average_precision_and_comes_with_its_chance(dims: int, ties: bool) -> None:
    maps, masks = noise(dims) + 0.3 * boxes(dims), boxes(dims)
    maps = (2 * maps).round() if ties else maps
    score = values_of(linear(dims)[0], AUPRC(), images(dims), maps, masks=masks)
    for row in range(3):
        flat = masks[row].flatten().numpy()
        theirs = average_precision_score(flat, maps[row].clamp_min(0).flatten().numpy())
        assert abs(float(score.value[row, 0, 0]) - theirs) < 1e-6
        assert abs(float(score.companions["chance"][row, 0, 0]) - flat.mean()) < 1e-7


def test_a_map_of_noise_has_an_auprc_near_its_chance() -> None:
    masks = torch.zeros(200, *SHAPES[2], dtype=torch.bool)
    masks[:, :10] = True
    assert abs(float(value(AUPRC(), noise(2, 200), masks).mean()) - 0.5) < 0.01


@pytest.mark.parametrize("dims", [2, 3])
def test_relevance_rank_is_dice_at_the_masks_own_area(dims: int) -> None:
    maps, masks = noise(dims) + 10 + 2 * boxes(dims), boxes(dims)
    dice = []
    for own, mask in zip(maps, masks, strict=True):
        top = torch.zeros(mask.numel(), dtype=torch.bool)
        top[own.flatten().argsort(descending=True)[: mask.sum()]] = True
        dice.append(2 * (top & mask.flatten()).sum() / (top.sum() + mask.sum()))
    assert 0 < min(dice) < max(dice) < 1
    torch.testing.assert_close(value(RelevanceRank(), maps, masks), torch.stack(dice))


def test_relevance_rank_and_mass_by_hand() -> None:
    masks = torch.zeros(1, *SHAPES[2], dtype=torch.bool)
    masks[0, 0, :3] = True
    maps = torch.zeros(1, *SHAPES[2])
    maps[0, 0, 0], maps[0, 0, 1], maps[0, 5, 5], maps[0, 6, 6] = 4.0, 1.0, 1.0, 2.0
    assert value(RelevanceMass(), maps, masks).tolist() == [pytest.approx(5 / 8)]
    # of the three largest, 4 and 2 are certain, and one of the two of value 1
    assert value(RelevanceRank(), maps, masks).tolist() == [pytest.approx((1 + 0.5) / 3)]


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_is_of_what_lies_above_otsus_threshold_with_holes_filled(dims: int) -> None:
    masks = torch.zeros(2, *SHAPES[dims], dtype=torch.bool)
    masks[(slice(None), *(slice(1, 8),) * dims)] = True
    maps = torch.where(masks, 1.0, 0.05)
    maps[(0, *(slice(3, 6),) * dims)] = 0.0  # a hole, which the contour encloses
    maps[(1, slice(0, 1))] = 0.9  # and what lies outside
    found = value(IoU(), maps, masks)
    outside = maps[1, 0].numel()
    assert found.tolist() == [1.0, pytest.approx(7**dims / (7**dims + outside))]


def test_iou_cuts_where_scikit_image_does() -> None:
    maps, masks = noise(2).abs() + 2 * boxes(2), boxes(2)
    for own, mask, found in zip(maps.numpy(), masks.numpy(), value(IoU(), maps, masks), strict=True):
        levels = np.uint8(255 * ((own - own.min()) / (own.max() - own.min())))
        area = levels > threshold_otsu(levels)
        assert 0 < float(found) < 1
        assert abs((area & mask).sum() / (area | mask).sum() - float(found)) < 0.02  # but for single filled holes


def test_a_metric_says_what_it_lacks() -> None:
    maps, masks = noise(2), boxes(2)
    network, batch = linear(2)[0], images(2)
    with pytest.raises(ValueError, match="iou: compares with masks, and the cohort has none"):
        values_of(network, IoU(), batch, maps)
    with pytest.raises(ValueError, match="near: a tolerance in mm needs the spacing"):
        values_of(
            network,
            METRICS.adapter.validate_python({"name": "hit_rate", "label": "near", "tolerance_mm": 5.0}),
            batch,
            maps,
            masks=masks,
        )
    with pytest.raises(ValueError, match=r"the masks are \(3, 20, 15\), but the images are \(3, 1, 20, 16\)"):
        values_of(network, IoU(), batch, maps, masks=masks[..., 1:])
