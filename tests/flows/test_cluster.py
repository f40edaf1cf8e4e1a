"""Where a run's shards go: clusters that grow with the work, and how it is dealt out to them."""

import pytest

from flows.cluster import ComputeConfig, expected_workers, local_workers, task_runner
from tasks.plan import groups

_NOBODY = {"_target_": "distributed.LocalCluster", "n_workers": 0, "threads_per_worker": 1, "dashboard_address": ":0"}


def test_a_cluster_that_begins_with_no_worker_grows_with_the_work_up_to_the_maximum() -> None:
    compute = ComputeConfig.model_validate({"cluster": _NOBODY, "adapt": {"maximum": 2}})
    with task_runner(compute) as runner:
        assert runner.client.scheduler_info()["workers"] == {}
        assert runner.client.gather(runner.client.map(pow, range(8), [2] * 8)) == [n * n for n in range(8)]
        assert 1 <= len(runner.client.scheduler_info()["workers"]) <= 2


@pytest.mark.parametrize(
    ("compute", "workers"),
    [
        ({}, local_workers(ComputeConfig())),
        ({"workers": 3}, 3),
        ({"scheduler": "tcp://scheduler:8786"}, 32),
        ({"cluster": _NOBODY}, 32),
        ({"cluster": _NOBODY, "adapt": {"maximum": 100}}, 100),
    ],
)
def test_work_is_dealt_out_to_every_worker_that_may_come(compute: object, workers: int) -> None:
    assert expected_workers(ComputeConfig.model_validate(compute)) == workers


def test_a_cluster_of_unknown_size_gets_as_many_groups_as_there_are() -> None:
    assert len(groups(range(2000), expected_workers(ComputeConfig(scheduler="tcp://scheduler:8786")))) == 256
