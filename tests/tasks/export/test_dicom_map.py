"""Parametric Maps, read by pydicom and highdicom: each value lies where the source shows the same place."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, EnhancedMRImageStorage, ParametricMapStorage

from tasks.cohort.readers import read
from tasks.export.dicom_source import dicom_source
from tasks.export.format import CannotExport
from tests.tasks.export.dicom_cases import GRADCAM, MIDDLE, NOW, STUDY, encoded, errors, identified, mapped, sourced
from tests.tasks.readers.test_dicom import AXIAL, dataset, encode, item, plane
from tests.tasks.readers.test_dicom_series import (
    AXES,
    ORIGIN,
    dose,
    frames,
    located_at,
    oblique,
    position,
    scene,
    slices,
)

ORDER = [3, 0, 4, 1, 2]
Make = Callable[[NDArray[np.float64]], list[bytes]]


def series(orientation: NDArray[np.float64]) -> list[bytes]:
    made = [identified(part) for part in slices(orientation)]
    return [made[place] for place in ORDER]


def reversed_series(orientation: NDArray[np.float64]) -> list[bytes]:
    return [identified(part) for part in slices(orientation)][::-1]


def enhanced(orientation: NDArray[np.float64]) -> list[bytes]:
    return [identified(frames(orientation, ORDER), SOPClassUID=EnhancedMRImageStorage)]


def a_dose(orientation: NDArray[np.float64]) -> list[bytes]:
    return [identified(dose([0, 2.5, 5, 7.5]))]


MAKES = [(series, oblique(1)), (series, AXES[3]), (series, AXES[9]), (reversed_series, oblique(2))]
MAKES += [(enhanced, oblique(3)), (enhanced, AXES[6]), (a_dose, np.array(AXIAL))]
of_sources = pytest.mark.parametrize(
    ("make", "orientation"), MAKES, ids=[f"{make.__name__} {np.round(axes, 1)}" for make, axes in MAKES]
)


def expected(orientation: NDArray[np.float64], origin: Any) -> NDArray[np.float32]:
    return (scene(orientation, np.array(origin, float)).astype(np.float32) - MIDDLE) / np.float32(7)


@of_sources
def test_each_value_lies_where_the_source_shows_the_place(make: Make, orientation: NDArray[np.float64]) -> None:
    parts = make(orientation)
    values, source = sourced(parts)
    made = dcmread(BytesIO(encoded(mapped(values, source))))
    shared = made.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, orientation, atol=1e-9)
    assert values.min() < 0 < values.max() and made.SOPClassUID == ParametricMapStorage
    for frame, own in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        np.testing.assert_array_equal(frame, expected(orientation, own.PlanePositionSequence[0].ImagePositionPatient))


@of_sources
def test_each_frame_refers_to_the_plane_that_lies_in_its_place(make: Make, orientation: NDArray[np.float64]) -> None:
    parts = make(orientation)
    values, source = sourced(parts)
    made = mapped(values, source)
    places = {}
    for part in map(lambda data: dcmread(BytesIO(data)), parts):
        for number, stored in enumerate(part.pixel_array.reshape(-1, *part.pixel_array.shape[-2:]), 1):
            key = (part.SOPClassUID, part.SOPInstanceUID, number if len(parts) == 1 else None)
            places[key] = (stored.astype(np.float32) - MIDDLE) / np.float32(7)
    for frame, own in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        refers = own.DerivationImageSequence[0].SourceImageSequence[0]
        key = (refers.ReferencedSOPClassUID, refers.ReferencedSOPInstanceUID, refers.get("ReferencedFrameNumber"))
        np.testing.assert_array_equal(frame, places[key])
    referenced = made.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == f"{STUDY}.8"
    named = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert (
        named == {uid for _, uid, _ in places} == {item.ReferencedSOPInstanceUID for item in made.SourceImageSequence}
    )


@of_sources
def test_highdicom_and_our_reader_find_the_volume(make: Make, orientation: NDArray[np.float64]) -> None:
    values, source = sourced(make(orientation))
    data = encoded(mapped(values, source))
    back = read([data], 3)
    assert back.affine is not None and source.affine is not None
    np.testing.assert_array_equal(back.pixels[0], values)
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-6)
    volume = hd.imread(BytesIO(data)).get_volume()
    index = np.indices(values.shape).reshape(3, -1)
    points = np.diag([-1, -1, 1, 1]) @ source.affine @ [*index, np.ones(values.size)]
    place = np.rint(volume.inverse_affine @ points)[:3].astype(int)
    np.testing.assert_array_equal(volume.array[tuple(place)], values.ravel())


@pytest.mark.parametrize("make", [series, enhanced, a_dose])
def test_the_standard_is_kept(make: Make, tmp_path: Path) -> None:
    values, source = sourced(make(np.array(AXIAL)))
    assert errors(encoded(mapped(values, source)), tmp_path) == []


def test_a_map_says_what_it_is_of_and_of_whom() -> None:
    values, source = sourced(series(oblique(1)))
    made = dcmread(BytesIO(encoded(mapped(values, source))))
    assert str(made.PatientName) == "Müller^Jürgen" and made.SpecificCharacterSet == "ISO_IR 192"
    assert (made.PatientID, made.PatientBirthDate, made.StudyInstanceUID) == ("4711", "19500203", STUDY)
    assert made.SeriesDescription == "gradcam for lesion, DenseNet121 abababab"
    assert made.DerivationDescription == "by gradcam of layer 4" and made.DeviceSerialNumber == "ab" * 32
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == values.min()
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == values.max()
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"


def test_a_long_title_is_cut_to_what_an_element_holds_in_bytes(tmp_path: Path) -> None:
    values, source = sourced(series(oblique(1)))
    made = encoded(mapped(values, source, GRADCAM._replace(what="integrated gradients for " + "lesion " * 9)))
    assert errors(made, tmp_path) == []
    assert dcmread(BytesIO(made)).SeriesDescription.endswith("...")


def test_what_is_exported_again_is_the_same_object() -> None:
    values, source = sourced(parts := series(oblique(1)))
    first = encoded(mapped(values, source))
    assert first == encoded(mapped(*sourced(parts[::-1])))
    later = mapped(values, source, GRADCAM._replace(when=NOW.replace(year=2027)))
    again = dcmread(BytesIO(encoded(later)))
    differs = {element.keyword for element in dcmread(BytesIO(first)) if element != again[element.tag]}
    assert differs == {"InstanceCreationDate", "ContentDate", "ContributingEquipmentSequence"}
    other = mapped(values + 1, source)
    assert other.SOPInstanceUID != later.SOPInstanceUID and other.SeriesInstanceUID == later.SeriesInstanceUID
    elsewhere = mapped(values, source, GRADCAM._replace(what="lime for lesion"))
    assert elsewhere.SOPInstanceUID != later.SOPInstanceUID and elsewhere.SeriesInstanceUID != later.SeriesInstanceUID


def test_the_source_stays_as_it_is() -> None:
    values, source = sourced(series(oblique(1)))
    before = [str(header) for header in source.headers]
    mapped(values, source)
    assert [str(header) for header in source.headers] == before


def test_slices_that_are_pictures_make_one_series_in_their_order() -> None:
    parts = [identified(part, InstanceNumber=number) for number, part in enumerate(slices(oblique(1)), 1)]
    made = []
    for part in parts:
        values, source = sourced([part], 2)
        made.append(mapped(values, source))
        (own,) = made[-1].PerFrameFunctionalGroupsSequence
        placed = own.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(placed, dcmread(BytesIO(part)).ImagePositionPatient, atol=1e-9)
        np.testing.assert_array_equal(made[-1].pixel_array, values[0])
    assert [one.InstanceNumber for one in made] == [1, 2, 3, 4, 5]
    assert len({one.SeriesInstanceUID for one in made}) == 1 and len({one.SOPInstanceUID for one in made}) == 5


def radiograph(**elements: Any) -> bytes:
    """Encode a digital radiograph, which lies nowhere in the patient."""
    made = dataset(scene(np.array(AXIAL), ORIGIN), 16, Modality="DX", **elements)
    made.SOPClassUID = DigitalXRayImageStorageForPresentation
    return identified(encode(made), FrameOfReferenceUID=None, ImagerPixelSpacing=[0.2, 0.2])


@pytest.mark.parametrize("elements", [{}, {"PixelSpacing": [0.1, 0.1]}, {"ImagePositionPatient": [1, 2, 3]}])
def test_a_radiograph_has_a_map_on_top_of_it(elements: dict[str, Any], tmp_path: Path) -> None:
    values, source = sourced([data := radiograph(**elements)], 2)
    made = encoded(mapped(values, source))
    found = dcmread(BytesIO(made))
    np.testing.assert_array_equal(found.pixel_array, values[0])
    (own,) = found.PerFrameFunctionalGroupsSequence
    other = mapped(*sourced([radiograph()], 2))
    assert found.FrameOfReferenceUID not in (f"{STUDY}.7", other.FrameOfReferenceUID)
    spacing = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert spacing == elements.get("PixelSpacing", [0.2, 0.2])
    refers = own.DerivationImageSequence[0].SourceImageSequence[0]
    assert refers.ReferencedSOPInstanceUID == dcmread(BytesIO(data)).SOPInstanceUID
    assert errors(made, tmp_path) == []


def test_a_frame_of_a_film_is_referred_to_by_its_number() -> None:
    film = dataset(np.stack([scene(np.array(AXIAL), ORIGIN + number) for number in range(3)]), 16)
    film.NumberOfFrames, film.Rows, film.Columns = 3, 4, 6
    values, source = sourced([identified(encode(film), FrameOfReferenceUID=None)], 2, frame=2)
    made = mapped(values, source)
    np.testing.assert_array_equal(made.pixel_array, expected(np.array(AXIAL), ORIGIN + 1))
    assert made.SourceImageSequence[0].ReferencedFrameNumber == 2
    refers = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert refers.ReferencedFrameNumber == 2


def test_a_time_point_refers_to_its_own_frames() -> None:
    data = dcmread(BytesIO(frames(oblique(4), [0, 1, 2, 0, 1, 2])))
    for number, own in enumerate(data.PerFrameFunctionalGroupsSequence):
        own.FrameContentSequence = [item(TemporalPositionIndex=1 + number // 3)]
    values, source = sourced([identified(encode(data))], 3, frame=2)
    made = mapped(values, source)
    assert made.NumberOfFrames == 3 and [*made.SourceImageSequence[0].ReferencedFrameNumber] == [4, 5, 6]
    for frame, own in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        origin = own.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_array_equal(frame, expected(oblique(4), origin))


def test_slices_of_a_tilted_gantry_lie_where_they_lay() -> None:
    orientation = np.array(AXIAL)
    origins = [position(orientation, 2.5 * number) + np.array([0, 0.4 * number, 0]) for number in range(4)]
    parts = [identified(encode(dataset(scene(orientation, at), 16, **located_at(orientation, at)))) for at in origins]
    values, source = sourced(parts)
    made = mapped(values, source)
    for frame, own in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        np.testing.assert_array_equal(frame, expected(orientation, own.PlanePositionSequence[0].ImagePositionPatient))
    assert float(made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 2.5


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientSex": "W"},
        {"PatientBirthDate": "19501399"},
        {"StudyTime": "later"},
        {keyword: None for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID")},
        {"SliceThickness": None, "SpacingBetweenSlices": -7},
        {"PatientName": None, "SpecificCharacterSet": None},
    ],
    ids=" ".join,
)
def test_sources_that_are_not_by_the_book_have_maps(elements: dict[str, Any]) -> None:
    parts = [identified(plane(3.0 * number), **elements) for number in range(3)]
    values, source = sourced(parts)
    made = mapped(values, source)
    assert float(made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 3
    assert made.StudyInstanceUID == STUDY


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_without_a_name_is_refused(keyword: str) -> None:
    parts = [identified(part, **{keyword: None}) for part in slices(oblique(1))]
    with pytest.raises(CannotExport, match=f"its source lacks {keyword}, by which objects are known: export it as"):
        dicom_source(parts, 3)


def test_a_volume_that_lies_nowhere_is_refused() -> None:
    with pytest.raises(CannotExport, match="lacks FrameOfReferenceUID, without which a volume lies nowhere"):
        dicom_source([identified(part, FrameOfReferenceUID=None) for part in slices(oblique(1))], 3)
    film = dataset(np.zeros((3, 4, 6), np.uint16), Rows=4, Columns=6, NumberOfFrames=3)
    with pytest.raises(CannotExport, match="lacks the positions of its planes"):
        dicom_source([identified(encode(film))], 3)


def test_a_source_that_is_not_dicom_is_refused() -> None:
    with pytest.raises(CannotExport, match=r"its source is not DICOM, .* export it as nifti"):
        dicom_source([b"\x89PNG\r\n\x1a\n" + bytes(200)], 2)


def test_what_highdicom_refuses_is_told_without_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **named: Any) -> Dataset:
        raise ValueError("Müller^Jürgen")

    monkeypatch.setattr(hd.pm, "ParametricMap", refuse)
    with pytest.raises(CannotExport, match=r"highdicom refuses \(ValueError\)") as error:
        mapped(*sourced(series(oblique(1))))
    assert "ller" not in str(error.value) and error.value.__cause__ is None


def test_a_map_of_other_planes_or_without_numbers_is_refused() -> None:
    values, source = sourced(series(oblique(1)))
    with pytest.raises(CannotExport, match=r"its map has \(4, 4, 6\) places \(z, y, x\), and its source \(5, 4, 6\)"):
        mapped(values[1:], source)
    with pytest.raises(CannotExport, match="its map is not finite"):
        mapped(np.full_like(values, np.nan), source)


def test_a_blank_map_is_one() -> None:
    values, source = sourced(series(oblique(1)))
    assert not mapped(np.zeros_like(values), source).pixel_array.any()
