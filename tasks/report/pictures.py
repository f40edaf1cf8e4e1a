"""Pictures of the report: the image in grey, a map laid over it in colour, the mask's outline as vectors."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr
from contourpy import contour_generator
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

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

    @property
    def bar(self) -> str:
        values = np.linspace(-self.limit if self.signed else 0, self.limit, _BAR_PIXELS)
        return _picture(self.colours(np.tile(values, (8, 1))))


@dataclass(frozen=True)
class Panel:
    """One picture: a WebP as a data URI, its size in pixels, its shape in the patient, the outline as an SVG path."""

    title: str
    uri: str
    width: int
    height: int
    aspect: float
    outline: str


def scales_of(maps: Sequence[xr.DataArray]) -> list[Scale]:
    """Make one scale an explainer for all of some maps; the strongest half percent of places saturates."""
    scales = []
    for name in maps[0]["explainer"].values if maps else ():
        values = np.concatenate([each.sel(explainer=name).values.ravel() for each in maps])
        values = values[np.isfinite(values)]
        limit = float(np.percentile(np.abs(values), _SCALE_PERCENTILE)) if values.size else 0.0
        scales.append(Scale(str(name), limit or 1.0, signed=bool(values.min(initial=0) < 0)))
    return scales


def case_panels(image: xr.Dataset, target: int | None, scales: Sequence[Scale]) -> list[Panel]:
    """Draw one image of the store: by itself, and with each map for one target laid over it, if it is finite."""
    view = _View(image, target)
    grey = view.grey()
    panels = [view.panel("image", np.repeat(grey[..., None], 3, axis=2))]
    for scale in scales:
        values = view.cut(image["attribution"].isel(target=target).sel(explainer=scale.explainer).values)
        if not np.isfinite(values).all():
            continue
        strength = _STRONGEST * np.clip(np.abs(values) / scale.limit, 0, 1)[..., None]
        panels.append(view.panel(scale.explainer, (1 - strength) * grey[..., None] + strength * scale.colours(values)))
    return panels


class _View:
    """How one image is shown: the slice, flipped so that its axes point to the patient's left, back and feet."""

    def __init__(self, image: xr.Dataset, target: int | None) -> None:
        self.image = image
        self.slice = _slice(image, target) if "z" in image.dims else None
        affine = image["affine"].values[:3, 1:3]
        self.flips: tuple[int, ...] = ()
        spacing = np.ones(2)
        if np.isfinite(affine).all():
            main = np.abs(affine).argmax(0)
            self.flips = tuple(axis for axis in (0, 1) if affine[main[axis], axis] > 0)
            spacing = np.linalg.norm(affine, axis=0)
        self.height, self.width = image["image"].shape[-2:]
        self.aspect = float(self.width * spacing[1] / (self.height * spacing[0]))
        self.outline = _outline(self.cut(image["mask"].values == 1)) if "mask" in image else ""

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """The shown slice of ``(*space)``."""
        return np.flip(values if self.slice is None else values[self.slice], self.flips)

    def grey(self) -> NDArray[np.floating]:
        volume = self.image["image"].values.mean(0)
        picture = self.cut(volume)
        low, high = np.nanpercentile(volume, (0.5, 99.5))
        return np.clip((picture - low) / max(high - low, 1e-12), 0, 1)

    def panel(self, title: str, colours: NDArray[np.floating]) -> Panel:
        if self.slice is not None and title == "image":
            title = f"image, z = {self.slice}"
        return Panel(title, _picture(colours), self.width, self.height, self.aspect, self.outline)


def _slice(image: xr.Dataset, target: int | None) -> int:
    """The slice with most of the mask; without one, with the first map's peak; without that, the middle."""
    if "mask" in image and (image["mask"].values == 1).any():
        return int((image["mask"].values == 1).sum((1, 2)).argmax())
    if "attribution" in image and target is not None:
        first = np.abs(image["attribution"].isel(target=target, explainer=0).values)
        if np.isfinite(first).all():
            return int(np.unravel_index(first.argmax(), first.shape)[0])
    return image.sizes["z"] // 2


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
