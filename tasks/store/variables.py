"""The variables of the store that shards deliver: dimensions, types, and what they say of themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.targets import NO_CLASS
from models.uncertainty import Spread, Uncertainty
from tasks.plan.plan import Measure, Plan
from tasks.store.flags import KINDS

NO_MASK = 255
MANTISSA_KEPT = 7
UNCERTAINTY = "uncertainty_"
"""How the names of variables begin that say how unsure the model is."""


class Variable(NamedTuple):
    """One array of the store; `dims` without the leading image_id."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: float
    attrs: dict[str, Any]


def variables(plan: Plan) -> dict[str, Variable]:
    """The arrays that shards deliver."""
    space = ("z", "y", "x")[3 - plan.model.spatial_dims :]
    grid = plan.model.input_shape
    classes, targets = len(plan.model.classes), len(plan.target.labels(plan.model.classes))
    activation = plan.model.activation
    over_space = ", mean over space" if plan.segments else ""
    found = {
        "image": Variable(
            ("channel", *space),
            (plan.model.channels, *grid),
            "float32",
            np.nan,
            {"long_name": "image on the model's grid, before intensity normalisation", "units": "1"},
        ),
        "logit": Variable(
            ("class",),
            (classes,),
            "float32",
            np.nan,
            {
                "long_name": f"model output{over_space}" if activation == "identity" else f"logit{over_space}",
                "units": "1",
            },
        ),
        "target_class": Variable(
            ("target",),
            (targets,),
            "int32",
            NO_CLASS,
            {"long_name": "index along class of the class that the map explains; -1 where there is none", "units": "1"},
        ),
        "affine": Variable(
            ("world", "voxel"),
            (4, 4),
            "float64",
            np.nan,
            {
                "long_name": "affine from voxel index (z, y, x, 1) of the model's grid to patient coordinates; "
                "NaN where the source has no geometry",
                "units": "mm",
                "space": "RAS",
            },
        ),
        "image_flags": _flags("image_flags", (), (), "what is odd about the image or its prediction"),
    }
    if activation != "identity":
        found["probability"] = Variable(
            ("class",),
            (classes,),
            "float32",
            np.nan,
            {"long_name": f"{activation} of the logits{over_space}", "units": "1", "valid_range": [0.0, 1.0]},
        )
    if plan.maps:
        found["attribution"] = Variable(
            ("target", "explainer", *space),
            (targets, len(plan.maps), *grid),
            "float32",
            np.nan,
            {
                "long_name": "attribution map, raw and signed; NaN where not computed",
                "units": "1",
                "comment": f"mantissa rounded to {MANTISSA_KEPT} bits",
            },
        )
        found["map_flags"] = _flags(
            "map_flags", ("target", "explainer"), (targets, len(plan.maps)), "what is odd about the map"
        )
    if plan.masks:
        found["mask"] = Variable(
            space,
            grid,
            "uint8",
            NO_MASK,
            {
                "long_name": "reference region on the model's grid, by nearest neighbour",
                "units": "1",
                "flag_values": np.array([0, 1, NO_MASK], np.uint8),
                "flag_meanings": "outside inside no_mask",
            },
        )
    return found


def part_variables(plan: Plan, part: int) -> dict[str, Variable]:
    """The arrays, or the stretch of them along `explainer`, that one part of a shard delivers."""
    maps = sum(explainer.makes_map for explainer in plan.parts[part])
    found = {}
    for name, variable in variables(plan).items():
        if "explainer" not in variable.dims:
            if part == 0:
                found[name] = variable
        elif maps:
            axis = variable.dims.index("explainer")
            found[name] = variable._replace(shape=(*variable.shape[:axis], maps, *variable.shape[axis + 1 :]))
    return found


def measured_variables(plan: Plan, measures: Sequence[Measure | Uncertainty]) -> dict[str, Variable]:
    """The arrays that hold what is worked out of what shards have delivered."""
    found: dict[str, Variable] = {}
    for measure in measures:
        found |= _of_metric(plan, measure) if isinstance(measure, Measure) else _of_uncertainty(plan, measure)
    return found


