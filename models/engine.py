"""The engine puts the questions of all explainers together, asks each question once, and keeps every batch full.

An explanation is a reduction over questions put to the model. The plain question, the image as it is, comes first
and serves prediction and every explainer that needs no other. Then each explainer yields its questions. All questions
that are asked in the same way are dealt out in full batches, whatever image or explainer they come from, and their
answers are folded as they come: memory depends on the batch, never on the number of questions.
"""

import logging
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from operator import or_
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.asking import Asked, Reply, put
from models.errors import ConfigurationError
from models.explainers.base import (
    CHANNEL_MAPS,
    CHANNEL_SHARE,
    MAP_FLAGS,
    MAPS,
    MODALITY_SHARE,
    RECORD_VALUES,
    Explainer,
    MapExplainer,
)
from models.flags import MapFlag, flag_images
from models.merging import Plain
from models.network import Network
from models.outputs import Computed
from models.prediction import IMAGE_FLAGS, LOGIT, PROBABILITY, TARGET_CLASS
from models.questions import Answer, Ask, Batch, Needs, PlainAnswers, Questions, plainly, together
from models.streams import Stream, ways
from models.targets import NO_CLASS, Chosen, Target
from models.trial import told

logger = logging.getLogger(__name__)
T = TypeVar("T")
_CHANNELS, _RECORD = (CHANNEL_MAPS, CHANNEL_SHARE), (RECORD_VALUES, MODALITY_SHARE)
_BY_EXPLAINER = (MAPS, MAP_FLAGS, *_CHANNELS, *_RECORD)


@dataclass(frozen=True)
class Explanation:
    """The outputs that were computed from some images: predictions, maps, and what else explainers declare.

    Attributes
    ----------
    outputs
        By name, ``(image, ...)``.
    logits, probability
        ``(image, class)``; the means over space where the network segments. NaN for an image that is not finite.
    target_class
        ``(image, target)`` class indices; -1 where the image has no such target.
    maps
        ``(image, target, explainer, *space)``, signed and unnormalised; NaN where there is no target, where the
        image is not finite, and where a map came out not finite.
    image_flags, map_flags
        ``(image,)`` and ``(image, target, explainer)``, of `ImageFlag` and `MapFlag`.
    """

    outputs: Computed

    @property
    def logits(self) -> Tensor:
        return self.outputs[LOGIT]

    @property
    def probability(self) -> Tensor:
        return self.outputs[PROBABILITY]

    @property
    def target_class(self) -> Tensor:
        return self.outputs[TARGET_CLASS]

    @property
    def maps(self) -> Tensor:
        return self.outputs[MAPS]

    @property
    def image_flags(self) -> Tensor:
        return self.outputs[IMAGE_FLAGS]

    @property
    def map_flags(self) -> Tensor:
        return self.outputs[MAP_FLAGS]


