"""A Dask cluster that all runs share that need not start their own."""

from collections.abc import Iterator

import pytest

from tests.integration.processes import Cluster, dask_cluster


@pytest.fixture(scope="session")
def cluster(prefect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), {"PREFECT_API_URL": prefect}, workers=2) as started:
        yield started
