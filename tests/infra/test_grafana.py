"""The dashboard in infra/grafana asks for what workers serve."""

import json
import re
import urllib.request

import pytest
from distributed import Client, LocalCluster

from tasks import telemetry
from tests.infra.files import INFRA

DASHBOARD = json.loads((INFRA / "grafana/cohortlens.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Names of the metrics that a worker serves, with their labels."""

    def count() -> None:
        telemetry.IMAGES.labels("explained").inc()
        telemetry.SECONDS.labels("read").inc()
        telemetry.REQUESTS.labels("PutObject").inc()

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.submit(count).result()
        (worker,) = client.scheduler_info()["workers"].values()
        with urllib.request.urlopen(f"http://127.0.0.1:{worker['services']['dashboard']}/metrics", timeout=60) as page:
            text = page.read().decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:{(.*)})? [\d.e+-]+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_every_name_and_label_of_a_query_is_served(query: str, served: dict[str, set[str]]) -> None:
    names = re.findall(r"\b(?:cohortlens|dask)_\w+", query)
    assert names and set(names) <= served.keys()
    labels = {label for group in re.findall(r"by \(([\w, ]+)\)", query) for label in re.split(r"\W+", group)}
    labels |= set(re.findall(r"(\w+)!?=\"", query))
    assert labels <= set().union(*(served[name] for name in names))


def test_everything_that_is_counted_is_shown() -> None:
    counters = [counter for counter in vars(telemetry).values() if isinstance(counter, telemetry.Counter)]
    assert len(counters) == 6
    for counter in counters:
        (family,) = counter.describe()
        assert any(f"{family.name}_total" in query for query in QUERIES)
        assert f"`{family.name}_total`" in (INFRA.parent / "docs/watch.md").read_text()


def test_panels_lie_side_by_side() -> None:
    places = [
        (panel["gridPos"]["y"], x)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
    ]
    assert len(places) == len(set(places)) and max(x for _, x in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
