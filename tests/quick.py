"""`make quick`, as a plugin of pytest's: only tests that need no server, and are done in a second or two.

What is left out is said here and nowhere else; `make test` runs everything.
"""

import pytest

_SERVERS = {"prefect", "s3_endpoint"}
"""Fixtures that start one."""

_LEFT_OUT = (
    # Whole runs: servers, clusters, processes.
    "tests/docs/",
    "tests/faults/",
    "tests/integration/",
    "tests/flows/test_cluster.py",
    "tests/flows/test_server.py",
    "tests/infra/test_grafana.py",
    "tests/infra/test_image.py",
    "tests/infra/test_kubernetes.py",
    "tests/infra/test_s3.py",
    "tests/infra/test_slurm.py",
    "tests/tasks/readers/test_bounds.py",
    "tests/tasks/test_end_to_end.py",
    "tests/tasks/test_interrupted.py",
    "tests/tasks/test_declared.py",
    "tests/tasks/test_evaluate.py",
    "tests/tasks/test_lease.py",
    "tests/tasks/test_members.py",
    "tests/tasks/test_memory.py",
    "tests/tasks/test_plots.py",
    "tests/tasks/test_precision.py",
    "tests/tasks/test_prepare.py",
    "tests/tasks/test_pseudonyms.py",
    "tests/tasks/test_report.py",
    "tests/tasks/test_resume.py",
    "tests/tasks/test_scale.py",
    "tests/tasks/test_selection.py",
    "tests/tasks/test_shard.py",
    "tests/tasks/test_verify.py",
    "tests/tasks/test_withdraw.py",
    "tests/test_cohortlens.py",
    "tests/test_wheel.py",
    # Many networks, volumes, or draws.
    "tests/models/metrics/test_evaluate.py",
    "tests/models/test_invariance.py",
    "tests/models/test_attention.py::test_mil_attention_is_each_slices_weight",
    "tests/models/test_deeplift.py::test_expected_gradients_sum_to_the_difference",
    "tests/models/test_deeplift.py::test_what_differs_from_the_reference_is_credited_whole",
    "tests/models/test_engine.py::test_an_image_has_the_same_maps_alone_and_in_a_batch",
    "tests/models/test_engine.py::test_maps_equal_captums_in_batches_of_mixed_classes",
    "tests/models/test_explainers.py::test_a_map_depends_on_the_image_alone",
    "tests/models/test_explainers.py::test_adaptive_integrated_gradients_are_complete",
    "tests/models/test_explainers.py::test_controls_know_nothing_of_the_model",
    "tests/models/test_explainers.py::test_guided_rules_equal_captums",
    "tests/models/test_explainers.py::test_integrated_gradients_equal_captums",
    "tests/models/test_explainers.py::test_occlusion_equals_captums",
    "tests/models/test_explainers.py::test_on_a_linear_network_the_axioms_hold_exactly",
    "tests/models/test_explainers.py::test_the_target_is_each_images_own",
    "tests/models/test_folding.py::test_logits_and_gradients_are_those_of_the_network",
    "tests/models/test_incremental.py",
    "tests/models/test_networks.py",
    "tests/models/test_perturbation.py::test_a_map_depends_on_the_image_alone",
    "tests/models/test_perturbation.py::test_kernel_shap",
    "tests/models/test_targets.py::test_a_difference_of_classes_is_the_difference_of_their_maps",
    "tests/tasks/test_evidence.py::test_intervals_hold_the_mean",
    "tests/tasks/test_manifest.py::test_a_plan_may_take_more_than_100_mb",
)
"""Beginnings of what tests are called."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, and complain of a name that no test has any more."""
    left_out = [item for item in items if item.nodeid.startswith(_LEFT_OUT) or _SERVERS & _fixtures(item)]
    stale = [name for name in _LEFT_OUT if not any(item.nodeid.startswith(name) for item in left_out)]
    if stale:
        raise pytest.UsageError(f"tests/quick.py names what is not there: {', '.join(stale)}")
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _fixtures(item: pytest.Item) -> set[str]:
    return set(item.fixturenames) if isinstance(item, pytest.Function) else set()