def _of_metric(plan: Plan, measure: Measure) -> dict[str, Variable]:
    """Values, what they are to be read with, and the curves they were made of."""
    sizes = (len(plan.target.labels(plan.model.classes)), len(plan.maps))
    metric = measure.metric
    about = {
        "units": "1",
        "family": metric.family,
        "better": metric.better or "none",
        "references": _references(metric),
    }
    value = {"long_name": metric.title.replace("_", " "), "valid_range": [float(end) for end in metric.range]}
    found = {measure.variable: Variable(("target", "explainer"), sizes, "float32", np.nan, about | value)}
    for name in measure.companions:
        attrs = {"long_name": f"{metric.title}: {name}", "units": "1", "companion_of": measure.variable}
        found[measure.companion(name)] = Variable(("target", "explainer"), sizes, "float32", np.nan, attrs)
    for name in measure.curves:
        attrs = {"long_name": f"{metric.title}: {name}", "units": "1", "metric": metric.title, "curve": name}
        dims, shape = ("target", "explainer", measure.axis), (*sizes, len(measure.points))
        found[measure.curve(name)] = Variable(dims, shape, "float32", np.nan, attrs)
    return found


def _of_uncertainty(plan: Plan, uncertainty: Uncertainty) -> dict[str, Variable]:
    """What the members say together: of the prediction, and of each map."""
    name, between = stem(uncertainty), f"between {uncertainty.about}"
    references = {"references": _references(uncertainty)}
    maps = variables(plan).get("attribution")
    classes = len(plan.model.classes)

    def one(dims: tuple[str, ...], shape: tuple[int, ...], about: str, units: str = "1") -> Variable:
        attrs = {"long_name": about, "units": units, "kind": uncertainty.title, **references}
        return Variable(dims, shape, "float32", np.nan, attrs)

    found = {f"{name}_outputs": one(("class",), (classes,), f"standard deviation of the prediction {between}")}
    if plan.model.activation != "identity":
        found |= {
            f"{name}_entropy": one((), (), "entropy of the mean prediction", "bit"),
            f"{name}_mutual_information": one((), (), f"entropy that is due to differences {between}", "bit"),
        }
    if maps:
        found |= {
            f"{name}_maps": one(maps.dims[:2], maps.shape[:2], f"spread of maps {between}, as a share of their mean"),
            f"attribution_{uncertainty.title}_mean": one(maps.dims, maps.shape, f"mean map {between}"),
            f"attribution_{uncertainty.title}_spread": one(
                maps.dims, maps.shape, f"standard deviation of the map {between}"
            ),
        }
    return found


def uncertainty_values(uncertainty: Uncertainty, spread: Spread) -> dict[str, Tensor]:
    """What the members said, by the variable that holds it."""
    name = stem(uncertainty)
    return {
        f"{name}_outputs": spread.outputs,
        f"{name}_entropy": spread.entropy,
        f"{name}_mutual_information": spread.mutual_information,
        f"{name}_maps": spread.maps,
        f"attribution_{uncertainty.title}_mean": spread.mean,
        f"attribution_{uncertainty.title}_spread": spread.spread,
    }


def stem(measure: Measure | Uncertainty) -> str:
    """How the names of a measure's variables begin."""
    return measure.variable if isinstance(measure, Measure) else f"{UNCERTAINTY}{measure.title}"


def _references(source: Any) -> str:
    return " ".join((type(source).__doc__ or "").split())


def empty_block(described: Mapping[str, Variable], rows: int) -> dict[str, NDArray[Any]]:
    """Arrays of `rows` images filled with each variable's fill value."""
    return {
        name: np.full((rows, *variable.shape), variable.fill, dtype=variable.dtype)
        for name, variable in described.items()
    }


def _flags(name: str, dims: tuple[str, ...], shape: tuple[int, ...], about: str) -> Variable:
    kind = KINDS[name]
    attrs = {
        "long_name": f"{about}; bits that add up",
        "units": "1",
        "flag_masks": np.array(list(kind), np.uint8),
        "flag_meanings": " ".join(kind.__members__).lower(),
    }
    return Variable(dims, shape, "uint8", 0, attrs)
