"""Every result after a subject was withdrawn, beside the result of a cohort that never had the subject."""

import re
from pathlib import Path

import numpy as np

from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.every_result import EVERY_KIND, IMAGES, of_every_result
from tests.tasks.outputs import carry_out

GONE = 5


def test_after_a_withdrawal_each_is_that_of_the_cohort_without_the_subject(tmp_path: Path) -> None:
    with_all, without = (Location(url=str(tmp_path / name)) for name in ("out", "without"))
    for name in ("all", "left"):
        (tmp_path / name).mkdir()
    content = of_every_result(tmp_path / "all") | {"output": with_all.model_dump()}
    carry_out(content)
    planned = Plan.read(with_all).results
    assert {one.result.name for one in planned} == EVERY_KIND  # one that is added is to be held to this as well
    withdraw(with_all, f"patient-{GONE}")
    carry_out(of_every_result(tmp_path / "left", [GONE]) | {"output": without.model_dump()})
    assert verify(with_all) == []
    found, expected = open_store(with_all).load(), open_store(without).load()
    stay = np.delete(np.arange(IMAGES), [2 * GONE, 2 * GONE + 1])
    assert found.tcav_flags.values.tolist() == [0] and (found.similar_image.values[stay] >= 0).all()
    row_of = np.append(np.searchsorted(stay, np.arange(IMAGES)), -1)  # -1, no image, stays as it is
    for output in (output for one in planned for output in one.outputs):
        own, other = (dataset[output.name].values for dataset in (found, expected))
        own = own[stay] if output.per_image else own
        own = row_of[own] if output.name.endswith(("_image", "_label", "_criticism", "_row")) else own
        if output.dtype == "string":
            own, other = ([re.sub(r"[\d.]+", "…", text) for text in texts] for texts in (own, other))
            assert own == other and all(other)
            continue
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=2e-6, err_msg=output.name)
