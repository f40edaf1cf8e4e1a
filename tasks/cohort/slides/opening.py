"""Opening a slide: its format is decided by content, and whatever a library raises is damage, or its storage's."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from models.errors import ConfigurationError
from tasks.cohort.readers import Header
from tasks.cohort.reading import NoImage, Unreadable
from tasks.cohort.slides.slide import Slide
from tasks.storage.ranges import RangedFile

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

warnings.filterwarnings("ignore", module=r"(tiffslide|wsidicom)\b")


def check_installed() -> None:
    """Check that slides can be read here.

    Raises
    ------
    ConfigurationError
        If the libraries are missing.
    """
    try:
        import tiffslide  # noqa: F401
        import wsidicom  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "cohort.slides: slides need tiffslide and wsidicom: install them by `pip install cohortlens[slides]`, here "
            "and where workers run"
        ) from error


def inspect(file: RangedFile) -> Header:
    """Read the header of a slide's file; no tile is decoded.

    Raises
    ------
    Unreadable
        If the file is no slide, or its header is damaged.
    OSError
        If it cannot be read.
    """
    from tasks.cohort.slides.dicom import declared

    format = _format(file)
    with _damage_as_a_reason(format, [file]):
        if format == "dicom":
            return Header(format, 0, *declared(file)[1:])
        _opened(format, [file])
        return Header(format, 0)


@contextmanager
def opened(files: Sequence[RangedFile]) -> Iterator[Slide]:
    """Open the slide that some files make, and take whatever goes wrong with it for damage.

    Raises
    ------
    Unreadable
        If the files make no slide that can be read.
    OSError
        If they cannot be read.
    """
    format = _format(files[0])
    with _damage_as_a_reason(format, files):
        yield _opened(format, files)


def _opened(format: str, files: Sequence[RangedFile]) -> Slide:
    from tasks.cohort.slides.dicom import DicomSlide
    from tasks.cohort.slides.tiff import TiffSlide

    if format == "dicom":
        return DicomSlide(files)
    if len(files) > 1:
        raise Unreadable(f"{len(files)} files for one slide, but only DICOM has several: name the one TIFF")
    return TiffSlide(files[0])


def _format(file: RangedFile) -> str:
    file.seek(0)
    start = file.read(132)
    if start[128:] == b"DICM":
        return "dicom"
    if start.startswith(_TIFF):
        return "tiff"
    raise NoImage(
        "no slide: expected TIFF (SVS, OME-TIFF) or DICOM (VL Whole Slide Microscopy); narrow the source with a glob"
    )


@contextmanager
def _damage_as_a_reason(format: str, files: Sequence[RangedFile]) -> Iterator[None]:
    with ExitStack() as storage:
        for file in files:
            storage.enter_context(file.telling())
        try:
            yield
        except Unreadable:
            raise
        except Exception as error:  # a damaged file can raise anything, and must not stop the run
            raise Unreadable(
                f"damaged or unsupported slide in {format.upper()} ({type(error).__name__}): copy it again from its "
                "source, or convert it"
            ) from None
