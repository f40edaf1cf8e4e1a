"""The configuration of slides: at which resolution they are read, in what tiles, and what counts as tissue."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import ConfigurationError


class Saturation(BaseModel):
    """A fixed threshold: what is more saturated is tissue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    saturation: float = Field(gt=0, lt=1)


class SlideConfig(BaseModel):
    """Each image is a whole slide, and is explained as the bag of its tiles: ``(channel, z, y, x)``, z the tile."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    microns_per_pixel: float | None = Field(
        None, gt=0, description="The resolution of the tiles; the finest that a slide has, or coarser"
    )
    level: int | None = Field(
        None, ge=0, description="Instead, the level that tiles are read of as it is stored; 0 is the finest"
    )
    tile: int = Field(256, ge=16, le=2048, description="Side of a tile in pixels")
    tiles: int = Field(
        64,
        ge=1,
        le=4096,
        description="Tiles in the bag: an even spread over the tissue where there is more; white ones fill up the rest",
    )
    tissue: Literal["otsu", "none"] | Saturation = Field(
        "otsu",
        description="Tissue is what is more saturated (HSV) than Otsu's threshold, or than {saturation: 0.07}; none: "
        "all of the slide is",
    )

    @model_validator(mode="after")
    def _one_resolution(self) -> "SlideConfig":
        if (self.microns_per_pixel is None) == (self.level is None):
            raise ConfigurationError(
                "cohort.slides: give one of microns_per_pixel and level: microns_per_pixel: 0.5 reads every slide at "
                "one resolution, level: 0 as it is stored"
            )
        return self

    @property
    def bag_bytes(self) -> int:
        """Bytes of a bag as float32."""
        return 4 * 3 * self.tiles * self.tile**2
