"""The configuration of a cohort: its images, and how they are prepared."""

from collections.abc import Callable
from posixpath import dirname
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from models.components import Component
from models.errors import ConfigurationError
from models.outputs import Axes
from tasks.cohort.masks import MaskRule
from tasks.cohort.pseudonyms import Key
from tasks.cohort.reading import LARGEST, WindowConfig
from tasks.cohort.slides.config import SlideConfig
from tasks.cohort.table import is_table
from tasks.storage.location import Location

if TYPE_CHECKING:
    from models.preprocessing import Preprocessing


class CohortConfig(BaseModel):
    """The images that are explained, and how they are prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Location = Field(
        description="A folder, glob or prefix; or a .csv, .tsv or .parquet table: uri, id, label, mask, subject"
    )
    root: Location | None = Field(
        None, description="What a cohort table names must lie below this folder or prefix; none: below the table's own"
    )
    identifiers: Literal["pseudonymous", "as given"] = Field(
        "pseudonymous",
        description="Whether ids and subjects are replaced by keyed pseudonyms; as given: they are pseudonyms already",
    )
    description: str = Field("", description="A sentence for whoever reads the store or the report")
    preprocessing: tuple[Component, ...] = Field(
        (),
        strict=False,
        description="MONAI array transforms in order: `{_target_: monai.transforms.Resize, spatial_size: [96, 96]}`",
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

    @model_validator(mode="after")
    def _root_is_of_a_table(self) -> "CohortConfig":
        if self.root and not is_table(self.source):
            raise ConfigurationError("root is for what a cohort table names, and the source is no table: leave it out")
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
        return self

    @property
    def home(self) -> Location:
        """Where the images lie: the folder or prefix that no file is read outside of."""
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
