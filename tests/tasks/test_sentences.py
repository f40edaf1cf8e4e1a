"""Sentences say what is stored, and nothing else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.explainers.base import MAP_FLAGS, MAPS
from models.explainers.counterfactual import KIND, MEASURES
from models.flags import MapFlag
from models.metrics import METRICS
from models.outputs import EXPLAINER, Axis, Frame, Output, flags_of, joined, shape_of
from models.prediction import declare_prediction, declare_source
from models.results import RCV, TCAV, Prototypes, Shortcuts, SimilarCases, Words
from models.results.sentences import Case, find
from models.results.words import LONGEST, fitting
from models.uncertainty import MCDropout
from tasks.plan.regions import Regions
from tasks.storage.location import Location

FRAME = Frame(
    ("normal", "lesion"), ("lesion",), ("control_random", "gradcam"), ("grey",), (40, 24), "softmax", masks=True
)
TARGETS = ("image_id", "target", EXPLAINER)
GRADIENT = "pooled_activations_gradient"


def declared(frame: Frame = FRAME) -> dict[str, Output]:
    """Everything that sentences are made of, as those declare it that compute it."""
    results = (
        Regions(atlas=Location(url="atlas.nii"), names={1: "left front", 2: "right back"}),
        TCAV(concepts=("striped", "dotted")),
        RCV(measures=("age", "volume"), of_mask=("area",)),
        SimilarCases(neighbours=3),
        Shortcuts(of="attribution", explainer="gradcam", clusters=2),
        *([Prototypes(prototypes=2, criticisms=2)] if frame.activation != "identity" else []),
    )
    metrics = [METRICS.kinds[name]() for name in ("relevance_mass", "explainer_agreement")]
    flags = Output(
        name=MAP_FLAGS, dims=TARGETS, kind="flags", long_name="x", dtype="uint8", fill=0, flags=flags_of(MapFlag)
    )
    space = (Axis(name="counterfactual_measure", labels=MEASURES),)
    vector = (Axis(name="pooled_activations_feature", labels=2),)
    own = [
        flags,
        Output(name=GRADIENT, dims=("image_id", "target", vector[0].name), kind="vector", long_name="x", axes=vector),
        *(
            Output(name=f"counterfactual_{name}", dims=("image_id", "target"), kind=KIND, long_name="x")
            for name in ("valid", "probability")
        ),
        Output(
            name="counterfactual_distance",
            dims=("image_id", "target", space[0].name),
            kind=KIND,
            long_name="x",
            axes=space,
        ),
    ]
    found = joined(
        declare_source(frame),
        declare_prediction(frame),
        own,
        *(metric.declare(frame, None) for metric in metrics),  # type: ignore[arg-type]
        MCDropout().declare(frame),
        *(result.declare(frame) for result in results),
    )
    directions = [found["tcav_direction"], found["rcv_direction"]]
    return found | {one.name: one.model_copy(update={"axes": (*one.axes, *vector)}) for one in directions}


STORED: dict[str, Any] = {
    "logit": [-1.7, 1.8],
    "probability": [0.029, 0.971],
    "target_class": [1],
    "uncertainty_mc_dropout_outputs": [0.041, 0.041],
    "uncertainty_mc_dropout_entropy": 0.313,
    "uncertainty_mc_dropout_mutual_information": 0.052,
    "regions_share": [[[0.2, 0.2], [0.43, 0.21]]],
    "regions_volume": [0.12, 0.08],
    "regions_outside": [[0.6, 0.36]],
    "regions_laterality": [[0.0, 0.344]],
    "regions_flags": [[0, 4]],
    "metric_relevance_mass": [[0.01, 0.56]],
    "metric_explainer_agreement": [[0.1, -0.124]],
    GRADIENT: [[0.01, 0.02]],
    "tcav_direction": [[0.6, 0.8], [-1, 0]],
    "tcav_score": [[0.1, 0.83], [0.2, 0.31]],
    "tcav_random_score": [[0.5, 0.51], [0.5, 0.51]],
    "tcav_p": [[0.9, 0.0004], [0.9, 0.41]],
    "rcv_direction": [[0, 1], [0.6, -0.8], [np.nan, np.nan]],
    "rcv_br": [[0.1, 0.24], [0.2, -0.713], [np.nan, np.nan]],
    "rcv_r2": [0.31, 0.658, 0.01],
    "counterfactual_valid": [1],
    "counterfactual_distance": [[1.234, 250.5, 4.4043]],
    "counterfactual_probability": [0.4912],
    "similar_image": [1, 2, 3],
    "similar_cosine": [0.981, 0.97, 0.96],
    "similar_other_label_cosine": 0.871,
    "prototype_image": [[4, 5], [0, 6]],
    "prototype_share": [[0.5, 0.5], [0.34, 0.66]],
    "prototype_criticism": [[4, 0], [-1, -1]],
    "prototype_witness": [[0.1, -0.123], [np.nan, np.nan]],
    "shortcut_cluster": 1,
    "shortcut_flags": [0, 7],
    "shortcut_share": [0.75, 0.25],
    "shortcut_concentration": [0.2, 0.93],
    "shortcut_p": [0.2, 0.012],
    "image_flags": 4,
    "map_flags": [[1, 0]],
}
LABELS = ("lesion", "lesion", "normal", "lesion", "", "", "")

TOLD = [
    "The network predicts lesion with a probability of 97 %.",
    "Between draws of dropout, the probability of lesion has a standard deviation of 4.1 %.",
    "The mean prediction of draws of dropout has an entropy of 0.31 bit, of which 0.05 bit is due to their "
    "differences.",
    "Of the map of gradcam for lesion, the regions hold these shares: 43 % in left front (12 % of the image), 21 % in "
    "right back (8.0 % of the image) and 36 % outside of all regions.",
    "The laterality of the map of gradcam for lesion is 0.34, towards the patient's left.",
    "The mask holds 56 % of what is positive in the map of gradcam for lesion.",
    "Along the concept striped, the network's output for lesion rises here (derivative 0.022); it rises in 83 % of the "
    "images of lesion, and along random concepts in 51 % (p < 0.001).",
    "Along the concept dotted, the network's output for lesion falls here (derivative -0.01); it rises in 31 % of the "
    "images of lesion, and along random concepts in 51 % (p = 0.41).",
    "Along the measure volume, the network's output for lesion falls here (derivative -0.01); over the images of "
    "lesion, its bidirectional relevance is -0.71, with an R² of 0.66.",
    "Along the measure age, the network's output for lesion rises here (derivative 0.02); over the images of lesion, "
    "its bidirectional relevance is 0.24, with an R² of 0.31.",
    "By counterfactual, the prediction about lesion turns at a distance of 1.23 in the latent space (L2 over the image "
    "4.4), where the probability of lesion is 49 %.",
    "By embedding, the nearest case of another subject has a cosine of 0.981.",
    "Of the 3 nearest cases by embedding, 2 have the predicted label lesion and 1 has another.",
    "By embedding, the nearest case with another label has a cosine of 0.871.",
    "This case is prototype 1 of lesion, and the nearest of 34 % of the images predicted as lesion.",
    "The mean rank correlation of the map of gradcam for lesion with the other maps is -0.12.",
    "This case is criticism 2 of normal: the prototypes stand for it too much (witness -0.12).",
    "By the maps of gradcam, this case lies in cluster 1, with 25 % of the images, which hints at a shortcut: 93 % of "
    "them have their strongest place in common, and their labels (p = 0.012) differ from those of the others.",
    "2 flags are raised: image saturated and regions outside.",
]


def said(
    values: Mapping[str, Any],
    outputs: Mapping[str, Output] | None = None,
    frame: Frame = FRAME,
    labels: Sequence[str] = LABELS,
    explainer: str | None = "gradcam",
) -> list[str]:
    """Say the sentences of the first image; outputs that are not given hold fill values."""
    outputs = declared(frame) if outputs is None else outputs
    case = Case(0, frame, labels, explainer, filled(values, outputs, frame))
    return [text for sentence in find(outputs) for text in sentence.say(case)]


def filled(values: Mapping[str, Any], outputs: Mapping[str, Output], frame: Frame) -> dict[str, NDArray[Any]]:
    names = {name for sentence in find(outputs) for name in sentence.reads}
    return {
        name: np.asarray(values[name], outputs[name].dtype)
        if name in values
        else np.full(shape_of(outputs[name], frame), outputs[name].fill_value, outputs[name].dtype)
        for name in names
    }


def test_all_that_is_stored_of_a_case_is_said_in_order() -> None:
    assert said(STORED) == TOLD
    assert not re.search(r"\b(because|since|therefore|causes?|due to the|thus|why)\b", " ".join(TOLD))


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert said({}) == []
    assert said({"logit": [0, 1], "probability": [0.27, 0.73]}, labels=[""]) == [
        "The network predicts lesion with a probability of 73 %."
    ]


SOURCES = [name for name in STORED if name not in ("logit", "probability", "target_class")]


@pytest.mark.parametrize("source", SOURCES)
def test_a_sentence_vanishes_with_its_source(source: str) -> None:
    outputs = {name: output for name, output in declared().items() if name != source}
    without, unknown = said(STORED, outputs), said({name: values for name, values in STORED.items() if name != source})
    assert set(without) < {*TOLD, "1 flag is raised: image saturated.", "1 flag is raised: regions outside."}
    assert set(unknown) < {*TOLD, "1 flag is raised: image saturated.", "1 flag is raised: regions outside."}
    assert len(without) < len(TOLD) or "flags" in source
    assert "nan" not in " ".join(unknown)


NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:\.(\d+))?)(e-\d+)?( %)?")


@pytest.mark.parametrize("seed", range(20))
def test_every_number_of_a_sentence_is_in_the_store_to_the_printed_digit(seed: int) -> None:
    drawn, outputs = np.random.default_rng(seed), declared()
    whole = {name: values for name, values in STORED.items() if outputs[name].dtype != "float32"}
    values = filled(whole, outputs, FRAME)
    for name, array in values.items():
        if name not in whole:
            values[name] = drawn.uniform(0.001, 0.999, array.shape).astype(np.float32)
    case, found = Case(0, FRAME, LABELS, "gradcam", values), 0
    for sentence in find(outputs):
        read = np.concatenate([values[name].ravel().astype(float) for name in sentence.reads])
        for name in sentence.reads:
            if name.endswith("_direction"):
                read = np.concatenate([read, (values[GRADIENT] @ values[name].T).ravel()])
        for text in sentence.say(case):
            for number, decimals, exponent, per_cent in NUMBER.findall(text):
                found += 1
                scale = 0.01 if per_cent else 1
                if not decimals and not per_cent and not exponent:
                    assert int(number) <= read.size  # a count of places, or a rank
                    continue
                digit = scale * 10.0 ** (-len(decimals) + (int(exponent[1:]) if exponent else 0))
                value = float(number + exponent) * scale
                assert np.abs(read - value).min() <= 0.5 * digit + 1e-7, (text, number)
    assert found > 25


@pytest.mark.parametrize(
    ("activation", "logits", "probability", "text"),
    [
        ("sigmoid", [-1, -2, -3, -4], [0.27, 0.12, 0.05, 0.02],
         "The network predicts none of its classes; it takes a with a probability of 27 % for the likeliest."),
        ("sigmoid", [-1, 2, 1, -4], [0.27, 0.88, 0.73, 0.02],
         "The network predicts b with a probability of 88 % and c with a probability of 73 %."),
        ("sigmoid", [1, 2, 3, 4], [0.73, 0.88, 0.95, 0.98],
         "The network predicts d with a probability of 98 %, c with a probability of 95 % and b with a probability of "
         "88 %, the likeliest of 4 predicted classes."),
        ("softmax", [0, 40, 0, 0], [0, 1, 0, 0], "The network predicts b with a probability of 100 %."),
        ("softmax", [0, 20, 0, 0], [0, 0.9999, 0, 0.0001], "The network predicts b with a probability of over 99.9 %."),
        ("identity", [61.25, -0.0123, 3, 4], None,
         "The network predicts 61.25 for a, -0.0123 for b and 3 for c, the first of 4 values."),
    ],
)  # fmt: skip
def test_the_prediction(activation: Any, logits: list[float], probability: list[float] | None, text: str) -> None:
    frame = replace(FRAME, classes=("a", "b", "c", "d"), activation=activation)
    values = {"logit": logits} | ({} if probability is None else {"probability": probability})
    assert said(values, frame=frame, labels=[""]) == [text]


def test_a_segmentation_has_means_and_no_label() -> None:
    frame = replace(FRAME, segments=True)
    assert said({"logit": [0, 1], "probability": [0.98, 0.02]}, frame=frame, labels=["lesion"]) == [
        "On average over the image, the network gives these probabilities: normal 98 % and lesion 2.0 %."
    ]


def test_a_regression_has_deviations_and_neighbours_without_labels() -> None:
    frame = replace(FRAME, classes=("age",), activation="identity", targets=("age",))
    values = {
        "logit": [61.2],
        "uncertainty_mc_dropout_outputs": [2.34],
        "similar_image": [1, -1, -1],
        "similar_cosine": [0.5, np.nan, np.nan],
    }
    assert said(values, frame=frame) == [
        "The network predicts 61.2 for age.",
        "Between draws of dropout, the value of age has a standard deviation of 2.3.",
        "By embedding, the nearest case of another subject has a cosine of 0.500.",
    ]


def test_targets_are_named_by_their_class_and_told_one_after_the_other() -> None:
    frame = replace(FRAME, targets=("rank 1", "rank 2"))
    outputs = {name: one for name, one in declared(frame).items() if name in ("logit", "probability", "target_class")}
    outputs |= {"metric_relevance_mass": declared(frame)["metric_relevance_mass"]}
    mass = {"metric_relevance_mass": [[0.1, 0.2], [0.3, 0.4]]}
    assert said(mass | {"target_class": [1, 0]}, outputs, frame) == [
        "The mask holds 20 % of what is positive in the map of gradcam for lesion.",
        "The mask holds 40 % of what is positive in the map of gradcam for normal.",
    ]
    assert said(mass | {"target_class": [-1, 0]}, outputs, frame) == [
        "The mask holds 40 % of what is positive in the map of gradcam for normal."
    ]
    assert said(mass | {"target_class": [1, 0]}, outputs, frame, explainer=None) == []


@pytest.mark.parametrize(
    ("activation", "label", "doubt"),
    [
        ("softmax", "lesion", []),
        ("softmax", "normal", ["The label names normal, to which the network gives a probability of 2.9 %."]),
        ("softmax", "of a patient", []),
        ("sigmoid", "normal", [
            "The label names normal, to which the network gives a probability of 2.9 %.",
            "The label does not name lesion, to which the network gives a probability of 97 %.",
        ]),
        ("sigmoid", "none", ["The label does not name lesion, to which the network gives a probability of 97 %."]),
        ("sigmoid", "of a patient", []),
    ],
)  # fmt: skip
def test_a_label_that_differs_is_a_doubt(activation: Any, label: str, doubt: list[str]) -> None:
    values = {name: STORED[name] for name in ("logit", "probability")}
    assert said(values, frame=replace(FRAME, activation=activation), labels=[label])[1:] == doubt


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("lesion", "normal", "normal", "normal"), ["0 have the predicted label lesion and 3 have another"]),
        (("", "lesion", "", "normal"), ["1 has the predicted label lesion, 1 has another and 1 has none"]),
        (("normal", "lesion", "lesion", "normal"),
         ["2 have the predicted label lesion and 1 has another", "1 has the label of this case and 2 have another"]),
        (("A", "A", "B", ""), ["1 has the label of this case, 1 has another and 1 has none"]),
        (("", "", "", ""), []),
        (("C", "A", "B", ""), ["0 have the label of this case, 2 have another and 1 has none"]),
    ],
)  # fmt: skip
def test_labels_of_neighbours_are_counted(labels: Sequence[str], text: list[str]) -> None:
    values = {name: STORED[name] for name in ("logit", "probability", "similar_image")}
    found = [one for one in said(values, labels=labels) if "nearest cases" in one]
    assert found == [f"Of the 3 nearest cases by embedding, {one}." for one in text]


def test_a_prediction_may_not_turn() -> None:
    nothing = {"counterfactual_probability": [np.nan], "counterfactual_distance": [[np.nan] * 3]}
    (found,) = [one for one in said(STORED | {"counterfactual_valid": [0]} | nothing) if "counterfactual" in one]
    assert found == "By counterfactual, no change was found that turns the prediction about lesion (validity 0)."


def test_a_cluster_without_a_hint_is_no_doubt() -> None:
    assert not [one for one in said(STORED | {"shortcut_flags": [7, 3]}) if "cluster" in one]


def test_a_cluster_may_be_told_by_its_covariates() -> None:
    frame = replace(FRAME, covariates=("site", "scanner"))
    values = STORED | {"shortcut_flags": [0, 11], "shortcut_p": [1, 0.4], "shortcut_covariate_p": [[1, 1], [0.012, 1]]}
    (found,) = [one for one in said(values, frame=frame) if "cluster" in one]
    assert found.endswith("and their values of site (p = 0.012) differ from those of the others.")


def test_a_text_has_a_bound_and_says_what_it_lacks() -> None:
    assert fitting(["One.", "Two."]) == "One. Two." and fitting([]) == ""
    assert fitting(["é" * LONGEST]) == "Left out for length: 1 sentence."
    short = fitting(["a" * 1000, *["b" * 1023] * 6])
    assert short.endswith("b Left out for length: 4 sentences.") and len(short.encode()) <= LONGEST


def test_an_explainer_without_maps_is_refused() -> None:
    axes = (Axis(name=EXPLAINER, labels=("gradcam",)),)
    outputs = declared() | {MAPS: Output(name=MAPS, dims=TARGETS, kind="map", long_name="x", axes=axes)}
    Words(explainer="gradcam").check(outputs)
    with pytest.raises(ConfigurationError, match="'lime', but maps are made by gradcam: set `explainer`"):
        Words(explainer="lime").check(outputs)
    with pytest.raises(ConfigurationError, match="made by no explainer"):
        Words(explainer="lime").check(declared())
