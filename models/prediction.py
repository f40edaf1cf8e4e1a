"""The outputs of every run: the image as it is explained, and the network's prediction."""

from models.flags import ImageFlag
from models.outputs import IMAGE_ID, Axis, Frame, Output, flags_of
from models.targets import NO_CLASS

IMAGE, AFFINE, MASK, RECORD = "image", "affine", "mask", "record"
FIELD = "field"
LOGIT, PROBABILITY, TARGET_CLASS, IMAGE_FLAGS = "logit", "probability", "target_class", "image_flags"
NO_MASK = 255


def declare_source(frame: Frame) -> tuple[Output, ...]:
    """Declare the outputs that hold an image's sources."""
    image = Output(
        name=IMAGE,
        dims=(IMAGE_ID, "channel", *frame.space),
        kind="image",
        long_name="image on the model's grid, before intensity normalisation",
    )
    affine = Output(
        name=AFFINE,
        dims=(IMAGE_ID, "world", "voxel"),
        kind="image",
        long_name=f"affine from voxel index ({', '.join(frame.voxel)}) of the model's grid to patient coordinates; "
        "NaN where the source has no geometry",
        units="mm",
        dtype="float64",
        attrs={"space": "RAS"},
    )
    mask = Output(
        name=MASK,
        dims=(IMAGE_ID, *frame.space),
        kind="mask",
        long_name="reference region on the model's grid, by nearest neighbour",
        dtype="uint8",
        fill=NO_MASK,
        attrs={"flag_values": [0, 1, NO_MASK], "flag_meanings": "outside inside no_mask"},
    )
    record = Output(
        name=RECORD,
        dims=(IMAGE_ID, FIELD),
        kind="image",
        long_name="record as the network takes it beside the image",
        axes=field_axes(frame),
    )
    return (image, affine, *[mask] * frame.masks, *[record] * bool(frame.fields))


def field_axes(frame: Frame) -> tuple[Axis, ...]:
    """The dimension of the fields of a record."""
    return (Axis(name=FIELD, labels=frame.fields, long_name="field of the record"),)


def declare_prediction(frame: Frame) -> tuple[Output, ...]:
    """Declare the outputs that hold the prediction for the image as it is."""
    over_space = ", mean over space" if frame.segments else ""
    is_regression = frame.activation == "identity"
    logit = Output(
        name=LOGIT,
        dims=(IMAGE_ID, "class"),
        kind="prediction",
        long_name=f"{'model output' if is_regression else 'logit'}{over_space}",
        required=True,
    )
    probability = Output(
        name=PROBABILITY,
        dims=(IMAGE_ID, "class"),
        kind="prediction",
        long_name=f"{frame.activation} of the logits{over_space}",
        required=True,
        attrs={"valid_range": [0.0, 1.0]},
    )
    chosen = Output(
        name=TARGET_CLASS,
        dims=(IMAGE_ID, "target"),
        kind="prediction",
        long_name="index along class of the class that the map explains; -1 where there is none",
        dtype="int32",
        fill=NO_CLASS,
    )
    flags = Output(
        name=IMAGE_FLAGS,
        dims=(IMAGE_ID,),
        kind="flags",
        long_name="what is odd about the image or its prediction; bits that add up",
        dtype="uint8",
        fill=0,
        flags=flags_of(ImageFlag),
    )
    return (logit, chosen, flags) if is_regression else (logit, probability, chosen, flags)
