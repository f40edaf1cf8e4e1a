import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.cluster import PlaceConfig
from flows.config import RunConfig, check, load
from models.errors import ConfigurationError
from models.explainers.gradcam import GradCAM
from models.targets import Predicted

MINIMAL: dict[str, Any] = {
    "cohort": {"source": "images"},
    "model": {
        "network": {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": 2},
        "weights": "weights.safetensors",
        "classes": ["a", "b"],
        "input_shape": [64, 64],
    },
    "explainers": ["saliency", {"name": "gradcam", "layer": "features"}],
    "output": "out",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    content = yaml.safe_load(yaml.safe_dump(MINIMAL))
    place = content
    *parents, last = path.split(".")
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return content


def test_the_smallest_configuration_is_filled_with_defaults() -> None:
    config = RunConfig.model_validate(MINIMAL)
    assert config.target == Predicted()
    assert config.explainers[1] == GradCAM(layer="features")
    assert config.model.channels == 1
    with pytest.raises(ValidationError, match="frozen"):
        config.target = Predicted(k=2)  # type: ignore[misc]


def test_sizes_are_written_with_units() -> None:
    assert RunConfig.model_validate(changed("cohort.largest_image", "1.5GiB")).cohort.largest_image == 3 * 2**29
    assert RunConfig.model_validate(MINIMAL).cohort.largest_image == 2**31


def test_an_explainer_may_come_twice_under_different_labels() -> None:
    twice = ["gradcam", {"name": "gradcam", "layer": "features", "label": "early"}]
    config = RunConfig.model_validate(MINIMAL | {"explainers": twice})
    assert [explainer.title for explainer in config.explainers] == ["gradcam", "early"]


def test_a_configuration_survives_the_way_through_json() -> None:
    config = RunConfig.model_validate(MINIMAL)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "chort",
            {},
            "chort: there is no such field; allowed are cohort, model, explainers, target, channels, metrics",
        ),
        ("cohort.sorce", "x", "cohort.sorce: there is no such field; allowed are source, root, identifiers"),
        ("model.channels", "three", "model.channels: Input should be a valid integer (found 'three')"),
        ("model.channels", True, "model.channels: Input should be a valid integer (found True)"),
        (
            "model.classes",
            [0, True],
            "model.classes.0: Input should be a valid string (found 0): put it in quotes, spelt",
        ),
        (
            "model.classes",
            ["a", None],
            "model.classes.1: Input should be a valid string (found None): put it in quotes",
        ),
        (
            "explainers",
            "saliency",
            "Input should be a valid tuple (found 'saliency'): a list is needed, such as [a, b]",
        ),
        ("batch_size", "4", "batch_size: Input should be a valid integer (found '4'): leave out the quotes"),
        ("model.input_shape", [64], "model.input_shape: Tuple should have at least 2 items"),
        ("model.network", {"spatial_dims": 2}, "needs `_target_: package.Class`, found None"),
        ("explainers", ["grad-cam"], "explainers.0: there is no 'grad-cam'; the nearest are gradcam"),
        ("explainers", ["saliency", "saliency"], "named more than once: saliency; give each a `label`"),
        ("explainers", ["gradcam", {"name": "saliency", "label": "gradcam"}], "named more than once: gradcam"),
        ("cohort.background", 0, "cohort.background: Input should be greater than or equal to 1 (found 0)"),
        ("explainers", [], "explainers: Tuple should have at least 1 item"),
        ("target", "top", "target: there is no 'top'; there are predicted, classes"),
        ("output", {"url": "s3://b/o", "key": "AKIA"}, "output.key: there is no such field; allowed are url"),
        ("compute", {"scheduler": "tcp://h:1", "workers": 2}, "leave them out here"),
        ("compute", {"scheduler": "tcp://h:1", "gpus": 2}, "leave them out here"),
        ("compute.precision", "fp16", "Input should be 'fp32' or 'bf16'"),
        ("output_url", "https://name:secret@h/report", "output_url: String should match pattern"),
        ("output_url", "https://h/report?X-Amz-Signature=1", "output_url: String should match pattern"),
        ("compute", {"workers": 2, "adapt": {"maximum": 4}}, "adapt goes with cluster"),
        (
            "compute",
            {"cluster": {"_target_": "dask_jobqueue.SLURMCluster"}, "adapt": {"minimum": 5, "maximum": 4}},
            "the minimum of 5 workers is more than the maximum of 4",
        ),
        ("compute", {"scheduler": "h:1"}, "compute.scheduler: String should match pattern"),
        (
            "compute",
            {"cluster": {"_target_": "os.system"}},
            "os.system` is not allowed here: it must lie in distributed",
        ),
        ("compute", {"cluster": {"_target_": "distributedx.Cluster"}}, "is not allowed here"),
        ("cohort.root", "elsewhere", "the source is no table: leave it out"),
        ("cohort.identifiers", "hashed", "'pseudonymous' or 'as given'"),
        ("cohort.largest_image", "-1GiB", "cohort.largest_image"),
        ("cohort.window", "auto", "'none' or 'file'"),
        ("cohort.allowed_failures", 5, "cohort.allowed_failures: Input should be less than or equal to 1 (found 5)"),
    ],
)
def test_an_error_names_the_field_what_was_found_and_what_is_allowed(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(ConfigurationError) as error:
        load(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        *((path, "s3://key:secret@bucket/x") for path in ("cohort.source", "cohort.root", "output")),
        *((path, "s3://bucket/x?X-Amz-Signature=secret") for path in ("cohort.source", "model.weights", "output")),
        ("cohort.source", "https://user:secret@h/x"),
        ("output", {"url": "s3://bucket/x", "endpoint_url": "ftp://user:secret@h"}),
        ("output", {"url": "s3://bucket/x", "endpoint_url": "https://h/x?token=secret"}),
        ("compute.scheduler", "tls://user:secret@h:8786"),
        ("compute.scheduler", "http://h:8786?token=secret"),
        ("output_url", "https://user:secret@h/report"),
        ("output_url", "https://h/report?sig=secret"),
        ("output_url", "https://h/report#access_token=secret"),
    ],
)
def test_credentials_in_any_part_of_a_url_are_refused_and_not_repeated(path: str, address: Any) -> None:
    with pytest.raises(ConfigurationError) as error:
        check(changed(path, address))
    assert path in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- a", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"run\.yaml"):
        load(file)