class Engine:
    """An engine explains images by several explainers together.

    Parameters
    ----------
    fitted
        By name, the artefacts that explainers use: `models.fits`.
    keeps_channels
        Whether `explain` makes the maps of each channel, too.

    Attributes
    ----------
    batch_size
        Windows that are asked about at once; of an image that the network takes at once, the image.
    forward_passes, backward_passes
        Windows asked about so far, and gradients taken of them.
    halvings
        How often memory did not suffice for a batch.

    Raises
    ------
    ConfigurationError
        If an explainer cannot be right on the network, or the target names classes that the network does not have.
    """

    def __init__(
        self,
        network: Network,
        explainers: Sequence[Explainer],
        target: Target,
        batch_size: int = 16,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        keeps_channels: bool = False,
    ) -> None:
        target.check(network)
        self.network = network
        self.target = target
        self.batch_size = batch_size
        self.keeps_channels = keeps_channels
        self.forward_passes = self.backward_passes = self.halvings = 0
        self._known: dict[Hashable, Any] = {}
        self.asking = tuple(explainers)
        self.explainers = [explainer for explainer in explainers if isinstance(explainer, MapExplainer)]
        self.needs = reduce(or_, (_needs(explainer, network) for explainer in explainers), Needs())
        self.fitted = _Fitted({name: artefact.to(network.device) for name, artefact in (fitted or {}).items()})

    @property
    def images_at_once(self) -> int:
        """Images whose windows are asked about at once."""
        return self.network.tiles.at_once(self.batch_size)

    def explain(
        self, images: Tensor, ids: Sequence[str], masks: Tensor | None = None, record: Tensor | None = None
    ) -> Explanation:
        """Explain ``(image, channel, *space)``, on the CPU or the network's device.

        Parameters
        ----------
        ids
            Names of the images.
        masks
            ``(image, *space)`` bool; only the target `region` of the mask uses them.
        record
            ``(image, field)``, where the network takes one beside an image.

        Raises
        ------
        ConfigurationError
            If an explainer uses an artefact that is not in `fitted`.
        ValueError
            If windows are taken of images of another shape.
        """
        images = self.network.prepare(images)
        finite = _finite(images)
        batch = replace(self.batch(images, ids, masks, record=record), keeps_channels=self.keeps_channels)
        logits = batch.logits
        found = self.answer(batch, [_produce(explainer, batch) for explainer in self.asking])
        made = [one for one in found if MAPS in one]
        maps = self._stacked([one[MAPS] for one in made], batch)
        flags = torch.stack([one[MAP_FLAGS] for one in made], dim=2) if made else maps.new_zeros(maps.shape[:3]).byte()
        there = (batch.chosen.classes >= 0) & finite[:, None]
        flags *= there[..., None]
        whole = there[..., None] & (flags & MapFlag.NOT_FINITE.value == 0)
        probability = self.network.probability(logits)
        if self.network.segments:
            logits, probability = logits.flatten(2).mean(-1), probability.flatten(2).mean(-1)
        logits, probability = (part.where(finite[:, None], torch.nan) for part in (logits, probability))
        others = {name: values for one in found for name, values in one.items() if name not in _BY_EXPLAINER}
        return Explanation(
            {
                LOGIT: logits,
                PROBABILITY: probability,
                TARGET_CLASS: batch.chosen.classes.where(finite[:, None], NO_CLASS),
                MAPS: maps if whole.all() else maps.where(_over(whole, maps), torch.nan),
                IMAGE_FLAGS: flag_images(images, None if self.network.config.activation == "identity" else probability),
                MAP_FLAGS: flags,
                **_beside(found, whole, _CHANNELS),
                **_beside(found, whole, _RECORD),
                **{name: _where_finite(values, finite) for name, values in others.items()},
            }
        )

    def batch(
        self,
        images: Tensor,
        ids: Sequence[str],
        masks: Tensor | None = None,
        needs: Needs | None = None,
        chosen: Chosen | None = None,
        record: Tensor | None = None,
    ) -> Batch:
        """Make a batch of ``(image, channel, *space)``, about which the plain question is asked once its answers count.

        An image that is not finite is replaced by zeros. `needs` says which parts of the answer are used, None: those
        that the explainers need. `chosen` says which classes are explained, None: the target chooses by the answer.
        `record` is what the network takes beside the images, ``(image, field)``.
        """
        tiles = self.network.tiles
        if not tiles.is_whole and images.shape[2:] != tiles.grid:
            raise ValueError(
                f"the images are of {tuple(images.shape[2:])}, but windows are taken of images of {tiles.grid}"
            )
        images = self.network.prepare(images)
        if not (finite := _finite(images)).all():
            images = images.where(_over(finite, images), 0.0)
        masks = None if masks is None else masks.to(images.device)
        record = images.new_zeros(len(images), 0) if record is None else record.detach().to(images)
        needs = self.needs if needs is None else needs

        @cache
        def plain() -> PlainAnswers:
            return self._ask_plainly(images, masks, record, needs, chosen)

        return Batch(self.network, images, tuple(ids), record, plain, self.fitted, self._known)

    def _ask_plainly(
        self, images: Tensor, masks: Tensor | None, record: Tensor, needs: Needs, chosen: Chosen | None
    ) -> PlainAnswers:
        """Ask about the images as they are: all other questions start from the answer."""
        replies: list[Reply] = []

        def ask(rows: slice) -> None:
            image = torch.arange(rows.start, rows.stop, device=images.device)
            own, of = images[rows], None if masks is None else masks[rows]
            known = self.target.foresee(own, self.network, of) if chosen is None else chosen.rows(rows)

            def choose(logits: Tensor) -> Chosen:
                return self.target.choose(logits, self.network, of) if known is None else known

            asked = Asked(own, record[rows], image, torch.zeros_like(image), needs, plainly, choose, known)
            replies.append(self._put(asked))

        self._in_batches(len(images), ask, self.network.tiles.at_once)
        windows = [reply.windows for reply in replies if reply.windows is not None]
        return PlainAnswers(
            together([reply.logits for reply in replies]),
            Chosen.join([reply.chosen for reply in replies]),
            tuple(Answer.join(parts) for parts in zip(*(reply.answers for reply in replies), strict=True)),
            [together(windows)] if len(windows) == len(replies) else [],
        )

    def _put(self, asked: Asked) -> Reply:
        reply = put(self.network, asked, self.batch_size)
        self.forward_passes += reply.forward_passes
        self.backward_passes += reply.backward_passes
        return reply

    def maps(self, batch: Batch) -> Tensor:
        """Make the maps of all explainers, ``(image, target, explainer, *space)``, finite or not."""
        found = self.answer(batch, [_produce(explainer, batch) for explainer in self.explainers])
        return self._stacked([one[MAPS] for one in found], batch)

    def _stacked(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """Stack ``(image, target, *space)`` of each explainer along a third axis."""
        return torch.stack(list(maps), dim=2) if maps else batch.zeros().transpose(0, 1)[:, :, None][:, :, :0]

    def answer(self, batch: Batch, asking: Sequence[Generator[Questions, None, T]]) -> list[T]:
        """Answer the questions of all generators until each has returned; equal questions are asked once."""
        running = dict(enumerate(asking))
        results: dict[int, T] = {}
        with torch.no_grad():
            while running:
                asked = []
                for index, one in list(running.items()):
                    try:
                        asked.append(next(one))
                    except StopIteration as finished:
                        results[index] = finished.value
                        del running[index]
                self._ask(batch, asked)
        return [results[index] for index in sorted(results)]

    def _ask(self, batch: Batch, asked: Sequence[Questions]) -> None:
        tiles = self.network.tiles
        for (ask, needs), questions in ways(asked).items():
            stream = Stream(questions, len(batch.images))
            # The answer about a window that no question changes is known.
            is_known = ask is plainly and needs == Needs() and not tiles.is_whole and not self.network.fields
            plain = self._plain(batch) if is_known else None

            def answer(
                rows: slice, stream: Stream = stream, needs: Needs = needs, ask: Ask = ask, plain: Plain | None = plain
            ) -> Callable[[], None]:
                parts = list(stream.parts(rows, batch.images.device))
                inputs = together([question.make(image, step) for question, image, step, _ in parts])
                record = together([batch.record_of(question, image, step) for question, image, step, _ in parts])
                image = torch.cat([image for _, image, _, _ in parts])
                step = torch.cat([step for _, _, step, _ in parts])
                chosen = batch.chosen.rows(image)
                reply = self._put(Asked(inputs, record, image, step, needs, ask, lambda _: chosen, chosen, plain))

                def fold() -> None:
                    for one in reply.answers:
                        for question, _, _, own in parts:
                            question.fold(one.rows(own))

                return fold

            self._in_batches(stream.total, answer, tiles.at_once if needs.gradients else tiles.held_at_once)

    def _plain(self, batch: Batch) -> Plain:
        """Look up the answers about the windows of the images as they are; where there are none, ask for them."""
        windows = batch.plain().windows
        if not windows:
            found: list[Tensor] = []

            def ask(rows: slice) -> None:
                image = torch.arange(rows.start, rows.stop, device=batch.images.device)
                chosen = batch.chosen.rows(image)
                step = torch.zeros_like(image)
                own = batch.images[rows], batch.record[rows]
                asked = Asked(*own, image, step, Needs(), plainly, lambda _: chosen, keep_windows=True)
                reply = self._put(asked)
                assert reply.windows is not None
                found.append(reply.windows)

            self._in_batches(len(batch.images), ask, self.network.tiles.at_once)
            windows.append(together(found))
        return Plain(batch.images, batch.logits, windows[0])

    def _in_batches(
        self, total: int, put: Callable[[slice], Callable[[], None] | None], size: Callable[[int], int]
    ) -> None:
        """Call `put` with consecutive rows, `size` of the batch size at once; it is halved where memory runs out.

        What `put` returns is called once: answers that were folded in part would count twice if they were asked again.
        """
        start = 0
        while start < total:
            stop = min(start + size(self.batch_size), total)
            try:
                fold = put(slice(start, stop))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                self.halvings += 1
                logger.warning("out of memory: batches of %d from now on", self.batch_size)
                torch.cuda.empty_cache()
                continue
            if fold is not None:
                fold()
            start = stop


def _finite(images: Tensor) -> Tensor:
    return images.flatten(1).isfinite().all(1)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """View values of the first axes so that they spread over the others of `like`."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))


def _beside(found: Sequence[Computed], whole: Tensor, names: Sequence[str]) -> Computed:
    """Stack what comes beside maps, attributions first and shares, along a third axis, where explainers made it.

    NaN where the map is not `whole`, ``(image, target, explainer)``, or an attribution came out not finite.
    """
    made = [one for one in found if names[0] in one]
    if not made:
        return {}
    stacked = {name: torch.stack([one[name] for one in made], dim=2) for name in names}
    whole = whole & stacked[names[0]].flatten(3).isfinite().all(-1)
    return {name: values.where(_over(whole, values), torch.nan) for name, values in stacked.items()}


def _where_finite(values: Tensor, finite: Tensor) -> Tensor:
    """Leave out the values of images that are not finite; whole numbers, which have no NaN, stay as they are."""
    return values.where(_over(finite, values), torch.nan) if values.is_floating_point() else values


class _Fitted(dict[str, Tensor]):
    """Artefacts by name; to take one that is missing is an error that a user can mend."""

    def __missing__(self, name: str) -> Tensor:
        raise ConfigurationError(
            f"uses the artefact {name!r}, which is computed from images of the cohort; the engine was built without it"
        )


def _produce(explainer: Explainer, batch: Batch) -> Generator[Questions, None, Computed]:
    """Let an explainer produce; an error that a user can mend names it."""
    try:
        return (yield from explainer.produce(batch))
    except ConfigurationError as error:
        raise ConfigurationError(f"{explainer.title}: {error}") from None


def _needs(explainer: Explainer, network: Network) -> Needs:
    network.require(explainer.title, explainer.requires)
    if isinstance(explainer, MapExplainer) and explainer.by_gradient_of_record:
        network.require_record_gradient(explainer.title)
    try:
        with told(f"{network.name} fails"):
            needs = explainer.needs(network)
        if needs.activations and not network.tiles.is_whole:
            makes_maps = isinstance(explainer, MapExplainer)
            raise ConfigurationError(
                "asks about features of a layer of a whole image, and with model.windows each window has its own: "
                + (
                    "use gradcam, hirescam or layercam instead"
                    if makes_maps
                    else "leave it out, or take an image whole"
                )
            )
        return needs
    except ConfigurationError as error:
        raise ConfigurationError(f"{explainer.title}: {error}") from None
