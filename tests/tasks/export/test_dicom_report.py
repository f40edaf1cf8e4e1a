"""Structured reports: every score is found again by other readers, and the report says that nobody has verified it."""

from io import BytesIO
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage

from tasks.export.format import CannotExport
from tasks.export.structured_report import Scores, structured_report
from tests.tasks.export.dicom_cases import GRADCAM, STUDY, encoded, errors, sourced
from tests.tasks.export.test_dicom_map import Make, enhanced, radiograph, series
from tests.tasks.readers.test_dicom_series import oblique

SCORES = [
    Scores("lesion", {"probability": 0.875, "logit": 1.5}),
    Scores("lesion", {"deletion": 0.25, "completeness_gap": -1e-12}, "gradcam"),
    Scores("lesion", {"share": 0.123456789}, "gradcam", "linke Hälfte"),
    Scores("lesion", {}, "lime"),
]


def found(data: bytes) -> list[Scores]:
    """The scores as highdicom reads them."""
    groups = hd.sr.srread(BytesIO(data)).content.get_image_measurement_groups()
    return [
        Scores(
            group.finding_type.meaning,
            {one.name.meaning.lower(): one.value for one in group.get_measurements()},
            explainer(group),
            group.finding_sites[0].value.meaning if group.finding_sites else "",
        )
        for group in groups
    ]


def explainer(group: hd.sr.MeasurementsAndQualitativeEvaluations) -> str:
    (name,) = [item.value for item in group[0].ContentSequence if item.name.meaning == "Algorithm Name"]
    return "" if name == GRADCAM.model else str(name)


def test_every_score_is_found_again() -> None:
    _, source = sourced(series(oblique(1)))
    data = encoded(structured_report(SCORES, source, GRADCAM))
    assert found(data) == SCORES[:3]
    report = dcmread(BytesIO(data))
    assert report.SOPClassUID == ComprehensiveSRStorage and report.StudyInstanceUID == STUDY
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_the_report_refers_to_every_image() -> None:
    _, source = sourced(series(oblique(1)))
    report = structured_report(SCORES, source, GRADCAM)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (of_series,) = study.ReferencedSeriesSequence
    named = {one.ReferencedSOPInstanceUID for one in of_series.ReferencedSOPSequence}
    assert named == {header.SOPInstanceUID for header in source.headers}


@pytest.mark.parametrize("make", [series, enhanced, lambda axes: [radiograph()]])
def test_the_standard_is_kept(make: Make, tmp_path: Path) -> None:
    parts = make(oblique(1))
    _, source = sourced(parts, 2 if len(parts) == 1 and b"DX" in parts[0] else 3)
    assert errors(encoded(structured_report(SCORES, source, GRADCAM)), tmp_path) == []


def test_what_is_exported_again_is_the_same_object() -> None:
    parts = series(oblique(1))
    first = encoded(structured_report(SCORES, sourced(parts)[1], GRADCAM))
    assert first == encoded(structured_report(SCORES, sourced(parts[::-1])[1], GRADCAM))
    other = structured_report(SCORES[:1], sourced(parts)[1], GRADCAM)
    assert other.SOPInstanceUID != dcmread(BytesIO(first)).SOPInstanceUID


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(CannotExport, match="it has no score that is a number"):
        structured_report(SCORES[3:], sourced(series(oblique(1)))[1], GRADCAM)
