"""Images of the cohort on the model's grid: read, checked against the plan, prepared, with their masks."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.flags import ImageFlag
from models.preprocessing import Preprocessed, Preprocessing, TransformError
from tasks.cohort.entry import Entry, known_files
from tasks.cohort.masks import drawn
from tasks.cohort.readers import read, read_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.cohort.sources import Find, Source, Sources
from tasks.cohort.survey import combine, survey
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location, nameless
from tasks.work.masks import lacks_geometry, on_grid


class Image(NamedTuple):
    """An image and its mask on the grid, if it has one, with what is odd about the two."""

    prepared: Preprocessed
    mask: NDArray[np.bool_] | None = None
    flags: ImageFlag = ImageFlag(0)


class Misfit(Unreadable):
    """The preprocessing does not take the image to what the network takes."""


class NotAsPlanned(Unreadable):
    """The source is not what the plan had seen; it may be again, so that the next run tries once more."""


def find_again(output: Location, plan: Plan) -> Find:
    """Find images by surveying the cohort once more, when the first of them is asked for."""

    @cache
    def sources() -> Sources:
        return survey_again(output, plan)

    def find(id: str) -> Source | None:
        return sources()(id)

    return find


def survey_again(output: Location, plan: Plan) -> Sources:
    """Survey the cohort of an output once more; of a file that is as it was, nothing is read."""
    known = known_files(manifest.read(output))
    return survey(plan.cohort, plan.model.spatial_dims, plan.key, known=known).sources


def read_images(
    plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing, find: Find
) -> list[Image | Unreadable]:
    """Read and prepare some images; those that cannot be, come as the reason why not."""
    found = [(entry, None if entry.reason else find(entry.id)) for entry in entries]
    wanted = list(dict.fromkeys(uri for _, source in found if source for uri in source.files))
    files = dict(zip(wanted, plan.cohort.home.read_all(wanted), strict=True))
    return [_image(plan, entry, source, files, preprocessing) for entry, source in found]


def read_inputs(
    plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing, find: Find
) -> dict[str, NDArray[np.float32]]:
    """Read what the network takes of some images, by id; those that cannot be read are left out."""
    images = read_images(plan, entries, preprocessing, find)
    return {
        entry.id: image.prepared.network_input
        for entry, image in zip(entries, images, strict=True)
        if not isinstance(image, Unreadable)
    }


def stack(inputs: Sequence[NDArray[np.float32]]) -> Tensor:
    """Put network inputs of several images together."""
    return torch.from_numpy(np.stack(inputs))


def stack_masks(masks: Sequence[NDArray[np.bool_] | None]) -> Tensor | None:
    """Put masks of several images together, if any has one; one without a mask has no place in it."""
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.from_numpy(np.stack([np.zeros_like(known) if mask is None else mask for mask in masks]))


def _image(
    plan: Plan,
    entry: Entry,
    source: Source | None,
    files: Mapping[str, bytes | Exception],
    preprocessing: Preprocessing,
) -> Image | Unreadable:
    if entry.reason:
        return Unreadable(entry.reason)
    if source is None:
        return NotAsPlanned("the image is not in the cohort any more")
    try:
        parts = [_present(files[uri]) for uri in source.uris]
        if combine([hashlib.sha256(part).hexdigest() for part in parts]) != entry.digest:
            raise NotAsPlanned("the file changed after the run was planned: run again")
        decoded = read(parts, plan.model.spatial_dims, plan.cohort.window, plan.cohort.largest_image)
        if plan.cohort.color == "grey":
            decoded = _in_grey(decoded)
        prepared = _prepare(decoded.pixels, decoded.affine, preprocessing, plan)
        if entry.mask is None:
            return Image(prepared)
        assert source.mask is not None
        stored = _present(files[source.mask])
        if hashlib.sha256(stored).hexdigest() != entry.mask:
            raise NotAsPlanned("the mask changed after the run was planned: run again")
        mask = read_mask(stored, plan.model.spatial_dims, plan.cohort.largest_image)
        marked = drawn(mask, plan.cohort.mask)
        placed = on_grid(marked, mask, decoded, prepared.to_source, plan.grid)
        return Image(prepared, placed, ImageFlag.MASK_UNPLACED if lacks_geometry(mask, decoded) else ImageFlag(0))
    except Unreadable as reason:
        return reason


def _present(data: bytes | Exception) -> bytes:
    if isinstance(data, (FileNotFoundError, PermissionError)):
        raise NotAsPlanned(f"a file of the image cannot be opened ({type(data).__name__})")
    if isinstance(data, Exception):
        raise nameless(data, "a file of the cohort cannot be read") from None
    return data


def _in_grey(decoded: Decoded) -> Decoded:
    """Take three channels to one, their luminance; grey that was stored as colour keeps its values."""
    if len(decoded.pixels) != 3:
        return decoded
    red, green, blue = decoded.pixels
    luminance = green + 0.299 * (red - green) + 0.114 * (blue - green)  # ITU-R 601, exact where all three are equal
    return replace(decoded, pixels=luminance[None])


def _prepare(
    pixels: NDArray[np.float32], affine: NDArray[np.float64] | None, preprocessing: Preprocessing, plan: Plan
) -> Preprocessed:
    try:
        prepared = preprocessing(pixels, affine)
    except TransformError as error:
        raise Misfit(f"preprocessing of shape {pixels.shape}: {error}") from None
    except Exception as error:  # one image must not stop the run
        raise Misfit(f"preprocessing of shape {pixels.shape} fails with {type(error).__name__}") from None
    channels, *space = prepared.network_input.shape
    if channels != plan.model.channels:
        raise Misfit(
            f"{channels} channels after preprocessing, but the model takes {plan.model.channels} (model.channels): "
            + (
                "a grey picture that is stored as colour is read as grey with cohort.color: grey"
                if (channels, plan.model.channels) == (3, 1)
                else "mend cohort.preprocessing or model.channels, or leave the image out"
            )
        )
    if tuple(space) != plan.grid:
        is_whole = plan.model.windows is None
        raise Misfit(
            f"shape {tuple(space)} after preprocessing (from {pixels.shape[1:]}), but the model takes "
            f"{plan.grid}{'' if is_whole else ' (model.windows.image_shape)'}: mend cohort.preprocessing, with a "
            f"transform such as Resize{', state model.windows' if is_whole else ''}, or leave the image out"
        )
    bad = int((~np.isfinite(prepared.network_input)).sum())
    if bad:
        raise Unreadable(f"{bad} pixels are NaN or infinite after preprocessing: mend the file or the preprocessing")
    return prepared
