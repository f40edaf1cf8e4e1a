"""Images of the cohort on the model's grid: read, checked against the plan, prepared, with their masks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.flags import ImageFlag
from models.preprocessing import Preprocessed, Preprocessing, TransformError
from models.records import record_digest
from tasks.cohort.entry import Entry, combine
from tasks.cohort.masks import drawn
from tasks.cohort.packed_entries import known_files
from tasks.cohort.readers import inspect, read, read_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.slides.outputs import values_of
from tasks.cohort.sources import Files, Find, Source, Sources
from tasks.cohort.survey import survey
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location, nameless
from tasks.work.alignment import on_one_grid
from tasks.work.masks import lacks_geometry, on_grid
from tasks.work.misfits import Misfit, NotAsPlanned
from tasks.work.slides import read_bag

_UNNAMED = Files("", ())


class Image(NamedTuple):
    """An image and its mask on the grid, if it has one, with what is odd about the two.

    Attributes
    ----------
    beside
        By output, what else is stored of it.
    record
        Its fields as numbers.
    """

    prepared: Preprocessed
    mask: NDArray[np.bool_] | None = None
    flags: ImageFlag = ImageFlag(0)
    beside: Mapping[str, Any] = {}
    record: tuple[float, ...] = ()


class Original(NamedTuple):
    """An image as its source has it, and as the network takes it.

    Attributes
    ----------
    decoded
        On the grid of the source, of the first sequence where there are several.
    files
        The bytes of the files whose grid that is, in the order in which the cohort lists them.
    """

    decoded: Decoded
    prepared: Preprocessed
    files: tuple[bytes, ...]


def find_again(output: Location, plan: Plan) -> Find:
    """Find images by surveying the cohort once more, when the first of them is asked for."""

    @cache
    def sources() -> Sources:
        return survey_again(output, plan)

    def find(id: str) -> Source | None:
        return sources()(id)

    return find


def survey_again(output: Location, plan: Plan, only: Selection = ALL) -> Sources:
    """Survey the cohort of an output once more; of a file that is as it was, nothing is read."""
    known = known_files(manifest.load(output))
    return survey(plan.cohort, plan.model.spatial_dims, plan.key, known=known, only=only).sources


def read_images(
    plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing, find: Find
) -> list[Image | Unreadable]:
    """Read and prepare some images; those that cannot be, come as the reason why not."""
    found = [(entry, None if entry.reason else find(entry.id)) for entry in entries]
    if plan.cohort.slides:  # too large to be held together
        read = partial(_slide, plan, preprocessing)
        return [_or_reason(entry, source, read) for entry, source in found]
    wanted = list(dict.fromkeys(uri for _, source in found if source for uri in source.files))
    files = dict(zip(wanted, plan.cohort.home.read_all(wanted), strict=True))

    @cache  # many images can be frames of one file
    def digest_of(uri: str) -> str:
        return hashlib.sha256(_present(files[uri])).hexdigest()

    @cache
    def frames_of(uri: str) -> int:
        return inspect(_present(files[uri])).counts.of(plan.model.spatial_dims)

    read = partial(_image, plan, preprocessing, files, digest_of, frames_of)
    return [_or_reason(entry, source, read) for entry, source in found]


def read_original(plan: Plan, entry: Entry, preprocessing: Preprocessing, find: Find) -> Original:
    """Read an image once more, with the files that it is made of; its mask is left alone.

    Raises
    ------
    Unreadable
        If the source is not what the plan had seen, or cannot be read.
    OSError
        If its storage does not answer.
    """
    source = find(entry.id)
    if source is None:
        raise NotAsPlanned("the image is not in the cohort any more")
    files = dict(zip(source.uris, plan.cohort.home.read_all(source.uris), strict=True))
    decoded, _ = _decoded(plan, entry, source, files, lambda uri: hashlib.sha256(_present(files[uri])).hexdigest())
    prepared = _prepare(decoded.pixels, decoded.affine, preprocessing, plan)
    return Original(decoded, prepared, tuple(_present(files[uri]) for uri in source.parts[0].uris))


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


def stack_records(images: Sequence[Image]) -> Tensor:
    """Put the records of several images together: ``(image, field)``."""
    return torch.tensor([image.record for image in images], dtype=torch.float32).view(len(images), -1)


def stack_masks(masks: Sequence[NDArray[np.bool_] | None]) -> Tensor | None:
    """Put masks of several images together, if any has one; one without a mask has no place in it."""
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.from_numpy(np.stack([np.zeros_like(known) if mask is None else mask for mask in masks]))


def _or_reason(entry: Entry, source: Source | None, read: Callable[[Entry, Source], Image]) -> Image | Unreadable:
    if entry.reason:
        return Unreadable(entry.reason)
    if source is None:
        return NotAsPlanned("the image is not in the cohort any more")
    try:
        return read(entry, source)
    except Unreadable as reason:
        return reason


def _image(
    plan: Plan,
    preprocessing: Preprocessing,
    files: Mapping[str, bytes | Exception],
    digest_of: Callable[[str], str],
    frames_of: Callable[[str], int],
    entry: Entry,
    source: Source,
) -> Image:
    decoded, is_partly_covered = _decoded(plan, entry, source, files, digest_of)
    prepared = _prepare(decoded.pixels, decoded.affine, preprocessing, plan)
    flags = ImageFlag.PARTLY_COVERED if is_partly_covered else ImageFlag(0)
    if entry.mask is None:
        return Image(prepared, flags=flags, record=source.record)
    assert source.mask is not None
    stored = _present(files[source.mask])
    if digest_of(source.mask) != entry.mask:
        raise NotAsPlanned("the mask changed after the run was planned: run again")
    cohort, dims = plan.cohort, plan.model.spatial_dims
    has_frames = entry.frame is not None and frames_of(source.uris[0]) == frames_of(source.mask)
    frame = entry.frame if has_frames else None  # one mask is for all of them
    mask = read_mask(stored, dims, cohort.largest_image, frame)
    marked = drawn(mask, cohort.mask)
    placed = on_grid(marked, mask, decoded, prepared.to_source, plan.grid)
    if lacks_geometry(mask, decoded):
        flags |= ImageFlag.MASK_UNPLACED
    return Image(prepared, placed, flags, record=source.record)


def _slide(plan: Plan, preprocessing: Preprocessing, entry: Entry, source: Source) -> Image:
    bag = read_bag(plan, entry, source)
    decoded = Decoded(bag.pixels)
    if plan.cohort.color == "grey":
        decoded = _in_grey(decoded, 1)
    prepared = _prepare(decoded.pixels, None, preprocessing, plan)
    flags = ImageFlag(0) if bag.has_tissue else ImageFlag.NO_TISSUE
    return Image(prepared, flags=flags, beside=values_of(bag))


def _decoded(
    plan: Plan,
    entry: Entry,
    source: Source,
    files: Mapping[str, bytes | Exception],
    digest_of: Callable[[str], str],
) -> tuple[Decoded, bool]:
    """Decode the files of an image and lay them onto each other; whether one does not cover all of the first."""
    stored = {part.name: [_present(files[uri], part) for uri in part.uris] for part in source.parts}
    digests = [combine([digest_of(uri) for uri in part.uris]) for part in source.parts]
    beside = [record_digest(source.record)] if source.record else []
    if combine([combine([*digests, *beside])], entry.frame) != entry.digest:
        record = " or its record" if source.record else ""
        raise NotAsPlanned(f"the file{record} changed after the run was planned: run again")
    sequences = {part.name: _sequence(plan, entry, part, stored[part.name]) for part in source.parts}
    _check_equal_channels(sequences)
    return on_one_grid(sequences, plan.cohort.align)


def _check_equal_channels(sequences: Mapping[str, Decoded]) -> None:
    """Refuse what another image could bring to the same number of channels in another way."""
    (first, counted), *others = ((name, len(decoded.pixels)) for name, decoded in sequences.items())
    for name, channels in others:
        if channels != counted:
            raise Misfit(
                f"its {first} has {counted} channels and its {name} {channels}, so that the network's channels could "
                "be other files' in other images: name files of as many each, such as by cohort.color: grey"
            )


def _sequence(plan: Plan, entry: Entry, part: Files, stored: Sequence[bytes]) -> Decoded:
    cohort, dims = plan.cohort, plan.model.spatial_dims
    try:
        decoded = read(stored, dims, cohort.window, cohort.largest_image, cohort.frames, entry.frame)
    except Unreadable as reason:
        raise type(reason)(part.says(reason)) from None
    if cohort.color == "grey":
        are_channels = cohort.frames == "channels" and len(stored) == 1
        decoded = _in_grey(decoded, inspect(stored[0]).counts.of(dims) if are_channels else 1)
    if part.name in plan.frame.channels and len(decoded.pixels) > 1:
        raise Misfit(
            f"its {part.name} has {len(decoded.pixels)} channels, and the network takes one of each of "
            f"{', '.join(plan.frame.channels)} (cohort.sequences, model.channels): name files of one channel"
        )
    return decoded


def _present(data: bytes | Exception, part: Files = _UNNAMED) -> bytes:
    if isinstance(data, (FileNotFoundError, PermissionError)):
        raise NotAsPlanned(part.says(f"a file of the image cannot be opened ({type(data).__name__})"))
    if isinstance(data, Exception):
        raise nameless(data, "a file of the cohort cannot be read") from None
    return data


def _in_grey(decoded: Decoded, frames: int) -> Decoded:
    """Take three channels, of each frame, to one, their luminance; grey that was stored as colour keeps its values."""
    if len(decoded.pixels) != 3 * frames:
        return decoded
    red, green, blue = (decoded.pixels[colour::3] for colour in range(3))
    luminance = green + 0.299 * (red - green) + 0.114 * (blue - green)  # ITU-R 601, exact where all three are equal
    return replace(decoded, pixels=luminance)


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
