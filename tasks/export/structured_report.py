"""DICOM structured reports: the scores of a case, as measurements by template 1500 of PS3.16."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from models.prediction import LOGIT, PROBABILITY
from tasks.export.case import Case
from tasks.export.dicom_objects import SCHEME, SOFTWARE, Origin, coded, identity, refusals, stamp, text, uid
from tasks.export.dicom_source import DicomSource
from tasks.export.format import CannotExport

_OF_MAPS = ("metric", "companion", "uncertainty", "region")


class Scores(NamedTuple):
    """Numbers that belong together, of one finding.

    Attributes
    ----------
    finding
        The class that they are about.
    values
        By name; all are finite.
    explainer
        Whose map they are of; empty: they are of the prediction.
    region
        Where they were measured; empty: in the whole image.
    """

    finding: str
    values: Mapping[str, float]
    explainer: str = ""
    region: str = ""

    @property
    def title(self) -> str:
        of = f"{self.explainer} for {self.finding}" if self.explainer else self.finding
        return f"{of} in {self.region}" if self.region else of


def scores_of(case: Case) -> list[Scores]:
    """Gather the scores of a case: of each class; then of each map, in the whole image and by region."""
    predicted = {name: case.scores[name] for name in (PROBABILITY, LOGIT) if name in case.scores}
    classes = next(iter(predicted.values()))
    found = [Scores(one, _numbers({name: values[one] for name, values in predicted.items()})) for one in classes]
    for target, explainer, explained in dict.fromkeys((one.target, one.explainer, one.explained) for one in case.maps):
        of_map = dict(_of_map(case, target, explainer))
        found.append(Scores(explained, _numbers(of_map), explainer))
        by_region = {name: values for name, values in of_map.items() if case.kinds[name] == "region"}
        for region in dict.fromkeys(one for values in by_region.values() if isinstance(values, dict) for one in values):
            values = {name: of[region] for name, of in by_region.items() if isinstance(of, dict)}
            found.append(Scores(explained, _numbers(values), explainer, region))
    return found


def _of_map(case: Case, target: str, explainer: str) -> Iterator[tuple[str, Any]]:
    """Find what is along target and explainer."""
    for name, by_target in case.scores.items():
        by_explainer = by_target.get(target) if isinstance(by_target, dict) else None
        if case.kinds[name] in _OF_MAPS and isinstance(by_explainer, dict) and explainer in by_explainer:
            yield name, by_explainer[explainer]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a number, by names without the prefix that they have in the store."""
    return {name.removeprefix("metric_"): value for name, value in values.items() if isinstance(value, float)}


def structured_report(scores: Sequence[Scores], source: DicomSource, origin: Origin) -> Dataset:
    """Make a measurement report (TID 1500), preliminary and not verified: a group of measurements for each `Scores`.

    Raises
    ------
    CannotExport
        If there are no scores, or the source is none that a report can refer to.
    """
    scores = [one for one in scores if one.values]
    if not scores:
        raise CannotExport("it has no score that is a number: there is nothing to report")
    content = json.dumps([[*one[:1], sorted(one.values.items()), *one[2:]] for one in scores]).encode()
    with refusals():
        made = hd.sr.ComprehensiveSR(
            source.evidence(),
            _report(scores, source, origin)[0],
            **identity("report", source, origin, content),
            is_complete=True,
        )
        stamp(made, origin)
    return made


def _report(scores: Sequence[Scores], source: DicomSource, origin: Origin) -> hd.sr.MeasurementReport:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", origin.model, origin.weights),
        name=text(origin.model),
        manufacturer_name="cohortlens",
        model_name=text(origin.model),
        serial_number=text(origin.weights),
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code("explanation", SCHEME, "Explanation of a prediction"),
        imaging_measurements=[
            _group(one, origin, source if number == 0 else None) for number, one in enumerate(scores)
        ],
    )


def _group(scores: Scores, origin: Origin, source: DicomSource | None) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """Make a group; that with `source` refers to its images, which all groups then are about."""
    algorithm = hd.sr.AlgorithmIdentification(name=text(scores.explainer or origin.model), version=SOFTWARE)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=uid("group", origin.model, origin.weights, *scores[:1], *scores[2:]), identifier=scores.title
        ),
        finding_type=coded(scores.finding),
        algorithm_id=algorithm,
        finding_sites=[hd.sr.FindingSite(coded(scores.region))] if scores.region else None,
        measurements=[
            hd.sr.Measurement(_measured(name), value, codes.UCUM.NoUnits) for name, value in scores.values.items()
        ],
        source_images=None if source is None else _images(source),
    )


def _measured(name: str) -> Code:
    return codes.DCM.Probability if name == PROBABILITY else coded(name)


def _images(source: DicomSource) -> list[hd.sr.SourceImageForMeasurementGroup]:
    found = []
    for header in source.headers:
        frames = [plane.frame for plane in source.planes if plane.header is header and plane.frame is not None]
        found.append(
            hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID, sorted(frames) or None)
        )
    return found
