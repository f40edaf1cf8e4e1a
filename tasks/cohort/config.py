"""The configuration of a cohort: its images, and how they are prepared."""

import re
import unicodedata
from collections.abc import Callable
from posixpath import dirname
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from models.components import Component
from models.errors import ConfigurationError
from models.outputs import Axes
from models.records import RecordField
from tasks.cohort.columns import Columns, Name, folded
from tasks.cohort.masks import MaskRule
from tasks.cohort.pseudonyms import Key
from tasks.cohort.reading import LARGEST, Frames, WindowConfig
from tasks.cohort.slides.config import SlideConfig
from tasks.cohort.table import is_datalist, is_table
from tasks.storage.location import Location

if TYPE_CHECKING:
    from models.preprocessing import Preprocessing


class CohortConfig(BaseModel):
    """The images that are explained, and how they are prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Location = Field(
        description="A folder, glob or prefix; a .csv, .tsv or .parquet table: uri, id, label, mask, subject; or a "
        ".json datalist"
    )
    root: Location | None = Field(
        None, description="What a cohort table names must lie below this folder or prefix; none: below the table's own"
    )
    identifiers: Literal["pseudonymous", "as given"] = Field(
        "pseudonymous",
        description="Whether ids and subjects are replaced by keyed pseudonyms; as given: they are pseudonyms already",
    )
    description: str = Field("", description="A sentence for whoever reads the store or the report")
    columns: Columns | None = Field(
        None,
        description="How a table's columns are called, so that there may be others: {uri: [t1, t2], label: class}; a "
        "list: a file of the image in each",
    )
    label_map: dict[str, Name] = Field(
        {}, description='Classes by labels as they are written: {"0": healthy, "1": tumour}; others stay as they are'
    )
    section: str = Field("", description="The list of a datalist that is meant, such as validation; none: the only one")
    sequences: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Names of the files that make an image, in the order of the network's channels: [t1, t1ce, t2]; "
        "none: an image is one file, or has those of cohort.columns.uri",
    )
    record: tuple[RecordField, ...] = Field(
        (),
        strict=False,
        description="Columns of the table that the network takes beside the image, as numbers in this order: [age, "
        "{name: sex, values: {F: 0, M: 1}}]; they are stored",
    )
    measures: tuple[Name, ...] = Field(
        (),
        strict=False,
        description="Columns of the table whose numbers results compare with what the network sees, which is not shown "
        "them: [age, volume]; they are kept in the manifest; an empty cell: the image has no such measure",
    )
    covariates: tuple[Name, ...] = Field(
        (),
        strict=False,
        description="Columns of the table such as site or scanner: [site, scanner]; they are stored as they are "
        "written, and the result `shortcuts` holds clusters against them as against the label",
    )
    align: Literal["same grid", "to first"] = Field(
        "same grid",
        description="same grid: the files of an image have to lie on one; to first: they are resampled onto that of "
        "the first",
    )
    preprocessing: tuple[Component, ...] = Field(
        (),
        strict=False,
        description="MONAI array transforms in order: `{_target_: monai.transforms.Resize, spatial_size: [96, 96]}`; "
        "or ours, which are below `models.transforms`",
    )
    axes: Axes = Field(
        "zyx",
        description="Order of the axes that preprocessing and network are given: zyx, slices and rows first; monai, "
        "(x, y[, z]) as MONAI's LoadImage has them",
    )
    window: WindowConfig = Field("none", description="DICOM window: none, file, or {center, width}")
    color: Literal["as stored", "grey"] = Field(
        "as stored", description="grey: three channels are read as one, their luminance (ITU-R 601)"
    )
    frames: Frames = Field(
        "as stored",
        description="What the frames of a file are (the pictures of a multi-frame file, the volumes of a 4-D one): "
        "channels of one image, in their order; images of their own, name#1, name#2, …, all of one subject; as stored: "
        "as the format has them, volumes of a 4-D NIfTI as channels, frames and pages as the slices of a volume",
    )
    slides: SlideConfig | None = Field(
        None, description="Each image is a whole slide, of which the tiles that hold tissue are explained as one bag"
    )
    mask: MaskRule | None = Field(
        None,
        description="Which values of masks mark the finding: {threshold: 128}, {labels: [1, 3]} or {channel: alpha}; "
        "none: masks have to hold 0 and one other value",
    )
    background: int = Field(
        16, ge=1, description="Images, spread over the cohort, that stand for what is usual where an explainer needs it"
    )
    largest_image: ByteSize = Field(
        ByteSize(LARGEST),
        gt=0,
        description="What the pixels of one image may take as float32, e.g. 2GiB; larger ones are quarantined unread",
    )
    allowed_failures: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of images that may be quarantined or failed; a run that sees more fail ends early",
    )

    @field_validator("label_map")
    @classmethod
    def _as_labels_are_read(cls, names: dict[str, str]) -> dict[str, str]:
        return {unicodedata.normalize("NFC", label.strip()): name for label, name in names.items()}

    @model_validator(mode="after")
    def _root_is_of_a_table(self) -> "CohortConfig":
        if self.root and not is_table(self.source):
            raise ConfigurationError("root is for what a cohort table names, and the source is no table: leave it out")
        return self

    @model_validator(mode="after")
    def _fields_are_of_a_table(self) -> "CohortConfig":
        names = ("columns", "label_map", "section", "record", "measures", "covariates")
        of_a_table = {name: getattr(self, name) for name in names}
        if (stated := [name for name, value in of_a_table.items() if value]) and not is_table(self.source):
            raise ConfigurationError(f"{stated[0]} is for what a table says, and the source is none: leave it out")
        if self.section and not is_datalist(self.source):
            raise ConfigurationError("section is for a datalist (.json), and the source is another table: leave it out")
        return self

    @model_validator(mode="after")
    def _fields_are_several(self) -> "CohortConfig":
        groups = {"measures": self.measures, "covariates": self.covariates}
        for field, stated in {"record": [field.name for field in self.record], **groups}.items():
            names = [folded(name) for name in stated]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigurationError(f"{field}: {', '.join(twice)} is named twice: each is one column")
        return self

    @model_validator(mode="after")
    def _sequences_have_names(self) -> "CohortConfig":
        names = [folded(name) for name in self.sequences]
        if len({*names}) < len(names) or not all(re.fullmatch(r"[^|/]+", name) for name in names):
            raise ConfigurationError("sequences: each is another name, whatever its case, without `|` and `/`")
        files = [folded(name) for name in self.columns.uris] if self.columns else []
        if names and len(files) > 1 and {*names} != {*files} and (len(names) != len(files) or {*names} & {*files}):
            raise ConfigurationError(
                f"sequences: {', '.join(self.sequences)} are not the columns of files ({', '.join(files)}): leave "
                "sequences out, or name as many, either all as the columns or none"
            )
        if self.align != "same grid" and not self.sequence_names:
            raise ConfigurationError("align is for images of several files: name these in cohort.sequences")
        if self.frames == "images" and self.sequence_names:
            raise ConfigurationError(
                "frames: the frames of several sequences are no images of their own: leave frames or sequences out"
            )
        return self

    @model_validator(mode="after")
    def _bags_fit(self) -> "CohortConfig":
        if self.slides is None:
            return self
        if self.slides.bag_bytes > self.largest_image:
            raise ConfigurationError(
                f"cohort.slides: {self.slides.tiles} tiles of {self.slides.tile} x {self.slides.tile} take "
                f"{self.slides.bag_bytes} bytes, and cohort.largest_image is {int(self.largest_image)}: take fewer, or "
                "raise the bound"
            )
        if self.axes != "zyx":
            raise ConfigurationError("cohort.axes: a bag of a slide's tiles is (tile, row, column): leave out `axes`")
        if self.frames != "as stored" or self.sequence_names or self.record:
            raise ConfigurationError(
                "cohort.slides: a slide is one file or series, its levels are no frames, and no record goes beside: "
                "leave out frames, sequences and record"
            )
        return self

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """Names of the files that make an image, in the order of the network's channels; none if an image is one."""
        several = self.columns is not None and isinstance(self.columns.uri, tuple)
        return self.sequences or (self.columns.uris if several and self.columns else ())

    def channel_names(self, channels: int) -> tuple[str, ...]:
        """Name the channels of the network's input by the sequences, if there is one for each, or else by number."""
        names = self.sequence_names
        return names if len(names) == channels else tuple(map(str, range(channels)))

    @property
    def home(self) -> Location:
        """The place of the images: the folder or prefix that no file is read outside of."""
        if not is_table(self.source):
            return self.source
        return self.root or self.source.at(dirname(self.source.url))

    def make_preprocessing(self) -> "Preprocessing":
        """Make the transforms of `preprocessing` for the order of `axes`.

        Raises
        ------
        ConfigurationError
            If one of them cannot be made, or is none that can be followed.
        """
        from models.preprocessing import Preprocessing

        return Preprocessing(self.preprocessing, self.axes)

    def alias(self, key: Key) -> Callable[[str], str]:
        """Make the function that turns an identifier of the cohort into that of the output."""
        return key.pseudonym if self.identifiers == "pseudonymous" else str
