"""The outputs of a slide beside its bag of tiles: where the tiles lie, and the whole slide as an overview."""

from typing import TYPE_CHECKING, Any

from models.outputs import IMAGE_ID, Axis, Output
from tasks.cohort.slides.tissue import OVERVIEW

if TYPE_CHECKING:
    from tasks.cohort.slides.bag import Bag

POSITION, TISSUE, SIDE, SIZE = "tile_position", "tile_tissue", "tile_side", "slide_size"
RESOLUTION, PICTURE = "microns_per_pixel", "slide_overview"

_CORNER = Axis(name="corner", labels=("y", "x"), long_name="axis of the slide")
_FRAME = (
    Axis(name="color", labels=("red", "green", "blue"), long_name="colour"),
    Axis(name="overview_y", labels=OVERVIEW, long_name="row of the overview"),
    Axis(name="overview_x", labels=OVERVIEW, long_name="column of the overview"),
)


def declare_slide() -> tuple[Output, ...]:
    """Declare what is stored of a slide beside its tiles."""
    return (
        Output(
            name=POSITION,
            dims=(IMAGE_ID, "z", "corner"),
            kind="image",
            long_name="upper left corner of a tile in pixels of the slide's finest level; -1 where it fills up the bag",
            dtype="int32",
            fill=-1,
            axes=(_CORNER,),
        ),
        Output(
            name=TISSUE,
            dims=(IMAGE_ID, "z"),
            kind="image",
            long_name="share of a tile that is tissue; NaN where it fills up the bag",
        ),
        Output(
            name=SIDE,
            dims=(IMAGE_ID,),
            kind="image",
            long_name="side of the slide's tiles in pixels of its finest level",
        ),
        Output(
            name=SIZE,
            dims=(IMAGE_ID, "corner"),
            kind="image",
            long_name="height and width of the slide's finest level in pixels",
            dtype="int32",
            fill=-1,
            axes=(_CORNER,),
        ),
        Output(
            name=RESOLUTION,
            dims=(IMAGE_ID,),
            kind="image",
            long_name="microns a pixel of the slide's finest level; NaN where the slide does not say",
            units="um",
        ),
        Output(
            name=PICTURE,
            dims=(IMAGE_ID, *(axis.name for axis in _FRAME)),
            kind="image",
            long_name="the whole slide: its longest side fills the overview, and white the rest",
            dtype="uint8",
            fill=255,
            axes=_FRAME,
        ),
    )


def values_of(bag: "Bag") -> dict[str, Any]:
    """Collect the values of one slide by output."""
    return {
        POSITION: bag.position,
        TISSUE: bag.tissue,
        SIDE: bag.side,
        SIZE: bag.size,
        RESOLUTION: bag.microns_per_pixel,
        PICTURE: bag.overview,
    }
