"""Columns such as the site, from the cohort table to the store and the page, and back out of the store."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigurationError
from tasks.plan import manifest
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared

NAMES = ["Site", "scanner"]
SECRET = "zebrafish"


class Sites(Cohort):
    """Pictures with a site and a scanner, one of which is not known."""

    def _list(self) -> None:
        super()._list()
        table = pd.read_csv(self.folder / "manifest.csv")
        table["site "] = [f"{SECRET}-{number % 2}" for number in self.numbers]
        table["scanner"] = ["" if number == 0 else "A" for number in self.numbers]
        table.to_csv(self.folder / "manifest.csv", index=False)

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        names = changes.pop("covariates", NAMES)
        results = [{"name": "shortcuts", "explainer": "saliency", "clusters": 2}]
        content = super().content(output, **{"explainers": ["saliency"], "results": results} | changes)
        columns = {name: name for name in ("uri", "id", "label", "mask", "subject")}
        return content | {"cohort": content["cohort"] | {"covariates": names, "columns": columns}}


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path / "cohort", range(8))


def test_they_are_stored_as_labels_are_and_withdrawn(
    sites: Sites, output: Location, caplog: pytest.LogCaptureFixture
) -> None:
    carry_out(sites.content(output), report=True)
    assert verify(output) == [] and SECRET not in caplog.text
    dataset = open_store(output).load()
    known = dataset.covariate_value.sel(image_id="id-3")
    assert dict(zip(known.covariate.values, known.values, strict=True)) == {"Site": f"{SECRET}-1", "scanner": "A"}
    assert dataset.covariate_value.sel(image_id="id-0", covariate="scanner") == ""
    assert dataset.shortcut_covariate_p.dims == ("cluster", "covariate")
    page = (output / "report/index.html").read().decode()
    assert "Site: difference" in page and SECRET not in page
    withdraw(output, "patient-1")
    assert verify(output) == []
    assert (open_store(output).covariate_value.values[2:4] == "").all()
    assert [entry.covariates for entry in manifest.read(output)][1:4] == [(f"{SECRET}-1", "A"), (), ()]


@pytest.mark.parametrize("after", [["scanner"], ["scanner", "site"]])
@pytest.mark.parametrize("before", [[], NAMES])
def test_another_run_may_name_others(sites: Sites, output: Location, before: list[str], after: list[str]) -> None:
    carry_out(sites.content(output, covariates=before))
    maps = open_store(output).attribution.values
    sites.take_away([7])
    carry_out(sites.content(output, covariates=after))
    assert verify(output) == []
    found = open_store(output).load()
    assert np.array_equal(found.attribution.values, maps)
    assert found.covariate.values.tolist() == after and found.shortcut_covariate_p.shape == (2, len(after))
    assert found.covariate_value.values[1].tolist() == ["A", f"{SECRET}-1"][: len(after)]
    assert found.covariate_value.values[7].tolist() == [""] * len(after)


def test_they_are_not_taken_back(sites: Sites, output: Location) -> None:
    carry_out(sites.content(output))
    with pytest.raises(ConfigurationError, match=r'cohort.covariates: \["Site", "scanner"\] → \[\]'):
        prepared(sites.content(output, covariates=[]))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["site", "Site"], "covariates: site is named twice"),
        (["hospital"], r"no column `hospital` \(cohort.covariates\)"),
    ],
)
def test_wrong_names_are_refused(sites: Sites, output: Location, names: list[str], said: str) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=said):
        prepared(sites.content(output, covariates=names))


def test_a_folder_has_no_columns(sites: Sites, output: Location) -> None:
    content = sites.content(output)
    content["cohort"] = {"source": str(sites.folder), "identifiers": "as given", "covariates": ["site"]}
    with pytest.raises(ValueError, match="covariates is for what a table says"):
        prepared(content)