@pytest.mark.parametrize(
    "path", sorted([*Path("tasks/demo").glob("*.yaml"), Path("deployments/evidence-2d.yaml")]), ids=str
)
def test_the_example_configurations_are_valid(path: Path) -> None:
    assert load(path).model.classes == ("normal", "lesion")


def test_what_decides_the_result_is_of_the_recipe_and_still_taken_from_below_compute() -> None:
    decided = {"batch_size": 4, "precision": "bf16"}
    config = RunConfig.model_validate(MINIMAL | decided)
    assert RunConfig.model_validate(MINIMAL | {"compute": decided}) == config
    assert (config.recipe.batch_size, config.recipe.precision) == (4, "bf16")
    assert not decided.keys() & PlaceConfig.model_fields.keys()
    with pytest.raises(ValidationError, match=r"compute\.batch_size"):
        RunConfig.model_validate(MINIMAL | {"batch_size": 8, "compute": {"batch_size": 4}})


@pytest.mark.parametrize("decided", [{"batch_size": 4}, {"precision": "bf16"}])
def test_evaluate_refuses_what_its_output_has_decided(decided: dict[str, Any]) -> None:
    """They were ignored once: a metric is computed in the batches, and in the precision, of the maps."""
    from prefect.exceptions import ParameterTypeError

    from flows.evaluate import evaluate_cohort

    (name,) = decided
    with pytest.raises(ParameterTypeError, match=rf"compute\.{name}: Extra inputs are not permitted"):
        evaluate_cohort.validate_parameters({"output": "out", "compute": {"workers": 1} | decided})
    assert evaluate_cohort.validate_parameters({"output": "out", "compute": {"workers": 1}})


def test_help_does_not_wait_for_imports() -> None:
    code = "import sys, flows.cli; print([m for m in ('torch','prefect','monai','dask','numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_flow_takes_what_the_ui_sends_and_shows_a_form_for_it() -> None:
    from flows.explain import explain_cohort

    sent = RunConfig.model_validate(MINIMAL).model_dump(mode="json")
    assert explain_cohort.validate_parameters({"config": sent})["config"] == RunConfig.model_validate(MINIMAL)
    form = explain_cohort.parameters
    assert {"cohort", "model", "explainers", "target", "output", "compute"} <= set(
        form.definitions["RunConfig"]["properties"]
    )
    assert form.definitions["RunConfig"]["properties"]["cohort"]["description"]
