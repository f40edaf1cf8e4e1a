"""Pictures of the report: the image in grey or in its colours, a map over it, the mask's outline as vectors."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr
from contourpy import contour_generator
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from tasks.report.anatomy import View, view_of
from tasks.report.slides import is_slide, on_overview, overview, share_on_white, tile_values
from tasks.store.scales import Reach, reach_of

INPUT = "network_input"
"""The image as the network takes it, in whose units changed images are; the store holds it before normalisation."""

_STRONGEST = 0.8
_BAR_PIXELS = 128
_SCALE_PERCENTILE = 99.5
_QUALITY = 85
_LOSSLESS = 128 * 128


@dataclass(frozen=True)
class Scale:
    """The colours of one explainer, the same for every case: from -`limit` or 0 to `limit`."""

    explainer: str
    limit: float
    signed: bool

    def colours(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """RGB in [0, 1]; both maps can be told apart by colour-blind readers."""
        scaled = np.clip(values / self.limit, -1, 1)
        colour = colormaps["coolwarm"]((scaled + 1) / 2) if self.signed else colormaps["inferno"](np.clip(scaled, 0, 1))
        return colour[..., :3]

    def showing(self, values: NDArray[np.floating]) -> "Scale":
        """The scale that hides none of some values: that of the cohort is found by some images alone."""
        return replace(self, signed=self.signed or bool((values < 0).any()))

    @property
    def ends(self) -> tuple[float, float]:
        return (-self.limit if self.signed else 0.0, self.limit)

    @property
    def bar(self) -> str:
        values = np.linspace(*self.ends, _BAR_PIXELS)
        return _picture(self.colours(np.tile(values, (8, 1))))


@dataclass(frozen=True)
class Panel:
    """One picture: a WebP as a data URI, its size in pixels, its shape in the patient, the outline as an SVG path.

    Attributes
    ----------
    letters
        The patient's directions at the top, the right, the bottom and the left; None where they are not known.
    """

    title: str
    uri: str
    width: int
    height: int
    aspect: float
    outline: str
    letters: tuple[str, str, str, str] | None = None


def scales_of(maps: Sequence[xr.DataArray]) -> list[Scale]:
    """Make one scale an explainer for all of some maps; the strongest half percent of places saturates."""
    scales = []
    for name in maps[0]["explainer"].values if maps else ():
        values = np.concatenate([each.sel(explainer=name).values.ravel() for each in maps])
        values = values[np.isfinite(values)]
        limit = float(np.percentile(np.abs(values), _SCALE_PERCENTILE)) if values.size else 0.0
        scales.append(Scale(str(name), limit or 1.0, signed=bool(values.min(initial=0) < 0)))
    return scales


def shared_scales(maps: xr.DataArray, explained: Sequence[int] | NDArray[np.intp]) -> list[Scale]:
    """Make the scale of each explainer that report, viewer and exports share."""
    return scales_by(reach_of(maps, explained))


def scales_by(reaches: Mapping[str, Reach]) -> list[Scale]:
    """Make the scale of each explainer by how far its maps reach over the cohort."""
    return [Scale(name, reach.limit, reach.signed) for name, reach in reaches.items()]


def case_panels(image: xr.Dataset, target: int | None, scales: Sequence[Scale]) -> list[Panel]:
    """Draw one image of the store: by itself, and with each map for one target laid over it, if it is finite."""
    if is_slide(image):
        return _slide_panels(image, target, scales)
    view = view_of(image)
    shown = None if view.across is None else slice_of(image, target, view.across)
    outline = _outline(view.cut(image["mask"].values == 1, shown)) if "mask" in image else ""
    by_itself = picture_of(image["image"].values, view, shown)
    height, width = by_itself.shape[:2]

    def panel(title: str, colours: NDArray[np.floating]) -> Panel:
        return Panel(title, _picture(colours), width, height, view.aspect, outline, view.letters)

    panels = [panel(", ".join(part for part in ("image", view.title(shown)) if part), by_itself)]
    for scale in scales:
        values = view.cut(image["attribution"].isel(target=target).sel(explainer=scale.explainer).values, shown)
        if np.isfinite(values).all():
            panels.append(panel(scale.explainer, overlay(by_itself, values, scale)))
    for name in changed_images(image) if target is not None else ():
        changed = image[name].isel(target=target).values
        if np.isfinite(changed).all():
            limits, before = {scale.explainer: scale.limit for scale in scales}, image[INPUT].values
            difference = view.cut(_strongest(changed - before), shown)
            panels.append(panel(f"{name}: changed image", picture_of(changed, view, shown, as_in=before)))
            panels.append(panel(f"{name} − image", Scale(name, limits[name], signed=True).colours(difference)))
    return panels


def changed_images(dataset: xr.Dataset) -> list[str]:
    """Name the variables that hold images as they were changed, of each target."""
    variables = dataset.data_vars.items()
    return [str(name) for name, one in variables if one.attrs.get("kind") == "counterfactual" and "channel" in one.dims]


def _strongest(channels: NDArray[np.floating]) -> NDArray[np.floating]:
    """Take at each place of ``(channel, *space)`` the value of the largest magnitude."""
    return np.take_along_axis(channels, np.abs(channels).argmax(0, keepdims=True), axis=0)[0]


def _slide_panels(image: xr.Dataset, target: int | None, scales: Sequence[Scale]) -> list[Panel]:
    """Draw a whole slide with the outlines of its tiles, and with the tiles' values of each map."""
    by_itself = overview(image) / 255
    height, width = by_itself.shape[:2]
    outline = _outline(np.isfinite(on_overview(image, np.zeros(image.sizes["z"]))))
    panels = [Panel("slide", _picture(by_itself), width, height, 1.0, outline)]
    for scale in scales:
        values = tile_values(image.isel(target=target)).sel(explainer=scale.explainer).values
        if np.isfinite(values).all():
            share = share_on_white(image, values)
            title = f"{scale.explainer}, {share:.0%} on white tiles" if share else scale.explainer
            laid_over = overlay(by_itself, np.nan_to_num(on_overview(image, values)), scale)
            panels.append(Panel(title, _picture(laid_over), width, height, 1.0, ""))
    return panels


def overlay(picture: NDArray[np.floating], values: NDArray[np.floating], scale: Scale) -> NDArray[np.floating]:
    """Lay the colours of a map over a picture, ``(row, column, RGB)`` in [0, 1]: the stronger, the less transparent."""
    strength = _STRONGEST * np.clip(np.abs(values) / scale.limit, 0, 1)[..., None]
    return (1 - strength) * picture + strength * scale.showing(values).colours(values)


def slice_of(image: xr.Dataset, target: int | None, across: int) -> int:
    """Choose the slice with most of the mask; without one, with the first map's peak; without that, the middle."""
    if "mask" in image and (image["mask"].values == 1).any():
        within = np.moveaxis(image["mask"].values == 1, across, 0)
        return int(within.reshape(len(within), -1).sum(1).argmax())
    if "attribution" in image and target is not None:
        first = np.abs(image["attribution"].isel(target=target, explainer=0).values)
        if np.isfinite(first).all():
            return int(np.unravel_index(first.argmax(), first.shape)[across])
    return int(image["image"].shape[1 + across]) // 2


def picture_of(
    channels: NDArray[np.floating], view: View, shown: int | None, as_in: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """The picture of ``(channel, *space)``, ``(row, column, RGB)`` in [0, 1]: three channels of a slice are colours.

    Its black and white are those of `as_in`, if given.
    """
    has_colours = len(channels) == 3 and view.across is None
    drawn = channels if has_colours else channels.mean(0, keepdims=True)
    source = channels if as_in is None else as_in
    source = source if has_colours else source.mean(0, keepdims=True)
    known = source[np.isfinite(source)]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 1.0)
    cut = np.stack([view.cut(channel, shown) for channel in drawn], axis=-1)
    scaled = np.nan_to_num(np.clip((cut - low) / max(high - low, 1e-12), 0, 1))
    return scaled if has_colours else np.repeat(scaled, 3, axis=2)


def _outline(mask: NDArray[Any]) -> str:
    lines: list[Any] = list(contour_generator(z=np.pad(mask.astype(float), 1)).lines(0.5))
    # A pixel's centre lies half a pixel into it; the padding moved everything by one.
    return "".join("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for x, y in line) + "Z" for line in lines)


def _picture(colours: NDArray[np.floating]) -> str:
    sink = BytesIO()
    # Lossy WebP halves the resolution of colours, which is too little for small pictures.
    small = colours.shape[0] * colours.shape[1] <= _LOSSLESS
    pixels = (np.nan_to_num(colours) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(sink, "webp", lossless=small, quality=_QUALITY)
    return "data:image/webp;base64," + b64encode(sink.getvalue()).decode()
